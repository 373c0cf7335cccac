//! The hidden entry points: one binary plays every part.

use crate::exit;
use abbey_daemon::{Options, SystemClock};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Plays a role.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let word = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or_default();
    match word(0) {
        "serve" => serve(&args[1..]),
        "hostd" => hostd(&args[1..]),
        "guest" => abbey_cells::run_guest(),
        "service" => service(&args[1..]),
        "native" => native(if word(1) == "--skill" {
            Some(word(2))
        } else {
            None
        }),
        other => {
            eprintln!("error: there is no role `{other}`; roles are started by the house itself");
            ExitCode::from(exit::USAGE)
        }
    }
}

/// A runtime of one thread, for what runs in a cell.
fn small_runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    built.map_err(|error| {
        eprintln!("error: could not start: {error}");
        ExitCode::from(exit::FAILURE)
    })
}

fn service(args: &[OsString]) -> ExitCode {
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(abbey_services::run(args)) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILURE)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn native(skill: Option<&str>) -> ExitCode {
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    runtime.block_on(async {
        if let Some(name) = skill {
            let code = abbey_agents::programs::run(name).await;
            return ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILURE));
        }
        match abbey_agents::native::run().await {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(exit::FAILURE)
            }
        }
    })
}

/// Runs the control plane in the foreground. Reports on standard output, one JSON line: where it
/// is, or why it could not start.
fn serve(args: &[OsString]) -> ExitCode {
    let value = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|i| args.get(i + 1))
            .cloned()
    };
    let home = crate::connect::home(
        value("--home")
            .or_else(|| std::env::var_os("ABBEY_HOME"))
            .map(PathBuf::from)
            .as_deref(),
    );
    let number = |name: &str| value(name).and_then(|v| v.to_str()?.parse::<i64>().ok());
    let _ours_alone = rustix::process::setsid();
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .init();
    let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    // While this process has one thread: hostd is started, and every privilege given up.
    if let Err(error) = abbey_daemon::descend(home.root().to_owned(), &binary) {
        return refuse(error);
    }
    let options = Options {
        home: home.root().to_owned(),
        clock: Arc::new(SystemClock::new()),
        lease_ttl: number("--lease-ms").map(abbey_model::Millis),
        listen: value("--listen").and_then(|v| v.to_str()?.parse().ok()),
        on_ready: Box::new(|announcement| {
            report(&serde_json::to_string(announcement).unwrap_or_default());
            tell_manager();
        }),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report(
                &serde_json::json!({ "error": error.to_string(), "code": exit::FAILURE })
                    .to_string(),
            );
            return ExitCode::from(exit::FAILURE);
        }
    };
    match runtime.block_on(abbey_daemon::serve(options)) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => refuse(error),
    }
}

/// Says why the control plane did not start.
fn refuse(error: abbey_daemon::Error) -> ExitCode {
    let text = error.chain();
    let locked = matches!(error, abbey_daemon::Error::Locked { .. });
    tracing::error!(error = text, "the control plane could not start");
    let code = exit::Failure::from(error).code();
    report(&serde_json::json!({ "error": text, "code": code, "locked": locked }).to_string());
    ExitCode::from(code)
}

/// Runs the privileged helper, away from whoever started it. Reports `ok` or why not.
fn hostd(args: &[OsString]) -> ExitCode {
    let given = args.iter().position(|a| a == "--home");
    let Some(home) = given.and_then(|i| args.get(i + 1)).map(PathBuf::from) else {
        eprintln!("error: hostd is started by the house itself");
        return ExitCode::from(exit::USAGE);
    };
    // A service manager wants the process that it started; the house lets go of it.
    let foreground = args.iter().any(|a| a == "--foreground");
    let begun = match foreground {
        true => abbey_daemon::Home::new(home.clone()).prepare().map(drop),
        false => abbey_daemon::detach(),
    };
    if let Err(error) = begun {
        eprintln!("error: {}", error.chain());
        return ExitCode::from(exit::FAILURE);
    }
    let ready = || {
        report("ok");
        tell_manager();
    };
    match abbey_daemon::run_hostd(home, ready) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            report(&error.chain().replace('\n', " "));
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// Tells a service manager that waits for it that this process answers.
fn tell_manager() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        eprintln!("error: the service manager could not be told: {error}");
    }
}

/// One line to whoever started us, who then lets go of the pipe.
fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = writeln!(out, "{line}");
    let _reader_gone = out.flush();
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _kept = rustix::stdio::dup2_stdout(&null);
    }
}
