//! The arrows between the crates: `record ← {bus, lake} ← verify ← {proxy, recorder, analyzer, replay-tui} ← bodycam`.
//! The four parts never import one another; only the analyzer links DataFusion.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Which of our crates each may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("bodycam-record", &[]),
    ("bodycam-bus", &["bodycam-record"]),
    ("bodycam-lake", &["bodycam-record"]),
    ("bodycam-verify", &["bodycam-record", "bodycam-lake"]),
    ("bodycam-proxy", &["bodycam-record", "bodycam-bus", "bodycam-lake", "bodycam-verify"]),
    ("bodycam-recorder", &["bodycam-record", "bodycam-bus", "bodycam-lake", "bodycam-verify"]),
    ("bodycam-analyzer", &["bodycam-record", "bodycam-bus", "bodycam-lake", "bodycam-verify"]),
    ("bodycam-replay-tui", &["bodycam-record", "bodycam-bus", "bodycam-lake", "bodycam-verify"]),
    (
        "bodycam",
        &[
            "bodycam-record",
            "bodycam-bus",
            "bodycam-lake",
            "bodycam-verify",
            "bodycam-proxy",
            "bodycam-recorder",
            "bodycam-analyzer",
            "bodycam-replay-tui",
        ],
    ),
];

/// Dependencies that only one crate may name.
const EXCLUSIVE: &[(&str, &str)] = &[
    ("datafusion", "bodycam-analyzer"),
    ("ratatui", "bodycam-replay-tui"),
    ("pg_query", "bodycam-proxy"),
    ("rusqlite", "bodycam-proxy"),
    ("rdkafka", "bodycam-bus"),
];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let normal = |d: &&serde_json::Value| d["kind"].is_null();
    packages
        .iter()
        .map(|p| {
            let names = p["dependencies"].as_array().unwrap().iter().filter(normal);
            (
                p["name"].as_str().unwrap().to_owned(),
                names.map(|d| d["name"].as_str().unwrap().to_owned()).collect(),
            )
        })
        .collect()
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let found = dependencies();
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    assert_eq!(
        found.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>()
    );
    for (name, dependencies) in &found {
        for dependency in dependencies.iter().filter(|d| d.starts_with("bodycam")) {
            assert!(
                allowed[name.as_str()].contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn heavy_dependencies_stay_in_one_crate() {
    for (name, dependencies) in dependencies() {
        for (dependency, owner) in EXCLUSIVE {
            assert!(
                !dependencies.contains(*dependency) || name == *owner,
                "{name} must not name {dependency}"
            );
        }
    }
}

#[test]
fn the_verifier_links_no_runtime_and_no_object_store() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-e",
            "normal",
            "-p",
            "bodycam-verify",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("bodycam-record"));
    for name in ["tokio ", "object_store ", "datafusion ", "rustls "] {
        assert!(!tree.lines().any(|l| l.starts_with(name)), "bodycam-verify links {name}");
    }
}
