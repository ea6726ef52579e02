//! TLS towards targets.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::identity::scram::tls_server_end_point;
use crate::postgres::config::UpstreamTls;
use crate::postgres::socket::Socket;

/// A connector for this mode; the error says what is wrong with the file.
pub(super) fn connector(mode: UpstreamTls, ca: Option<&Path>) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match mode {
        UpstreamTls::VerifyFull => builder.with_root_certificates(roots(ca)?),
        UpstreamTls::Require | UpstreamTls::Disable => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Channel binding data of the server's certificate, when the connection is encrypted.
pub(super) fn end_point(socket: &Socket) -> Option<Vec<u8>> {
    let Socket::TlsClient(tls) = socket else { return None };
    tls_server_end_point(tls.get_ref().1.peer_certificates()?.first()?)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(path) = ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let fault = |why: String| {
        format!(
            "cannot read certificates from {}: {why}; name a file (PEM) that holds those of your authorities and that \
             the gateway's user can read, or remove it to trust the public ones",
            path.display()
        )
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fault(e.to_string()))? {
        roots
            .add(certificate.map_err(|e| fault(e.to_string()))?)
            .map_err(|e| fault(format!("not a certificate of an authority: {e}")))?;
    }
    if roots.is_empty() {
        return Err(fault("there are none in it".to_owned()));
    }
    Ok(roots)
}

/// `tls = "require"`: encrypted, but anyone may be at the other end. Only the handshake's signature is checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
