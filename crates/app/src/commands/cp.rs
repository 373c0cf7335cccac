//! `abbey cp`: copies files into the cell of an agent or a service, or out of it.

use crate::exit::{self, Failure, Outcome};
use crate::output;
use crate::program_session::{SessionEnd, ToProgram, run_session};
use abbey_api::{ExecBody, VERSION};
use abbey_cells::copy::{Copied, Links, receive_files, send_files};
use abbey_cells::program_stream;
use abbey_daemon::Home;
use abbey_support::frame;
use clap::Args;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Most bytes kept of what the other side reports.
const REPORT_MAX: usize = 4096;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// File or directory to copy: a path, or `AGENT:PATH` or `service/NAME:PATH`.
    #[arg(value_name = "SOURCE")]
    pub(crate) from: String,
    /// Where to: a directory, or the new name. A path in a cell is relative to its working directory.
    #[arg(value_name = "TARGET")]
    pub(crate) to: String,
}

/// One side of a copy.
enum Place {
    /// On this host.
    Here(PathBuf),
    /// In a cell.
    Cell { cell: String, path: String },
}

/// A name before a colon, without a slash but that of `service/`, is that of a cell; `./a:b` is a path.
fn parse_place(text: &str) -> Place {
    let here = || Place::Here(PathBuf::from(text));
    let Some((cell, path)) = text.split_once(':') else {
        return here();
    };
    let name = cell.strip_prefix("service/").unwrap_or(cell);
    match name.parse::<abbey_model::Slug>() {
        Ok(_) => Place::Cell {
            cell: cell.to_owned(),
            path: match path {
                "" => ".".to_owned(),
                path => path.to_owned(),
            },
        },
        Err(_) => here(),
    }
}

/// `abbey cp`: copies one file or directory between this host and a cell. Files get the owner of the cell, or the user
/// who copies. Out of a cell come only links that lead to a path of the directory that is copied.
pub(crate) async fn cmd_cp(home: &Home, json: bool, args: &CpArgs) -> Outcome {
    let done = match (parse_place(&args.from), parse_place(&args.to)) {
        (Place::Here(source), Place::Cell { cell, path }) => {
            copy_in(home, &cell, source, path).await?
        }
        (Place::Cell { cell, path }, Place::Here(target)) => {
            copy_out(home, &cell, path, target).await?
        }
        (Place::Here(_), Place::Here(_)) => {
            return Err(Failure::usage("neither path is in a cell")
                .hint("write `AGENT:PATH` or `service/NAME:PATH` for one of them"));
        }
        (Place::Cell { .. }, Place::Cell { .. }) => {
            return Err(Failure::usage("both paths are in cells").hint("copy to this host first"));
        }
    };
    let Done { copied, left_out } = done;
    if json {
        output::print_json(&serde_json::json!({
            "version": VERSION, "from": args.from, "to": args.to, "files": copied.files, "bytes": copied.bytes,
            "left_out": left_out,
        }));
    } else {
        left_out.iter().for_each(|text| output::print_message(text));
    }
    Ok(exit::OK)
}

fn own_program(action: &str, path: String) -> ExecBody {
    ExecBody {
        argv: ["role", "copy", action]
            .map(str::to_owned)
            .into_iter()
            .chain([path])
            .collect(),
        stdin: None,
        terminal: None,
        own: true,
    }
}

/// Failure on this side: a path of this host that is missing is one of the command line.
fn cannot_copy(what: &str, e: &io::Error) -> Failure {
    let code = match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => exit::USAGE,
        _ => exit::FAILURE,
    };
    Failure::plain(format!("cannot copy `{what}`: {e}")).with_code(code)
}

/// Checks that something can be copied to `target`: it is a directory, or would be in one.
fn require_place(target: &Path) -> Result<(), Failure> {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    let dir = match target.is_dir() {
        true => target,
        false => parent.unwrap_or(Path::new(".")),
    };
    let what = "cannot copy into the directory";
    let found = std::fs::metadata(dir).map_err(|e| Failure::unusable_path(what, dir, e))?;
    match found.is_dir() {
        true => Ok(()),
        false => {
            let why = io::Error::from(io::ErrorKind::NotADirectory);
            Err(Failure::unusable_path(what, dir, why))
        }
    }
}

/// Most paths that are named as left out.
const LEFT_OUT_MAX: usize = 1000;

/// A copy that is complete but for what was left out, with a sentence about each.
struct Done {
    copied: Copied,
    left_out: Vec<String>,
}

async fn copy_in(home: &Home, cell: &str, source: PathBuf, path: String) -> Result<Done, Failure> {
    // Before anything runs in the cell.
    std::fs::metadata(&source).map_err(|e| cannot_copy(&source.display().to_string(), &e))?;
    let shown = source.display().to_string();
    let (sender, input) = mpsc::channel(4);
    let sending = std::thread::spawn(move || {
        let to = BufWriter::with_capacity(frame::CONTENT_MAX, InputWriter(sender));
        let mut left_out = Vec::new();
        let copied = send_files(&source, to, &mut |text| left_out.push(text))?;
        Ok(Done { copied, left_out })
    });
    let (output, outputs) = mpsc::channel(4);
    let reporting = std::thread::spawn(move || {
        let mut outputs = OutputReader::new(outputs);
        let _nothing = io::copy(&mut outputs, &mut io::sink());
        outputs.reported
    });
    let ended = run_session(home, cell, &own_program("receive", path), input, output).await;
    let sent = joined(sending);
    let reported = reporting.join().unwrap_or_default();
    // A receiver that fails is why the sender can't write.
    let reported = check_end(ended?, &reported)?;
    let mut done = sent.map_err(|e| cannot_copy(&shown, &e))?;
    done.left_out.extend(reported);
    Ok(done)
}

async fn copy_out(home: &Home, cell: &str, path: String, target: PathBuf) -> Result<Done, Failure> {
    // Before anything runs in the cell.
    require_place(&target)?;
    let shown = format!("{cell}:{path}");
    // No input.
    let (_, input) = mpsc::channel(1);
    let (output, outputs) = mpsc::channel(4);
    let receiving: JoinHandle<(io::Result<Done>, Vec<u8>)> = std::thread::spawn(move || {
        let mut outputs = OutputReader::new(outputs);
        let (target, mut left_out) = (Path::new(&target), Vec::new());
        let mut more = 0_u64;
        // The cell decides how many there are.
        let mut leave_out = |text| match left_out.len() < LEFT_OUT_MAX {
            true => left_out.push(text),
            false => more += 1,
        };
        let received = receive_files(target, &mut outputs, Links::WithinCopy, &mut leave_out);
        if more > 0 {
            left_out.push(format!("{more} more were left out"));
        }
        let done = received.map(|copied| Done { copied, left_out });
        (done, outputs.reported)
    });
    let ended = run_session(home, cell, &own_program("send", path), input, output).await;
    let (received, reported) = receiving
        .join()
        .unwrap_or_else(|_| (Err(io::ErrorKind::Other.into()), Vec::new()));
    match (ended?, received) {
        // The receiver's failure is why the sender could not go on, unless the sender says otherwise.
        (ended, Err(e)) if ended == SessionEnd::Exited(0) || reported.is_empty() => {
            Err(cannot_copy(&shown, &e))
        }
        (ended, received) => {
            let reported = check_end(ended, &reported)?;
            let mut done = received.map_err(|e| cannot_copy(&shown, &e))?;
            done.left_out.extend(reported);
            Ok(done)
        }
    }
}

fn joined(thread: JoinHandle<io::Result<Done>>) -> io::Result<Done> {
    let ended = thread.join();
    ended.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// Fails with what Abbey's program in the cell reported if it failed; otherwise its report has a line for each path that it
/// left out.
fn check_end(ended: SessionEnd, reported: &[u8]) -> Result<Vec<String>, Failure> {
    let text = String::from_utf8_lossy(reported);
    let text = text.trim();
    match ended {
        SessionEnd::Exited(0) => Ok(text.lines().map(str::to_owned).collect()),
        SessionEnd::Exited(code @ (exit::FAILURE | exit::NOT_FOUND)) => {
            let text = text.trim_start_matches("error: ").to_owned();
            Err(Failure::plain(text).with_code(code))
        }
        SessionEnd::Exited(code @ 128..) => {
            Err(Failure::plain("the copy was interrupted").with_code(code))
        }
        SessionEnd::Exited(_) | SessionEnd::Detached => Err(Failure::plain(format!(
            "Abbey's program in the cell could not copy: {text}"
        ))),
    }
}

/// Sends what is written as input of the program.
struct InputWriter(mpsc::Sender<ToProgram>);

impl Write for InputWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(frame::CONTENT_MAX)];
        let sent = self.0.blocking_send(ToProgram::Input(bytes.to_vec()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the standard output of the program, and keeps what it reports on its standard error.
struct OutputReader {
    outputs: mpsc::Receiver<(u8, Vec<u8>)>,
    pending: Vec<u8>,
    reported: Vec<u8>,
}

impl OutputReader {
    fn new(outputs: mpsc::Receiver<(u8, Vec<u8>)>) -> OutputReader {
        OutputReader {
            outputs,
            pending: Vec::new(),
            reported: Vec::new(),
        }
    }
}

impl Read for OutputReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.pending.is_empty() {
            match self.outputs.blocking_recv() {
                Some((program_stream::ERRORS | program_stream::NOT_RUN, bytes)) => {
                    let room = REPORT_MAX.saturating_sub(self.reported.len());
                    self.reported.extend(bytes.into_iter().take(room));
                }
                Some((_, bytes)) => self.pending = bytes,
                None => return Ok(0),
            }
        }
        let n = to.len().min(self.pending.len());
        to[..n].copy_from_slice(&self.pending[..n]);
        self.pending.drain(..n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_before_a_colon_is_that_of_a_cell() {
        let cell = |text: &str| match parse_place(text) {
            Place::Cell { cell, path } => Some((cell, path)),
            Place::Here(_) => None,
        };
        let found = |cell: &str, path: &str| Some((cell.to_owned(), path.to_owned()));
        assert_eq!(cell("a:x/y"), found("a", "x/y"));
        assert_eq!(cell("service/web:/srv"), found("service/web", "/srv"));
        assert_eq!(cell("a:"), found("a", "."));
        for here in ["x", "./a:b", "/a:b", "Big:x", "dir/a:b"] {
            assert_eq!(cell(here), None, "{here}");
        }
    }
}
