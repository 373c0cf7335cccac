//! Serving HTTP on the Unix sockets of both APIs, and on the operator API's TCP or TLS port, which
//! moves when the plan does.

use crate::api_server::hooks::PeerAddress;
use crate::core::error::{Error, Result};
use crate::core::home::{Home, publish_file};
use crate::core::listen::{Callers, ConnectionPlace, ConnectionPlaces, HEAD_WITHIN, listen_unix};
use crate::core::runtime::Runtime;
use crate::net::state::NetState;
use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Process and address of a running control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its process.
    pub pid: u32,
    /// Network address of the operator API; empty before the first plan.
    pub address: String,
    /// Whether that address speaks TLS.
    pub tls: bool,
}

/// The operator API's network listener.
#[derive(Default)]
pub(crate) struct OperatorListener {
    router: parking_lot::Mutex<Option<Router>>,
    open: Mutex<Option<Open>>,
}

/// A listener that accepts connections.
struct Open {
    /// Address and TLS files that it was opened for.
    wanted: String,
    close: CancellationToken,
    announcement: Announcement,
}

/// Serves a router by HTTP on a Unix socket until the control plane stops.
pub(crate) fn serve_on_unix_socket(
    rt: &Runtime,
    socket: (PathBuf, Callers),
    router: Router,
) -> Result<()> {
    let stop = rt.stop_token();
    listen_unix(rt, socket, move |stream, place| {
        serve_connection(stream, None, router.clone(), stop.clone(), place)
    })
}

impl OperatorListener {
    /// Sets the router that the listener serves. The router refers to the state that owns this
    /// listener, so [`Self::drop_router`] must be called at shutdown.
    pub(crate) fn set_router(&self, router: Router) {
        *self.router.lock() = Some(router);
    }

    /// Drops the router, which breaks its reference cycle with the state.
    pub(crate) fn drop_router(&self) {
        drop(self.router.lock().take());
    }

    /// Opens or moves the listener to the address and TLS settings of the plan in force, and
    /// publishes the announcement; does nothing if it listens there already. Before the first plan
    /// there is no listener.
    pub(crate) async fn listen_as_planned(&self, net: &NetState) -> Result<Announcement> {
        let core = &net.core;
        let current = core.plan.current();
        let mut open = self.open.lock().await;
        let (Some(current), Some(router)) = (&current, self.router.lock().clone()) else {
            return announce_without_address(&core.home);
        };
        let listen = &current.house.listen;
        let address = net.operator_address.fixed().unwrap_or(listen.address);
        let wanted = format!("{address} {:?}", listen.tls);
        if let Some(open) = open.as_ref().filter(|o| o.wanted == wanted) {
            return Ok(open.announcement.clone());
        }
        let refused = |why: String| Error::Listen {
            address: address.to_string(),
            why,
        };
        let tls = match &listen.tls {
            Some((certificate, key)) => Some(
                crate::core::tls::load_tls_acceptor(
                    &core.secrets,
                    &current.base_dir,
                    certificate,
                    key,
                )
                .map_err(refused)?,
            ),
            None if !address.ip().is_loopback() => {
                return Err(refused(
                    "it is reachable from other hosts, so TLS is required".to_owned(),
                ));
            }
            None => None,
        };
        if let Some(old) = open.take() {
            old.close.cancel();
            net.operator_address.set_bound("");
            announce_without_address(&core.home)?;
        }
        let listener = TcpListener::bind(address).await.map_err(|e| {
            let facts = core.hostd.observe_host().ok();
            let holder = facts.and_then(|facts| facts.ports.get(&address.port()).cloned());
            refused(match holder {
                Some(holder) => format!(
                    "the port is in use by {holder}; stop that process, or set `listen.address` in the manifest"
                ),
                None => e.to_string(),
            })
        })?;
        let bound = listener.local_addr().map_err(|e| refused(e.to_string()))?;
        let bound = bound.to_string();
        net.operator_address.set_bound(&bound);
        let announcement = Announcement {
            pid: std::process::id(),
            address: bound,
            tls: tls.is_some(),
        };
        announce(&core.home, &announcement)?;
        let close = core.rt.stop_token().child_token();
        let accepting = accept(
            core.rt.clone(),
            router.clone(),
            listener,
            tls,
            close.clone(),
        );
        drop(core.rt.spawn(accepting));
        *open = Some(Open {
            wanted,
            close,
            announcement: announcement.clone(),
        });
        Ok(announcement)
    }
}

/// Publishes an announcement of a control plane that answers at its Unix socket only.
pub(crate) fn announce_without_address(home: &Home) -> Result<Announcement> {
    let announcement = Announcement {
        pid: std::process::id(),
        address: String::new(),
        tls: false,
    };
    announce(home, &announcement)?;
    Ok(announcement)
}

fn announce(home: &Home, announcement: &Announcement) -> Result<()> {
    let bytes = serde_json::to_vec(announcement).unwrap_or_default();
    publish_file(&home.announcement_file(), &bytes, 0o600)
}

async fn accept(
    rt: Runtime,
    router: Router,
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    close: CancellationToken,
) {
    let places = ConnectionPlaces::new(Callers::Others);
    loop {
        let (stream, place) = tokio::select! {
            next = places.next(&rt, &listener) => next,
            () = close.cancelled() => return,
        };
        let (router, stop, tls) = (router.clone(), rt.stop_token(), tls.clone());
        let timers = rt.clone();
        let peer = stream.peer_address().map(PeerAddress);
        drop(rt.spawn(async move {
            match tls {
                None => serve_connection(stream, peer, router, stop, place).await,
                Some(tls) => {
                    let accepted = tokio::select! {
                        accepted = timers.timeout(HEAD_WITHIN, tls.accept(stream)) => accepted,
                        () = place.closed() => return,
                    };
                    if let Ok(Ok(stream)) = accepted {
                        serve_connection(stream, peer, router, stop, place).await;
                    }
                }
            }
        }));
    }
}

/// Serves one connection until it ends, another one needs its place, or the control plane stops.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<PeerAddress>,
    router: Router,
    stop: CancellationToken,
    place: Arc<ConnectionPlace>,
) {
    let serving = Arc::clone(&place);
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let request_in_progress = serving.begin_request();
        let answered = router.call(request);
        async move {
            let response = answered.await?;
            // Until the last byte of the answer is sent.
            Ok::<_, std::convert::Infallible>(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _held_until_the_body_is_dropped = &request_in_progress;
                    frame
                }))
            }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let _caller_gone = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = place.closed() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}
