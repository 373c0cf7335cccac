//! The listeners of both APIs: Unix sockets, and the operator API's TCP or TLS port.

use crate::api_server::operator_api;
use crate::boot::house::House;
use crate::core::error::{Error, Result};
use crate::core::home::publish;
use crate::core::listen::{CONNECTIONS_MAX, HEAD_WITHIN, listen_unix};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who and where a running control plane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its process.
    pub pid: u32,
    /// Its outside door.
    pub address: String,
    /// Whether that door speaks TLS.
    pub tls: bool,
}

/// The outside door as it stands open.
#[derive(Debug)]
pub(crate) struct OpenDoor {
    wanted: String,
    close: CancellationToken,
    announcement: Announcement,
}

pub(crate) fn serve_unix(
    house: &Arc<House>,
    tracker: &TaskTracker,
    path: PathBuf,
    router: Router,
) -> Result<()> {
    let stop = house.stop.clone();
    listen_unix(house, tracker, path, move |stream| {
        converse(stream, router.clone(), stop.clone())
    })
}

/// Opens the outside door where the plan wants it, or leaves it when it stands there already.
/// Before the first plan there is none: the operator's tools use the socket.
pub(crate) async fn open_outside(house: &Arc<House>) -> Result<Announcement> {
    let current = house.current();
    let mut door = house.outside.lock().await;
    let Some(current) = &current else {
        let announcement = Announcement {
            pid: std::process::id(),
            address: String::new(),
            tls: false,
        };
        announce(house, &announcement)?;
        return Ok(announcement);
    };
    let listen = &current.house.listen;
    let address = house.listen_override.unwrap_or(listen.address);
    let wanted = format!("{address} {:?}", listen.tls);
    if let Some(open) = door.as_ref().filter(|d| d.wanted == wanted) {
        return Ok(open.announcement.clone());
    }
    let refused = |why: String| Error::Listen {
        address: address.to_string(),
        why,
    };
    let tls = match &listen.tls {
        Some((certificate, key)) => {
            Some(acceptor(&current.base_dir, certificate, key).map_err(refused)?)
        }
        None if !address.ip().is_loopback() => {
            return Err(refused(
                "it is reachable from other hosts, so TLS is required".to_owned(),
            ));
        }
        None => None,
    };
    if let Some(old) = door.take() {
        old.close.cancel();
    }
    let listener = TcpListener::bind(address).await.map_err(|e| {
        let holder = house
            .hostd
            .observe()
            .ok()
            .and_then(|facts| facts.ports.get(&address.port()).cloned());
        refused(match holder {
            Some(holder) => format!(
                "the port is held by {holder}; stop it, or set `listen.address` in the manifest"
            ),
            None => e.to_string(),
        })
    })?;
    let bound = listener
        .local_addr()
        .map_err(|e| refused(e.to_string()))?
        .to_string();
    bound.clone_into(
        &mut house
            .address
            .write()
            .unwrap_or_else(PoisonError::into_inner),
    );
    let announcement = Announcement {
        pid: std::process::id(),
        address: bound,
        tls: tls.is_some(),
    };
    announce(house, &announcement)?;
    let close = house.stop.child_token();
    drop(
        house
            .tracker
            .spawn(accept(Arc::clone(house), listener, tls, close.clone())),
    );
    *door = Some(OpenDoor {
        wanted,
        close,
        announcement: announcement.clone(),
    });
    Ok(announcement)
}

pub(crate) fn announce(house: &House, announcement: &Announcement) -> Result<()> {
    let bytes = serde_json::to_vec(announcement).unwrap_or_default();
    publish(&house.home.announcement(), &bytes, 0o600)
}

pub(crate) async fn accept(
    house: Arc<House>,
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    close: CancellationToken,
) {
    let router = operator_api::router(Arc::clone(&house));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let _slower_without = stream.set_nodelay(true);
        let (router, stop, tls) = (router.clone(), house.stop.clone(), tls.clone());
        drop(house.tracker.spawn(async move {
            match tls {
                None => converse(stream, router, stop).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) =
                        tokio::time::timeout(HEAD_WITHIN, tls.accept(stream)).await
                    {
                        converse(stream, router, stop).await;
                    }
                }
            }
            drop(permit);
        }));
    }
}

/// One connection, until it ends or the house does.
pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let _caller_gone = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

pub(crate) fn acceptor(
    base_dir: &str,
    certificate: &str,
    key: &str,
) -> std::result::Result<tokio_rustls::TlsAcceptor, String> {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let at = |path: &str| std::path::Path::new(base_dir).join(path);
    let chain = CertificateDer::pem_file_iter(at(certificate))
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| format!("the certificate `{certificate}` cannot be read: {e}"))?;
    let key = PrivateKeyDer::from_pem_file(at(key))
        .map_err(|e| {
            format!(
                "the key `{key}` cannot be read by the control plane, which is user {}: {e}; put it into `credentials/` of the home, whose files it may read",
                rustix::process::geteuid().as_raw()
            )
        })?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}
