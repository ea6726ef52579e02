//! TLS of the listeners: what clients see of the gateway's own certificate.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What accepts clients of a listener.
pub(crate) struct ListenerTls {
    pub acceptor: TlsAcceptor,
    /// The listener's own certificate, first of its chain.
    pub certificate: CertificateDer<'static>,
}

impl ListenerTls {
    /// Reads the chain and the private key (PEM) and offers `protocol` by ALPN (RFC 7301). The error says which
    /// file, and what is wrong with it.
    pub fn read(cert: &Path, key: &Path, protocol: &[u8]) -> Result<Self, String> {
        let unreadable = |what: &str, path: &Path, why: &dyn Display| {
            format!(
                "cannot read the {what} from {}: {why}; name a file (PEM) with it that the gateway's user can read",
                path.display()
            )
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| unreadable("certificate", cert, &e))?;
        let certificate =
            chain.first().ok_or_else(|| unreadable("certificate", cert, &"there is none in it"))?.clone();
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("private key", key, &e))?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(|e| {
                    format!(
                        "the certificate in {} and the private key do not fit: {e}; name a pair",
                        cert.display()
                    )
                })?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }
}
