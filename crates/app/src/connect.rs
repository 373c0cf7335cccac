//! Finding the house and talking to it.

use crate::exit::Failure;
use abbey_api::client::{Client, Endpoint};
use abbey_daemon::Home;
use abbey_model::Secret;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The state directory.
pub(crate) fn home(given: Option<&Path>) -> Home {
    let default = || {
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/abbey");
        }
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let user = || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
                .join(".local/state")
        };
        state.unwrap_or_else(user).join("abbey")
    };
    let path = given.map_or_else(default, Path::to_owned);
    // Cells are started elsewhere, so the path must mean the same there.
    Home::new(std::path::absolute(&path).unwrap_or(path))
}

/// Time for a control plane to answer the simplest question.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Whether a control plane answers on its socket. A connection alone tells nothing: one that was killed
/// a moment ago may still hold the socket open.
pub(crate) fn is_up(home: &Home) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(home.operator())?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: abbey\r\nConnection: close\r\n\r\n")?;
        let mut head = [0u8; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// A client with the operator's credential.
///
/// # Errors
/// When there is no house here or its credential cannot be read.
pub(crate) fn client(home: &Home) -> Result<Client, Failure> {
    let path = home.operator_token();
    let token = match std::fs::read_to_string(&path) {
        Ok(text) => Secret::new(text.trim()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(
                Failure::plain(format!("no house lives in `{}`", home.root().display()))
                    .with_code(crate::exit::UNREACHABLE)
                    .hint("`abbey up` starts one; `--home` or ABBEY_HOME names another directory"),
            );
        }
        Err(e) => {
            return Err(Failure::plain(format!(
                "the operator's credential `{}` cannot be read: {e}",
                path.display()
            )));
        }
    };
    Ok(Client::new(Endpoint::Unix(home.operator()), Some(token)))
}

/// A value for use in a path.
pub(crate) fn segment(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
