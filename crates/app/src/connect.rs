//! Locating the house, and a client of its operator API.

use crate::exit::Failure;
use abbey_api::client::{Client, Endpoint};
use abbey_daemon::Home;
use abbey_model::Secret;
use abbey_support::beneath::DirHandle;
use abbey_support::shell::shell_path;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// State directory of a house if none is named: `/var/lib/abbey` for root and `~/.local/state/abbey` for other users.
pub(crate) fn usual_home() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/abbey");
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let user = || {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".local/state")
    };
    state.unwrap_or_else(user).join("abbey")
}

/// State directory of the house as an absolute path: `given`, or `ABBEY_HOME`, or [`usual_home`].
pub(crate) fn resolve_home(given: Option<&Path>) -> Home {
    let variable = || std::env::var_os("ABBEY_HOME").filter(|home| !home.is_empty());
    let given = given
        .map(Path::to_owned)
        .or_else(|| variable().map(PathBuf::from));
    let path = given.unwrap_or_else(usual_home);
    // Absolute, since cells are started from other working directories.
    let path = std::path::absolute(&path).unwrap_or(path);
    Home::new(without_parent_steps(&path))
}

/// A path without `..`, each of which leads where the directory before it is, not where a link to it is.
fn without_parent_steps(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for step in path.components() {
        match step {
            Component::ParentDir => {
                plain = plain.canonicalize().unwrap_or(plain);
                plain.pop();
            }
            step => plain.push(step),
        }
    }
    plain
}

/// Longest wait for the health check of a control plane.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Whether the control plane of this home answers its health check within 3 seconds. A connection alone proves
/// nothing: the socket of a killed control plane may still be open.
pub(crate) async fn is_control_plane_up(home: &Home) -> bool {
    let Ok(stream) = UnixStream::connect(home.operator_api_socket()).await else {
        return false;
    };
    let status = abbey_support::http::get_status(stream, "/healthz", ANSWER_WITHIN).await;
    status.is_ok_and(|s| s == 200)
}

/// Most of a credential's file that is read, bytes.
const TOKEN_MAX: u64 = 4096;

/// What to do about a credential of the operator that cannot be read in a home of the caller's own.
fn unreadable_credential_hint(path: &Path) -> String {
    let file = shell_path(path);
    let found = std::fs::symlink_metadata(path).ok();
    match found.map(|m| (m.file_type(), m.nlink())) {
        // The copy gets a name that nobody can know before, and neither command follows a link.
        Some((kind, names)) if kind.is_file() && names > 1 => format!(
            "`f={file}; t=$(mktemp -p \"$(dirname \"$f\")\") && cp -pP \"$f\" \"$t\" && mv -fT \"$t\" \"$f\"` makes it a file of its own again, apart from a copy of the home with hard links"
        ),
        Some((kind, _)) if kind.is_dir() => {
            format!("`rm -r {file}` removes the directory, and `abbey up` makes the file anew")
        }
        Some((kind, _)) if !kind.is_file() => {
            format!("it is not a plain file: `rm {file}` removes it, and `abbey up` makes it anew")
        }
        _ => "run it as the user that the house belongs to; `--home` or ABBEY_HOME selects another house".to_owned(),
    }
}

/// Client of the operator API of the house in this home, with the credential of the operator.
///
/// # Errors
/// Exit code 6 if the directory contains no house; exit code 1 if the credential cannot be read, with whom the home belongs to
/// if that is another user.
pub(crate) fn operator_client(home: &Home) -> Result<Client, Failure> {
    crate::stopped_control_plane::note_client();
    let path = home.operator_token_file();
    // The control plane's user can put a link or another file there.
    let read = || {
        let root = DirHandle::open_trusted(home.root())?;
        let mut file = root.open_file("operator.token")?;
        let owner = file.metadata()?.uid();
        let mut text = String::new();
        Read::by_ref(&mut file)
            .take(TOKEN_MAX)
            .read_to_string(&mut text)?;
        Ok((Secret::new(text.trim()), owner))
    };
    let (token, user) = read().map_err(|e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::plain(format!("there is no house in `{}`", home.root().display()))
                .with_code(crate::exit::UNREACHABLE)
                .hint("`abbey up` starts a house; `--home` or ABBEY_HOME selects another directory")
        }
        // That user can replace each entry at any time, so no command that writes there is a remedy for anybody else.
        _ => match home.require_own() {
            Err(not_own) => not_own.into(),
            Ok(()) => Failure::plain(format!(
                "cannot read the operator's credential `{}`: {e}",
                path.display()
            ))
            .hint(unreadable_credential_hint(&path)),
        },
    })?;
    let path = home.operator_api_socket();
    Ok(Client::new(Endpoint::Unix { path, user }, Some(token)))
}
