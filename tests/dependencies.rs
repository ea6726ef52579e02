//! `deny.toml` without cargo-deny: licences, banned crates and sources of everything that we build with, from what
//! cargo itself says, without a network. `make deny` asks cargo-deny, which also reads licence texts.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What cargo says of the packages that the root package and its tests are built from.
fn metadata() -> Value {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--offline",
            "--format-version",
            "1",
            "--filter-platform",
            &host,
            "--features",
            "cluster",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> Vec<Value> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<&str> = nodes.iter().map(|n| n["id"].as_str().unwrap()).collect();
    let all = metadata["packages"].as_array().unwrap().iter();
    all.filter(|p| used.contains(p["id"].as_str().unwrap())).cloned().collect()
}

/// Names of the packages that are built with `package`.
fn dependents(metadata: &Value, package: &Value) -> BTreeSet<String> {
    let built_with = |node: &&Value| {
        node["deps"].as_array().unwrap().iter().any(|dependency| dependency["pkg"] == package["id"])
    };
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter().filter(built_with);
    let ids: BTreeSet<&str> = nodes.map(|node| node["id"].as_str().unwrap()).collect();
    let all = metadata["packages"].as_array().unwrap().iter();
    let named = all.filter(|p| ids.contains(p["id"].as_str().unwrap()));
    named.map(|p| p["name"].as_str().unwrap().to_owned()).collect()
}

fn texts(value: &toml::Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// Whether an SPDX expression is satisfied by the licences that are allowed. `/` is the old spelling of `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let held = any_of(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "not an SPDX expression: {expression}");
    held
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut held = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        held |= all_of(words, at, allowed);
    }
    held
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut held = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        held &= one(words, at, allowed);
    }
    held
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let word = words[*at];
    *at += 1;
    if word == "(" {
        let held = any_of(words, at, allowed);
        assert_eq!(words.get(*at), Some(&")"), "{words:?}");
        *at += 1;
        return held;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
        return allowed.contains(&format!("{word} WITH {}", words[*at - 1]));
    }
    allowed.contains(word)
}

#[test]
fn licences_bans_and_sources_are_as_deny_toml_says() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    let deny: toml::Value = toml::from_str(&text).unwrap();
    let allowed = texts(&deny["licenses"]["allow"]);
    let banned = deny["bans"]["deny"].as_array().unwrap().iter();
    let wrappers = |b: &toml::Value| b.get("wrappers").map(texts).unwrap_or_default();
    let banned: BTreeMap<&str, BTreeSet<String>> =
        banned.map(|b| (b["name"].as_str().unwrap(), wrappers(b))).collect();
    let metadata = metadata();
    let packages = packages(&metadata);
    assert!(packages.len() > 300, "{}", packages.len());
    let mut wrong = Vec::new();
    for package in &packages {
        let name = format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        match package["license"].as_str() {
            Some(expression) if is_allowed(expression, &allowed) => {}
            licence => wrong.push(format!("{name}: licence {licence:?}")),
        }
        if let Some(wrappers) = banned.get(package["name"].as_str().unwrap())
            && (wrappers.is_empty() || !dependents(&metadata, package).is_subset(wrappers))
        {
            wrong.push(format!("{name}: banned"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|s| s != "registry+https://github.com/rust-lang/crates.io-index") {
            wrong.push(format!("{name}: from {source:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let allowed: BTreeSet<String> =
        ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for (expression, held) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0 OR MIT AND ISC", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND GPL-3.0", false),
        ("Apache-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
    ] {
        assert_eq!(is_allowed(expression, &allowed), held, "{expression}");
    }
}
