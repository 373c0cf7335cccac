//! TLS of the operator API: certificate chain and key from PEM files.

use std::sync::Arc;

/// Loads a certificate chain and its private key, and returns an acceptor of TLS connections; both
/// paths are relative to `base_dir`.
///
/// # Errors
/// A sentence that says which file cannot be read or does not match, and the remedy.
pub(crate) fn load_tls_acceptor(
    base_dir: &str,
    certificate: &str,
    key: &str,
) -> Result<tokio_rustls::TlsAcceptor, String> {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let at = |path: &str| std::path::Path::new(base_dir).join(path);
    let chain = CertificateDer::pem_file_iter(at(certificate))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| format!("the certificate `{certificate}` cannot be read: {e}"))?;
    let key = PrivateKeyDer::from_pem_file(at(key))
        .map_err(|e| {
            format!(
                "the key `{key}` cannot be read by the control plane, which runs as user {}: {e}; move it to the directory `credentials/` of the home",
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
