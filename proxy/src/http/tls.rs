//! TLS of the client's side: the proxy itself behind `https://`.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::{HttpConfigError, TlsConfig};

/// What accepts clients with this certificate.
pub(super) fn acceptor(files: &TlsConfig) -> Result<TlsAcceptor, HttpConfigError> {
    let fault = |problem: String| HttpConfigError::Setting { setting: "tls", problem };
    let read = |what: &str, path: &Path, why: &dyn std::fmt::Display| {
        fault(format!("cannot read the {what} from {}: {why}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| read("certificate", &files.cert, &e))?;
    if chain.is_empty() {
        return Err(read("certificate", &files.cert, &"there is none in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| read("private key", &files.key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| fault(format!("certificate and private key do not fit: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
