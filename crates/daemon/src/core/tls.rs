//! TLS of the operator API: certificate chain and key from PEM files.

use crate::core::secrets::Secrets;
use std::sync::Arc;

/// Loads a certificate chain and its private key, and returns an acceptor of TLS connections; both
/// paths are relative to `base_dir`. Files that only root reads come from hostd.
///
/// # Errors
/// A sentence that says which file cannot be read or does not match, and the remedy.
pub(crate) fn load_tls_acceptor(
    secrets: &Secrets,
    base_dir: &str,
    certificate: &str,
    key: &str,
) -> Result<tokio_rustls::TlsAcceptor, String> {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let read = |what: &str, path: &str| {
        let text = secrets.read_file(std::path::Path::new(base_dir).join(path));
        text.map_err(|e| {
            format!(
                "the {what} `{path}` cannot be read by user {}, which the control plane runs as: {e}",
                rustix::process::geteuid().as_raw()
            )
        })
    };
    let chain = CertificateDer::pem_slice_iter(read("certificate", certificate)?.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("the certificate `{certificate}` is not PEM: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(read("key", key)?.as_bytes())
        .map_err(|e| format!("the key `{key}` is not PEM: {e}"))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}
