//! The topics: made with the settings that lose nothing, or their settings checked.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use super::{Kafka, Topic};
use crate::BusError;

/// Least `max.message.bytes`: the client may pack two messages of [`super::batch::BATCH_BYTES`] into one request.
const MIN_MESSAGE: u64 = 900 << 10;
/// How long one request to the brokers may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a topic just made may take to be seen.
const SEEN: Duration = Duration::from_secs(20);

/// Why the topics are not ready.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unready {
    /// No broker answers now; trying again can help.
    #[error("kafka: no broker answers: {0}")]
    Unreachable(String),
    /// They are set up so that records would be lost or refused.
    #[error("kafka: {0}")]
    Refused(String),
}

impl From<Unready> for BusError {
    fn from(unready: Unready) -> Self {
        match unready {
            Unready::Unreachable(why) => BusError::Kafka { action: "reach a broker".to_owned(), why },
            Unready::Refused(why) => BusError::Refused(why),
        }
    }
}

struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(event = "kafka_client", error = %error, reason, "the Kafka client says");
    }
}

/// Makes the topics that are missing, where the configuration has it so, and checks all of them. May take some
/// ten seconds; waits on the calling thread.
pub fn prepare(kafka: &Kafka) -> Result<(), Unready> {
    let kafka = kafka.clone();
    // A runtime of its own on a thread of its own: the caller may be inside of one.
    let work = std::thread::Builder::new().name("kafka-topics".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| Unready::Unreachable(e.to_string()))?;
        runtime.block_on(prepare_now(&kafka))
    });
    let work = work.map_err(|e| Unready::Unreachable(e.to_string()))?;
    work.join().unwrap_or_else(|_| Err(Unready::Unreachable("the thread that asks them panicked".to_owned())))
}

async fn prepare_now(kafka: &Kafka) -> Result<(), Unready> {
    let admin = AdminClient::from_config_and_context(&kafka.client(), Quiet)
        .map_err(|e| Unready::Refused(format!("the client cannot be made: {e}")))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let missing = missing(kafka, &admin)?;
    if !missing.is_empty() {
        if !kafka.config.create_topics {
            let topic = missing.first().map(|t| kafka.topic(*t)).unwrap_or_default();
            return Err(Unready::Refused(format!(
                "topic {topic} does not exist; make it with:  kafka-topics.sh --create --topic {topic} --partitions {} {}",
                kafka.config.partitions,
                settings(kafka)
                    .iter()
                    .map(|(k, v)| format!("--config {k}={v}"))
                    .collect::<Vec<_>>()
                    .join(" "),
            )));
        }
        make(kafka, &admin, &options, &missing).await?;
    }
    check(kafka, &admin, &options).await
}

/// The topics that the brokers do not know; refuses those with another number of partitions.
fn missing(kafka: &Kafka, admin: &AdminClient<Quiet>) -> Result<Vec<Topic>, Unready> {
    let mut missing = Vec::new();
    // Not asked for by name: brokers that make unknown topics would make them, with their defaults.
    let metadata =
        admin.inner().fetch_metadata(None, REQUEST).map_err(|e| Unready::Unreachable(e.to_string()))?;
    for topic in Topic::ALL {
        let name = kafka.topic(topic);
        let found = metadata.topics().iter().find(|t| t.name() == name);
        match found.map(|t| (t.error().map(RDKafkaErrorCode::from), t.partitions().len())) {
            None | Some((Some(RDKafkaErrorCode::UnknownTopicOrPartition), _)) => missing.push(topic),
            Some((Some(RDKafkaErrorCode::LeaderNotAvailable), _)) => {
                return Err(Unready::Unreachable(format!("topic {name} has no leader yet")));
            }
            Some((Some(error), _)) => {
                return Err(Unready::Refused(format!("topic {name} may not be used: {error}")));
            }
            Some((None, partitions)) if i32::try_from(partitions) != Ok(kafka.config.partitions) => {
                return Err(Unready::Refused(format!(
                    "topic {name} has {partitions} partitions, kafka.partitions is {}: set the same in every gateway and \
                     recorder of these topics. More partitions later means: stop the gateways, let the recorders read \
                     everything, then kafka-topics.sh --alter --topic {name} --partitions N for each topic",
                    kafka.config.partitions
                )));
            }
            Some((None, _)) => {}
        }
    }
    Ok(missing)
}

/// What a topic is made with.
fn settings(kafka: &Kafka) -> [(&'static str, String); 6] {
    [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", (u128::from(kafka.config.outage_hours) * 3_600_000).to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("max.message.bytes", (1u64 << 20).to_string()),
        ("compression.type", "producer".to_owned()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ]
}

async fn make(
    kafka: &Kafka,
    admin: &AdminClient<Quiet>,
    options: &AdminOptions,
    missing: &[Topic],
) -> Result<(), Unready> {
    let settings = settings(kafka);
    let names: Vec<String> = missing.iter().map(|topic| kafka.topic(*topic)).collect();
    let new = names.iter().map(|name| {
        let replication = TopicReplication::Fixed(kafka.config.replicas);
        let topic = NewTopic::new(name, kafka.config.partitions, replication);
        settings.iter().fold(topic, |topic, (setting, value)| topic.set(setting, value))
    });
    let new: Vec<NewTopic<'_>> = new.collect();
    let made = admin.create_topics(&new, options).await.map_err(|e| Unready::Unreachable(e.to_string()))?;
    for outcome in made {
        match outcome {
            // Another gateway may make them at the same moment.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, error)) => {
                return Err(Unready::Refused(format!("topic {name} cannot be made: {error}")));
            }
        }
    }
    tracing::info!(event = "kafka_topics_made", topics = ?names, "topics were made");
    let deadline = tokio::time::Instant::now() + SEEN;
    loop {
        match self::missing(kafka, admin) {
            Ok(missing) if missing.is_empty() => return Ok(()),
            Err(refused @ Unready::Refused(_)) => return Err(refused),
            _ if tokio::time::Instant::now() >= deadline => {
                return Err(Unready::Unreachable("the topics just made are not there yet".to_owned()));
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn check(kafka: &Kafka, admin: &AdminClient<Quiet>, options: &AdminOptions) -> Result<(), Unready> {
    let names: Vec<String> = Topic::ALL.iter().map(|topic| kafka.topic(*topic)).collect();
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let described = admin.describe_configs(&resources, options).await;
    let described = described.map_err(|e| Unready::Unreachable(e.to_string()))?;
    for (name, resource) in names.iter().zip(described) {
        let resource = resource.map_err(|error| {
            Unready::Refused(format!(
                "the settings of topic {name} cannot be read ({error}): allow this user DescribeConfigs on it"
            ))
        })?;
        fault(kafka, name, &values(&resource)).map_or(Ok(()), |why| Err(Unready::Refused(why)))?;
    }
    Ok(())
}

fn values(resource: &ConfigResource) -> BTreeMap<String, String> {
    resource.entries.iter().filter_map(|e| Some((e.name.clone(), e.value.clone()?))).collect()
}

/// What is wrong with a topic's settings, and the line that mends it.
fn fault(kafka: &Kafka, name: &str, values: &BTreeMap<String, String>) -> Option<String> {
    let mend = |setting: &str, value: String, why: String| {
        Some(format!(
            "topic {name}: {setting}={} {why}; mend it with:  kafka-configs.sh --alter --entity-type topics \
             --entity-name {name} --add-config {setting}={value}",
            values.get(setting).map_or("?", String::as_str),
        ))
    };
    let number = |setting: &str| values.get(setting).and_then(|value| value.parse::<i128>().ok());
    if values.get("cleanup.policy").is_some_and(|policy| policy != "delete") {
        let why = "would remove records that nobody has read: compaction keeps one record a key";
        return mend("cleanup.policy", "delete".to_owned(), why.to_owned());
    }
    let promised = i128::from(kafka.config.outage_hours) * 3_600_000;
    if let Some(kept) = number("retention.ms").filter(|kept| *kept >= 0 && *kept < promised) {
        let hours = kafka.config.outage_hours;
        let why = format!("keeps {} h, kafka.outage_hours promises {hours} h", kept / 3_600_000);
        return mend("retention.ms", promised.to_string(), why);
    }
    if number("retention.bytes").is_some_and(|bytes| bytes >= 0) {
        let why = "removes records by size, however short the outage".to_owned();
        return mend("retention.bytes", "-1".to_owned(), why);
    }
    if let Some(bytes) = number("max.message.bytes").filter(|bytes| *bytes < i128::from(MIN_MESSAGE)) {
        let why = format!("is too small for what gateways send (up to {MIN_MESSAGE} bytes, here {bytes})");
        return mend("max.message.bytes", (1u64 << 20).to_string(), why);
    }
    if values.get("compression.type").is_some_and(|kind| kind == "gzip") {
        let why = "has the broker pack again what came packed, in a form that this build does not read";
        return mend("compression.type", "producer".to_owned(), why.to_owned());
    }
    if values.get("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        let why = "lets a replica lead that has lost acknowledged records".to_owned();
        return mend("unclean.leader.election.enable", "false".to_owned(), why);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::KafkaConfig;

    #[test]
    fn settings_that_would_lose_records_are_refused_with_the_line_that_mends_them() {
        let kafka = Kafka::new(KafkaConfig { outage_hours: 48, ..KafkaConfig::at(&["b:1"]) }, None);
        let good: BTreeMap<String, String> =
            settings(&kafka).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        assert_eq!(fault(&kafka, "t", &good), None);
        for (setting, value, mended) in [
            ("cleanup.policy", "compact", "delete"),
            ("cleanup.policy", "compact,delete", "delete"),
            ("retention.ms", "3600000", "172800000"),
            ("retention.bytes", "1000000", "-1"),
            ("max.message.bytes", "100000", "1048576"),
            ("compression.type", "gzip", "producer"),
            ("unclean.leader.election.enable", "true", "false"),
        ] {
            let mut bad = good.clone();
            bad.insert(setting.to_owned(), value.to_owned());
            let why = fault(&kafka, "t", &bad).unwrap();
            assert!(why.contains(&format!("--entity-name t --add-config {setting}={mended}")), "{why}");
        }
        for lawful in [("retention.ms", "-1"), ("max.message.bytes", "1048588"), ("compression.type", "zstd")]
        {
            let mut other = good.clone();
            other.insert(lawful.0.to_owned(), lawful.1.to_owned());
            assert_eq!(fault(&kafka, "t", &other), None, "{lawful:?}");
        }
    }
}
