//! What lies in deploy/ is what the program takes, and keeps what docs/deployment.md promises of it.
//!
//! The manifests are read as they are applied (deploy/kubernetes/rendered), which needs no kustomize; `make deploy-lint`
//! renders them anew and asks the linters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::stack::bodycam;

mod kubernetes;
mod place;

use place::Place;

/// What overlays there are.
const OVERLAYS: [&str; 3] = ["dev", "production", "cluster"];
/// The parts that agents depend on, and their images.
const ROLES: [(&str, &str, &[&str]); 3] = [
    ("bodycam-gateway", "bodycam-gateway", &["gateway"]),
    ("bodycam-recorder", "bodycam", &["recorder"]),
    ("bodycam-detection", "bodycam", &["detect", "watch", "--json"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents of a YAML file, with anchors and merge keys resolved.
fn yaml(text: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(text)
        .map(|document| {
            let mut value = serde_norway::Value::deserialize(document).unwrap();
            // What is merged may merge something itself.
            for _ in 0..3 {
                value.apply_merge().unwrap();
            }
            serde_json::to_value(value).unwrap()
        })
        .collect()
}

fn compose() -> Value {
    yaml(&read("deploy/compose/compose.yaml")).remove(0)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().map(|all| all.iter().map(|one| one.as_str().unwrap()).collect()).unwrap_or_default()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Seconds of `100s`.
fn seconds(text: &Value) -> u64 {
    text.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap()
}

fn settings(pairs: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().filter(|(name, _)| name.starts_with("BODYCAM")).collect()
}

#[test]
fn every_service_of_the_compose_file_has_a_usable_configuration() {
    let place = Place::with_secrets();
    let compose = compose();
    let mut checked = 0;
    for (name, service) in object(&compose["services"]) {
        let ours = service["image"].as_str().unwrap().starts_with("bodycam");
        if !ours {
            continue;
        }
        // What it gets: configuration and secrets where it reads them, nothing else.
        let place = place.clean();
        for config in service["configs"].as_array().unwrap() {
            let source = compose["configs"][config["source"].as_str().unwrap()]["file"].as_str().unwrap();
            place.put(config["target"].as_str().unwrap(), &root().join("deploy/compose").join(source));
        }
        for secret in service["secrets"].as_array().unwrap() {
            let (source, target) = match secret {
                Value::String(name) => (name.as_str(), name.as_str()),
                long => (long["source"].as_str().unwrap(), long["target"].as_str().unwrap()),
            };
            let file = compose["secrets"][source]["file"].as_str().unwrap();
            let file = file.strip_prefix("./secrets/").expect("secrets lie in deploy/compose/secrets");
            place.put(&format!("/run/secrets/{target}"), &place.secrets().join(file));
        }
        for volume in texts(&service["volumes"]) {
            place.make(volume.split(':').nth(1).unwrap());
        }
        let environment = object(&service["environment"]);
        let environment = environment.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()));
        place.check(name, texts(&service["command"])[0], settings(environment));
        checked += 1;
    }
    assert_eq!(checked, 10, "two gateways, three recorders, detection; scheduler, two executors, analyst");
}

#[test]
fn every_service_of_the_compose_file_is_confined() {
    let compose = compose();
    let gateways = ["gateway-0", "gateway-1"];
    for (name, service) in object(&compose["services"]) {
        assert_eq!(service["read_only"], true, "{name}: its root is read-only");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        let user = service["user"].as_str().unwrap_or_else(|| panic!("{name} has no user"));
        assert!(user.split(':').all(|id| id.parse::<u32>().unwrap() > 0), "{name} runs as {user}");
        assert!(service["mem_limit"].is_string() && service["pids_limit"].is_u64(), "{name} has limits");
        let (_, tag) = service["image"].as_str().unwrap().rsplit_once(':').unwrap();
        assert!(
            tag.starts_with(|c: char| c.is_ascii_digit()),
            "{name}: the image is pinned by version, not {tag}"
        );
        assert!(service.get("privileged").is_none() && service.get("network_mode").is_none(), "{name}");
        let networks: BTreeSet<&str> = match &service["networks"] {
            Value::Array(_) => texts(&service["networks"]).into_iter().collect(),
            long => object(long).map(|(network, _)| network.as_str()).collect(),
        };
        assert_eq!(
            networks.contains("targets"),
            name == "target" || gateways.contains(&name.as_str()),
            "{name}: databases are reached through the gateways"
        );
        assert_eq!(
            networks.contains("agents"),
            name == "agent" || gateways.contains(&name.as_str()),
            "{name}"
        );
        assert!(!networks.contains("outside") || gateways.contains(&name.as_str()), "{name} leads out");
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to others than this host");
            assert!(gateways.contains(&name.as_str()), "{name} publishes {port}");
        }
    }
    assert_eq!(object(&compose["services"]["agent"]["networks"]).count(), 0);
    assert_eq!(texts(&compose["services"]["agent"]["networks"]), ["agents"], "an agent reaches nothing else");
    for network in ["agents", "targets", "bus", "lake", "cluster"] {
        assert_eq!(compose["networks"][network]["internal"], true, "{network} leads nowhere else");
    }
    for gateway in gateways {
        let service = &compose["services"][gateway];
        let spool = texts(&service["volumes"]).into_iter().find_map(|v| v.strip_suffix(":/var/lib/bodycam"));
        let spool = spool.unwrap_or_else(|| panic!("{gateway}: the spool is on no volume"));
        assert!(compose["volumes"].get(spool).is_some(), "{gateway}: {spool} is no named volume");
        assert_eq!(service["image"], format!("bodycam-gateway:{}", env!("CARGO_PKG_VERSION")));
        let drain = place::drain(&read("deploy/compose/bodycam.toml"));
        let kafka: u64 =
            service["environment"]["BODYCAM__KAFKA__DRAIN_SECONDS"].as_str().unwrap().parse().unwrap();
        assert!(
            seconds(&service["stop_grace_period"]) >= drain + kafka + 10,
            "{gateway} is killed while it drains"
        );
    }
    // The image has a volume there, too, which would otherwise take the data.
    for kafka in ["kafka-1", "kafka-2", "kafka-3"] {
        assert_eq!(texts(&compose["services"][kafka]["volumes"]), [format!("{kafka}:/var/lib/kafka/data")]);
    }
    assert!(read("deploy/kafka/server.properties").contains("\nlog.dirs=/var/lib/kafka/data/"));
    let spools: BTreeSet<_> =
        gateways.iter().map(|g| compose["services"][*g]["volumes"][0].to_string()).collect();
    assert_eq!(spools.len(), 2, "each gateway has a spool of its own");
}

#[test]
fn topics_are_made_with_what_the_program_asks_for() {
    let script = read("deploy/kafka/topics.sh");
    for part in [
        "events keys ledger findings",
        "max.message.bytes=1048576",
        "cleanup.policy=delete",
        "retention.bytes=-1",
    ] {
        assert!(script.contains(part), "{part}");
    }
    let compose = compose();
    let made = &compose["services"]["kafka-topics"]["environment"];
    let asked = &compose["services"]["gateway-0"]["environment"];
    for (ours, theirs) in [
        ("PARTITIONS", "PARTITIONS"),
        ("REPLICAS", "REPLICAS"),
        ("INSYNC", "MIN_INSYNC_REPLICAS"),
        ("OUTAGE_HOURS", "OUTAGE_HOURS"),
    ] {
        assert_eq!(made[ours], asked[format!("BODYCAM__KAFKA__{theirs}")], "{ours}");
    }
    let users: BTreeSet<&str> = ["GATEWAYS", "RECORDERS", "DETECTION"]
        .iter()
        .flat_map(|k| made[*k].as_str().unwrap().split(' '))
        .collect();
    for (name, service) in object(&compose["services"]) {
        if let Some(user) = service["environment"]["BODYCAM__KAFKA__SASL__USERNAME"].as_str() {
            assert!(users.contains(user), "{name}: {user} has no rights at Kafka");
        }
    }
}

#[test]
fn units_have_usable_configurations_and_credentials() {
    let place = Place::with_secrets();
    for (unit, command, files) in [
        ("bodycam-gateway", "gateway", &["gateway.env"][..]),
        ("bodycam-recorder", "recorder", &["lake.env", "recorder.env"]),
        ("bodycam-detect", "detect", &["lake.env", "detect.env"]),
    ] {
        let place = place.clean();
        let text = read(&format!("deploy/systemd/{unit}.service"));
        let values = |key: &str| -> Vec<String> {
            text.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix('=').map(str::to_owned)).collect()
        };
        let credentials = format!("/run/credentials/{unit}.service");
        for credential in values("LoadCredential") {
            let (name, from) = credential.split_once(':').unwrap();
            assert_eq!(from, format!("/etc/bodycam/credentials/{name}"));
            place.put(&format!("{credentials}/{name}"), &place.secret_for(name));
        }
        for (name, secret) in [("tls.crt", "gateway.crt"), ("ca.crt", "ca.crt")] {
            place.put(&format!("/etc/bodycam/{name}"), &place.secrets().join(secret));
        }
        place.put("/etc/bodycam/bodycam.toml", &root().join("deploy/systemd/bodycam.toml"));
        // The other parts' secrets, which this one does not read but `config check` does.
        place.put("/etc/bodycam/credentials/tls.key", &place.secrets().join("gateway.key"));
        place.put(
            "/run/credentials/bodycam-gateway.service/shop.password",
            &place.secrets().join("target.password"),
        );
        for state in ["/var/lib/bodycam", "/var/lib/bodycam-recorder"] {
            place.make(state);
        }
        let mut environment = Vec::new();
        for assignment in values("Environment") {
            let (name, value) = assignment.split_once('=').unwrap();
            environment.push((name.to_owned(), value.replace("%d", &credentials).replace("%S", "/var/lib")));
        }
        let listed: Vec<String> =
            values("EnvironmentFile").iter().map(|f| f.replace("-/etc/bodycam/", "")).collect();
        assert_eq!(listed, files, "{unit}");
        for file in files {
            environment.extend(place::assignments(&read(&format!("deploy/systemd/{file}"))));
        }
        place.check(unit, command, settings(environment));
        let start = values("ExecStart").remove(0);
        assert!(start.starts_with(&format!("/usr/bin/bodycam {command}")), "{start}");
    }
    let gateway = read("deploy/systemd/bodycam-gateway.service");
    let stop: u64 = gateway.lines().find_map(|l| l.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    assert!(stop >= place::drain(&read("deploy/systemd/bodycam.toml")) + 30 + 10, "killed while it drains");
}

#[test]
fn images_are_built_as_the_decision_says() {
    let text = read("deploy/Containerfile");
    for part in [
        "--no-default-features --features gateway",
        "USER 65532:65532",
        "FROM runtime AS gateway",
        "FROM runtime AS full",
        "ENTRYPOINT [\"/usr/local/bin/bodycam\"]",
    ] {
        assert!(text.contains(part), "{part}");
    }
    for line in text.lines().filter(|l| l.starts_with("FROM docker.io/")) {
        let (_, tag) = line.split_whitespace().nth(1).unwrap().rsplit_once(':').unwrap();
        assert!(tag.starts_with("${RUST}") || tag.starts_with(|c: char| c.is_ascii_digit()), "{line}");
    }
    let rust = text.lines().find_map(|l| l.strip_prefix("ARG RUST=")).unwrap();
    let wanted = read("Cargo.toml")
        .lines()
        .find_map(|l| l.strip_prefix("rust-version = \"").map(|v| v.trim_end_matches('"').to_owned()))
        .unwrap();
    assert!(rust.starts_with(&wanted), "the image builds with Rust {rust}, the workspace wants {wanted}");
}

#[test]
fn the_store_of_tokens_reaches_a_gateway_and_every_later_one_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = root().join("deploy/kubernetes/overlays/dev/bodycam.toml");
    let token = |state: &Path, args: &[&str]| {
        let output = bodycam()
            .arg("token")
            .args(args)
            .arg("--config")
            .arg(&config)
            .env("BODYCAM__STATE__PATH", state)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let issue = || token(&at("issued.db"), &["issue", "--principal", "etl", "--ttl", "1h"]);
    let given = || token(&at("state.db"), &["ls", "--format", "jsonl"]).lines().count();
    let take = || {
        let script = root().join("deploy/kubernetes/base/tokens.sh");
        let output = Command::new("bash")
            .arg(script)
            .arg("once")
            .args([at("issued.db"), at("state.db")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    issue();
    assert!(take().contains("another store"));
    assert_eq!(given(), 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(at("state.db")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "a gateway refuses a store that others can read");
    // A gateway has written into its copy, and one that was killed has left its log.
    fs::write(at("state.db-shm"), "old").unwrap();
    assert_eq!(take(), "", "the same store is not given twice");
    issue();
    assert!(take().contains("another store"));
    assert!(!at("state.db-shm").exists(), "the log of the old store is not the new one's");
    assert_eq!(given(), 2);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".next")), "{left:?}");
}

#[test]
fn rendered_manifests_are_made_of_these_sources() {
    for overlay in OVERLAYS {
        let overlay_dir = format!("deploy/kubernetes/overlays/{overlay}");
        let mut files = Vec::new();
        let dirs = BTreeSet::from([
            "deploy/kubernetes/base",
            "deploy/kubernetes/cluster",
            "deploy/kubernetes/overlays/production",
            overlay_dir.as_str(),
            "deploy/kafka",
            "deploy/target",
        ]);
        for dir in dirs {
            files.extend(
                fs::read_dir(root().join(dir))
                    .unwrap()
                    .map(|e| format!("{dir}/{}", e.unwrap().file_name().display())),
            );
        }
        files.sort();
        let mut hash = Sha256::new();
        for file in &files {
            hash.update(read(file));
        }
        let digest = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        let rendered = read(&format!("deploy/kubernetes/rendered/{overlay}.yaml"));
        assert!(
            rendered.contains(&format!("# sources sha256 {digest}\n")),
            "{overlay}: run `make deploy-render`"
        );
    }
}
