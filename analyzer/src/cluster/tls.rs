//! Mutual TLS between the processes of a cluster: who has a certificate of its authority belongs to it, nobody else
//! is talked to.

use std::error::Error;
use std::sync::Arc;

use ballista_core::extension::EndpointOverrideFn;
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

/// Certificate, key and authority of a process.
#[derive(Clone)]
pub struct Tls {
    ca: Certificate,
    identity: Identity,
    name: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// From PEM texts. `name` is what the certificates of all servers carry.
    pub fn new(ca: &[u8], certificate: &[u8], key: &[u8], name: Option<String>) -> Self {
        Self { ca: Certificate::from_pem(ca), identity: Identity::from_pem(certificate, key), name }
    }

    /// For a server: every client must show a certificate.
    pub(super) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity.clone())
            .client_ca_root(self.ca.clone())
            .client_auth_optional(false)
    }

    /// The endpoint at the same place, with TLS.
    pub(super) fn client(&self, endpoint: &Endpoint) -> Result<Endpoint, Box<dyn Error + Send + Sync>> {
        let authority = endpoint.uri().authority().ok_or("an address without a host")?;
        let endpoint =
            create_grpc_client_endpoint(format!("https://{authority}"), Some(&GrpcClientConfig::default()))?;
        let config = ClientTlsConfig::new().ca_certificate(self.ca.clone()).identity(self.identity.clone());
        let config = match &self.name {
            Some(name) => config.domain_name(name.clone()),
            None => config,
        };
        Ok(endpoint.tls_config(config)?)
    }

    /// The same, as Ballista wants it.
    pub(super) fn endpoints(&self) -> EndpointOverrideFn {
        let tls = self.clone();
        Arc::new(move |endpoint| tls.client(&endpoint))
    }
}
