//! One HTTP/1.1 request and its response, over a Unix socket or any other stream.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::cell::OnceCell;
use std::future::{Future, pending};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// Bounds of one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest time from connecting to the last byte of the response.
    pub within: Duration,
    /// Most bytes in the body of the response.
    pub body_max: usize,
}

/// Sends a request to the server that listens on a Unix socket and reads the whole response.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] after `limits.within`; otherwise the reason why there is no whole response. A response
/// with an error status is a response.
pub async fn exchange_unix(
    socket: &Path,
    request: Request<Bytes>,
    limits: Limits,
) -> io::Result<Response<Bytes>> {
    timed(limits.within, async {
        let stream = UnixStream::connect(socket).await?;
        transfer(stream, request, |r| read_whole(r, limits.body_max)).await
    })
    .await
}

/// Sends a request over a stream that is connected already, and reads the whole response.
///
/// # Errors
/// As [`exchange_unix`].
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Bytes>,
    limits: Limits,
) -> io::Result<Response<Bytes>> {
    let read = |response| read_whole(response, limits.body_max);
    timed(limits.within, transfer(stream, request, read)).await
}

/// Sends a request to a Unix socket and reads the whole response, for callers without a Tokio runtime.
///
/// # Panics
/// When called from asynchronous code.
///
/// # Errors
/// As [`exchange_unix`].
pub fn exchange_unix_blocking(
    socket: &Path,
    request: Request<Bytes>,
    limits: Limits,
) -> io::Result<Response<Bytes>> {
    thread_local! {
        // One for each thread, as building one costs far more than an exchange over a local socket.
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    RUNTIME.with(|cell| {
        let runtime = match cell.get() {
            Some(runtime) => runtime,
            None => {
                let new = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .build()?;
                cell.get_or_init(|| new)
            }
        };
        runtime.block_on(exchange_unix(socket, request, limits))
    })
}

/// Sends `GET path` to a Unix socket and returns the status of the response; the body is not read. Suits health checks.
///
/// # Errors
/// As [`exchange_unix`]; also when `path` is not a valid path.
pub async fn get_status(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    path: &str,
    within: Duration,
) -> io::Result<StatusCode> {
    let request = Request::get(path).body(Bytes::new());
    let request = request.map_err(io::Error::other)?;
    timed(within, async {
        let read = |response: Response<Incoming>| async move { Ok(response.status()) };
        transfer(stream, request, read).await
    })
    .await
}

async fn timed<T>(
    within: Duration,
    exchange: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {within:?}"));
    tokio::time::timeout(within, exchange)
        .await
        .unwrap_or_else(|_| Err(late()))
}

async fn read_whole(response: Response<Incoming>, body_max: usize) -> io::Result<Response<Bytes>> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, body_max)
        .collect()
        .await
        .map_err(io::Error::other)?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

async fn transfer<T, F: Future<Output = io::Result<T>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    mut request: Request<Bytes>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> io::Result<T> {
    request
        .headers_mut()
        .entry(HOST)
        .or_insert(HeaderValue::from_static("localhost"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let response = async {
        let response = sender.send_request(request.map(Full::new)).await;
        read(response.map_err(io::Error::other)?).await
    };
    // The connection carries the exchange and may stay open after it: the response is the end, not the closing.
    let driver = async {
        let _closed = connection.await;
        pending::<()>().await;
    };
    tokio::select! {
        response = response => response,
        () = driver => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    const LIMITS: Limits = Limits {
        within: Duration::from_secs(5),
        body_max: 100,
    };

    /// Answers one connection with `answer` after the end of the request's head, and keeps the connection open until
    /// the peer closes it; gives the head.
    fn serve(socket: &Path, answer: &'static str) -> JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            let _until_closed = stream.read_to_end(&mut Vec::new());
            String::from_utf8(head).unwrap()
        })
    }

    fn get(socket: &Path, limits: Limits) -> io::Result<Response<Bytes>> {
        let request = Request::get("/healthz").body(Bytes::new()).unwrap();
        exchange_unix_blocking(socket, request, limits)
    }

    #[test]
    fn the_response_is_complete_although_the_server_keeps_the_connection_open() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let server = serve(
            &socket,
            "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nwhy",
        );
        let response = get(&socket, LIMITS).unwrap();
        assert_eq!(response.status(), 404);
        assert_eq!(response.body().as_ref(), b"why");
        let head = server.join().unwrap().to_lowercase();
        assert!(head.starts_with("get /healthz http/1.1\r\n"), "{head}");
        assert!(head.contains("host: localhost\r\n"), "{head}");
    }

    #[test]
    fn a_silent_server_is_a_timeout_and_a_long_body_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("silent");
        let server = serve(&socket, "");
        let within = Duration::from_millis(100);
        let late = get(&socket, Limits { within, ..LIMITS }).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        server.join().unwrap();

        let socket = dir.path().join("long");
        let server = serve(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlong");
        get(
            &socket,
            Limits {
                body_max: 3,
                ..LIMITS
            },
        )
        .unwrap_err();
        server.join().unwrap();

        let none = get(&dir.path().join("none"), LIMITS).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
