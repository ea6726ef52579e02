//! The topic of findings: what detection found, as JSON, for whoever subscribes.
//!
//! The lake is the truth of findings; the topic is news of them. A finding waits here for as long as Kafka is away,
//! and a process that is killed meanwhile leaves it to the lake.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::{Kafka, Topic};
use crate::BusError;

/// Sends findings.
pub struct FindingsTopic {
    name: String,
    producer: BaseProducer<Failures>,
    /// How long what is on its way may take at the end.
    patience: Duration,
}

#[derive(Default)]
struct Failures(Mutex<Vec<KafkaError>>);

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(error.clone());
        }
    }
}

impl FindingsTopic {
    /// Connects in the background; nothing is sent yet.
    pub fn open(kafka: &Kafka) -> Result<Self, BusError> {
        let mut client = kafka.client();
        client.set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "0");
        let producer = BaseProducer::from_config_and_context(&client, Failures::default())
            .map_err(|e| BusError::Refused(format!("the client cannot be made: {e}")))?;
        let patience = Duration::from_secs(kafka.config().drain_seconds);
        Ok(Self { name: kafka.topic(Topic::Findings), producer, patience })
    }

    /// Sends a finding under its id: all revisions of one go to one partition, in order.
    pub fn send(&self, id: &str, json: &str) -> Result<(), BusError> {
        let fault = |why: String| BusError::Kafka { action: format!("send finding {id}"), why };
        self.producer.poll(Duration::ZERO);
        let record = BaseRecord::<_, _>::to(&self.name).key(id).payload(json);
        self.producer.send(record).map_err(|(error, _)| fault(error.to_string()))?;
        self.producer.poll(Duration::ZERO);
        let failed = self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        failed.map_or(Ok(()), |error| Err(fault(error.to_string())))
    }
}

impl Drop for FindingsTopic {
    fn drop(&mut self) {
        if let Err(error) = self.producer.flush(self.patience) {
            tracing::warn!(event = "findings_not_sent", error = %error, "the last findings may not be on the topic; the lake has them");
        }
    }
}
