//! `abbey backup` and `abbey restore`: a house in one archive.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome, require_readable};
use crate::output;
use abbey_api::BackupBody;
use abbey_daemon::Home;
use abbey_model::Secret;
use abbey_support::input::read_input_text;
use abbey_support::shell::{shell_path, shell_word};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BackupArgs {
    /// The archive; it must not exist yet. `-` is standard output, and what is printed goes to standard error.
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Take the data of services along, all of one instant: services are paused while it is copied.
    #[arg(long)]
    with_services: bool,
    /// Take the signing key of the audit log along, wrapped by the passphrase in this file.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<BackupCommand>,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Check that an archive is whole and could be restored; no house is needed.
    #[command(after_help = "Example:\n  abbey backup verify house.tar")]
    Verify {
        /// An archive that `abbey backup` wrote.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// An archive that `abbey backup` wrote.
    file: PathBuf,
    /// File with the passphrase of the backup, whose signing key then confirms the new one.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Longest passphrase with the end of its line, bytes.
const PASSPHRASE_MAX: u64 = 4096;

/// The passphrase in a file, without the end of its line.
fn read_passphrase(file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    let Some(file) = file else {
        return Ok(None);
    };
    let text = read_input_text(file, PASSPHRASE_MAX)
        .map_err(|e| Failure::unusable_path("cannot read the passphrase from", file, e))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::usage(format!(
            "the passphrase in `{}` is empty",
            file.display()
        ))),
        passphrase => Ok(Some(Secret::new(passphrase))),
    }
}

fn print_left_out(lines: &[String]) {
    if !lines.is_empty() {
        output::print_message("not in this backup:");
    }
    for line in lines {
        output::print_message(&format!("  - {line}"));
    }
}

/// Exit code of a backup: 1 if files are missing in it.
fn completeness(complete: bool) -> u8 {
    match complete {
        true => exit::OK,
        false => exit::FAILURE,
    }
}

fn print_notes(kind: &str, notes: &[String]) {
    for note in notes {
        output::print_message(&format!("{kind}: {note}"));
    }
}

async fn verify(json: bool, file: &Path) -> Outcome {
    require_readable("cannot read the backup", file)?;
    let file = file.to_owned();
    let verified = tokio::task::spawn_blocking(move || abbey_daemon::verify_backup(&file)).await;
    let doc = verified.map_err(|e| Failure::plain(format!("cannot verify the backup: {e}")))??;
    print_notes("warning", &doc.notes);
    if json {
        output::print_json(&doc);
        return Ok(completeness(doc.complete));
    }
    let verdict = match doc.complete {
        true => "ok",
        false => "incomplete",
    };
    output::print_line(&format!(
        "{verdict}: {} entries, state hash {}, audit log: {}",
        doc.entries, doc.state_hash, doc.audit_log
    ));
    for (what, names) in [("agents", &doc.agents), ("services", &doc.services)] {
        if !names.is_empty() {
            output::print_line(&format!("{what}: {}", names.join(", ")));
        }
    }
    print_left_out(&doc.left_out);
    Ok(completeness(doc.complete))
}

/// Where an archive goes.
enum Destination {
    /// A file that does not exist yet.
    File(PathBuf),
    /// Standard output.
    Output,
}

impl Destination {
    /// What an operator calls it.
    fn name(&self) -> String {
        match self {
            Destination::File(path) => path.display().to_string(),
            Destination::Output => "-".to_owned(),
        }
    }

    /// Copies the archive `made` there. A file gets its name when it is whole; of one that fails nothing is left.
    fn write(&self, made: &Path) -> std::io::Result<()> {
        use std::io::Write;
        match self {
            Destination::File(path) => copy_whole(made, path),
            Destination::Output => {
                let mut from = std::fs::File::open(made)?;
                let mut to = std::io::stdout().lock();
                std::io::copy(&mut from, &mut to)?;
                to.flush()
            }
        }
    }
}

/// Copies a file to a path that nothing has. What is unfinished has a name by chance, so that nobody who can write there has put a
/// link in its place.
fn copy_whole(from: &Path, to: &Path) -> std::io::Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut unfinished = tempfile::Builder::new()
        .prefix(&format!(".{name}.unfinished-"))
        .tempfile_in(dir.unwrap_or(Path::new(".")))?;
    std::io::copy(&mut std::fs::File::open(from)?, &mut unfinished)?;
    unfinished.as_file().sync_all()?;
    unfinished.persist_noclobber(to).map_err(|e| e.error)?;
    Ok(())
}

/// Destination that the argument `file` names.
///
/// # Errors
/// Exit code 4 if the file exists, and 2 if standard output is a terminal.
fn destination(file: &Path) -> Result<Destination, Failure> {
    if file == Path::new("-") {
        return match output::is_terminal() {
            false => Ok(Destination::Output),
            true => Err(Failure::usage(
                "standard output is a terminal, which cannot show an archive",
            )
            .hint("redirect it, as in `abbey backup - > house.tar`, or name a file")),
        };
    }
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    if path.exists() {
        let text = format!("`{}` exists; choose another name", path.display());
        return Err(Failure::plain(text).with_code(exit::CONFLICT));
    }
    // Before the house makes an archive that then has no place.
    let dir = path.parent().unwrap_or(Path::new("/"));
    let why = match std::fs::metadata(dir) {
        Ok(found) if found.is_dir() => return Ok(Destination::File(path)),
        Ok(_) => std::io::Error::from(std::io::ErrorKind::NotADirectory),
        Err(e) => e,
    };
    Err(Failure::unusable_path("cannot write into", dir, why))
}

/// `abbey backup`: writes a backup of the running house into a new archive, or to standard output, and prints its hash.
/// Exit code 4 if the file exists.
pub(crate) async fn cmd_backup(home: &Home, json: bool, args: &BackupArgs) -> Outcome {
    if let Some(BackupCommand::Verify { file }) = &args.command {
        return verify(json, file).await;
    }
    let file = args.file.as_deref().unwrap_or(Path::new(""));
    let to = destination(file)?;
    let passphrase = read_passphrase(args.passphrase_file.as_deref())?;
    // The control plane can write in its own directory only; this process, which runs as the caller, copies the archive
    // to its destination.
    let made = home
        .backups_dir()
        .join(format!("asked-{}.tar", std::process::id()));
    let client = operator_client(home)?.timeout(Duration::from_secs(600));
    let body = BackupBody {
        path: made.display().to_string(),
        with_services: args.with_services,
        passphrase: passphrase.map(|p| p.expose().to_owned()),
    };
    let mut doc = client.house().back_up(&body).await?;
    let placed = to.write(&made);
    let _gone_already = std::fs::remove_file(&made);
    placed.map_err(|e| {
        let failure = Failure::plain(format!("cannot write the backup `{}`: {e}", to.name()));
        match e.kind() {
            std::io::ErrorKind::StorageFull => failure.hint(format!(
                "the backup needs {} there; free some space, or choose another disk",
                output::human_bytes(doc.bytes)
            )),
            _ => failure,
        }
    })?;
    doc.path = to.name();
    print_notes("warning", &doc.notes);
    let printed = format!(
        "{} ({}), state hash {}",
        doc.path,
        output::human_bytes(doc.bytes),
        doc.state_hash
    );
    match (&to, json) {
        (Destination::File(_), true) => output::print_json(&doc),
        (Destination::File(_), false) => output::print_line(&printed),
        (Destination::Output, true) => output::print_json_error(&doc),
        (Destination::Output, false) => output::print_message(&printed),
    }
    if !json {
        print_left_out(&doc.left_out);
    }
    Ok(completeness(doc.complete))
}

/// `abbey restore`: restores a backup into a home that has no state, without a control plane, and says what is left to
/// do by hand.
pub(crate) async fn cmd_restore(home: &Home, json: bool, args: RestoreArgs) -> Outcome {
    let root = home.root().to_owned();
    require_readable("cannot read the backup", &args.file)?;
    let passphrase = read_passphrase(args.passphrase_file.as_deref())?;
    let restored = tokio::task::spawn_blocking(move || {
        abbey_daemon::restore_backup(root, &args.file, passphrase.as_ref())
    });
    let doc = restored
        .await
        .map_err(|e| Failure::plain(format!("cannot restore the backup: {e}")))??;
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    output::print_line(&format!(
        "restored into {}, state hash {}",
        home.root().display(),
        doc.state_hash
    ));
    print_notes("note", &doc.notes);
    print_left_out(&doc.left_out);
    if !doc.uses_of_host.is_empty() {
        output::print_message("its manifest uses of this host, once `abbey up` has your consent:");
    }
    for line in &doc.uses_of_host {
        output::print_message(&format!("  - {line}"));
    }
    if let Some(manifest) = &doc.manifest {
        output::print_message(&format!(
            "the manifest and its charters are restored too; `abbey --home {} up -f {}` starts the house",
            shell_path(home.root()),
            shell_word(manifest)
        ));
    }
    Ok(exit::OK)
}
