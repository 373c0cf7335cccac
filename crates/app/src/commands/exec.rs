//! `abbey exec`: runs a program in the cell of an agent or a service.

use crate::command_stream::internal_failure;
use crate::exit::{self, Failure, Outcome};
use crate::local_terminal::{self, DETACH_KEY, RawMode};
use crate::output;
use crate::program_session::{SessionEnd, ToProgram, run_session};
use crate::stdout;
use abbey_api::{ExecBody, ExecTerminal};
use abbey_cells::program_stream;
use abbey_daemon::Home;
use clap::Args;
use std::io::{IsTerminal, Write};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass standard input on, also from a terminal without `-t`. Piped input is always passed on, unless `-t` is given
    /// alone.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Run the program on a terminal of its own.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Name of the agent, or `service/NAME`.
    pub(crate) agent: String,
    /// Program and arguments, after `--`.
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<String>,
}

/// How the streams of the program are connected to those of this process.
struct Streams {
    /// Whether the program gets a terminal.
    terminal: bool,
    /// Whether standard input is passed on.
    input: bool,
}

impl Streams {
    /// Both flags are implied where a person types commands and reads what they print.
    fn of(args: &ExecArgs) -> Streams {
        let typed = std::io::stdin().is_terminal();
        let by_hand =
            typed && std::io::stdout().is_terminal() && local_terminal::is_in_foreground();
        let implied = by_hand && !args.interactive && !args.tty;
        let terminal = args.tty || implied;
        Streams {
            terminal,
            input: args.interactive || implied || !(typed || args.tty),
        }
    }
}

/// `abbey exec`: runs a program in the cell of an agent, or of a service as `service/NAME`, with the standard streams or
/// the terminal of this process. Returns the exit code of the program, or 125 when Abbey failed. A program that
/// could not be run is an error of Abbey, with the exit code that a shell gives it.
pub(crate) async fn cmd_exec(home: &Home, json: bool, args: ExecArgs) -> Outcome {
    let streams = Streams::of(&args);
    let terminal = streams.terminal.then(|| {
        let (rows, columns) = local_terminal::terminal_size();
        let kind = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned());
        ExecTerminal {
            rows,
            columns,
            kind,
        }
    });
    let body = ExecBody {
        argv: args.command,
        stdin: None,
        terminal,
        own: false,
    };
    let raw = (streams.terminal && streams.input)
        .then(RawMode::enter)
        .flatten();
    let (sender, input) = mpsc::channel(4);
    drop(tokio::spawn(pass_input(streams, raw.is_some(), sender)));
    let (output, outputs) = mpsc::channel(16);
    let writer = std::thread::spawn(move || write_output(outputs, json));
    let ended = run_session(home, &args.agent, &body, input, output).await;
    let not_run = writer.join().unwrap_or_default();
    drop(raw);
    Ok(match ended.map_err(internal_failure)? {
        SessionEnd::Exited(code) => match not_run {
            None => code,
            Some(why) => return Err(Failure::plain(why).with_code(code)),
        },
        SessionEnd::Detached => {
            output::print_message("detached; the program keeps running");
            exit::OK
        }
    })
}

/// Sends what is typed or piped, and each new size of the terminal, until the end of the input or until the detach key.
async fn pass_input(streams: Streams, detachable: bool, to: mpsc::Sender<ToProgram>) {
    let mut stdin = streams.input.then(local_terminal::read_stdin);
    let Ok(mut resized) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        let message = tokio::select! {
            read = next_input(&mut stdin, streams.terminal) => match read {
                Some(bytes) if detachable && bytes.contains(&DETACH_KEY) => ToProgram::Detach,
                Some(bytes) => ToProgram::Input(bytes),
                None => return,
            },
            _changed = resized.recv(), if streams.terminal => {
                ToProgram::Resize(local_terminal::terminal_size())
            }
        };
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// The next input; the end of it at once if none is passed on, but never on a terminal, whose end of input would end a
/// shell.
async fn next_input(
    stdin: &mut Option<mpsc::Receiver<Vec<u8>>>,
    terminal: bool,
) -> Option<Vec<u8>> {
    match stdin {
        Some(stdin) => stdin.recv().await,
        None if terminal => std::future::pending().await,
        None => None,
    }
}

/// Writes the program's output where it belongs, until the session or the reader ends. Returns why there was no program that
/// could be run, if that is to be part of a JSON document; otherwise it is written as a shell would.
fn write_output(mut outputs: mpsc::Receiver<(u8, Vec<u8>)>, json: bool) -> Option<String> {
    while let Some((kind, bytes)) = outputs.blocking_recv() {
        match kind {
            program_stream::NOT_RUN if json => {
                let text = String::from_utf8_lossy(&bytes);
                return Some(text.trim().trim_start_matches("abbey: ").to_owned());
            }
            program_stream::ERRORS | program_stream::NOT_RUN => {
                std::io::stderr().lock().write_all(&bytes).ok()?;
            }
            _ => stdout::write(&bytes),
        }
        if stdout::is_broken() {
            return None;
        }
    }
    None
}
