//! A root directory of a container or host: what is mounted there, and the program that looks at it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use crate::support::stack::bodycam;

/// A directory that stands for the root.
pub struct Place {
    secrets: Rc<tempfile::TempDir>,
    root: tempfile::TempDir,
    checked: Cell<bool>,
}

impl Place {
    /// An empty root, and beside it everything that deploy/secrets.sh makes.
    pub fn with_secrets() -> Self {
        let secrets = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/secrets.sh");
        let output = Command::new(script).arg(secrets.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { secrets: Rc::new(secrets), root: tempfile::tempdir().unwrap(), checked: Cell::new(false) }
    }

    /// Another empty root with the same secrets beside it.
    pub fn clean(&self) -> Self {
        Self {
            secrets: Rc::clone(&self.secrets),
            root: tempfile::tempdir().unwrap(),
            checked: Cell::new(false),
        }
    }

    pub fn secrets(&self) -> &Path {
        self.secrets.path()
    }

    /// The secret that a credential of a unit is.
    pub fn secret_for(&self, credential: &str) -> PathBuf {
        let file = match credential {
            "tls.key" => "gateway.key",
            "kafka.password" => "kafka-bodycam-gateway-0.password",
            "shop.password" => "target.password",
            "lake.access-key" => "s3.access",
            "lake.secret-key" => "s3.secret",
            same => same,
        };
        self.secrets().join(file)
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.root.path().join(path.strip_prefix('/').unwrap())
    }

    /// A directory that can be written to.
    pub fn make(&self, path: &str) {
        fs::create_dir_all(self.inside(path)).unwrap();
    }

    /// A file there, with what `from` holds.
    pub fn put(&self, path: &str, from: &Path) {
        let text = fs::read(from).unwrap_or_else(|e| panic!("{path} is {}: {e}", from.display()));
        self.write(path, &text);
    }

    pub fn write(&self, path: &str, text: &[u8]) {
        let at = self.inside(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }

    /// A store of tokens among the secrets, as `bodycam token issue` makes it.
    pub fn state_of_tokens(&self) {
        let config =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/overlays/dev/bodycam.toml");
        let mut issue = bodycam();
        issue.args(["token", "issue", "--principal", "etl", "--ttl", "1h", "--config"]).arg(config);
        let output = issue.env("BODYCAM__STATE__PATH", self.secrets().join("state.db")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether every file below /run/secrets and /etc that a container's command and arguments name is there.
    pub fn has(&self, who: &str, container: &serde_json::Value) {
        let words =
            ["command", "args"].into_iter().flat_map(|k| container[k].as_array().into_iter().flatten());
        let mut found = 0;
        for word in words.filter_map(serde_json::Value::as_str) {
            let path = word.rsplit('=').next().unwrap_or(word);
            if path.starts_with("/run/secrets/") || path.starts_with("/etc/") {
                assert!(self.inside(path).exists(), "{who}: {path} is not mounted");
                found += 1;
            }
        }
        assert!(found > 0, "{who}: nothing was looked for");
    }

    /// Whether the program finds everything where its settings say, as `command` in this place.
    pub fn check(&self, who: &str, command: &str, environment: BTreeMap<String, String>) {
        assert!(!self.checked.replace(true), "one place for each part");
        // The paths of the place, wherever it stands.
        let here = |text: &str| {
            ["/run/secrets", "/run/credentials", "/var/lib/bodycam", "/etc/bodycam"]
                .iter()
                .fold(text.to_owned(), |text, path| {
                    text.replace(path, &self.inside(path).display().to_string())
                })
        };
        let config = self.inside("/etc/bodycam/bodycam.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, here(&text)).unwrap();
        // `config check` asks for what all parts need: what this part does not get stands beside it.
        let borrowed = |setting: &str, secret: &str| {
            (setting.to_owned(), self.secrets().join(secret).display().to_string())
        };
        let mut given: BTreeMap<String, String> =
            environment.iter().map(|(k, v)| (k.clone(), here(v))).collect();
        given.remove("BODYCAM_CONFIG");
        if command != "gateway" {
            for (setting, secret) in [
                ("BODYCAM__POSTGRES__TLS__CERT", "gateway.crt"),
                ("BODYCAM__POSTGRES__TLS__KEY", "gateway.key"),
                ("BODYCAM__HTTP__TLS__CERT", "gateway.crt"),
                ("BODYCAM__HTTP__TLS__KEY", "gateway.key"),
            ] {
                let (setting, path) = borrowed(setting, secret);
                given.insert(setting, path);
            }
            given.insert(
                "BODYCAM__TARGETS".to_owned(),
                "[{name = \"shop\", databases = [\"shop\"], address = \"target:5432\", role = \"app\", tls = \"require\"}]".to_owned(),
            );
        }
        if command == "recorder" {
            given.insert(
                "BODYCAM__GATEWAY__TENANT_KEY".to_owned(),
                format!("file:{}", self.secrets().join("tenant.key").display()),
            );
        }
        if command != "recorder" {
            given.insert(
                "BODYCAM__RECORDER__KEY".to_owned(),
                self.root.path().join("recorder.key").display().to_string(),
            );
        }
        let output =
            bodycam().args(["config", "check", "--config"]).arg(&config).envs(&given).output().unwrap();
        assert!(output.status.success(), "{who}: {}", String::from_utf8_lossy(&output.stderr));
        // It was looked at in earnest: without its secrets it is refused.
        let secret = match command {
            "gateway" => "BODYCAM__KAFKA__SASL__PASSWORD",
            "recorder" => "BODYCAM__KAFKA__TLS__CA",
            _ => "BODYCAM__GATEWAY__TENANT_KEY",
        };
        given.insert(secret.to_owned(), format!("file:{}/nowhere/at-all", self.root.path().display()));
        let output =
            bodycam().args(["config", "check", "--config"]).arg(&config).envs(&given).output().unwrap();
        assert!(!output.status.success(), "{who}: usable without {secret}");
    }
}

/// `gateway.drain_seconds` of a configuration.
pub fn drain(text: &str) -> u64 {
    let table: toml::Table = toml::from_str(text).unwrap();
    u64::try_from(table["gateway"]["drain_seconds"].as_integer().unwrap()).unwrap()
}

/// The assignments of a file for an environment.
pub fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('\'').to_owned())
        })
        .collect()
}
