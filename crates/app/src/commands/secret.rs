//! `abbey secret`: values that a manifest names as `credential:NAME`.

use crate::connect::{is_control_plane_up, operator_client};
use crate::exit::{self, Failure, Outcome};
use crate::manifest_arg::{house_in_use, refuse_in_use};
use crate::output::{self, print_message, print_table};
use abbey_api::VERSION;
use abbey_daemon::Home;
use abbey_model::SecretRef;
use abbey_support::input::open_input;
use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Longest secret, bytes.
const SECRET_MAX: u64 = 64 << 10;
/// Longest name of a secret, characters.
const NAME_MAX: usize = 64;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Store a secret, which a manifest names as `credential:NAME`; a running house uses it at once.
    ///
    /// The value is read from standard input, or asked for on a terminal without showing it. It is kept in a file that
    /// only the control plane and root can read.
    #[command(
        after_help = "Examples:\n  abbey secret set openai\n  abbey secret set openai --from-file key.txt"
    )]
    Set(SecretSetArgs),
    /// List the names of the stored secrets.
    #[command(after_help = "Example:\n  abbey secret list")]
    List,
    /// Remove a stored secret; one that the manifest in force names only with `--force`.
    #[command(after_help = "Example:\n  abbey secret rm openai")]
    Rm {
        /// Name of the secret.
        name: String,
        /// Remove it even if the manifest names it.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// Name of the secret: letters, digits, `-` and `_`.
    pub(crate) name: String,
    /// File with the value; one line end at its end is not part of it.
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
}

/// `abbey secret`: stores a secret of the house, lists the names, or removes one.
pub(crate) async fn cmd_secret(home: &Home, json: bool, command: SecretCommand) -> Outcome {
    match command {
        SecretCommand::Set(args) => {
            let name = parse_name(&args.name)?;
            let value = read_value(&name, args.from_file)?;
            home.store_credential(&name, value.as_bytes())?;
            log_at_once(home).await;
            match json {
                true => {
                    output::print_json(&serde_json::json!({ "version": VERSION, "secret": name }))
                }
                false => print_message(&format!(
                    "stored; a manifest names it as `credential:{name}`"
                )),
            }
        }
        SecretCommand::List => {
            let names = stored_names(home)?;
            if json {
                output::print_json(&serde_json::json!({ "version": VERSION, "secrets": names }));
            } else {
                let row = |name: String| {
                    let reference = format!("credential:{name}");
                    vec![name, reference]
                };
                let rows = names.into_iter().map(row).collect();
                let empty = "no secrets; `abbey secret set NAME` stores one";
                print_table(&["NAME", "IN A MANIFEST"], rows, empty);
            }
        }
        SecretCommand::Rm { name, force } => {
            let name = parse_name(&name)?;
            if !force && stored_names(home)?.contains(&name) {
                refuse_in_use(&format!("secret `{name}`"), &users(home, &name).await)?;
            }
            if !home.remove_credential(&name)? {
                return Err(Failure::plain(format!("there is no secret `{name}`"))
                    .with_code(exit::NOT_FOUND)
                    .hint("`abbey secret list` lists the names"));
            }
            log_at_once(home).await;
            match json {
                true => {
                    output::print_json(&serde_json::json!({ "version": VERSION, "removed": name }))
                }
                false => print_message(&format!("removed; `credential:{name}` names nothing now")),
            }
        }
    }
    Ok(exit::OK)
}

/// Names of the stored secrets. Where they cannot be listed since the house belongs to another user, the failure says so.
fn stored_names(home: &Home) -> Result<Vec<String>, Failure> {
    let names = home.credential_names();
    if names.is_err() {
        home.require_own()?;
    }
    Ok(names?)
}

/// Longest wait for the control plane to log a change.
const LOGGED_WITHIN: Duration = Duration::from_secs(3);

/// Has a running control plane copy the recorded change into the audit log now. Without one, or one that does not
/// answer, it does so at its next start or check.
async fn log_at_once(home: &Home) {
    if is_control_plane_up(home).await
        && let Ok(client) = operator_client(home)
    {
        let client = client.timeout(LOGGED_WITHIN);
        let _later = client.activity().checkpoints().await;
    }
}

/// Keys of the manifest that name a secret, such as `provider:cloud`.
async fn users(home: &Home, name: &str) -> Vec<String> {
    let house = house_in_use(home).await;
    let named = house.iter().flat_map(|house| house.secrets());
    let named = named.filter(|(_, r)| matches!(r, SecretRef::Credential(n) if n == name));
    named.map(|(user, _)| user).collect()
}

/// A name that a manifest can use.
fn parse_name(name: &str) -> Result<String, Failure> {
    match format!("credential:{name}").parse() {
        Ok(SecretRef::Credential(name)) if name.len() <= NAME_MAX => Ok(name),
        Ok(SecretRef::Credential(name)) => Err(Failure::usage(format!(
            "the name of the secret is too long: it has {} characters, and at most {NAME_MAX} are allowed",
            name.len()
        ))),
        _ => Err(Failure::usage(format!(
            "`{name}` is no name for a secret: use letters, digits, `-` and `_`"
        ))),
    }
}

fn read_value(name: &str, file: Option<PathBuf>) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match &file {
        Some(path) => open_input(path)
            .map_err(std::io::Error::from)
            .and_then(|f| f.take(SECRET_MAX + 1).read_to_string(&mut text)),
        None if std::io::stdin().is_terminal() => ask_without_echo(name, &mut text),
        None => std::io::stdin()
            .lock()
            .take(SECRET_MAX + 1)
            .read_to_string(&mut text),
    };
    read.map_err(|e| {
        let from = file.map_or_else(|| "standard input".to_owned(), |f| f.display().to_string());
        Failure::usage(format!("cannot read the secret from `{from}`: {e}"))
    })?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Err(
            Failure::usage("the secret is empty").hint("pipe it in, or use `--from-file FILE`")
        );
    }
    if text.len() as u64 > SECRET_MAX || value.contains('\0') {
        return Err(Failure::usage("a secret is text of at most 64 KiB"));
    }
    Ok(value.to_owned())
}

/// Asks for a line on the terminal, which does not show it.
fn ask_without_echo(name: &str, text: &mut String) -> std::io::Result<usize> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let mut err = std::io::stderr();
    write!(err, "value of {name} (not shown): ")?;
    err.flush()?;
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let read = stdin.read_line(text);
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    writeln!(err)?;
    read
}
