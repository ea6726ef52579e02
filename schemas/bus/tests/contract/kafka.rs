//! The scene on Kafka, and what only Kafka has.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bodycam_bus::kafka::{
    Drain, FindingsTopic, Kafka, KafkaBus, KafkaConfig, KafkaSasl, KafkaTls, SaslMechanism, Unready, prepare,
};
use bodycam_record::ledger::{Ledger, Start};
use bodycam_record::{Digest, EpochKey, ProducerKey};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::broker::{Broker, Identity, USER};
use super::*;

static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
static SCENES: AtomicU32 = AtomicU32::new(0);

/// The broker of the tests that run now; a new one when none does.
fn broker() -> Option<Arc<Broker>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(broker) = shared.upgrade() {
        return Some(broker);
    }
    let broker = Arc::new(Broker::start(None)?);
    *shared = Arc::downgrade(&broker);
    Some(broker)
}

/// A gateway's spool that drains into topics of its own.
pub struct OnKafka {
    gateway: Gateway,
    kafka: Kafka,
    drain: Option<Drain>,
    address: String,
    _broker: Option<Arc<Broker>>,
}

impl OnKafka {
    fn at(address: String, broker: Option<Arc<Broker>>) -> Self {
        Self::with(Kafka::new(config(&address), None), broker)
    }

    fn with(kafka: Kafka, broker: Option<Arc<Broker>>) -> Self {
        let address = kafka.config().brokers.join(",");
        let gateway = Gateway::new();
        let drain = Some(Drain::start(kafka.clone(), &gateway.config(), "gw").unwrap());
        Self { gateway, kafka, drain, address, _broker: broker }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        admin(&self.address)
    }

    /// A reader for a lake that holds this.
    fn reader_for(&self, held: BTreeMap<StreamId, Held>) -> KafkaBus {
        let bus = KafkaBus::open(self.kafka.clone()).unwrap();
        bus.holds(held).unwrap();
        bus
    }

    fn stop(&mut self) {
        self.drain = None;
        self.gateway.kill();
    }

    fn start(&mut self) {
        self.gateway.start();
        self.drain = Some(Drain::start(self.kafka.clone(), &self.gateway.config(), "gw").unwrap());
    }
}

fn config(address: &str) -> KafkaConfig {
    let n = SCENES.fetch_add(1, Ordering::SeqCst);
    let name = format!("scene-{n}");
    one_broker(KafkaConfig {
        topic_prefix: name.clone(),
        group: name,
        partitions: 3,
        ..KafkaConfig::at(&[address])
    })
}

/// For a cluster of one.
fn one_broker(config: KafkaConfig) -> KafkaConfig {
    KafkaConfig { replicas: 1, min_insync_replicas: 1, ..config }
}

fn admin(address: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", address).create().unwrap()
}

impl Scene for OnKafka {
    type Bus = KafkaBus;

    fn new() -> Option<Self> {
        let broker = broker()?;
        Some(Self::at(broker.address(), Some(broker)))
    }

    fn gateway(&mut self) -> &mut Gateway {
        &mut self.gateway
    }

    fn reader(&self) -> KafkaBus {
        self.reader_for(BTreeMap::new())
    }

    fn written(&mut self) {
        let spool = SpoolBus::new(&self.gateway.config());
        let deadline = Instant::now() + LIMIT;
        for (stream, written) in &self.gateway.written {
            let end = written.keys().next_back().unwrap() + 1;
            while spool.released(stream).unwrap() < end {
                assert!(Instant::now() < deadline, "{stream} is not drained");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn cut(&mut self, _: i64) {
        // The log of the events begins, from now on, one message later than it did.
        let topic = format!("{}.events", self.kafka.config().topic_prefix);
        let mut offsets = TopicPartitionList::new();
        for partition in 0..3 {
            offsets.add_partition_offset(&topic, partition, Offset::Offset(1)).unwrap();
        }
        let deleted = block_on(async { self.admin().delete_records(&offsets, &AdminOptions::new()).await });
        assert!(deleted.is_ok(), "{deleted:?}");
    }

    fn kill(&mut self) {
        self.stop();
        // As if it had been killed before it could note what was acknowledged.
        let spool = SpoolBus::new(&self.gateway.config());
        for (stream, (first, _)) in spool.depth().unwrap() {
            let noted = (spool.released(&stream).unwrap() - 130).max(first);
            let lane = self.gateway.config().dir.join("gw").join(stream.lane());
            std::fs::write(lane.join("released"), noted.to_string()).unwrap();
        }
        self.start();
    }
}

/// Reads as a recorder does: after the group has settled anew, from what it has.
fn read_through(bus: &KafkaBus, name: &str, mut from: i64, to: i64) -> Vec<(i64, Record)> {
    let mut all = Vec::new();
    while from < to {
        let mut subscription = subscribe(bus, name, from);
        block_on(async {
            while subscription.position() < to {
                match tokio::time::timeout(LIMIT, subscription.next(100_000)).await.unwrap() {
                    Ok(records) => all.extend(records),
                    Err(BusError::Revoked { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        from = subscription.position();
    }
    all
}

#[test]
fn an_outage_lets_the_spool_grow_and_nothing_is_lost_or_out_of_order() {
    let Some(mut broker) = Broker::start(None) else { return };
    let mut scene = OnKafka::at(broker.address(), None);
    scene.gateway.fill("0", 0..100);
    scene.gateway.fill("ledger", 0..10);
    scene.written();
    let bus = scene.reader();
    let mut subscription = subscribe(&bus, "gw/0", 0);
    read_to(&mut subscription, 50, 2_000);
    broker.kill();
    scene.gateway.fill("0", 100..700);
    scene.gateway.fill("ledger", 10..20);
    let metric = |name: &str| {
        let text = scene.drain.as_ref().unwrap().metrics().prometheus();
        told(&text, &format!("bodycam_gateway_kafka_{name}"))
    };
    let deadline = Instant::now() + LIMIT;
    while metric("unsent_records") < 610 || metric("oldest_unsent_seconds") < 2 {
        assert!(Instant::now() < deadline, "the lag is not told");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(metric("spool_bytes") > 100_000);
    // The gateway is killed in the middle of it, and starts without a broker.
    scene.kill();
    scene.gateway.fill("0", 700..800);
    broker.resume();
    scene.written();
    let from = subscription.position();
    drop(subscription);
    for (name, from) in [("gw/0", from), ("gw/ledger", 0)] {
        let to = end(&scene.gateway, name);
        assert_eq!(read_through(&bus, name, from, to), expected(&scene.gateway, name, from), "{name}");
    }
}

#[test]
fn a_partition_goes_whole_to_one_of_two_recorders_and_the_other_is_told() {
    let Some(mut scene) = OnKafka::new() else { return };
    for lane in ["0", "1", "ledger"] {
        scene.gateway.fill(lane, 0..50);
    }
    scene.written();
    let readers = [scene.reader(), scene.reader()];
    let names = ["gw/0", "gw/1", "gw/ledger"].map(stream);
    let deadline = Instant::now() + LIMIT;
    // While the group settles, either may have them for a moment, never half of them for good.
    let mut settled_since = Instant::now();
    let mut last = [0, 0];
    while settled_since.elapsed() < Duration::from_secs(5) || last.iter().sum::<usize>() != 3 {
        readers.iter().for_each(answer);
        let now = [0, 1].map(|n: usize| readers[n].streams().unwrap().len());
        if now != last {
            (last, settled_since) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "{last:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(last == [3, 0] || last == [0, 3], "{last:?}");
    let [first, second] = readers;
    let (owner, other) = if last == [3, 0] { (first, second) } else { (second, first) };
    assert!(matches!(other.subscribe(&names[0], 0), Err(BusError::Revoked { .. })));
    let mut subscription = subscribe(&owner, "gw/0", 0);
    let to = end(&scene.gateway, "gw/0");
    read_to(&mut subscription, 30, 1_000);
    owner.release(&names[0], 20).unwrap();
    drop((owner, subscription));
    let mut taken_over = subscribe(&other, "gw/0", 20);
    assert_eq!(read_to(&mut taken_over, to, 1_000), expected(&scene.gateway, "gw/0", 20));
}

#[test]
fn a_stream_that_begins_anew_under_an_old_name_is_refused() {
    let Some(mut scene) = OnKafka::new() else { return };
    scene.gateway.fill("0", 0..100);
    scene.written();
    let bus = scene.reader();
    let mut subscription = subscribe(&bus, "gw/0", 0);
    read_to(&mut subscription, 100, 100_000);
    let origin = bus.origin(&stream("gw/0")).unwrap().unwrap();
    scene.stop();
    scene.gateway = Gateway::new();
    scene.gateway.kill();
    scene.start();
    scene.gateway.fill("0", 0..150);
    scene.written();
    let error = block_on(async { tokio::time::timeout(LIMIT, subscription.next(1_000)).await });
    let error = error.unwrap().unwrap_err();
    assert!(matches!(&error, BusError::Recreated { known, .. } if *known == origin.to_string()), "{error}");
}

/// A counter or gauge.
fn told(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

/// What a lake holds that has everything of the streams up to these positions.
fn held(bus: &KafkaBus, positions: &[(&str, i64)]) -> BTreeMap<StreamId, Held> {
    let of = |(name, position): &(&str, i64)| {
        let origin = bus.origin(&stream(name)).unwrap();
        assert!(origin.is_some(), "{name} was not seen");
        (stream(name), Held { position: *position, origin, older: Vec::new() })
    };
    positions.iter().map(of).collect()
}

#[test]
fn an_offset_spares_reading_again_and_hides_nothing_from_a_lake_that_holds_less() {
    let Some(mut scene) = OnKafka::new() else { return };
    // A lane that is silent from now on, and one that is not.
    scene.gateway.fill("0", 0..100);
    scene.gateway.fill("1", 0..100);
    scene.written();
    let (silent, busy) = (end(&scene.gateway, "gw/0"), end(&scene.gateway, "gw/1"));
    let first = scene.reader();
    for (name, to) in [("gw/0", silent), ("gw/1", busy)] {
        let mut subscription = subscribe(&first, name, 0);
        read_to(&mut subscription, to, 100_000);
        first.release(&stream(name), to).unwrap();
    }
    let all = held(&first, &[("gw/0", silent), ("gw/1", busy)]);
    let restored = held(&first, &[("gw/0", 40), ("gw/1", busy)]);
    // The offset is committed at the end, too.
    drop(first);
    scene.gateway.fill("1", 100..120);
    scene.written();
    let to = end(&scene.gateway, "gw/1");
    let messages =
        |bus: &KafkaBus| told(&bus.metrics().prometheus(), "bodycam_recorder_kafka_messages_total");
    let second = scene.reader_for(all);
    let mut subscription = subscribe(&second, "gw/1", busy);
    assert_eq!(read_to(&mut subscription, to, 100_000), expected(&scene.gateway, "gw/1", busy));
    assert_eq!(second.streams().unwrap(), [stream("gw/1")], "what the lake holds was read again");
    let few = messages(&second);
    drop((subscription, second));
    // A lake from a backup, and a fresh one: what the offset says is done is not done there.
    for (lake, from) in [(restored, 40), (BTreeMap::new(), 0)] {
        let bus = scene.reader_for(lake);
        let mut subscription = subscribe(&bus, "gw/0", from);
        assert_eq!(read_to(&mut subscription, silent, 100_000), expected(&scene.gateway, "gw/0", from));
        assert!(messages(&bus) > few, "{} after {few}", messages(&bus));
    }
}

#[test]
fn a_topic_that_is_deleted_under_a_reader_and_made_again_goes_on() {
    let Some(mut scene) = OnKafka::new() else { return };
    scene.gateway.fill("0", 0..300);
    scene.written();
    let bus = scene.reader();
    let mut subscription = subscribe(&bus, "gw/0", 0);
    let to = end(&scene.gateway, "gw/0");
    assert_eq!(read_to(&mut subscription, to, 100_000), expected(&scene.gateway, "gw/0", 0));
    bus.release(&stream("gw/0"), to).unwrap();
    drop(subscription);
    scene.stop();
    let topic = format!("{}.events", scene.kafka.config().topic_prefix);
    let deleted = block_on(async { scene.admin().delete_topics(&[&topic], &AdminOptions::new()).await });
    assert!(deleted.unwrap().iter().all(Result::is_ok));
    // The gateway makes it again.
    scene.start();
    scene.gateway.fill("0", 300..400);
    scene.written();
    assert_eq!(
        read_through(&bus, "gw/0", to, end(&scene.gateway, "gw/0")),
        expected(&scene.gateway, "gw/0", to)
    );
}

/// Where no broker is, and none comes.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn the_age_of_what_is_not_sent_outlives_a_restart_in_an_outage() {
    let mut gateway = Gateway::new();
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    let since = hour_ago.duration_since(std::time::UNIX_EPOCH).unwrap();
    let start = Start {
        config_digest: Digest([1; 32]),
        inherited: Vec::new(),
        simulated_clock: false,
        software: "test".into(),
    };
    let (long_term, epoch) = (ProducerKey::from_seed(&[1; 32]), EpochKey::from_seed(&[2; 32]));
    let at = i64::try_from(since.as_nanos()).unwrap();
    let (_, record) = Ledger::start("gw", &long_term, epoch, None, start, at);
    gateway.write("ledger", &Record::Ledger(Box::new(record)));
    gateway.kill();
    gateway.start();
    let drain = Drain::start(Kafka::new(config(&nowhere()), None), &gateway.config(), "gw").unwrap();
    let metric = |name: &str| told(&drain.metrics().prometheus(), &format!("bodycam_gateway_kafka_{name}"));
    let deadline = Instant::now() + LIMIT;
    while metric("unsent_records") == 0 {
        assert!(Instant::now() < deadline, "the lag is not told");
        std::thread::sleep(Duration::from_millis(50));
    }
    let age = metric("oldest_unsent_seconds");
    assert!((3600..3700).contains(&age), "{age}");
}

#[test]
fn a_stop_without_a_broker_takes_no_longer_than_it_may() {
    let mut gateway = Gateway::new();
    gateway.fill("0", 0..100);
    // One that refuses, and one that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [nowhere(), silent.local_addr().unwrap().to_string()] {
        let mut drain = Drain::start(Kafka::new(config(&address), None), &gateway.config(), "gw").unwrap();
        let began = Instant::now();
        let left = drain.stop(Duration::from_secs(1));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?} at {address}");
        assert!(left >= 100, "{left}");
    }
}

#[test]
fn findings_reach_their_topic_in_the_order_of_their_revisions_through_an_outage() {
    let Some(mut broker) = Broker::start(None) else { return };
    let address = broker.address();
    let kafka = Kafka::new(config(&address), None);
    prepare(&kafka).unwrap();
    let findings = FindingsTopic::open(&kafka).unwrap();
    let finding = |n: usize| (format!("finding-{}", n % 7), format!("{{\"revision\":{n}}}"));
    for n in 0..50 {
        if n == 20 {
            broker.kill();
        }
        let (id, json) = finding(n);
        findings.send(&id, &json).unwrap();
        if n == 40 {
            broker.resume();
        }
    }
    // What is on its way is waited for.
    drop(findings);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address)
        .set("group.id", "readers of findings")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[&format!("{}.findings", kafka.config().topic_prefix)]).unwrap();
    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let deadline = Instant::now() + LIMIT;
    while got.values().map(Vec::len).sum::<usize>() < 50 {
        assert!(Instant::now() < deadline, "{got:?}");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            got.entry(text(message.key())).or_default().push(text(message.payload()));
        }
    }
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    (0..50).map(finding).for_each(|(id, json)| wanted.entry(id).or_default().push(json));
    assert_eq!(got, wanted);
}

#[test]
fn topics_that_would_lose_records_are_refused_and_missing_ones_are_made() {
    let Some(broker) = broker() else { return };
    let address = broker.address();
    let good = config(&address);
    prepare(&Kafka::new(good.clone(), None)).unwrap();
    prepare(&Kafka::new(good.clone(), None)).unwrap();
    let admin = admin(&address);
    let refused = |config: &KafkaConfig| match prepare(&Kafka::new(config.clone(), None)) {
        Err(Unready::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let other = KafkaConfig { partitions: 5, ..good.clone() };
    assert!(refused(&other).contains("has 3 partitions, kafka.partitions is 5"), "{}", refused(&other));
    let longer = KafkaConfig { outage_hours: 100, ..good };
    assert!(refused(&longer).contains("--add-config retention.ms=360000000"), "{}", refused(&longer));
    for (setting, value) in [("cleanup.policy", "compact"), ("max.message.bytes", "100000")] {
        let config = config(&address);
        let topic = format!("{}.ledger", config.topic_prefix);
        let made = NewTopic::new(&topic, 3, TopicReplication::Fixed(1)).set(setting, value);
        block_on(async { admin.create_topics([&made], &AdminOptions::new()).await }).unwrap();
        let why = refused(&config);
        assert!(
            why.contains(&format!("{topic}: {setting}={value}")) && why.contains("--add-config"),
            "{why}"
        );
        let spool = Gateway::new();
        assert!(matches!(
            Drain::start(Kafka::new(config.clone(), None), &spool.config(), "gw"),
            Err(BusError::Refused(_))
        ));
    }
    // A cluster of one has no second replica: it is not taken for a safe one unless that is said.
    let safe = KafkaConfig { replicas: 3, min_insync_replicas: 2, ..config(&address) };
    assert!(refused(&safe).contains("kafka.replicas = 1"), "{}", refused(&safe));
    let left_to_the_broker = KafkaConfig { replicas: -1, min_insync_replicas: 2, ..config(&address) };
    assert!(refused(&left_to_the_broker).contains("has 1 replica(s)"), "{}", refused(&left_to_the_broker));
    let absent = KafkaConfig { create_topics: false, ..config(&address) };
    assert!(refused(&absent).contains("kafka-topics.sh --create"), "{}", refused(&absent));
}

/// A certificate authority, and a certificate of it for a client: certificate and key as files in `dir`.
fn client_of_an_authority(dir: &std::path::Path, name: &str) -> (String, KafkaTls) {
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {name}"));
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let file = |suffix: &str, text: String| {
        let path = dir.join(format!("{name}.{suffix}"));
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let cert = file("cert", params.signed_by(&key, &issuer).unwrap().pem());
    (authority_pem, KafkaTls { ca: None, cert, key: file("key", key.serialize_pem()) })
}

#[test]
fn names_passwords_and_certificates_open_the_broker_and_wrong_ones_do_not() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (clients, known) = client_of_an_authority(dir.path(), "known");
    let (_, unknown) = client_of_an_authority(dir.path(), "unknown");
    let identity = Identity { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), clients };
    let Some(broker) = Broker::start(Some(&identity)) else { return };
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &identity.cert).unwrap();
    let strange = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let strange_ca = dir.path().join("strange.pem");
    std::fs::write(&strange_ca, strange.cert.pem()).unwrap();
    let trusting = |ca: &std::path::Path| KafkaTls { ca: Some(ca.to_owned()), ..KafkaTls::default() };
    let at = |address: std::net::SocketAddr, mechanism: Option<SaslMechanism>, tls, password: &str| {
        let mut config = config(&address.to_string());
        config.sasl = mechanism.map(|mechanism| KafkaSasl {
            mechanism,
            username: USER.0.to_owned(),
            password: "env:ELSEWHERE".to_owned(),
        });
        config.tls = tls;
        config.check().unwrap();
        Kafka::new(config, mechanism.map(|_| password.to_owned()))
    };
    use SaslMechanism::{Plain, ScramSha256, ScramSha512};
    let (plain, scram) = (Some(Plain), Some(ScramSha512));
    let with = |tls: &KafkaTls| Some(KafkaTls { ca: Some(ca.clone()), ..tls.clone() });
    // Records go there and come back, and so do findings.
    for kafka in [
        at(broker.sasl, plain, None, USER.1),
        at(broker.sasl, Some(ScramSha256), None, USER.1),
        at(broker.sasl, scram, None, USER.1),
        at(broker.tls, plain, Some(trusting(&ca)), USER.1),
        at(broker.tls, scram, Some(trusting(&ca)), USER.1),
        at(broker.mutual, None, with(&known), ""),
    ] {
        let way = format!("{:?}", kafka.config());
        let mut scene = OnKafka::with(kafka, None);
        scene.gateway.fill("0", 0..20);
        scene.written();
        let bus = scene.reader();
        let mut subscription = subscribe(&bus, "gw/0", 0);
        let got = read_to(&mut subscription, end(&scene.gateway, "gw/0"), 100_000);
        assert_eq!(got, expected(&scene.gateway, "gw/0", 0), "{way}");
        FindingsTopic::open(&scene.kafka).unwrap().send("finding-1", "{}").unwrap();
    }
    let wrong = [
        (at(broker.sasl, plain, None, "wrong"), "a wrong password"),
        (at(broker.tls, scram, Some(trusting(&ca)), "wrong"), "a wrong password over TLS"),
        (at(broker.tls, scram, Some(trusting(&strange_ca)), USER.1), "a strange authority"),
        (at(broker.sasl, None, None, ""), "nobody"),
        (at(broker.mutual, None, Some(trusting(&ca)), ""), "no certificate"),
        (at(broker.mutual, None, with(&unknown), ""), "a certificate of a strange authority"),
    ];
    // Each waits for a broker that would take it, for as long as that may take.
    std::thread::scope(|threads| {
        for (kafka, why) in &wrong {
            threads.spawn(move || assert!(prepare(kafka).is_err(), "{why} was taken"));
        }
    });
}
