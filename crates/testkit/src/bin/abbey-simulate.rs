//! Simulates weeks of a house: `cargo xtask simulate --seed N --days 7`.
#![allow(
    clippy::print_stdout,
    reason = "its output is for the person at the terminal"
)]

use abbey_testkit::simulate::{
    Fault, Options, Report, simulate, simulate_full_disk, simulate_night,
};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

// With a planted fault it fails where that is not found, or not in the same way again.
const USAGE: &str = "usage: cargo xtask simulate [--seed N] [--seeds COUNT] [--days N] [--fault missing-wakeup|lost-release|early-midnight] [--night | --full-disk] [--verbose]";

struct Arguments {
    seed: u64,
    seeds: u64,
    days: u32,
    fault: Option<Fault>,
    night: bool,
    full_disk: bool,
    verbose: bool,
}

fn parse(mut given: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments {
        seed: 1,
        seeds: 1,
        days: 7,
        fault: None,
        night: false,
        full_disk: false,
        verbose: false,
    };
    while let Some(name) = given.next() {
        match name.as_str() {
            "--seed" => arguments.seed = given.next()?.parse().ok()?,
            "--seeds" => arguments.seeds = given.next()?.parse().ok()?,
            "--days" => {
                arguments.days = given
                    .next()?
                    .parse()
                    .ok()
                    .filter(|d| (1..=366).contains(d))?
            }
            "--fault" => {
                let wanted = given.next()?;
                let found = Fault::ALL.iter().find(|(name, _)| *name == wanted)?;
                arguments.fault = Some(found.1);
            }
            "--night" => arguments.night = true,
            "--full-disk" => arguments.full_disk = true,
            "--verbose" => arguments.verbose = true,
            _ => return None,
        }
    }
    Some(arguments)
}

fn report_of(arguments: &Arguments, seed: u64) -> Result<Report, String> {
    if arguments.full_disk {
        return simulate_full_disk(seed);
    }
    if arguments.night {
        return simulate_night(seed, arguments.fault);
    }
    simulate(Options {
        seed,
        days: arguments.days,
        fault: arguments.fault,
    })
}

/// Requires that loopback works: simulated agents talk to their house over it, and would wait for ever where it is down.
fn require_loopback() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(2)).map(drop)
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Err(why) = require_loopback() {
        eprintln!(
            "error: 127.0.0.1 can't be reached ({why}); `ip link set lo up` brings loopback up"
        );
        return ExitCode::FAILURE;
    }
    let mut failed = 0u64;
    let (mut events, mut checks, mut done) = (0, 0, 0);
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let report = match report_of(&arguments, seed) {
            Ok(report) => report,
            Err(why) => {
                eprintln!("error: seed {seed}: {why}");
                return ExitCode::FAILURE;
            }
        };
        println!("{report}");
        let found = !report.violations.is_empty();
        if arguments.verbose || found {
            report.last.iter().for_each(|line| println!("    {line}"));
        }
        for violation in &report.violations {
            println!("  violated: {violation}");
        }
        let ok = match arguments.fault {
            None => !found,
            Some(_) if !found => {
                println!("  the planted fault is not found");
                false
            }
            Some(_) => {
                let same = report_of(&arguments, seed).as_ref() == Ok(&report);
                let again = if same { "the same" } else { "another" };
                println!("  the planted fault is found; seed {seed} gives {again} trace again");
                same
            }
        };
        failed += u64::from(!ok);
        (events, checks, done) = (
            events + report.events,
            checks + report.checks,
            done + report.done,
        );
    }
    if arguments.seeds > 1 {
        println!(
            "{} seeds: {events} events, {checks} invariants checked, {done} tasks done, {failed} seeds failed",
            arguments.seeds
        );
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
