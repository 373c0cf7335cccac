//! A command in a machine: booted for it, begun where another waited, and waiting warm. The time is until its
//! output is back; a machine that was used once is not used again, and is gone before the next is measured.

use crate::{House, percentiles, private_kib};
use abbey_cells::hostd::{HostdApi, HostdOperation};
use abbey_cells::microvm::{BootOrigin, MicroVm};
use abbey_cells::{CellProgram, CellSpec};
use abbey_model::{Bytes, CellKind, CellName, Generation, Limits, Millis};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs of each kind; a boot by translation takes seconds.
const ROUNDS: usize = 10;
/// Machines begun from one template side by side, of which the memory is measured.
const FLEET: usize = 8;

fn named(n: usize) -> CellName {
    CellName::Run(format!("m{n}").parse().expect("a slug"))
}

fn spec(cell: &CellName, uid: u32, origin: BootOrigin, waits: bool) -> CellSpec {
    CellSpec {
        cell: cell.clone(),
        kind: CellKind::Microvm,
        digest: String::new(),
        program: CellProgram::Path("sh".into()),
        argv: ["sh", "-c", "echo done; exec sleep 60"]
            .map(str::to_owned)
            .to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: PathBuf::from("/work"),
        uid: Some(uid),
        limits: Limits {
            memory: Bytes(192 << 20),
            cpu_milli: 1000,
            processes: 64,
            io: None,
        },
        waived: Default::default(),
        sandbox: None,
        microvm: Some(MicroVm {
            image: "base".into(),
            vmm: Default::default(),
            drives: None,
            origin,
            brings: false,
            take: Vec::new(),
            images: PathBuf::new(),
            files: PathBuf::new(),
        }),
        container: None,
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: waits.then_some(Millis::from_secs(120)),
        run_dir: PathBuf::new(),
        log_dir: PathBuf::new(),
        group: String::new(),
        secrets: Vec::new(),
        asks_root: false,
    }
}

/// From the call to the output of the program.
fn until_output(house: &House, operation: HostdOperation) -> Duration {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let (stdin, _input) = pipe();
    let (output, stdout) = pipe();
    let (_errors, stderr) = pipe();
    let begin = Instant::now();
    house
        .client
        .call(operation, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
        .expect("hostd does it");
    drop(stdout);
    let mut bytes = [0u8; 5];
    std::fs::File::from(output)
        .read_exact(&mut bytes)
        .expect("its output");
    let took = begin.elapsed();
    assert_eq!(&bytes, b"done\n");
    took
}

fn start(spec: CellSpec) -> HostdOperation {
    HostdOperation::Start {
        generation: Generation(1),
        spec: Box::new(spec),
    }
}

fn ready(house: &House, cell: &CellName) {
    let backend = abbey_cells::ShimBackend::new(&house.config.home, house.config.group.clone());
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        match abbey_cells::Backend::observe(&backend, cell).expect("a look") {
            abbey_model::Observed::Running { ready: true, .. } => return,
            abbey_model::Observed::Running { .. } if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5))
            }
            other => panic!("{cell}: {other:?}"),
        }
    }
}

/// Memory of the program that runs a machine: its share, and what is its own.
fn memory(house: &House, cell: &CellName) -> (u64, u64) {
    let init = house.record(cell)["child"]["pid"].as_i64().unwrap_or(0);
    let below =
        std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
    let pid = below
        .split_whitespace()
        .next()
        .and_then(|p| p.parse().ok())
        .unwrap_or(0);
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = text.lines().find_map(|l| {
        l.strip_prefix("Pss:")?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    });
    (pss.unwrap_or(0), private_kib(pid))
}

/// Pages of the template's file itself that one machine alone maps, KiB.
fn mapped_template_kib(house: &House, cell: &CellName) -> u64 {
    let init = house.record(cell)["child"]["pid"].as_i64().unwrap_or(0);
    let below =
        std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
    let pid = below.split_whitespace().next().unwrap_or("0");
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut of_template = text
        .lines()
        .skip_while(|l| !l.contains("abbey-template-memory"));
    let mut field = |name: &str| -> u64 {
        let value = of_template.find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB"));
        value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    };
    // In this order in the file; what it wrote to is anonymous.
    let private = field("Private_Clean:") + field("Private_Dirty:");
    private.saturating_sub(field("Anonymous:"))
}

/// Memory that the file of a template takes, KiB, whether or not a machine maps it.
fn template_kib(house: &House, template: &CellName) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let shim = house.record(template)["shim"]["pid"].as_i64().unwrap_or(0);
    let fds = std::fs::read_dir(format!("/proc/{shim}/fd"));
    let memory = fds.into_iter().flatten().flatten().find(|fd| {
        std::fs::read_link(fd.path())
            .is_ok_and(|to| to.to_string_lossy().contains("abbey-template-memory"))
    });
    let meta = memory.and_then(|fd| std::fs::metadata(fd.path()).ok());
    meta.map_or(0, |m| m.blocks() / 2)
}

fn sweep(house: &House, cell: &CellName) {
    house.call(HostdOperation::Sweep { cell: cell.clone() });
}

pub(crate) fn machines(house: &House, abbey: &Path) {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images/base");
    let brought = Command::new(abbey)
        .args(["image", "import"])
        .arg(&image)
        .env("ABBEY_HOME", &house.config.home)
        .output();
    if !brought.is_ok_and(|o| o.status.success()) {
        println!("\nleft out: machines: there is no image; run `cargo xtask image`");
        return;
    }
    let template = named(0);
    let uid = house.claim(&template, 1000, None);
    let begin = Instant::now();
    house.call(start(spec(&template, uid, BootOrigin::Template, true)));
    ready(house, &template);
    let made = begin.elapsed();
    let from = |waits| BootOrigin::From {
        template: template.clone(),
        waits,
    };
    let (mut cold, mut restored, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    let mut sizes = [(0, 0); 2];
    let mut waiting = 0;
    for n in 0..ROUNDS {
        let cells = [named(1 + 3 * n), named(2 + 3 * n), named(3 + 3 * n)];
        let uids: Vec<u32> = cells
            .iter()
            .enumerate()
            .map(|(i, c)| house.claim(c, u32::try_from(1001 + 3 * n + i).expect("small"), None))
            .collect();
        house.call(start(spec(&cells[2], uids[2], from(true), true)));
        ready(house, &cells[2]);
        // Alone it has all of the template's pages that it maps; those are counted once, with the file.
        let (_, own) = memory(house, &cells[2]);
        waiting = own.saturating_sub(mapped_template_kib(house, &cells[2]));
        cold.push(until_output(
            house,
            start(spec(&cells[0], uids[0], BootOrigin::Cold, false)),
        ));
        sizes[0] = memory(house, &cells[0]);
        sweep(house, &cells[0]);
        restored.push(until_output(
            house,
            start(spec(&cells[1], uids[1], from(false), false)),
        ));
        sizes[1] = memory(house, &cells[1]);
        sweep(house, &cells[1]);
        let told = spec(&cells[2], uids[2], from(true), false);
        warm.push(until_output(
            house,
            HostdOperation::Begin {
                spec: Box::new(told),
            },
        ));
        sweep(house, &cells[2]);
    }
    let fleet: Vec<CellName> = (0..FLEET).map(|n| named(1000 + n)).collect();
    for (n, cell) in (0..).zip(&fleet) {
        let uid = house.claim(cell, 2000 + n, None);
        until_output(house, start(spec(cell, uid, from(false), false)));
    }
    let fleet_share: u64 = fleet.iter().map(|cell| memory(house, cell).0).sum();
    fleet.iter().for_each(|cell| sweep(house, cell));
    let file = template_kib(house, &template);
    sweep(house, &template);
    println!(
        "\n## a command in a machine of 192 MiB, {ROUNDS} interleaved runs, until its output is back (ms)\n"
    );
    println!("| how | median | p10 | p90 |\n|---|---:|---:|---:|");
    let mut medians = Vec::new();
    for (name, mut times) in [
        ("booted for it", cold),
        ("begun from a template", restored),
        ("waiting warm", warm),
    ] {
        let (p50, p10, p90) = percentiles(&mut times);
        println!("| {name} | {p50:.1} | {p10:.1} | {p90:.1} |");
        medians.push(p50);
    }
    println!("\n| figure | value | target |\n|---|---:|---:|");
    println!("| a template made | {:.2} s | |", made.as_secs_f64());
    let row = |name: &str, ratio: f64, target: f64| {
        println!("| {name} | {ratio:.3}× | ≤ {target}× |");
    };
    row("from a template / booted", medians[1] / medians[0], 0.1);
    row("waiting warm / booted", medians[2] / medians[0], 0.01);
    for (name, (pss, private)) in ["booted", "from a template"].iter().zip(sizes) {
        println!(
            "| memory of a machine that was {name}: share / its own | {pss} / {private} KiB | |"
        );
    }
    let share = |(pss, _): (u64, u64)| pss as f64;
    println!(
        "| memory from a template / booted, one other beside it | {:.3}× | |",
        share(sizes[1]) / share(sizes[0])
    );
    row(
        &format!("memory of each of {FLEET} from a template / booted"),
        fleet_share as f64 / FLEET as f64 / share(sizes[0]),
        0.2,
    );
    // What a house pays: the template's file once, and what each of the two machines that wait has for itself.
    let pool = file + 2 * waiting;
    println!(
        "| memory of a template's file / of a machine that waits, its own | {file} / {waiting} KiB | |"
    );
    println!(
        "| memory of a template and two machines that wait / two booted | {:.3}× | |",
        pool as f64 / (2.0 * sizes[0].1 as f64)
    );
}
