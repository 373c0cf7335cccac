//! Files over HTTP: every client can read them, and each consumer can write below its own name.

use crate::ask::{ServiceReply, ServiceRequest};
use crate::door::{self, HttpService, text_response};
use crate::lost_data::make_data_dir;
use crate::registry::{ConsumerRegistry, directory_size, entries_of};
use crate::{Error, Result};
use abbey_support::file;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Largest file, bytes.
const FILE_MAX: u64 = 32 << 20;
/// Most parts of a path.
const DEPTH_MAX: usize = 16;

/// Serves the consumers' files over HTTP on `address:port`, from the directory `home`, until `SIGTERM`.
pub(crate) async fn serve_site(home: &Path, address: &str, port: u16) -> Result<i32> {
    make_data_dir(home)?;
    let door = HttpService::new(ConsumerRegistry::new(home));
    let router = Router::new().fallback(handle).with_state(door);
    door::serve_http(router, address, port).await
}

/// Performs a request of the control plane on the site service in `home`; backups are copies of the files.
pub(crate) fn perform_site_request(home: &Path, question: ServiceRequest) -> Result<ServiceReply> {
    let registry = ConsumerRegistry::new(home);
    door::perform_request(&registry, question, |name, at_ms| {
        let data = registry.data_dir(name);
        registry.back_up(name, at_ms, |to| copy_tree(&data, to))
    })
}

/// Copies what a consumer has here file by file.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::file("make", to))?;
    for entry in entries_of(from)? {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::file("read", &path))?;
        if kind.is_dir() {
            copy_tree(&path, &target)?;
        } else if kind.is_file() {
            fs::copy(&path, &target).map_err(Error::file("copy", path))?;
        }
    }
    Ok(())
}

/// A path of plain parts; the place of a directory's page when it ends in `/`.
fn plain(path: &str) -> Option<PathBuf> {
    let mut path = path.trim_start_matches('/').to_owned();
    if path.is_empty() || path.ends_with('/') {
        path.push_str("index.html");
    }
    // No part has another notation, so what is looked for is what is read.
    if path.contains(['%', '\\', '\0']) {
        return None;
    }
    let path = PathBuf::from(path);
    let parts = path.components();
    let good = parts.clone().count() <= DEPTH_MAX
        && parts.clone().all(|c| match c {
            Component::Normal(part) => !part.to_string_lossy().starts_with('.'),
            _ => false,
        });
    good.then_some(path)
}

fn media_type(path: &Path) -> &'static str {
    // Source: the media types that IANA registers.
    match path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default()
    {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "pdf" => "application/pdf",
        "md" | "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

async fn handle(State(door): State<Arc<HttpService>>, request: Request) -> Response {
    let Some(path) = plain(request.uri().path()) else {
        return text_response(
            StatusCode::BAD_REQUEST,
            "a path must consist of plain names",
        );
    };
    let place = door.registry.data_dir("").join(&path);
    match *request.method() {
        Method::GET | Method::HEAD if is_closed(&door, &path) => {
            text_response(StatusCode::NOT_FOUND, "this site is closed")
        }
        Method::GET | Method::HEAD => read(&place).await,
        Method::PUT | Method::DELETE => write(&door, request, &path, place).await,
        _ => text_response(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET, HEAD, PUT and DELETE are allowed",
        ),
    }
}

/// Whether a path is below the name of a consumer that is closed: its files are kept for a while, and read by nobody.
fn is_closed(door: &HttpService, path: &Path) -> bool {
    let name = path.iter().next().and_then(|name| name.to_str());
    // What can't be known is not shown.
    let Ok(all) = door.registry.read_all() else {
        return true;
    };
    let consumer = name.and_then(|name| all.get(name));
    consumer.is_some_and(|consumer| consumer.hash.is_none())
}

async fn read(place: &Path) -> Response {
    let file = match tokio::fs::read(place).await {
        Ok(bytes) => bytes,
        Err(_) => return text_response(StatusCode::NOT_FOUND, "file not found"),
    };
    let headers = [
        (header::CONTENT_TYPE, media_type(place)),
        // What one writes is not run in the name of another.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from(file)).into_response()
}

async fn write(door: &Arc<HttpService>, request: Request, path: &Path, place: PathBuf) -> Response {
    let guest = match door.authenticate(request.headers()) {
        Ok(guest) => guest,
        Err(refusal) => return *refusal,
    };
    if !path.starts_with(&guest.name) || path.components().count() < 2 {
        let text = format!("what you write is below /{}/", guest.name);
        return text_response(StatusCode::FORBIDDEN, text);
    }
    if request.method() == Method::DELETE {
        return match tokio::fs::remove_file(&place).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(_) => text_response(StatusCode::NOT_FOUND, "file not found"),
        };
    }
    let own = door.registry.data_dir(&guest.name);
    let kept = tokio::task::spawn_blocking(move || directory_size(&own))
        .await
        .unwrap_or(u64::MAX);
    let left = guest.consumer.bytes.saturating_sub(kept);
    let Some(bytes) = door::read_body(request.into_body(), FILE_MAX.min(left)).await else {
        let text = format!(
            "a file may have at most {FILE_MAX} bytes, and {left} bytes of this site's quota are left"
        );
        return text_response(StatusCode::INSUFFICIENT_STORAGE, text);
    };
    let own = door.registry.data_dir(&guest.name);
    let written = tokio::task::spawn_blocking(move || publish(&own, &place, &bytes)).await;
    match written {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            text_response(
                StatusCode::CONFLICT,
                "the file could not be written: a directory has this name, or the disk is full",
            )
        }
        Err(_) => text_response(StatusCode::INTERNAL_SERVER_ERROR, "it could not be written"),
    }
}

/// Writes a file whole or not at all, below a consumer's own directory. That one is not made: if it is gone, it was lost.
fn publish(own: &Path, place: &Path, bytes: &[u8]) -> Result<()> {
    let dir = place.parent().unwrap_or(Path::new("."));
    file::make_dirs_below(own, dir).map_err(Error::file("make", dir))?;
    // The temporary file cannot be requested: its name begins with a dot.
    file::publish(place, bytes, 0o600, file::Sync::Content).map_err(Error::file("publish", place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_of_plain_names() {
        assert_eq!(plain("/"), Some(PathBuf::from("index.html")));
        assert_eq!(plain("/iris/"), Some(PathBuf::from("iris/index.html")));
        assert_eq!(plain("/iris/a.css"), Some(PathBuf::from("iris/a.css")));
        for bad in [
            "/../x",
            "/iris/../otto/x",
            "/%2e%2e/x",
            "/iris/.hidden",
            "/a\\b",
        ] {
            assert_eq!(plain(bad), None, "{bad}");
        }
    }
}
