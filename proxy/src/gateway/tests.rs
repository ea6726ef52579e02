use super::*;
use crate::clock::Clock;
use crate::identity::{Directory, Roster};
use crate::recording::{Opening, ProducerOptions};
use crate::slots::SessionSlots;
use crate::state::SqliteState;
use bodycam_bus::spool::SpoolBus;
use bodycam_bus::{Bus, Record, SpoolConfig};
use bodycam_record::{Digest, TenantKey};

fn producer(dir: &tempfile::TempDir) -> Producer {
    Producer::start(ProducerOptions {
        producer: "gw".to_owned(),
        tenant: "acme".to_owned(),
        tenant_key: TenantKey::new([1; 32]),
        spool: SpoolConfig { dir: dir.path().to_owned(), ..SpoolConfig::default() },
        policy_digest: Digest::ZERO,
        config_digest: Digest::ZERO,
        hold_seconds: 1,
        clock: Clock::system(),
    })
    .unwrap()
}

fn ledger(dir: &tempfile::TempDir) -> Vec<&'static str> {
    let bus = SpoolBus::new(&SpoolConfig { dir: dir.path().to_owned(), ..SpoolConfig::default() });
    let records = bus.subscribe(&"gw/ledger".parse().unwrap(), 0).unwrap().poll(1 << 20).unwrap();
    let name = |record| match record {
        Record::Ledger(l) => l.decode_body().unwrap().table().name,
        _ => "other",
    };
    records.into_iter().map(|(_, record)| name(record)).collect()
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let usual = GatewayConfig::default();
    assert_eq!(usual.check(), Ok(()));
    for (config, field) in [
        (GatewayConfig { producer: "a/b".to_owned(), ..usual.clone() }, "producer"),
        (GatewayConfig { producer: String::new(), ..usual.clone() }, "producer"),
        (GatewayConfig { tenant: String::new(), ..usual.clone() }, "tenant"),
        (GatewayConfig { max_connections: 0, ..usual.clone() }, "max_connections"),
        (GatewayConfig { drain_seconds: u64::MAX, ..usual.clone() }, "drain_seconds"),
        (GatewayConfig { cores: usize::MAX, ..usual.clone() }, "cores"),
    ] {
        assert_eq!(config.check().unwrap_err().field, field);
    }
}

#[test]
fn a_gateway_that_cannot_listen_leaves_no_start_without_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let state = Arc::new(SqliteState::open(&dir.path().join("state.db")).unwrap());
    let directory = Directory::new(TenantKey::new([1; 32]), Roster::new(&[]).unwrap(), state).unwrap();
    let (config, slots) = (http::HttpConfig::default(), SessionSlots::default());
    let http = http::Service::new(config, directory, slots, Vec::new(), Duration::ZERO).unwrap();
    let listeners = vec![(address, Service::Http(Arc::new(http)))];
    let started = Gateway::start(&GatewayConfig::default(), producer(&dir), listeners);
    assert!(matches!(started, Err(GatewayError::Listen { .. })));
    drop(started);
    assert_eq!(ledger(&dir), ["ledger.start", "ledger.stop"]);
}

#[test]
fn a_gateway_that_drains_beats_until_it_says_stop() {
    let dir = tempfile::tempdir().unwrap();
    let config = GatewayConfig { cores: 1, drain_seconds: 0, ..GatewayConfig::default() };
    let gateway = Gateway::start(&config, producer(&dir), Vec::new()).unwrap();
    // A connection that takes its time.
    gateway.cores[0].connections.fetch_add(1, Ordering::Relaxed);
    let pen = gateway.producer().lane(5).unwrap().open_session(Opening::default()).unwrap();
    drop(pen);
    gateway.drain().unwrap();
    let names = ledger(&dir);
    let beats = names.iter().filter(|n| **n == "ledger.heartbeat").count();
    assert!(beats >= 2, "one at the start, one while it drained: {names:?}");
    assert_eq!(names.last(), Some(&"ledger.stop"));
}

#[test]
fn what_could_fill_a_log_is_told_rarely_and_counted() {
    let mut rarely = Rarely::default();
    assert_eq!(rarely.tell(1), Some(1));
    assert_eq!((rarely.tell(1), rarely.tell(2)), (None, None));
    rarely.told = Instant::now().checked_sub(TELL_AGAIN);
    assert_eq!(rarely.tell(1), Some(4));
}
