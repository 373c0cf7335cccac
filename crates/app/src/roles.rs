//! Hidden entry points: the roles in which this binary runs beside the command line.

use crate::exit;
use abbey_daemon::{Options, SystemClock};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Runs an internal role of this binary, such as `serve` or `hostd`, until it ends. The first argument names the
/// role. Returns its exit code, 2 for an unknown role.
pub(crate) fn run_role(args: &[OsString]) -> ExitCode {
    let word = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or_default();
    match word(0) {
        "serve" => serve(&args[1..]),
        "hostd" => hostd(&args[1..]),
        "guest" => abbey_cells::run_guest(),
        "service" => service(&args[1..]),
        "copy" => copy(word(1), args.get(2).map(Path::new)),
        "transcript" => transcript(&args[1..]),
        "agent" => crate::agent_command::run(&args[1..]),
        "native" => native(if word(1) == "--skill" {
            Some(word(2))
        } else {
            None
        }),
        other => {
            eprintln!(
                "error: unknown role `{other}`; roles are internal and started by `abbey up`"
            );
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Async runtime with one thread, for roles that run in a cell.
fn small_runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    built.map_err(|error| {
        eprintln!("error: cannot start the async runtime: {error}");
        ExitCode::from(exit::FAILURE)
    })
}

fn service(args: &[OsString]) -> ExitCode {
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(abbey_services::run_service(args)) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILURE)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// The side of `abbey cp` in a cell: sends a file or directory on standard output, or receives it from standard input.
fn copy(action: &str, path: Option<&Path>) -> ExitCode {
    let path = path.unwrap_or(Path::new("."));
    let mut left_out = |text: String| eprintln!("{text}");
    let copied = match action {
        "send" => abbey_cells::copy::send_files(path, std::io::stdout().lock(), &mut left_out),
        _ => {
            let links = abbey_cells::copy::Links::All;
            abbey_cells::copy::receive_files(path, std::io::stdin().lock(), links, &mut left_out)
        }
    };
    match copied {
        Ok(_) => ExitCode::from(exit::OK),
        Err(e) => {
            eprintln!("error: cannot copy `{}` in the cell: {e}", path.display());
            ExitCode::from(match e.kind() {
                std::io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::FAILURE,
            })
        }
    }
}

/// The side of `abbey logs --transcript` in a cell: writes events of the session, of the runs that the arguments name.
fn transcript(runs: &[OsString]) -> ExitCode {
    let runs: Vec<String> = runs
        .iter()
        .filter_map(|run| run.to_str().map(str::to_owned))
        .collect();
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    match abbey_agents::transcript::write_session_events(out, &runs) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            eprintln!("error: cannot read the session of this agent: {error}");
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
            let code = abbey_agents::programs::run_program(name).await;
            return ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILURE));
        }
        match abbey_agents::runtime::run_driver(abbey_model::Runtime::Native).await {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(exit::FAILURE)
            }
        }
    })
}

/// Runs the control plane in the foreground. Prints one JSON line on standard output: its announcement, or why it could
/// not start.
fn serve(args: &[OsString]) -> ExitCode {
    let value = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|i| args.get(i + 1))
            .cloned()
    };
    let home = crate::connect::resolve_home(
        value("--home")
            .or_else(|| std::env::var_os("ABBEY_HOME"))
            .map(PathBuf::from)
            .as_deref(),
    );
    let number = |name: &str| value(name).and_then(|v| v.to_str()?.parse::<i64>().ok());
    let _ours_alone = rustix::process::setsid();
    tracing_subscriber::fmt()
        .json()
        .with_writer(|| LossyLog)
        // What it would print about a line that it cannot write, it would print to the same full disk, and panic.
        .log_internal_errors(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    // Before any thread is started: takes the lock, starts hostd and drops every privilege.
    let prepared = match abbey_daemon::prepare_control_plane(home.root().to_owned(), &binary) {
        Ok(prepared) => prepared,
        Err(error) => return report_failed_start(error),
    };
    let ready = Arc::new(AtomicBool::new(false));
    let is_ready = Arc::clone(&ready);
    let options = Options {
        home: home.root().to_owned(),
        lock: prepared.lock,
        clock: Arc::new(SystemClock::new()),
        lease_ttl: number("--lease-ms").map(abbey_model::Millis),
        listen: value("--listen").and_then(|v| v.to_str()?.parse().ok()),
        on_ready: Box::new(move |announcement| {
            is_ready.store(true, Ordering::Relaxed);
            report(&serde_json::to_string(announcement).unwrap_or_default());
            notify_service_manager();
        }),
    };
    // One for the requests and one for the work beside them; more of them keep memory rather than gain time.
    abbey_cells::limit_heaps(2);
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
        Err(error) => {
            if prepared.started_hostd && !ready.load(Ordering::Relaxed) {
                abbey_daemon::end_started_hostd(home.root());
            }
            report_failed_start(error)
        }
    }
}

/// Lines of the log that could not be written since the last one that was.
static LOST_LINES: AtomicU64 = AtomicU64::new(0);

/// Standard error as a log that never fails: a line for which there is no space is counted, and the next one that fits is
/// followed by how many are missing.
struct LossyLog;

impl Write for LossyLog {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut log = std::io::stderr().lock();
        if log.write_all(line).is_err() {
            LOST_LINES.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let lost = LOST_LINES.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let note = serde_json::json!({
                "level": "WARN",
                "fields": { "message": "lines of this log could not be written and are lost", "lines": lost },
            });
            if writeln!(log, "{note}").is_err() {
                LOST_LINES.fetch_add(lost, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reports why the control plane did not start.
fn report_failed_start(error: abbey_daemon::Error) -> ExitCode {
    let text = error.chain();
    let locked = matches!(error, abbey_daemon::Error::Locked { .. });
    tracing::error!(error = text, "cannot start the control plane");
    let code = exit::Failure::from(error).code();
    report(&serde_json::json!({ "error": text, "code": code, "locked": locked }).to_string());
    ExitCode::from(code)
}

/// Runs hostd, detached from the process that started it. Prints `ok`, or why it could not start.
fn hostd(args: &[OsString]) -> ExitCode {
    let given = args.iter().position(|a| a == "--home");
    let Some(home) = given.and_then(|i| args.get(i + 1)).map(PathBuf::from) else {
        eprintln!(
            "error: `role hostd` needs `--home DIR`; it is internal and started by `abbey up`"
        );
        return ExitCode::from(exit::USAGE);
    };
    // A service manager supervises the process that it started; otherwise hostd detaches.
    let foreground = args.iter().any(|a| a == "--foreground");
    let begun = match foreground {
        true => abbey_daemon::Home::new(home.clone())
            .create_directories()
            .map(drop),
        false => abbey_daemon::detach_from_parent(),
    };
    if let Err(error) = begun {
        eprintln!("error: {}", error.chain());
        return ExitCode::from(exit::FAILURE);
    }
    let ready = || {
        report("ok");
        notify_service_manager();
    };
    match abbey_daemon::run_hostd(home, ready) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            report(&error.chain().replace('\n', " "));
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// Notifies a waiting service manager that this process is ready.
fn notify_service_manager() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        eprintln!("error: cannot notify the service manager: {error}");
    }
}

/// Prints one line for the process that started this one, and closes standard output.
fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = writeln!(out, "{line}");
    let _reader_gone = out.flush();
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _kept = rustix::stdio::dup2_stdout(&null);
    }
}
