//! The topics: made with the settings that lose nothing, or their settings checked.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
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
    let ended = |_| Err(Unready::Unreachable("the thread that asks them ended".to_owned()));
    preparing(kafka).recv().unwrap_or_else(ended)
}

/// As [`prepare`], on a thread that ends by itself: who does not wait for its answer leaves it alone.
pub(super) fn preparing(kafka: &Kafka) -> Receiver<Result<(), Unready>> {
    let kafka = kafka.clone();
    let (answer, answered) = mpsc::channel();
    let failed = answer.clone();
    let unreachable = |e: std::io::Error| Unready::Unreachable(e.to_string());
    // A runtime of its own on a thread of its own: the caller may be inside of one.
    let work = std::thread::Builder::new().name("kafka-topics".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let prepared = runtime.map_err(unreachable).and_then(|runtime| runtime.block_on(prepare_now(&kafka)));
        // Nobody waits any more when the process ends.
        let _ = answer.send(prepared);
    });
    if let Err(error) = work {
        let _ = failed.send(Err(unreachable(error)));
    }
    answered
}

async fn prepare_now(kafka: &Kafka) -> Result<(), Unready> {
    let admin = AdminClient::from_config_and_context(&kafka.client(), Quiet)
        .map_err(|e| Unready::Refused(format!("the client cannot be made: {e}")))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let missing = found(kafka, &admin)?.missing;
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

/// The topics as brokers tell of them.
#[derive(Debug, Default)]
struct Found {
    /// Those that they do not know.
    missing: Vec<Topic>,
    /// Replicas of the others: the fewest that a partition has.
    replicas: BTreeMap<Topic, usize>,
}

/// Looks which topics there are; refuses those with another number of partitions.
fn found(kafka: &Kafka, admin: &AdminClient<Quiet>) -> Result<Found, Unready> {
    let mut all = Found::default();
    // Not asked for by name: brokers that make unknown topics would make them, with their defaults.
    let metadata =
        admin.inner().fetch_metadata(None, REQUEST).map_err(|e| Unready::Unreachable(e.to_string()))?;
    for topic in Topic::ALL {
        let name = kafka.topic(topic);
        let found = metadata.topics().iter().find(|t| t.name() == name);
        match found.map(|t| (t.error().map(RDKafkaErrorCode::from), t.partitions())) {
            None | Some((Some(RDKafkaErrorCode::UnknownTopicOrPartition), _)) => all.missing.push(topic),
            Some((Some(error), _)) => return Err(unready(format!("topic {name} may not be used"), error)),
            Some((None, partitions)) if i32::try_from(partitions.len()) != Ok(kafka.config.partitions) => {
                return Err(Unready::Refused(format!(
                    "topic {name} has {} partitions, kafka.partitions is {}: set the same in every gateway and \
                     recorder of these topics. More partitions later means: stop the gateways, let the recorders read \
                     everything, then kafka-topics.sh --alter --topic {name} --partitions N for each topic",
                    partitions.len(),
                    kafka.config.partitions
                )));
            }
            Some((None, partitions)) => {
                let fewest = partitions.iter().map(|partition| partition.replicas().len()).min();
                all.replicas.insert(topic, fewest.unwrap_or_default());
            }
        }
    }
    Ok(all)
}

/// What an error of a broker means: some stay until someone changes a right or a setting, all others may pass, such as
/// those of brokers that start, stop, elect or are busy.
fn unready(what: String, error: RDKafkaErrorCode) -> Unready {
    use RDKafkaErrorCode as Code;
    let why = format!("{what}: {error}");
    match error {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::PolicyViolation => {
            Unready::Refused(why)
        }
        Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicaAssignment
        | Code::UnsupportedVersion => Unready::Refused(why),
        Code::InvalidReplicationFactor => Unready::Refused(format!(
            "{why}; are there as many brokers as kafka.replicas says? On one broker: kafka.replicas = 1 and \
             kafka.min_insync_replicas = 1"
        )),
        _ => Unready::Unreachable(why),
    }
}

/// What a topic is made with.
fn settings(kafka: &Kafka) -> [(&'static str, String); 7] {
    [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", (u128::from(kafka.config.outage_hours) * 3_600_000).to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("max.message.bytes", (1u64 << 20).to_string()),
        ("compression.type", "producer".to_owned()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("min.insync.replicas", kafka.config.min_insync_replicas.to_string()),
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
            Err((name, error)) => return Err(unready(format!("topic {name} cannot be made"), error)),
        }
    }
    tracing::info!(event = "kafka_topics_made", topics = ?names, "topics were made");
    let deadline = tokio::time::Instant::now() + SEEN;
    loop {
        match found(kafka, admin) {
            Ok(found) if found.missing.is_empty() => return Ok(()),
            Err(refused @ Unready::Refused(_)) => return Err(refused),
            _ if tokio::time::Instant::now() >= deadline => {
                return Err(Unready::Unreachable("the topics just made are not there yet".to_owned()));
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn check(kafka: &Kafka, admin: &AdminClient<Quiet>, options: &AdminOptions) -> Result<(), Unready> {
    let replicas = found(kafka, admin)?.replicas;
    let names: Vec<String> = Topic::ALL.iter().map(|topic| kafka.topic(*topic)).collect();
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let described = admin.describe_configs(&resources, options).await;
    let described = described.map_err(|e| Unready::Unreachable(e.to_string()))?;
    for ((topic, name), resource) in Topic::ALL.iter().zip(&names).zip(described) {
        let resource = resource.map_err(|error| {
            unready(
                format!(
                    "the settings of topic {name} cannot be read (a user needs the right DescribeConfigs on it)"
                ),
                error,
            )
        })?;
        let replicas = replicas.get(topic).copied().unwrap_or_default();
        fault(kafka, name, replicas, &values(&resource)).map_or(Ok(()), |why| Err(Unready::Refused(why)))?;
    }
    Ok(())
}

fn values(resource: &ConfigResource) -> BTreeMap<String, String> {
    resource.entries.iter().filter_map(|e| Some((e.name.clone(), e.value.clone()?))).collect()
}

/// What is wrong with a topic, and the line that mends it.
fn fault(kafka: &Kafka, name: &str, replicas: usize, values: &BTreeMap<String, String>) -> Option<String> {
    let (wanted, insync) = (kafka.config.replicas, kafka.config.min_insync_replicas);
    let found = i32::try_from(replicas).unwrap_or(i32::MAX);
    if found < wanted || found < insync {
        let (setting, wanted) =
            if found < insync { ("min_insync_replicas", insync) } else { ("replicas", wanted) };
        return Some(format!(
            "topic {name} has {replicas} replica(s), kafka.{setting} is {wanted}: what the spool gives up must not be lost \
             with one disk. Add replicas with kafka-reassign-partitions.sh, or set kafka.replicas and \
             kafka.min_insync_replicas to {replicas} if that is accepted"
        ));
    }
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
    if let Some(acknowledging) = number("min.insync.replicas") {
        if acknowledging < i128::from(insync) {
            let why =
                format!("acknowledges what fewer brokers have than kafka.min_insync_replicas ({insync})");
            return mend("min.insync.replicas", insync.to_string(), why);
        }
        if acknowledging > i128::from(found) {
            let why = format!("is more than the {replicas} replica(s) that it has: nothing could be written");
            return mend("min.insync.replicas", insync.to_string(), why);
        }
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
        let config = KafkaConfig { outage_hours: 48, ..KafkaConfig::at(&["b:1"]) };
        let kafka = Kafka::new(config.clone(), None);
        let good: BTreeMap<String, String> =
            settings(&kafka).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        assert_eq!(fault(&kafka, "t", 3, &good), None);
        for (setting, value, mended) in [
            ("cleanup.policy", "compact", "delete"),
            ("cleanup.policy", "compact,delete", "delete"),
            ("retention.ms", "3600000", "172800000"),
            ("retention.bytes", "1000000", "-1"),
            ("max.message.bytes", "100000", "1048576"),
            ("compression.type", "gzip", "producer"),
            ("unclean.leader.election.enable", "true", "false"),
            ("min.insync.replicas", "1", "2"),
            ("min.insync.replicas", "4", "2"),
        ] {
            let mut bad = good.clone();
            bad.insert(setting.to_owned(), value.to_owned());
            let why = fault(&kafka, "t", 3, &bad).unwrap();
            assert!(why.contains(&format!("--entity-name t --add-config {setting}={mended}")), "{why}");
        }
        for lawful in [
            ("retention.ms", "-1"),
            ("max.message.bytes", "1048588"),
            ("compression.type", "zstd"),
            ("min.insync.replicas", "3"),
        ] {
            let mut other = good.clone();
            other.insert(lawful.0.to_owned(), lawful.1.to_owned());
            assert_eq!(fault(&kafka, "t", 3, &other), None, "{lawful:?}");
        }
    }
    #[test]
    fn topics_with_fewer_replicas_than_wanted_are_refused_unless_that_is_accepted() {
        let with = |replicas, min_insync_replicas| {
            let config = KafkaConfig { replicas, min_insync_replicas, ..KafkaConfig::at(&["b:1"]) };
            Kafka::new(config, None)
        };
        let has = |kafka: &Kafka, replicas| {
            let values = settings(kafka).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            fault(kafka, "t", replicas, &values)
        };
        assert!(has(&with(3, 2), 2).unwrap().contains("has 2 replica(s), kafka.replicas is 3"));
        assert!(has(&with(-1, 2), 1).unwrap().contains("has 1 replica(s), kafka.min_insync_replicas is 2"));
        assert_eq!(has(&with(-1, 2), 2), None);
        assert_eq!(has(&with(1, 1), 1), None);
        assert_eq!(has(&with(3, 2), 5), None);
    }

    #[test]
    fn what_brokers_answer_while_they_start_or_elect_is_asked_again_and_what_stays_is_refused() {
        use RDKafkaErrorCode as Code;
        for passing in [
            Code::LeaderNotAvailable,
            Code::NotController,
            Code::BrokerNotAvailable,
            Code::NetworkException,
            Code::RequestTimedOut,
            Code::OperationTimedOut,
            Code::BrokerTransportFailure,
            Code::UnknownTopicOrPartition,
            Code::NotEnoughReplicas,
            Code::Unknown,
        ] {
            let answer = unready("topic t cannot be made".to_owned(), passing);
            assert!(matches!(&answer, Unready::Unreachable(why) if why.starts_with("topic t")), "{answer:?}");
        }
        for lasting in [
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::PolicyViolation,
            Code::InvalidConfig,
            Code::InvalidReplicationFactor,
        ] {
            let answer = unready("topic t cannot be made".to_owned(), lasting);
            assert!(matches!(&answer, Unready::Refused(why) if why.starts_with("topic t")), "{answer:?}");
        }
    }
}
