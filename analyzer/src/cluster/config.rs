//! `[cluster]`: queries on many machines.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::AnalyzerError;

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Address at which the scheduler listens.
    pub listen: SocketAddr,
    /// The scheduler, as executors reach it: `host:port`.
    pub scheduler: String,
    /// Address at which an executor gives its rows to other executors and to clients.
    pub executor_listen: SocketAddr,
    /// Name or address by which others reach this executor; the address at which it listens when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor_host: Option<String>,
    /// Directory for the rows that an executor hands on from one stage to the next. They are clear text, opened
    /// content included: put it into memory (tmpfs) or on an encrypted disk. What is left there is removed at the
    /// start.
    pub work_dir: PathBuf,
    /// How many parts of queries an executor runs at a time; as many as it has cores when 0.
    pub slots: u16,
    /// Most memory of an executor that queries may use, in MiB, shared evenly among its slots.
    pub memory_mib: u64,
    /// Into how many parts a client has a query split: the number of slots of all executors, or a small multiple.
    pub partitions: u16,
    /// Whether addresses without TLS may be reachable from other machines. Whoever reaches them can run queries, read
    /// what queries read, and answer for an executor.
    pub trust_network: bool,
    /// Mutual TLS between client, scheduler and executors. Without it they listen on this machine only, unless
    /// `trust_network` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
}

/// `[cluster.tls]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterTls {
    /// File with the certificate (PEM) of the authority that signs those of the cluster, and of nothing else: whoever
    /// has one of its certificates belongs to the cluster.
    pub ca: PathBuf,
    /// File with the certificate of this process (PEM), for servers and clients.
    pub certificate: PathBuf,
    /// Reference to its private key (PEM).
    pub key: String,
    /// Name that the certificates of all servers carry, whatever address is called; the host that is called when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50050)),
            scheduler: "127.0.0.1:50050".to_owned(),
            executor_listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            executor_host: None,
            work_dir: PathBuf::from("cluster"),
            slots: 0,
            memory_mib: 1024,
            partitions: 16,
            trust_network: false,
            tls: None,
        }
    }
}

impl ClusterConfig {
    /// Relative paths lie below `base`; references are rebased by `reference`.
    pub fn rebase(&mut self, base: &Path, reference: impl Fn(&str) -> String) {
        self.work_dir = base.join(&self.work_dir);
        if let Some(tls) = &mut self.tls {
            tls.ca = base.join(&tls.ca);
            tls.certificate = base.join(&tls.certificate);
            tls.key = reference(&tls.key);
        }
    }

    /// Refuses settings that cannot work.
    pub fn check(&self) -> Result<(), AnalyzerError> {
        let refuse = |reason: String| Err(AnalyzerError::Cluster(format!("[cluster] {reason}")));
        if self.memory_mib < 16 {
            return refuse("memory_mib must be at least 16".to_owned());
        }
        if !(1..=1024).contains(&self.partitions) {
            return refuse("partitions must be 1 to 1024".to_owned());
        }
        if self.host_and_port().is_none() {
            return refuse(format!(
                "scheduler: want host:port, not '{}'",
                bodycam_record::shown(&self.scheduler)
            ));
        }
        if self.tls.is_some() && self.trust_network {
            return refuse("trust_network would do nothing with [cluster.tls]".to_owned());
        }
        if let Some(tls) = &self.tls
            && (tls.ca.as_os_str().is_empty() || tls.certificate.as_os_str().is_empty() || tls.key.is_empty())
        {
            return refuse("tls needs ca, certificate and key".to_owned());
        }
        for (setting, address) in [("listen", self.listen), ("executor_listen", self.executor_listen)] {
            if !address.ip().is_loopback() && self.tls.is_none() && !self.trust_network {
                return refuse(format!(
                    "{setting}: {address} can be reached from other machines, and nobody is asked who he is: add \
                     [cluster.tls], or set trust_network when a network policy keeps everybody else out"
                ));
            }
        }
        if self.executor_listen.ip().is_unspecified() && self.executor_host.is_none() {
            return refuse(
                "executor_host: others cannot reach an executor by the address 0.0.0.0; name it".to_owned(),
            );
        }
        Ok(())
    }

    /// The scheduler, as executors reach it.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.scheduler.rsplit_once(':')?;
        let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
        plain.then_some(host).zip(port.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_could_reach_needs_tls_or_a_word() {
        let open = |text: &str| toml_like(text).check().map_err(|err| err.to_string());
        let everywhere = r#""listen": "0.0.0.0:1""#;
        let tls = r#""tls": {"ca": "ca.pem", "certificate": "c.pem", "key": "file:k"}"#;
        assert!(open(everywhere).unwrap_err().contains("listen: 0.0.0.0:1 can be reached"));
        open(&format!(r#"{everywhere}, "trust_network": true"#)).unwrap();
        open(&format!("{everywhere}, {tls}")).unwrap();
        for (text, expected) in [
            (r#""executor_listen": "10.0.0.1:1""#.to_owned(), "executor_listen"),
            (r#""executor_listen": "0.0.0.0:1", "trust_network": true"#.to_owned(), "executor_host"),
            (format!(r#"{tls}, "trust_network": true"#), "would do nothing"),
            (r#""tls": {"ca": "ca.pem"}"#.to_owned(), "tls needs"),
            (r#""scheduler": "http://x:1""#.to_owned(), "host:port"),
            (r#""scheduler": "x""#.to_owned(), "host:port"),
            (r#""memory_mib": 1"#.to_owned(), "memory_mib"),
            (r#""partitions": 0"#.to_owned(), "partitions"),
        ] {
            let said = open(&text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
        ClusterConfig::default().check().unwrap();
    }

    fn toml_like(fields: &str) -> ClusterConfig {
        serde_json::from_str(&format!("{{{fields}}}")).unwrap()
    }
}
