//! `abbey unit`: files for the host's service manager, so that a house starts with its host (S3-08 to S3-12, S1-20).
//! The files are rendered from facts about the house; enabling, starting and querying is left to the service manager.

mod rcd;
mod systemd;

use crate::connect::{operator_client, usual_home};
use crate::exit::{self, Failure, Outcome};
use crate::output;
use abbey_api::VERSION;
use abbey_daemon::Home;
use abbey_model::SecretRef;
use clap::{Args, Subcommand, ValueEnum};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum UnitCommand {
    /// Print the files, each after a line with its path.
    #[command(after_help = "Example:\n  abbey unit print")]
    Print(UnitArgs),
    /// Install the files; nothing is started or enabled.
    #[command(after_help = "Example:\n  abbey unit install")]
    Install(UnitArgs),
    /// Start the house when the host boots.
    #[command(after_help = "Example:\n  abbey unit enable")]
    Enable(UnitArgs),
    /// Do not start the house when the host boots.
    #[command(after_help = "Example:\n  abbey unit disable")]
    Disable(UnitArgs),
    /// Start the house now.
    #[command(after_help = "Example:\n  abbey unit start")]
    Start(UnitArgs),
    /// Stop the control plane; its cells keep running.
    #[command(after_help = "Example:\n  abbey unit stop")]
    Stop(UnitArgs),
    /// Show the status that the service manager reports.
    #[command(after_help = "Example:\n  abbey unit status")]
    Status(UnitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UnitArgs {
    /// Service manager [default: systemd for root, user for other users].
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Directory for print and install [default: the directory of the service manager].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// systemd, system units of root.
    Systemd,
    /// systemd, units of a user.
    User,
    /// FreeBSD's rc.d.
    Rcd,
}

/// Facts from which the files are rendered.
struct Facts {
    /// Name of the house's units; each house of a host has its own.
    name: String,
    /// The binary.
    binary: String,
    /// `ABBEY_HOME`.
    home: String,
    /// User ID of the control plane; 0 for a house that an unprivileged user owns.
    serve_uid: u32,
    /// Names of the credentials that the manifest refers to.
    credentials: BTreeSet<String>,
    /// Version of systemd.
    systemd: u32,
}

/// Rendered file.
struct File {
    name: String,
    mode: u32,
    text: String,
}

/// `abbey unit`: prints or installs the files for the service manager of the host, or has it enable, disable,
/// start, stop or show the house.
pub(crate) async fn cmd_unit(home: &Home, json: bool, command: UnitCommand) -> Outcome {
    let verb = match &command {
        UnitCommand::Print(args) | UnitCommand::Install(args) => {
            let kind = kind_of(args)?;
            let facts = facts(home, kind).await?;
            let files = match kind {
                Kind::Systemd => systemd::system_units(&facts),
                Kind::User => systemd::user_units(&facts),
                Kind::Rcd => rcd::rcd_scripts(&facts),
            };
            let dir = args.dir.clone().map_or_else(|| place(kind), Ok)?;
            return match command {
                UnitCommand::Install(_) => install(kind, home, &dir, &files),
                _ => {
                    print(json, &dir, &files);
                    Ok(exit::OK)
                }
            };
        }
        UnitCommand::Enable(_) => "enable",
        UnitCommand::Disable(_) => "disable",
        UnitCommand::Start(_) => "start",
        UnitCommand::Stop(_) => "stop",
        UnitCommand::Status(_) => "status",
    };
    let (UnitCommand::Print(args)
    | UnitCommand::Install(args)
    | UnitCommand::Enable(args)
    | UnitCommand::Disable(args)
    | UnitCommand::Start(args)
    | UnitCommand::Stop(args)
    | UnitCommand::Status(args)) = &command;
    manage(kind_of(args)?, &unit_name(home)?, verb)
}

/// Name of the units of the house in this home: `abbey` for the usual home, otherwise with the path of the home, so that
/// houses of one host have units of their own.
fn unit_name(home: &Home) -> Result<String, Failure> {
    if home.root() == usual_home() {
        return Ok("abbey".to_owned());
    }
    let path = plain("the home", home.root())?;
    Ok(format!(
        "abbey{}",
        path.trim_end_matches('/').replace('/', "-")
    ))
}

fn kind_of(args: &UnitArgs) -> Result<Kind, Failure> {
    let root = rustix::process::geteuid().is_root();
    match args.kind {
        None if root => Ok(Kind::Systemd),
        None => Ok(Kind::User),
        Some(Kind::User) if root => Err(Failure::plain(
            "root has no user units: its house is started by system units",
        )
        .with_code(exit::USAGE)
        .hint("omit `--kind`, or run this command as the user who owns the house")),
        Some(kind) => Ok(kind),
    }
}

fn place(kind: Kind) -> Result<PathBuf, Failure> {
    match kind {
        Kind::Systemd => Ok("/etc/systemd/system".into()),
        Kind::Rcd => Ok("/usr/local/etc/rc.d".into()),
        Kind::User => {
            let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
            let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
            let config = config.or_else(usual).ok_or_else(|| {
                Failure::plain("cannot find the directory of user units: neither HOME nor XDG_CONFIG_HOME is set")
            })?;
            Ok(config.join("systemd/user"))
        }
    }
}

/// Checks that a path needs no quoting in a unit or a shell.
fn plain(what: &str, path: &Path) -> Result<String, Failure> {
    let text = path.to_str().unwrap_or_default();
    let usual = |b: u8| b.is_ascii_alphanumeric() || b"/._-+".contains(&b);
    match text.starts_with('/') && text.bytes().all(usual) {
        true => Ok(text.to_owned()),
        false => Err(Failure::plain(format!(
            "{what} `{}` cannot be used in a unit: only letters, digits and `/._-+` are allowed",
            path.display()
        ))
        .with_code(exit::USAGE)
        .hint("move the file or directory, or use a symbolic link with an allowed path")),
    }
}

async fn facts(home: &Home, kind: Kind) -> Result<Facts, Failure> {
    let binary = std::env::current_exe()
        .map_err(|e| Failure::plain(format!("cannot find the path of this binary: {e}")))?;
    // Allocates the user of the control plane and creates the directories that the units name.
    let serve_uid = home.create_directories().map_err(Failure::from)?.serve_uid;
    Ok(Facts {
        name: unit_name(home)?,
        binary: plain("the binary", &binary)?,
        home: plain("the home", home.root())?,
        serve_uid,
        credentials: credentials(home).await,
        systemd: match kind {
            Kind::Rcd => 0,
            Kind::Systemd | Kind::User => version(),
        },
    })
}

/// Credentials of the applied manifest; none when no house answers.
async fn credentials(home: &Home) -> BTreeSet<String> {
    let Ok(client) = operator_client(home) else {
        return BTreeSet::new();
    };
    let current = client.house().manifest().await;
    let manifest = current.map(|doc| doc.manifest).unwrap_or_default();
    let Ok(house) = abbey_daemon::manifest::parse(&manifest) else {
        return BTreeSet::new();
    };
    let named = house.secrets().filter_map(|(_, secret)| match secret {
        SecretRef::Credential(name) => Some(name.clone()),
        SecretRef::Env(_) | SecretRef::File(_) => None,
    });
    named.collect()
}

/// Version of systemd on this host, or the oldest supported one. Settings that it does not know are left out, since each
/// would be a warning at every boot.
fn version() -> u32 {
    let output = std::process::Command::new("systemctl")
        .arg("--version")
        .output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let found = text
        .ok()
        .and_then(|t| t.split_whitespace().nth(1)?.parse().ok());
    found.unwrap_or(systemd::OLDEST)
}

fn print(json: bool, dir: &Path, files: &[File]) {
    if json {
        let file = |f: &File| serde_json::json!({ "path": dir.join(&f.name), "mode": format!("{:o}", f.mode), "text": f.text });
        let files: Vec<_> = files.iter().map(file).collect();
        return output::print_json(&serde_json::json!({ "version": VERSION, "files": files }));
    }
    for (n, file) in files.iter().enumerate() {
        let gap = if n == 0 { "" } else { "\n" };
        output::print_line(&format!("{gap}# {}", dir.join(&file.name).display()));
        output::print_line(file.text.trim_end());
    }
}

fn install(kind: Kind, home: &Home, dir: &Path, files: &[File]) -> Outcome {
    use abbey_support::file::{Sync, publish};
    let broken = |what: &str, path: &Path| {
        let text = format!("cannot {what} `{}`", path.display());
        move |e: std::io::Error| Failure::plain(format!("{text}: {e}"))
    };
    std::fs::create_dir_all(dir).map_err(broken("create", dir))?;
    for file in files {
        let path = dir.join(&file.name);
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        // Homes whose paths differ only in `/` and `-` have units of one name.
        if home_of_unit(&there).is_some_and(|other| Path::new(other) != home.root()) {
            return Err(Failure::plain(format!(
                "`{}` belongs to another house",
                path.display()
            ))
            .with_code(exit::CONFLICT)
            .hint("install the units of this house into another directory with `--dir`, or move its home"));
        }
    }
    for file in files {
        let path = dir.join(&file.name);
        publish(&path, &file.text, file.mode, Sync::Content).map_err(broken("write", &path))?;
        output::print_line(&path.display().to_string());
    }
    if kind == Kind::User && !lingers() {
        output::print_message(
            "note: lingering is off for this user, so the house stops with the last session and does not start at boot; `loginctl enable-linger` turns it on",
        );
    }
    let next = match kind {
        Kind::Systemd => "systemctl daemon-reload",
        Kind::User => "systemctl --user daemon-reload",
        Kind::Rcd => "",
    };
    let first = if next.is_empty() { "" } else { ", then " };
    output::print_message(&format!(
        "installed, not started; next: {next}{first}`abbey unit enable` and `abbey unit start`"
    ));
    Ok(exit::OK)
}

/// Home of the house that a rendered file is for.
fn home_of_unit(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("ouse in ")?;
    let path = rest.split([' ', ',', '\n']).next()?;
    Some(path.trim_end_matches('.'))
}

/// Whether the user's services keep running without a session (S3-11).
///
/// Source: loginctl(1), `enable-linger`: the mark is a file of the user's name.
fn lingers() -> bool {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    user.is_ok_and(|name| {
        let plain = !name.is_empty() && !name.contains('/');
        plain && Path::new("/var/lib/systemd/linger").join(name).exists()
    })
}

/// Passes the verb on to the service manager of the host.
fn manage(kind: Kind, name: &str, verb: &str) -> Outcome {
    let (unit, script) = (systemd::house_unit(name), rcd::house_script(name));
    let (program, args): (&str, Vec<&str>) = match kind {
        Kind::Systemd => ("systemctl", vec![verb, &unit]),
        Kind::User => ("systemctl", vec!["--user", verb, &unit]),
        Kind::Rcd => ("service", vec![&script, verb]),
    };
    let status = std::process::Command::new(program).args(&args).status();
    match status {
        Ok(status) => Ok(status
            .code()
            .and_then(|c| u8::try_from(c).ok())
            .unwrap_or(exit::FAILURE)),
        Err(e) => Err(Failure::plain(format!("cannot run `{program}`: {e}"))
            .hint("`--kind` selects the service manager; on a host without one, `abbey up` starts the house")),
    }
}
