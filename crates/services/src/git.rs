//! Git repositories over HTTP, a place for each consumer. What speaks the protocol is git itself.
//! Source: git-http-backend(1) and RFC 3875, the Common Gateway Interface.

use crate::ask::{ServiceReply, ServiceRequest};
use crate::door::{self, AdmittedConsumer, HttpService, text_response};
use crate::lost_data::make_data_dir;
use crate::registry::{ConsumerRegistry, directory_size, entries_of};
use crate::{Error, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::io::ReaderStream;

/// Longest line and most lines of the head that git answers with.
const HEAD_MAX: u64 = 16 << 10;
/// Longest name of a repository, bytes.
const NAME_MAX: usize = 100;

/// Checks that git with its HTTP backend is installed on the host.
pub(crate) fn check_installed() -> Result<()> {
    let works = std::process::Command::new("git")
        .arg("--exec-path")
        .output();
    let there = works.is_ok_and(|o| {
        let path = String::from_utf8_lossy(&o.stdout).trim().to_owned();
        Path::new(&path).join("git-http-backend").is_file()
    });
    match there {
        true => Ok(()),
        false => Err(Error::Missing {
            what: "git with its HTTP backend",
            remedy: "install it on the host (on Debian: git)".to_owned(),
        }),
    }
}

/// Serves the consumers' git repositories over HTTP on `address:port`, from the directory `home`, until `SIGTERM`.
pub(crate) async fn serve_git(home: &Path, address: &str, port: u16) -> Result<i32> {
    let registry = ConsumerRegistry::new(home);
    make_data_dir(home)?;
    let door = HttpService::new(registry);
    let router = Router::new().fallback(handle).with_state(door);
    door::serve_http(router, address, port).await
}

/// Performs a request of the control plane on the git service in `home`; backups are git bundles.
pub(crate) fn perform_git_request(home: &Path, question: ServiceRequest) -> Result<ServiceReply> {
    let registry = ConsumerRegistry::new(home);
    door::perform_request(&registry, question, |name, at_ms| {
        let data = registry.data_dir(name);
        registry.back_up(name, at_ms, |to| bundle(&data, to))
    })
}

/// Everything of a consumer's repositories, each as one file that git reads.
fn bundle(data: &Path, to: &Path) -> Result<()> {
    for entry in entries_of(data)? {
        let path = entry.path();
        if !path.join("HEAD").is_file() {
            continue;
        }
        let refs = git(&path, &["for-each-ref", "--count=1", "--format=%(refname)"])?;
        // Nothing was ever pushed there.
        if refs.trim().is_empty() {
            continue;
        }
        let file = to.join(entry.file_name()).with_extension("bundle");
        let file = file.display().to_string();
        git(&path, &["bundle", "create", "--quiet", &file, "--all"])?;
        git(&path, &["bundle", "verify", "--quiet", &file])?;
    }
    Ok(())
}

fn git(repository: &Path, args: &[&str]) -> Result<String> {
    let out = std::process::Command::new("git")
        .arg("--git-dir")
        .arg(repository)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .map_err(Error::file("run", "git"))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(Error::Refused {
            what: "git",
            said: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        }),
    }
}

/// A repository's name, without anything that could be another path.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    name.len() <= NAME_MAX
        && name.ends_with(".git")
        && name.len() > 4
        && name.bytes().all(plain)
        && name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
}

async fn handle(State(door): State<Arc<HttpService>>, request: Request) -> Response {
    let guest = match door.authenticate(request.headers()) {
        Ok(guest) => guest,
        Err(refusal) => return *refusal,
    };
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let (owner, name, rest) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    // Other consumers must not learn that it exists.
    if owner != guest.name || !is_name(name) {
        let text = format!("your repositories are at /{}/NAME.git", guest.name);
        return text_response(StatusCode::NOT_FOUND, text);
    }
    let repository = door.registry.data_dir(owner).join(name);
    let writes = rest == "git-receive-pack" || query == "service=git-receive-pack";
    if !repository.join("HEAD").is_file() {
        if !writes {
            return text_response(
                StatusCode::NOT_FOUND,
                "this repository does not exist; the first push creates it",
            );
        }
        if let Err(error) = make(&repository) {
            eprintln!("error: {error}");
            return text_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the repository could not be created",
            );
        }
    }
    if writes {
        let place = door.registry.data_dir(owner);
        let kept = tokio::task::spawn_blocking(move || directory_size(&place))
            .await
            .unwrap_or(u64::MAX);
        let left = guest.consumer.bytes.saturating_sub(kept);
        if left == 0 {
            let text = format!("your storage of {} bytes is full", guest.consumer.bytes);
            return text_response(StatusCode::INSUFFICIENT_STORAGE, text);
        }
        let limit = left.to_string();
        if let Err(error) = git(&repository, &["config", "receive.maxInputSize", &limit]) {
            eprintln!("error: {error}");
        }
    }
    match backend(&door, guest, request, &path, &query).await {
        Ok(response) => response,
        Err(error) => {
            eprintln!("error: {error}");
            text_response(StatusCode::INTERNAL_SERVER_ERROR, "git http-backend failed")
        }
    }
}

/// Makes a repository, whole or not at all.
fn make(repository: &Path) -> Result<()> {
    let new = repository.with_extension("new");
    let _left_by_a_crash = fs::remove_dir_all(&new);
    let out = std::process::Command::new("git")
        .args(["init", "--quiet", "--bare", "--initial-branch=main"])
        .arg(&new)
        // Git makes every directory above it; that of the consumer is there, or it was lost.
        .current_dir(repository.parent().unwrap_or(Path::new(".")))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .map_err(Error::file("run", "git"))?;
    if !out.status.success() {
        return Err(Error::Refused {
            what: "git init",
            said: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        });
    }
    git(&new, &["config", "http.receivepack", "true"])?;
    git(&new, &["config", "receive.fsckObjects", "true"])?;
    match fs::rename(&new, repository) {
        // Another request was faster.
        Err(_) if repository.join("HEAD").is_file() => Ok(()),
        renamed => renamed.map_err(Error::file("publish", repository)),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

async fn backend(
    door: &HttpService,
    guest: AdmittedConsumer,
    request: Request,
    path: &str,
    query: &str,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    let method = match head.method {
        Method::GET => "GET",
        Method::POST => "POST",
        _ => {
            return Ok(text_response(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and POST are allowed",
            ));
        }
    };
    let root = door.registry.data_dir("");
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        // Hooks of a repository never run.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "core.hooksPath")
        .env("GIT_CONFIG_VALUE_0", "/dev/null")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REMOTE_USER", &guest.name)
        .env("CONTENT_TYPE", text(&head.headers, "content-type"))
        .env("CONTENT_LENGTH", text(&head.headers, "content-length"))
        .env(
            "HTTP_CONTENT_ENCODING",
            text(&head.headers, "content-encoding"),
        )
        .env("GIT_PROTOCOL", text(&head.headers, "git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::file("run", "git http-backend"))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    if let Some(mut input) = input {
        drop(tokio::spawn(async move {
            let mut chunks = body.into_data_stream();
            while let Some(Ok(chunk)) = chunks.next().await {
                // The process writes the reason of a refusal before it exits.
                if input.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        }));
    }
    let Some(output) = output else {
        return Ok(text_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "git has no output",
        ));
    };
    let mut output = BufReader::new(output);
    let mut response = Response::new(Body::empty());
    let mut head = (&mut output).take(HEAD_MAX);
    loop {
        let mut line = String::new();
        let read = head.read_line(&mut line).await;
        if read.map_err(Error::file("read", "git http-backend"))? == 0 {
            return Ok(text_response(
                StatusCode::BAD_GATEWAY,
                "git ended before it answered",
            ));
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|c| c.parse().ok());
            *response.status_mut() = code.unwrap_or(StatusCode::BAD_GATEWAY);
        } else if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) && name != header::CONTENT_LENGTH
        {
            response.headers_mut().insert(name, value);
        }
    }
    // Git and its guest stay until the last of it is read.
    let stream = ReaderStream::new(output).map(move |chunk| {
        let _until_the_end = (&child, &guest);
        chunk
    });
    *response.body_mut() = Body::from_stream(stream);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_called_by_a_name_and_nothing_else() {
        for good in ["notes.git", "a-b_c.1.git"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            ".git",
            "..git",
            "../x.git",
            "a/b.git",
            "x",
            "x.git/..",
            "-x.git",
            "$(id).git",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
