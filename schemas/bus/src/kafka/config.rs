//! `[kafka]` in `bodycam.toml`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most partitions of a topic that are sensible to ask for.
const MAX_PARTITIONS: i32 = 10_000;
/// Longest outage that can be promised, in hours: a year.
const MAX_OUTAGE: u64 = 8_760;
/// Longest prefix: Kafka takes topic names of up to 249 characters.
const MAX_PREFIX: usize = 100;

/// Kafka between the gateways and the recorders. Without this section a recorder reads the spool of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, each `host:port`. The others are learned from them.
    pub brokers: Vec<String>,
    /// First part of the names of the topics: `<prefix>.events`, `.keys`, `.ledger` and `.findings`.
    #[serde(default = "prefix")]
    pub topic_prefix: String,
    /// Partitions of each topic. All records of a gateway go to one of them, chosen by its name, so that as many
    /// recorders as there are partitions can share the work. Must be what the topics have.
    #[serde(default = "partitions")]
    pub partitions: i32,
    /// Replicas that each topic must have, and is made with; -1 leaves it to the brokers.
    #[serde(default = "replicas")]
    pub replicas: i32,
    /// Brokers that must have a record before the spool gives it up (`min.insync.replicas` of the topics, at least). 1 says
    /// that one broker's disk may be the only copy.
    #[serde(default = "min_insync_replicas")]
    pub min_insync_replicas: i32,
    /// Whether topics that are missing are made. Otherwise a missing topic is refused with its settings.
    #[serde(default = "yes")]
    pub create_topics: bool,
    /// Hours for which a record must stay in Kafka for recorders that are away. Topics that keep less are refused.
    #[serde(default = "outage")]
    pub outage_hours: u64,
    /// Consumer group of the recorders. One group for each lake.
    #[serde(default = "group")]
    pub group: String,
    /// Seconds that a gateway that stops waits for Kafka to take what is left in its spool. What Kafka has not taken
    /// then is sent when the gateway starts again.
    #[serde(default = "drain")]
    pub drain_seconds: u64,
    /// Encryption. Without this section connections are in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Authentication. Without this section the brokers must take anyone, or a TLS client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
}

/// Encryption of the connections to Kafka. Certificate and host name of the brokers are always checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaTls {
    /// File with the certificates (PEM) of the authorities that are trusted; the system's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with the certificate chain (PEM) that is shown to the brokers, if they ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// File with the private key (PEM) of `cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Authentication at Kafka by name and password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// `plain`, `scram-sha-256` or `scram-sha-512`.
    pub mechanism: SaslMechanism,
    /// Name of the user.
    pub username: String,
    /// Where the password lies: `env:NAME` or `file:PATH`.
    pub password: String,
}

/// How a password is shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SaslMechanism {
    /// As it is: over TLS, or on this host only.
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

fn prefix() -> String {
    "bodycam".to_owned()
}

fn group() -> String {
    "bodycam-recorder".to_owned()
}

fn partitions() -> i32 {
    12
}

fn replicas() -> i32 {
    3
}

fn min_insync_replicas() -> i32 {
    2
}

fn outage() -> u64 {
    72
}

fn drain() -> u64 {
    10
}

fn yes() -> bool {
    true
}

/// A setting of `[kafka]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("[kafka] {field}: {problem}")]
pub struct KafkaConfigError {
    /// The setting.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl KafkaConfig {
    /// The defaults, with these brokers.
    pub fn at(brokers: &[&str]) -> Self {
        Self {
            brokers: brokers.iter().map(|b| (*b).to_owned()).collect(),
            topic_prefix: prefix(),
            partitions: partitions(),
            replicas: replicas(),
            min_insync_replicas: min_insync_replicas(),
            create_topics: yes(),
            outage_hours: outage(),
            group: group(),
            drain_seconds: drain(),
            tls: None,
            sasl: None,
        }
    }

    /// Files named by a relative path lie below `base`.
    pub fn rebase(&mut self, base: &Path) {
        if let Some(tls) = &mut self.tls {
            for path in [&mut tls.ca, &mut tls.cert, &mut tls.key].into_iter().flatten() {
                *path = base.join(&*path);
            }
        }
        if let Some(sasl) = &mut self.sasl
            && let Some(path) = sasl.password.strip_prefix("file:")
        {
            sasl.password = format!("file:{}", base.join(path).display());
        }
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), KafkaConfigError> {
        let fault = |field, problem: String| Err(KafkaConfigError { field, problem });
        if self.brokers.is_empty() {
            return fault("brokers", "name at least one, as \"host:port\"".to_owned());
        }
        for broker in &self.brokers {
            let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                let shown = bodycam_record::shown(broker);
                return fault("brokers", format!("'{shown}' is not \"host:port\""));
            }
            // librdkafka reads them from one text.
            if broker.contains([',', ' ', '/']) {
                let shown = bodycam_record::shown(broker);
                return fault("brokers", format!("'{shown}': one entry a broker, without a protocol"));
            }
        }
        let named = |name: &str| {
            !name.is_empty()
                && name.len() <= MAX_PREFIX
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !named(&self.topic_prefix) {
            let rule =
                format!("1 to {MAX_PREFIX} letters, digits, '.', '_' and '-', for example \"bodycam\"");
            return fault("topic_prefix", rule);
        }
        if !named(&self.group) {
            let rule = format!("1 to {MAX_PREFIX} letters, digits, '.', '_' and '-'");
            return fault("group", rule);
        }
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            return fault("partitions", format!("must be 1 to {MAX_PARTITIONS}"));
        }
        if self.replicas != -1 && !(1..=100).contains(&self.replicas) {
            return fault("replicas", "must be 1 to 100, or -1 for what the broker says".to_owned());
        }
        if !(1..=100).contains(&self.min_insync_replicas) {
            return fault("min_insync_replicas", "must be 1 to 100".to_owned());
        }
        if self.replicas != -1 && self.min_insync_replicas > self.replicas {
            let problem = format!("must be at most kafka.replicas, which is {}", self.replicas);
            return fault("min_insync_replicas", problem);
        }
        if !(1..=MAX_OUTAGE).contains(&self.outage_hours) {
            return fault("outage_hours", format!("must be 1 to {MAX_OUTAGE}"));
        }
        if self.drain_seconds > 3600 {
            return fault("drain_seconds", "must be at most 3600".to_owned());
        }
        if let Some(tls) = &self.tls {
            match (&tls.cert, &tls.key) {
                (Some(_), None) => return fault("tls.key", "is missing: tls.cert needs its key".to_owned()),
                (None, Some(_)) => {
                    return fault("tls.cert", "is missing: tls.key would do nothing".to_owned());
                }
                _ => {}
            }
            for (field, path) in [("tls.ca", &tls.ca), ("tls.cert", &tls.cert), ("tls.key", &tls.key)] {
                if let Some(path) = path
                    && let Err(error) = std::fs::File::open(path)
                {
                    return fault(field, format!("cannot read {}: {error}", path.display()));
                }
            }
        }
        let Some(sasl) = &self.sasl else { return Ok(()) };
        if sasl.username.is_empty() {
            return fault("sasl.username", "must not be empty".to_owned());
        }
        let known = sasl
            .password
            .split_once(':')
            .filter(|(kind, name)| matches!(*kind, "env" | "file") && !name.is_empty());
        if known.is_none() {
            // What stands there may be the password itself: it is not repeated.
            let problem = "want a reference, env:NAME or file:PATH, not the password";
            return fault("sasl.password", problem.to_owned());
        }
        if sasl.mechanism == SaslMechanism::Plain && self.tls.is_none() && !self.is_on_this_host() {
            let problem = "plain would send the password in clear: add [kafka.tls], or use scram-sha-512";
            return fault("sasl.mechanism", problem.to_owned());
        }
        Ok(())
    }

    fn is_on_this_host(&self) -> bool {
        self.brokers.iter().all(|broker| {
            let host = broker.rsplit_once(':').map_or(broker.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        })
    }
}

impl SaslMechanism {
    /// The name that brokers know.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let good = KafkaConfig::at(&["kafka-1:9092", "[::1]:9092"]);
        assert_eq!(good.check(), Ok(()));
        let sasl = |mechanism, password: &str| {
            Some(KafkaSasl { mechanism, username: "gw".into(), password: password.into() })
        };
        let tls = |cert: Option<&str>, key: Option<&str>| {
            Some(KafkaTls { ca: None, cert: cert.map(Into::into), key: key.map(Into::into) })
        };
        for (bad, field) in [
            (KafkaConfig::at(&[]), "brokers"),
            (KafkaConfig::at(&["kafka-1"]), "brokers"),
            (KafkaConfig::at(&["a:1,b:2"]), "brokers"),
            (KafkaConfig::at(&["PLAINTEXT://a:1"]), "brokers"),
            (KafkaConfig { topic_prefix: "a b".into(), ..good.clone() }, "topic_prefix"),
            (KafkaConfig { group: String::new(), ..good.clone() }, "group"),
            (KafkaConfig { partitions: 0, ..good.clone() }, "partitions"),
            (KafkaConfig { replicas: 0, ..good.clone() }, "replicas"),
            (KafkaConfig { min_insync_replicas: 0, ..good.clone() }, "min_insync_replicas"),
            (KafkaConfig { replicas: 1, ..good.clone() }, "min_insync_replicas"),
            (KafkaConfig { outage_hours: 0, ..good.clone() }, "outage_hours"),
            (KafkaConfig { drain_seconds: 9999, ..good.clone() }, "drain_seconds"),
            (KafkaConfig { tls: tls(Some("c"), None), ..good.clone() }, "tls.key"),
            (KafkaConfig { tls: tls(None, Some("k")), ..good.clone() }, "tls.cert"),
            (KafkaConfig { tls: tls(Some("/no/c"), Some("/no/k")), ..good.clone() }, "tls.cert"),
            (KafkaConfig { sasl: sasl(SaslMechanism::Plain, "env:P"), ..good.clone() }, "sasl.mechanism"),
            (
                KafkaConfig { sasl: sasl(SaslMechanism::ScramSha512, "hunter2"), ..good.clone() },
                "sasl.password",
            ),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.field, field);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let here = KafkaConfig::at(&["127.0.0.1:9092", "localhost:9093", "[::1]:1"]);
        let plain = sasl(SaslMechanism::Plain, "env:P");
        assert_eq!(KafkaConfig { sasl: plain.clone(), ..here }.check(), Ok(()));
        assert_eq!(KafkaConfig { sasl: plain, tls: tls(None, None), ..good }.check(), Ok(()));
    }
}
