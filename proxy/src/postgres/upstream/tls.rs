//! TLS towards targets.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
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
    let trust = match mode {
        UpstreamTls::VerifyFull => {
            let (roots, own) = roots(ca)?;
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Trust::Authorities { chain: chain.build().map_err(|e| e.to_string())?, own }
        }
        UpstreamTls::Require | UpstreamTls::Disable => Trust::Anyone,
    };
    let verifier = Arc::new(Verifier { provider, trust });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Channel binding data of the server's certificate, when the connection is encrypted.
pub(super) fn end_point(socket: &Socket) -> Option<Vec<u8>> {
    let Socket::TlsClient(tls) = socket else { return None };
    tls_server_end_point(tls.get_ref().1.peer_certificates()?.first()?)
}

/// Why a handshake failed, in words that say what to do.
pub(super) fn reason(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is not signed by an authority in `ca`".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) if is_authority(why) => {
            "its certificate is that of an authority (CA:TRUE): put the certificate itself into `ca`"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn is_authority(why: &CertificateError) -> bool {
    let CertificateError::Other(other) = why else { return false };
    matches!(other.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// What is trusted: authorities, and the certificates that stand for themselves.
fn roots(ca: Option<&Path>) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let Some(path) = ca else {
        return Ok((RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, Vec::new()));
    };
    let fault = |why: String| {
        format!(
            "cannot read certificates from {}: {why}; name a file (PEM) that holds those of your authorities and that \
             the gateway's user can read, or remove it to trust the public ones",
            path.display()
        )
    };
    let (mut roots, mut own) = (RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fault(e.to_string()))? {
        let certificate = certificate.map_err(|e| fault(e.to_string()))?;
        roots
            .add(certificate.clone())
            .map_err(|e| fault(format!("not a certificate of an authority: {e}")))?;
        own.push(certificate);
    }
    if roots.is_empty() {
        return Err(fault("there are none in it".to_owned()));
    }
    Ok((roots, own))
}

/// Whose certificate is taken. The handshake's signature is checked in any case.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
}

#[derive(Debug)]
enum Trust {
    /// `tls = "require"`: encrypted, but anyone may be at the other end.
    Anyone,
    /// `tls = "verify-full"`. As with libpq a server may show a certificate that stands in `ca` itself and is marked
    /// as that of an authority, which `openssl req -x509` does; the name must fit all the same.
    Authorities { chain: Arc<WebPkiServerVerifier>, own: Vec<CertificateDer<'static>> },
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Authorities { chain, own } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // Its dates were looked at before.
            Err(rustls::Error::InvalidCertificate(why))
                if is_authority(&why) && own.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
