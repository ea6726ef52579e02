//! The bus of many gateways and recorders: Kafka behind the spools.
//!
//! A gateway writes its spool as without Kafka ([`crate::spool`]); its [`Drain`] sends the records on and releases
//! segments when Kafka has acknowledged them. A recorder reads [`KafkaBus`]. Streams and positions are those of the
//! spool: a message carries consecutive records of one stream (`batch.rs`), and the reader drops what came again and
//! refuses what leaves a gap, by position. So the topic is at-least-once, what is read is exactly-once, and the
//! offsets that the consumer group commits are only where to begin to read, if the lake is shown to hold what lies
//! before them (`claim.rs`, docs/adr/0009).
//!
//! All streams of a producer go to one partition number, the same in each topic: a recorder that has a partition
//! has a producer whole, its ledger and what the ledger speaks of.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::StreamId;
use crate::stream::{KEYS_LANE, LEDGER_LANE};

mod batch;
mod claim;
pub mod config;
mod demux;
mod drain;
mod findings;
mod reader;
mod topics;

pub use config::{KafkaConfig, KafkaConfigError, KafkaSasl, KafkaTls, SaslMechanism};
pub use drain::{Drain, DrainMetrics};
pub use findings::FindingsTopic;
pub use reader::{KafkaBus, KafkaMark, KafkaMetrics, KafkaSubscription};
pub use topics::{Unready, prepare};

/// `[kafka]`, with the password that it refers to.
#[derive(Clone)]
pub struct Kafka {
    config: KafkaConfig,
    password: Option<String>,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// Events, their content, templates.
    Events,
    /// Wrapped keys and names.
    Keys,
    /// The ledgers.
    Ledger,
    /// What detection found.
    Findings,
}

impl Topic {
    /// Those that carry streams.
    const OF_STREAMS: [Topic; 3] = [Topic::Events, Topic::Keys, Topic::Ledger];
    const ALL: [Topic; 4] = [Topic::Events, Topic::Keys, Topic::Ledger, Topic::Findings];

    fn of(stream: &StreamId) -> Self {
        match stream.lane() {
            LEDGER_LANE => Topic::Ledger,
            KEYS_LANE => Topic::Keys,
            _ => Topic::Events,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Topic::Events => "events",
            Topic::Keys => "keys",
            Topic::Ledger => "ledger",
            Topic::Findings => "findings",
        }
    }
}

/// A partition of a topic.
pub(crate) type Place = (Topic, i32);

impl Kafka {
    /// `config`, which is checked, and the password that `sasl.password` refers to.
    pub fn new(config: KafkaConfig, password: Option<String>) -> Self {
        Self { config, password }
    }

    /// The configuration.
    pub fn config(&self) -> &KafkaConfig {
        &self.config
    }

    fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", self.config.topic_prefix, topic.suffix())
    }

    /// Where a stream travels. The number of partitions is checked when a part starts, so that it stays.
    fn place(&self, stream: &StreamId) -> Place {
        (Topic::of(stream), self.partition(stream.producer()))
    }

    /// The partition, of each topic, that a producer's records go to.
    fn partition(&self, producer: &str) -> i32 {
        let digest = crc32c::crc32c(producer.as_bytes());
        let partition = i64::from(digest) % i64::from(self.config.partitions.max(1));
        i32::try_from(partition).unwrap_or_default()
    }

    /// What every client of the brokers is told.
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.config.brokers.join(","));
        client.set("client.id", "bodycam");
        // A broker that comes back is found within seconds, however long it was away.
        client.set("reconnect.backoff.max.ms", "2000");
        client.set("socket.keepalive.enable", "true");
        // What is lost and cannot be sent is told by the calls; the library's own words go to the log.
        client.set_log_level(RDKafkaLogLevel::Warning);
        let protocol = match (&self.config.tls, &self.config.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = &self.config.tls {
            client.set("ssl.endpoint.identification.algorithm", "https");
            client.set("enable.ssl.certificate.verification", "true");
            let files = [
                ("ssl.ca.location", &tls.ca),
                ("ssl.certificate.location", &tls.cert),
                ("ssl.key.location", &tls.key),
            ];
            for (setting, path) in files {
                if let Some(path) = path {
                    client.set(setting, path.display().to_string());
                }
            }
        }
        if let Some(sasl) = &self.config.sasl {
            client.set("sasl.mechanisms", sasl.mechanism.as_str());
            client.set("sasl.username", &sasl.username);
            client.set("sasl.password", self.password.as_deref().unwrap_or_default());
        }
        client
    }
}

/// Says that brokers are away or refuse us, every few seconds for each way in which they do.
#[derive(Debug, Default)]
pub(crate) struct Away(Mutex<BTreeMap<String, Instant>>);

impl Away {
    const EVERY: Duration = Duration::from_secs(10);

    pub fn say(&self, error: &KafkaError, reason: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| at.elapsed() < Self::EVERY);
        said.entry(error.to_string()).or_insert_with(|| {
            tracing::warn!(event = "kafka_unreachable", error = %error, reason, "waiting for Kafka");
            Instant::now()
        });
    }
}

/// What the library says, into our log.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Emerg, Error, Warning};
    match level {
        // A connection that failed is told as an error, too, which is said less often.
        _ if facility == "FAIL" => {
            tracing::debug!(event = "kafka_client", facility, message, "the Kafka client says");
        }
        Emerg | Alert | Critical | Error | Warning => {
            tracing::warn!(event = "kafka_client", facility, message, "the Kafka client says");
        }
        _ => tracing::debug!(event = "kafka_client", facility, message, "the Kafka client says"),
    }
}
