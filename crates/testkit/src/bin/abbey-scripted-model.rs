//! A model server that follows a script: `abbey-scripted-model --port N [--script FILE]`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|i| args.get(i + 1))
            .cloned()
    };
    let Some(port) = value("--port").and_then(|p| p.parse().ok()) else {
        eprintln!("usage: abbey-scripted-model --port N [--script FILE]");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(1);
        }
    };
    let script = value("--script").map(PathBuf::from);
    match runtime.block_on(abbey_testkit::model::serve(port, script)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: port {port}: {error}");
            ExitCode::from(1)
        }
    }
}
