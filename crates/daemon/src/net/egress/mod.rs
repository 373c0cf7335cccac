//! The egress proxy: outgoing HTTP and HTTPS by host name, for cells without direct network access.
//!
//! It serves `CONNECT` and requests with an absolute URL, as used with `HTTP_PROXY` and
//! `HTTPS_PROXY`. Shims forward a port of each cell to it and send the cell's name first. A host
//! name is resolved once, and the connection goes to exactly the address that was checked.
//! Deliberately absent: caching, decrypting TLS, following redirects.

mod hello;
pub(crate) mod ledger;
mod policy;
mod stream;

use crate::core::accepted::Accepted;
use crate::core::error::Result;
use crate::core::listen::{Callers, ConnectionPlace, HEAD_WITHIN, listen_unix};
use crate::net::state::NetState;
use abbey_api::Problem;
use abbey_model::{CellName, Egress, FaultKind, Principal};
use abbey_store::NewAuditEntry;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use ledger::{ByteCounter, ConnectionLine};
use policy::Denied;
use serde_json::json;
use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stream::CountedStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Longest wait for a DNS answer or a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest cell name that a shim sends, with its line feed, bytes.
const PREFACE_MAX: usize = 64;
/// Longest host name, bytes (RFC 1035, 2.3.4).
const HOST_MAX: usize = 253;
/// A connection without traffic for this time is closed.
const IDLE: Duration = Duration::from_secs(900);
/// Headers that concern one hop only and are not forwarded (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("proxy-connection"),
];

type Body = BoxBody<Bytes, hyper::Error>;

/// Listens on the egress proxy's socket, to which shims connect for their cells, and serves each
/// connection.
pub(crate) fn listen_for_egress(net: &Arc<NetState>) -> Result<()> {
    let path = net.core.home.egress_socket();
    let shared = Arc::clone(net);
    listen_unix(
        &net.core.rt,
        (path, Callers::Others),
        move |stream, place| serve_connection(Arc::clone(&shared), stream, place),
    )
}

/// Serves the proxy requests of one connection of a cell.
async fn serve_connection(
    net: Arc<NetState>,
    mut stream: Accepted<UnixStream>,
    place: Arc<ConnectionPlace>,
) {
    // Each shim holds the connections of its cell within a limit, so none is closed for another.
    let _kept = place.begin_request();
    let cell = net
        .core
        .rt
        .timeout(HEAD_WITHIN, read_cell_name(&mut stream))
        .await;
    let Ok(Some(cell)) = cell else { return };
    let service = hyper::service::service_fn(|request| {
        let (net, cell) = (Arc::clone(&net), cell.clone());
        async move { Ok::<_, Infallible>(serve_request(net, cell, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        _caller_gone = connection => {}
        () = net.core.rt.stopped() => {}
    }
}

/// Reads the line with the cell's name that a shim sends first; `None` if it is invalid. Reads byte
/// by byte, since the following bytes belong to the proxied protocol.
pub(crate) async fn read_cell_name(stream: &mut (impl AsyncRead + Unpin)) -> Option<CellName> {
    let mut name = Vec::new();
    while name.len() < PREFACE_MAX {
        match stream.read_u8().await.ok()? {
            b'\n' => return String::from_utf8(name).ok()?.parse().ok(),
            byte => name.push(byte),
        }
    }
    None
}

/// Egress policy of a cell under the plan in force, and its daily limit in bytes; `Egress::None`
/// for an unknown cell.
pub(crate) fn egress_policy_of(net: &NetState, cell: &CellName) -> (Egress, Option<u64>) {
    let Some(current) = net.core.plan.current() else {
        return (Egress::None, None);
    };
    match cell {
        CellName::Agent(slug) => current
            .house
            .agents
            .get(slug)
            .map_or((Egress::None, None), |a| {
                (a.egress.clone(), a.daily.egress.map(|b| b.0))
            }),
        CellName::Service(slug) => current
            .house
            .services
            .get(slug)
            .map_or((Egress::None, None), |s| (s.egress.clone(), None)),
        CellName::Run(slug) => (net.command_egress.policy_of(slug), None),
    }
}

/// A request of a cell to connect to a host and port.
struct ConnectRequest {
    net: Arc<NetState>,
    cell: CellName,
    host: String,
    port: u16,
}

async fn serve_request(
    net: Arc<NetState>,
    cell: CellName,
    request: Request<Incoming>,
) -> Response<Body> {
    let wanted = match destination(&request) {
        Ok((host, port)) => ConnectRequest {
            net,
            cell,
            host,
            port,
        },
        Err(why) => {
            return refusal_response(
                StatusCode::BAD_REQUEST,
                &Denied::new("no_proxy_request", why),
            );
        }
    };
    let (address, counter) = match wanted.check_and_resolve().await {
        Ok(admitted) => admitted,
        Err(denied) => {
            wanted.record_refusal(&denied, None).await;
            return refusal_response(StatusCode::FORBIDDEN, &denied);
        }
    };
    let connected = wanted
        .net
        .core
        .rt
        .timeout(CONNECT_WITHIN, TcpStream::connect(address))
        .await;
    let outside = match connected {
        Ok(Ok(stream)) => {
            CountedStream::new(wanted.net.core.rt.clone(), stream, Arc::clone(&counter))
        }
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "it did not accept the connection within 10 seconds".to_owned(),
            };
            let denied = Denied::new("unreachable", format!("{}: {why}", wanted.host));
            wanted.log_connection(Some(address), denied.code, None);
            return refusal_response(StatusCode::BAD_GATEWAY, &denied);
        }
    };
    match *request.method() == Method::CONNECT {
        true => {
            let tracker = wanted.net.core.rt.clone();
            drop(tracker.spawn(tunnel(wanted, request, outside, address, counter)));
            Response::new(empty_body())
        }
        false => forward_request(wanted, request, outside, address, counter).await,
    }
}

/// Host and port of a proxy request.
fn destination(request: &Request<Incoming>) -> std::result::Result<(String, u16), String> {
    let uri = request.uri();
    let connect = *request.method() == Method::CONNECT;
    let authority = uri
        .authority()
        .ok_or("this is a proxy: send CONNECT, or a request with an absolute URL")?;
    if authority.as_str().contains('@') {
        return Err("a proxy URL must not contain user information".to_owned());
    }
    let port = match (authority.port_u16(), connect, uri.scheme_str()) {
        (Some(port), true, _) | (Some(port), false, Some("http")) => port,
        (None, false, Some("http")) => 80,
        (None, true, _) => return Err("the target of CONNECT must have a port".to_owned()),
        _ => return Err("only http:// URLs are forwarded; use CONNECT for https://".to_owned()),
    };
    if authority.host().len() > HOST_MAX {
        return Err(format!(
            "the host name is longer than {HOST_MAX} characters"
        ));
    }
    Ok((authority.host().to_ascii_lowercase(), port))
}

impl ConnectRequest {
    /// Checks the request against the cell's policy, resolves the host, and returns the address to
    /// connect to with the byte counter.
    async fn check_and_resolve(
        &self,
    ) -> std::result::Result<(SocketAddrV4, Arc<ByteCounter>), Denied> {
        let (egress, limit) = egress_policy_of(&self.net, &self.cell);
        let address = match policy::check_host(&egress, &self.host, self.port)? {
            Some(address) => SocketAddrV4::new(address, self.port),
            None => {
                let lookup = tokio::net::lookup_host((self.host.as_str(), self.port));
                let unknown = |why: String| {
                    Denied::new("no_address", format!("{} has no address: {why}", self.host))
                };
                let answers = self
                    .net
                    .core
                    .rt
                    .timeout(CONNECT_WITHIN, lookup)
                    .await
                    .map_err(|_| unknown("no answer in time".to_owned()))?
                    .map_err(|e| unknown(e.to_string()))?;
                policy::choose_address(&egress, &self.host, self.port, answers.map(|a| a.ip()))?
            }
        };
        let spent = self
            .net
            .egress
            .bytes_today(&self.net.core, &self.cell)
            .map_err(|e| Denied::new("no_account", e.chain()))?;
        let counter = ByteCounter {
            spent,
            limit,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        };
        match counter.is_exhausted() {
            false => Ok((address, Arc::new(counter))),
            true => Err(Denied::new(
                "budget",
                "the egress budget of today is used up; raise `budget.egress_per_day` or wait for its reset",
            )),
        }
    }

    /// Whether an established connection is still allowed by the plan in force.
    fn still_allowed(&self, address: SocketAddrV4) -> bool {
        let (egress, _) = egress_policy_of(&self.net, &self.cell);
        policy::check_host(&egress, &self.host, self.port).is_ok()
            && policy::check_address(&egress, &self.host, *address.ip(), self.port).is_ok()
    }

    /// Appends a refusal to the egress log, and to the audit log if it was not logged there
    /// recently.
    async fn record_refusal(&self, denied: &Denied, address: Option<SocketAddrV4>) {
        self.log_connection(address, denied.code, None);
        let key = format!("{} {} {}", self.host, self.port, denied.code);
        let now = self.net.core.rt.now();
        let text = format!("{}:{}: {}", self.host, self.port, denied.text);
        if !self
            .net
            .egress
            .should_log_refusal(&self.cell, key, text, now)
        {
            return;
        }
        let actor = match &self.cell {
            CellName::Agent(slug) => Principal::Agent(slug.clone()),
            CellName::Service(_) | CellName::Run(_) => Principal::House,
        };
        let note = NewAuditEntry {
            actor,
            action: "egress.denied".to_owned(),
            entity: self.cell.to_string(),
            detail: json!({ "host": self.host, "port": self.port, "code": denied.code, "text": denied.text }),
        };
        if let Err(error) = self.net.core.store.append_audit_entry(note).await {
            tracing::warn!(%error, "a refused connection could not be logged to the audit log");
        }
    }

    fn log_connection(
        &self,
        address: Option<SocketAddrV4>,
        outcome: &str,
        counter: Option<&ByteCounter>,
    ) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let line = ConnectionLine {
            at: abbey_api::Time(self.net.core.store.now()).to_string(),
            host: self.host.clone(),
            port: self.port,
            address: address.map(|a| a.to_string()),
            outcome: outcome.to_owned(),
            connections: 1,
            up: counter.map_or(0, |c| load(&c.up)),
            down: counter.map_or(0, |c| load(&c.down)),
        };
        ledger::log_connection(&self.net, &self.cell, line);
    }
}

/// Serves a `CONNECT` request: carries bytes both ways, and ends the tunnel when the plan no longer
/// allows it.
async fn tunnel(
    wanted: ConnectRequest,
    request: Request<Incoming>,
    outside: CountedStream,
    address: SocketAddrV4,
    counter: Arc<ByteCounter>,
) {
    let Ok(inside) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut plans = wanted.net.core.plan.subscribe();
    let carried = carry_tunnel(&wanted, TokioIo::new(inside), outside);
    tokio::pin!(carried);
    let outcome = loop {
        tokio::select! {
            outcome = &mut carried => break outcome,
            () = wanted.net.core.rt.stopped() => break Ok(()),
            _ = plans.changed() => {
                if !wanted.still_allowed(address) {
                    let text = "the connection was closed because a new plan no longer allows it";
                    break Err(Denied::new("not_allowed", text));
                }
            }
        }
    };
    match outcome {
        Ok(()) => wanted.log_connection(Some(address), "done", Some(&counter)),
        Err(denied) => {
            wanted.record_refusal(&denied, Some(address)).await;
            // Bytes that were transferred count against the budget in any case.
            wanted.log_connection(Some(address), "cut", Some(&counter));
        }
    }
}

async fn carry_tunnel(
    wanted: &ConnectRequest,
    mut inside: TokioIo<hyper::upgrade::Upgraded>,
    mut outside: CountedStream,
) -> std::result::Result<(), Denied> {
    let mut received = Vec::new();
    let (mut here, mut there) = ([0u8; 8192], [0u8; 8192]);
    let deadline = wanted.net.core.rt.sleep(CONNECT_WITHIN);
    tokio::pin!(deadline);
    loop {
        match hello::check_client_hello(&received, &wanted.host, wanted.port)? {
            hello::HelloVerdict::Pass => break,
            hello::HelloVerdict::Wait => {}
        }
        // In some protocols the server sends first.
        tokio::select! {
            read = inside.read(&mut here) => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => received.extend_from_slice(&here[..n]),
            },
            read = outside.read(&mut there), if wanted.port != 443 => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => if inside.write_all(&there[..n]).await.is_err() { return Ok(()) },
            },
            () = &mut deadline, if wanted.port == 443 || !received.is_empty() => {
                return Err(Denied::new("no_tls", "the client did not send a TLS ClientHello in time"));
            }
        }
    }
    if outside.write_all(&received).await.is_err() {
        return outside.check_budget();
    }
    let _either_gone = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
    outside.check_budget()
}

/// Forwards one request with an absolute URL, and returns the response.
async fn forward_request(
    wanted: ConnectRequest,
    request: Request<Incoming>,
    outside: CountedStream,
    address: SocketAddrV4,
    counter: Arc<ByteCounter>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(ToString::to_string);
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    parts.uri = path.parse::<Uri>().unwrap_or_default();
    strip_hop_by_hop_headers(&mut parts.headers);
    // The host of the URL was checked, so it replaces the caller's `Host` header.
    let host = authority.and_then(|a| HeaderValue::from_str(&a).ok());
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    let unreachable = |why: String| {
        let denied = Denied::new("unreachable", why);
        refusal_response(StatusCode::BAD_GATEWAY, &denied)
    };
    let (mut sender, connection) =
        match hyper::client::conn::http1::handshake(TokioIo::new(outside)).await {
            Ok(pair) => pair,
            Err(error) => return unreachable(error.to_string()),
        };
    let tracker = wanted.net.core.rt.clone();
    drop(tracker.spawn(async move {
        let mut plans = wanted.net.core.plan.subscribe();
        tokio::pin!(connection);
        loop {
            tokio::select! {
                _ended = &mut connection => break,
                () = wanted.net.core.rt.stopped() => break,
                _ = plans.changed() => if !wanted.still_allowed(address) { break },
            }
        }
        wanted.log_connection(Some(address), "done", Some(&counter));
    }));
    match sender.send_request(Request::from_parts(parts, body)).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            strip_hop_by_hop_headers(&mut parts.headers);
            Response::from_parts(parts, body.boxed())
        }
        Err(error) => unreachable(error.to_string()),
    }
}

/// Removes hop-by-hop headers, also those named in `Connection`.
fn strip_hop_by_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn empty_body() -> Body {
    Full::new(Bytes::new()).map_err(|e| match e {}).boxed()
}

/// A refusal as a problem document with this status.
fn refusal_response(status: StatusCode, denied: &Denied) -> Response<Body> {
    let mut problem = Problem::new(FaultKind::Forbidden, denied.text.clone());
    problem.kind = format!("urn:abbey:egress:{}", denied.code);
    problem.status = status.as_u16();
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    let body = Full::new(Bytes::from(bytes))
        .map_err(|e| match e {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
