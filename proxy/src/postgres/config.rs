//! `[postgres]` and `[[targets]]` in `bodycam.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bodycam_record::shown;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::inspect::InspectConfig;
use crate::identity::roster::{matches, repeated};
use crate::secret::Secret;

/// The PostgreSQL listener: `[postgres]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// How clients prove who they are: `scram` (a token as SCRAM password) or `token` (a token in clear, over TLS or from a loopback address only).
    pub auth: ClientAuth,
    /// Encryption of the client's side. Without it clients connect in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Seconds from a client's connecting to its being logged in.
    pub startup_timeout_seconds: u64,
    /// Seconds for connecting and logging in to a target.
    pub connect_timeout_seconds: u64,
    /// Longest Query, Parse, Bind or FunctionCall in bytes; longer ones are refused with SQLSTATE 54000. COPY data has no limit.
    pub max_statement_bytes: usize,
    /// Seconds that a client may stay silent outside a transaction before its session is closed; no limit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,
    /// PostgreSQL sessions that a principal may have open at the same time, unless its own `max_sessions` says otherwise.
    pub max_sessions_per_principal: u32,
    /// Seconds that a running statement or transaction gets to finish when the gateway stops; `gateway.drain_seconds` bounds it.
    pub drain_seconds: u64,
    /// Seconds between two looks at whether the principal of an open session may go on, at most 60.
    pub recheck_seconds: u64,
    /// How statements are analysed.
    pub inspect: InspectConfig,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// SCRAM-SHA-256 with the token as password; with channel binding over TLS.
    #[default]
    Scram,
    /// The token as password in clear, over TLS or from a loopback address only.
    Token,
}

/// Encryption of the client's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// File with the certificate chain (PEM).
    pub cert: PathBuf,
    /// File with the private key (PEM).
    pub key: PathBuf,
    /// Whether clients that do not ask for encryption are refused.
    #[serde(default)]
    pub required: bool,
}

/// A PostgreSQL server behind the gateway: `[[targets]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Name, as principals' `targets` and the record know it.
    pub name: String,
    /// Databases that lead to this target: names, or patterns with `*`. The first target that has the client's database takes it; one that an earlier target takes whole is refused.
    pub databases: Vec<String>,
    /// Host and port of the server, `"db.internal:5432"`.
    pub address: String,
    /// Role that the gateway logs in with.
    pub role: String,
    /// Where the role's password lies: `env:NAME` or `file:PATH`. None when the server asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Encryption of the target's side: `disable`, `require` (encrypted, certificate not checked) or `verify-full` (certificate and host name checked).
    #[serde(default)]
    pub tls: UpstreamTls,
    /// File with the certificates (PEM) of the authorities that `verify-full` trusts; the usual public ones when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Relations that hold what must not leave, `schema.relation`, no patterns: detections watch reads of them.
    #[serde(default)]
    pub sensitive: Vec<String>,
}

/// Encryption of the target's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamTls {
    /// In clear.
    Disable,
    /// Encrypted; the certificate is not checked.
    Require,
    /// Encrypted; the certificate must be valid for the host name.
    #[default]
    VerifyFull,
}

/// A configuration that cannot work.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A field of `[postgres]`.
    #[error("[postgres] {field}: {problem}")]
    Listener { field: &'static str, problem: String },
    /// A field of a target.
    #[error("target '{target}', field '{field}': {problem}")]
    Target { target: String, field: &'static str, problem: String },
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 6432)),
            auth: ClientAuth::Scram,
            tls: None,
            startup_timeout_seconds: 20,
            connect_timeout_seconds: 10,
            max_statement_bytes: 64 << 20,
            idle_timeout_seconds: None,
            max_sessions_per_principal: 100,
            drain_seconds: 10,
            recheck_seconds: 60,
            inspect: InspectConfig::default(),
        }
    }
}

impl PostgresConfig {
    /// Relative paths lie below `base`.
    pub fn rebase(&mut self, base: &Path) {
        if let Some(tls) = &mut self.tls {
            tls.cert = base.join(&tls.cert);
            tls.key = base.join(&tls.key);
        }
    }

    /// Refuses what cannot work, alone and with these targets.
    pub fn check(&self, targets: &[TargetConfig]) -> Result<(), ConfigError> {
        let fault = |field, problem: &str| Err(ConfigError::Listener { field, problem: problem.to_owned() });
        if self.startup_timeout_seconds == 0 {
            return fault("startup_timeout_seconds", "0 would let nobody in");
        }
        if self.connect_timeout_seconds == 0 {
            return fault("connect_timeout_seconds", "0 would reach no target");
        }
        if !(1024..=1 << 30).contains(&self.max_statement_bytes) {
            return fault("max_statement_bytes", "must be between 1 KiB and 1 GiB");
        }
        if self.idle_timeout_seconds == Some(0) {
            return fault("idle_timeout_seconds", "0 would close every session; leave it out for no limit");
        }
        if self.max_sessions_per_principal == 0 {
            return fault("max_sessions_per_principal", "0 would let nobody in");
        }
        if self.auth == ClientAuth::Token && self.tls.is_none() && !self.listen.ip().is_loopback() {
            let problem =
                "\"token\" sends tokens in clear: set [postgres.tls], or listen on a loopback address";
            return fault("auth", problem);
        }
        if !(1..=60).contains(&self.recheck_seconds) {
            return fault("recheck_seconds", "must be between 1 and 60");
        }
        for (at, target) in targets.iter().enumerate() {
            target.check()?;
            if targets.iter().take(at).any(|before| before.name == target.name) {
                let problem = "appears twice; names are unique".to_owned();
                return Err(ConfigError::Target { target: shown(&target.name), field: "name", problem });
            }
            target.check_reached(targets.get(..at).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl TargetConfig {
    /// Relative paths lie below `base`.
    pub fn rebase(&mut self, base: &Path) {
        if let Some(ca) = &mut self.ca {
            *ca = base.join(&*ca);
        }
        if let Some(password) = &mut self.password {
            password.rebase(base);
        }
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fault = |field, problem: &str| {
            Err(ConfigError::Target { target: shown(&self.name), field, problem: problem.to_owned() })
        };
        let lawful = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(lawful) {
            return fault("name", "must be 1 to 63 of the characters A-Z a-z 0-9 . _ -");
        }
        if self.databases.is_empty() || self.databases.iter().any(String::is_empty) {
            return fault("databases", "must name at least one database, or \"*\", and no empty one");
        }
        for (field, list) in [("databases", &self.databases), ("sensitive", &self.sensitive)] {
            if let Some(twice) = repeated(list) {
                return fault(field, &format!("'{}' appears twice; remove one of them", shown(twice)));
            }
        }
        if self.host_port().is_none() {
            return fault("address", "must be host:port, for example \"db.internal:5432\"");
        }
        if self.role.is_empty() {
            return fault("role", "must name a role of the server");
        }
        if self.ca.is_some() && self.tls != UpstreamTls::VerifyFull {
            return fault("ca", "does nothing unless tls = \"verify-full\"; remove one of them");
        }
        let qualified =
            |name: &String| matches!(name.split_once('.'), Some((s, n)) if !s.is_empty() && !n.is_empty());
        if !self.sensitive.iter().all(qualified) {
            return fault("sensitive", "names relations as schema.relation");
        }
        if let Some(pattern) = self.sensitive.iter().find(|name| name.contains('*')) {
            let problem = format!(
                "'{}' is a pattern, and names are compared as they are; list each relation, as schema.relation",
                shown(pattern)
            );
            return fault("sensitive", &problem);
        }
        Ok(())
    }

    /// Refuses databases that the targets `before` this one take already: the first one that serves a database
    /// gets it.
    fn check_reached(&self, before: &[TargetConfig]) -> Result<(), ConfigError> {
        for own in &self.databases {
            // A star in a name is matched by a star only, so that a pattern matches another one, read as a name, when
            // it takes all that the other one takes. Several patterns together take no more of it than one of them:
            // each must take the names with something in the star's place that none of them spells.
            let taken = before.iter().find_map(|target| {
                target.databases.iter().find(|pattern| matches(pattern, own)).map(|pattern| (target, pattern))
            });
            let Some((first, pattern)) = taken else { continue };
            let (own_name, first_name) = (shown(&self.name), shown(&first.name));
            let remedy = match matches(own, pattern) {
                true => "remove one of the two".to_owned(),
                false => format!("put '{own_name}' before '{first_name}', or remove it"),
            };
            let problem = format!(
                "'{}' never leads here: target '{first_name}' stands before and takes it with '{}'; {remedy}",
                shown(own),
                shown(pattern)
            );
            return Err(ConfigError::Target { target: own_name, field: "databases", problem });
        }
        Ok(())
    }

    /// Whether `database` leads here.
    pub fn serves(&self, database: &str) -> bool {
        self.databases.iter().any(|pattern| matches(pattern, database))
    }

    /// Host (without brackets) and port.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|p| *p != 0)?;
        (!host.is_empty()).then_some((host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(more: &str) -> Result<TargetConfig, String> {
        let text = format!(
            "name = \"crm\"\ndatabases = [\"crm\", \"crm_*\"]\naddress = \"db:5432\"\nrole = \"app\"\n{more}"
        );
        toml::from_str::<TargetConfig>(&text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_target_takes_its_databases_and_no_others() {
        let target = target("").unwrap();
        target.check().unwrap();
        assert_eq!(target.tls, UpstreamTls::VerifyFull, "encrypted and checked unless said otherwise");
        for (database, served) in [("crm", true), ("crm_2025", true), ("crmx", false), ("", false)] {
            assert_eq!(target.serves(database), served, "{database}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_field() {
        let cases: [(&str, &str); 6] = [
            ("tls = \"disable\"\nca = \"ca.pem\"", "ca"),
            ("sensitive = [\"customers\"]", "sensitive"),
            ("sensitive = [\"public.customers\", \"public.*\"]", "'public.*' is a pattern"),
            ("sensitive = [\"a.b\", \"a.c\", \"a.b\"]", "'a.b' appears twice"),
            ("tls = \"prefer\"", "unknown variant"),
            ("host = \"x\"", "unknown field"),
        ];
        for (more, named) in cases {
            let error = match target(more) {
                Ok(target) => target.check().unwrap_err().to_string(),
                Err(error) => error,
            };
            assert!(error.contains(named), "{more}: {error}");
        }
        for address in ["db", "db:", "db:0", "db:x", ":5432"] {
            let bad = TargetConfig { address: address.to_owned(), ..target("").unwrap() };
            assert!(bad.check().unwrap_err().to_string().contains("address"), "{address}");
        }
        let v6 = TargetConfig { address: "[::1]:5432".to_owned(), ..target("").unwrap() };
        assert_eq!(v6.host_port(), Some(("::1", 5432)));
    }

    #[test]
    fn a_database_that_an_earlier_target_takes_whole_is_refused_with_both_names() {
        let check = |lists: &[&[&str]]| {
            let targets = lists.iter().enumerate().map(|(at, databases)| TargetConfig {
                name: format!("t{at}"),
                databases: databases.iter().map(|d| (*d).to_owned()).collect(),
                ..target("").unwrap()
            });
            PostgresConfig::default().check(&targets.collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        for (lists, remedy) in [
            (
                &[&["x"][..], &["x"][..]][..],
                "target 't1', field 'databases': 'x' never leads here: target 't0' stands before and takes it with 'x'; remove one of the two",
            ),
            (
                &[&["*"], &["y"]],
                "'y' never leads here: target 't0' stands before and takes it with '*'; put 't1' before 't0', or remove it",
            ),
            (&[&["ab*"], &["abc*"]], "takes it with 'ab*'; put 't1'"),
            (
                &[&["a*"], &["b"], &["c", "a*b*"]],
                "target 't2', field 'databases': 'a*b*' never leads here: target 't0'",
            ),
            (&[&["*a*b*"], &["xa*b"]], "'xa*b' never"),
            (&[&["a**"], &["a*"]], "remove one of the two"),
            (&[&["x", "x"]], "'x' appears twice"),
        ] {
            let error = check(lists).unwrap_err();
            assert!(error.contains(remedy), "{lists:?}: {error}");
        }
        for lists in [
            &[&["y"][..], &["*"][..]][..],
            &[&["abc*"], &["ab*"]],
            &[&["ab*"], &["*ab"]],
            &[&["a*b"], &["a*"], &["*"]],
            &[&["a*", "b*"], &["*c"]],
            &[&["*", "x"]],
            &[&["x"], &["X"]],
        ] {
            check(lists).unwrap_or_else(|error| panic!("{lists:?}: {error}"));
        }
    }

    #[test]
    fn tokens_in_clear_need_tls_or_loopback() {
        let open = PostgresConfig {
            auth: ClientAuth::Token,
            listen: SocketAddr::from(([0, 0, 0, 0], 6432)),
            ..PostgresConfig::default()
        };
        assert!(open.check(&[]).unwrap_err().to_string().contains("auth"));
        PostgresConfig { listen: SocketAddr::from(([127, 0, 0, 1], 1)), ..open }.check(&[]).unwrap();
    }
}
