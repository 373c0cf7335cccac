//! The egress proxy: the way outside by name, for cells that may not go there themselves.
//!
//! It speaks what `HTTP_PROXY` and `HTTPS_PROXY` mean: `CONNECT`, and requests with a whole URL.
//! Shims lead a port of each cell here and say first whose it is. Names are resolved here, once,
//! and the connection goes to exactly the address that was checked. Deliberately absent: caching,
//! looking into TLS, following redirects.

mod hello;
pub(crate) mod ledger;
mod policy;
mod stream;

use crate::core::error::Result;
use crate::core::listen::{HEAD_WITHIN, listen_unix};
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
use ledger::{Counter, Line};
use policy::Denied;
use serde_json::json;
use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stream::Counted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Longest wait for a name or a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest name of a cell, with its end of line.
const PREFACE_MAX: usize = 64;
/// A connection on which nothing moves for so long is closed.
const IDLE: Duration = Duration::from_secs(900);
/// Headers that are between two neighbours and no further (RFC 9110, 7.6.1).
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

/// Listens for shims.
pub(crate) fn open(net: &Arc<NetState>) -> Result<()> {
    let path = net.core.home.egress_socket();
    let shared = Arc::clone(net);
    listen_unix(&net.core.rt, path, move |stream| {
        attend(Arc::clone(&shared), stream)
    })
}

/// One connection of a cell.
async fn attend(net: Arc<NetState>, mut stream: UnixStream) {
    let whose = net.core.rt.timeout(HEAD_WITHIN, preface(&mut stream)).await;
    let Ok(Some(cell)) = whose else { return };
    let service = hyper::service::service_fn(|request| {
        let (net, cell) = (Arc::clone(&net), cell.clone());
        async move { Ok::<_, Infallible>(serve(net, cell, request).await) }
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

/// The name of the cell; byte by byte, as what follows is not ours to read.
pub(crate) async fn preface(stream: &mut UnixStream) -> Option<CellName> {
    let mut name = Vec::new();
    while name.len() < PREFACE_MAX {
        match stream.read_u8().await.ok()? {
            b'\n' => return String::from_utf8(name).ok()?.parse().ok(),
            byte => name.push(byte),
        }
    }
    None
}

/// What one cell may do now.
pub(crate) fn policy_of(net: &NetState, cell: &CellName) -> (Egress, Option<u64>) {
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
        CellName::Run(slug) => (net.command_egress.of(slug), None),
    }
}

/// One wish for a connection.
struct Wish {
    net: Arc<NetState>,
    cell: CellName,
    host: String,
    port: u16,
}

async fn serve(net: Arc<NetState>, cell: CellName, request: Request<Incoming>) -> Response<Body> {
    let wanted = match destination(&request) {
        Ok((host, port)) => Wish {
            net,
            cell,
            host,
            port,
        },
        Err(why) => {
            return refusal(
                StatusCode::BAD_REQUEST,
                &Denied::new("no_proxy_request", why),
            );
        }
    };
    let (address, counter) = match wanted.admit().await {
        Ok(admitted) => admitted,
        Err(denied) => {
            wanted.deny(&denied, None).await;
            return refusal(StatusCode::FORBIDDEN, &denied);
        }
    };
    let connected = wanted
        .net
        .core
        .rt
        .timeout(CONNECT_WITHIN, TcpStream::connect(address))
        .await;
    let outside = match connected {
        Ok(Ok(stream)) => Counted::new(wanted.net.core.rt.clone(), stream, Arc::clone(&counter)),
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "it did not answer in time".to_owned(),
            };
            let denied = Denied::new("unreachable", format!("{}: {why}", wanted.host));
            wanted.write(Some(address), denied.code, None);
            return refusal(StatusCode::BAD_GATEWAY, &denied);
        }
    };
    match *request.method() == Method::CONNECT {
        true => {
            let tracker = wanted.net.core.rt.clone();
            drop(tracker.spawn(tunnel(wanted, request, outside, address, counter)));
            Response::new(empty())
        }
        false => forward(wanted, request, outside, address, counter).await,
    }
}

/// Host and port of a proxy request.
fn destination(request: &Request<Incoming>) -> std::result::Result<(String, u16), String> {
    let uri = request.uri();
    let connect = *request.method() == Method::CONNECT;
    let authority = uri
        .authority()
        .ok_or("this is a proxy: it takes CONNECT and requests with a whole URL")?;
    if authority.as_str().contains('@') {
        return Err("a proxy request names no user".to_owned());
    }
    let port = match (authority.port_u16(), connect, uri.scheme_str()) {
        (Some(port), true, _) | (Some(port), false, Some("http")) => port,
        (None, false, Some("http")) => 80,
        (None, true, _) => return Err("CONNECT names a port".to_owned()),
        _ => return Err("only http:// is carried; https:// goes by CONNECT".to_owned()),
    };
    Ok((authority.host().to_ascii_lowercase(), port))
}

impl Wish {
    /// Decides, and resolves the name.
    async fn admit(&self) -> std::result::Result<(SocketAddrV4, Arc<Counter>), Denied> {
        let (egress, limit) = policy_of(&self.net, &self.cell);
        let address = match policy::may_ask(&egress, &self.host, self.port)? {
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
                policy::choose(&egress, &self.host, self.port, answers.map(|a| a.ip()))?
            }
        };
        let spent = self
            .net
            .egress
            .bytes(&self.net.core, &self.cell)
            .map_err(|e| Denied::new("no_account", e.chain()))?;
        let counter = Counter {
            spent,
            limit,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        };
        match counter.is_over() {
            false => Ok((address, Arc::new(counter))),
            true => Err(Denied::new(
                "budget",
                "the bytes of today are used up; see `budget.egress_per_day`",
            )),
        }
    }

    /// Whether a connection that stands may go on under the plan of now.
    fn still_allowed(&self, address: SocketAddrV4) -> bool {
        let (egress, _) = policy_of(&self.net, &self.cell);
        policy::may_ask(&egress, &self.host, self.port).is_ok()
            && policy::may_reach(&egress, &self.host, *address.ip(), self.port).is_ok()
    }

    /// A refusal is a line of the log, and an entry of the chain when it is news.
    async fn deny(&self, denied: &Denied, address: Option<SocketAddrV4>) {
        self.write(address, denied.code, None);
        let key = format!("{} {} {} {}", self.cell, self.host, self.port, denied.code);
        if !self.net.egress.is_news(key, self.net.core.rt.instant()) {
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

    fn write(&self, address: Option<SocketAddrV4>, outcome: &str, counter: Option<&Counter>) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let line = Line {
            at: abbey_api::Time(self.net.core.store.now()).to_string(),
            host: self.host.clone(),
            port: self.port,
            address: address.map(|a| a.to_string()),
            outcome: outcome.to_owned(),
            up: counter.map_or(0, |c| load(&c.up)),
            down: counter.map_or(0, |c| load(&c.down)),
        };
        ledger::write(&self.net.core, &self.cell, &line);
    }
}

/// Carries bytes both ways once the caller has shown whom it means.
async fn tunnel(
    wish: Wish,
    request: Request<Incoming>,
    outside: Counted,
    address: SocketAddrV4,
    counter: Arc<Counter>,
) {
    let Ok(inside) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut plans = wish.net.core.plan.subscribe();
    let carried = carry(&wish, TokioIo::new(inside), outside);
    tokio::pin!(carried);
    let outcome = loop {
        tokio::select! {
            outcome = &mut carried => break outcome,
            () = wish.net.core.rt.stopped() => break Ok(()),
            _ = plans.changed() => {
                if !wish.still_allowed(address) {
                    let text = "the plan changed and no longer allows it";
                    break Err(Denied::new("not_allowed", text));
                }
            }
        }
    };
    match outcome {
        Ok(()) => wish.write(Some(address), "done", Some(&counter)),
        Err(denied) => {
            wish.deny(&denied, Some(address)).await;
            // What did pass counts, whatever ended it.
            wish.write(Some(address), "cut", Some(&counter));
        }
    }
}

async fn carry(
    wish: &Wish,
    mut inside: TokioIo<hyper::upgrade::Upgraded>,
    mut outside: Counted,
) -> std::result::Result<(), Denied> {
    let mut said = Vec::new();
    let (mut here, mut there) = ([0u8; 8192], [0u8; 8192]);
    let deadline = wish.net.core.rt.sleep(CONNECT_WITHIN);
    tokio::pin!(deadline);
    loop {
        match hello::judge(&said, &wish.host, wish.port)? {
            hello::Verdict::Pass => break,
            hello::Verdict::Wait => {}
        }
        // Some protocols let the server speak first.
        tokio::select! {
            read = inside.read(&mut here) => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => said.extend_from_slice(&here[..n]),
            },
            read = outside.read(&mut there), if wish.port != 443 => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => if inside.write_all(&there[..n]).await.is_err() { return Ok(()) },
            },
            () = &mut deadline, if wish.port == 443 || !said.is_empty() => {
                return Err(Denied::new("no_tls", "the caller did not say in time whom it means"));
            }
        }
    }
    if outside.write_all(&said).await.is_err() {
        return outside.verdict();
    }
    let _either_gone = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
    outside.verdict()
}

/// Carries one request with a whole URL.
async fn forward(
    wish: Wish,
    request: Request<Incoming>,
    outside: Counted,
    address: SocketAddrV4,
    counter: Arc<Counter>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(ToString::to_string);
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    parts.uri = path.parse::<Uri>().unwrap_or_default();
    strip(&mut parts.headers);
    // The name in the URL is the one that was checked; whatever else the caller wrote goes.
    let host = authority.and_then(|a| HeaderValue::from_str(&a).ok());
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    let unreachable = |why: String| {
        let denied = Denied::new("unreachable", why);
        refusal(StatusCode::BAD_GATEWAY, &denied)
    };
    let (mut sender, connection) =
        match hyper::client::conn::http1::handshake(TokioIo::new(outside)).await {
            Ok(pair) => pair,
            Err(error) => return unreachable(error.to_string()),
        };
    let tracker = wish.net.core.rt.clone();
    drop(tracker.spawn(async move {
        let mut plans = wish.net.core.plan.subscribe();
        tokio::pin!(connection);
        loop {
            tokio::select! {
                _ended = &mut connection => break,
                () = wish.net.core.rt.stopped() => break,
                _ = plans.changed() => if !wish.still_allowed(address) { break },
            }
        }
        wish.write(Some(address), "done", Some(&counter));
    }));
    match sender.send_request(Request::from_parts(parts, body)).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            strip(&mut parts.headers);
            Response::from_parts(parts, body.boxed())
        }
        Err(error) => unreachable(error.to_string()),
    }
}

/// Takes away what concerns two neighbours only, also what `Connection` names.
fn strip(headers: &mut HeaderMap) {
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

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|e| match e {}).boxed()
}

/// A refusal as programs can read it.
fn refusal(status: StatusCode, denied: &Denied) -> Response<Body> {
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
