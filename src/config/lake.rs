//! `[lake]` in `bodycam.toml`: where the record rests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
#[cfg(any(feature = "recorder", feature = "reader"))]
use bodycam_lake::store::{S3Credentials, S3Options, Store};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rebased_reference;

/// Longest time, in seconds, that a request or all its attempts may be given.
const LONGEST: u64 = 3600;

/// `[lake]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// A directory, a `file://` URL, or `s3://bucket/prefix`. The bucket must exist, and its service must honour
    /// `If-None-Match: *` when an object is put; one that does not is refused at the start.
    pub url: String,
    /// How an S3 service is reached. What is absent comes from the environment, as for Amazon's own tools
    /// (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …, a web identity, or the role of the machine).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Config>,
}

/// `[lake.s3]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// URL of the service; Amazon's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Reference to the name of the key that signs requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Reference to the secret of that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// Reference to the token of a session, for keys that are valid for a time only. It is read once, at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
    /// File with certificates (PEM) of authorities that are trusted beside the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether an endpoint without TLS will do: whoever is between reads and alters the record then.
    pub allow_http: bool,
    /// Whether the bucket stands in the path of requests (`https://s3.example.com/BUCKET/…`); otherwise in front of the endpoint's host, which is a name then (`https://BUCKET.s3.example.com/…`). An endpoint that begins with the bucket stays as it is.
    pub path_style: bool,
    /// Seconds that a single request may take.
    pub timeout_seconds: u64,
    /// Seconds for which a request is tried again after errors that may pass (no answer, 5xx, 429, slow down).
    pub retry_seconds: u64,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self { url: "lake".to_owned(), s3: None }
    }
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key: None,
            secret_key: None,
            session_token: None,
            ca: None,
            allow_http: false,
            path_style: true,
            timeout_seconds: 30,
            retry_seconds: 60,
        }
    }
}

impl LakeConfig {
    /// The lake at `url`, as the environment describes it.
    #[cfg(any(feature = "recorder", feature = "reader"))]
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), s3: None }
    }

    /// A relative path lies below `base`.
    pub(super) fn rebase(&mut self, base: &Path) {
        if !self.url.is_empty() && !self.url.contains("://") {
            self.url = base.join(&self.url).display().to_string();
        }
        if let Some(s3) = &mut self.s3 {
            for reference in
                [&mut s3.access_key, &mut s3.secret_key, &mut s3.session_token].into_iter().flatten()
            {
                *reference = rebased_reference(reference, base);
            }
            s3.ca = s3.ca.take().map(|ca| base.join(ca));
        }
    }

    /// Refuses what cannot be a lake, and what would do nothing. What is referred to is read, no service is asked.
    #[cfg(feature = "gateway")]
    pub(super) fn check(&self) -> Result<()> {
        const PLACES: &str = "name a directory, file://PATH or s3://BUCKET/PREFIX";
        ensure!(!self.url.is_empty(), "[lake] url: {PLACES}");
        match (self.url.split_once("://").map(|(scheme, _)| scheme), &self.s3) {
            (None | Some("file"), None) | (Some("s3"), None) => Ok(()),
            (Some("s3"), Some(s3)) => s3.check(),
            (None | Some("file"), Some(_)) => bail!("[lake.s3] would do nothing: url is a directory"),
            (Some(scheme), _) => {
                bail!("[lake] url: '{}://' is not supported; {PLACES}", bodycam_record::shown(scheme))
            }
        }
    }

    /// Opens the store. A directory must exist.
    #[cfg(any(feature = "recorder", feature = "reader"))]
    pub fn open(&self) -> Result<Store> {
        Ok(Store::open_at(&self.url, &self.options()?)?)
    }

    /// As [`LakeConfig::open`], for people who wait: a service that takes no connections is an error within seconds.
    #[cfg(any(feature = "recorder", feature = "reader"))]
    pub fn reach(&self) -> Result<Store> {
        let store = self.open()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(store.reach())?;
        Ok(store)
    }

    /// Opens the store; a directory is made when it is not there.
    #[cfg(feature = "recorder")]
    pub fn create(&self) -> Result<Store> {
        Ok(Store::create_at(&self.url, &self.options()?)?)
    }

    #[cfg(any(feature = "recorder", feature = "reader"))]
    fn options(&self) -> Result<S3Options> {
        self.s3.as_ref().map_or_else(|| Ok(S3Options::default()), S3Config::options)
    }
}

impl S3Config {
    #[cfg(feature = "gateway")]
    fn check(&self) -> Result<()> {
        for (name, seconds) in
            [("timeout_seconds", self.timeout_seconds), ("retry_seconds", self.retry_seconds)]
        {
            ensure!((1..=LONGEST).contains(&seconds), "[lake.s3] {name}: must be 1 to {LONGEST}");
        }
        if let Some(endpoint) = &self.endpoint {
            let shown = bodycam_record::shown(endpoint);
            match endpoint.split_once("://").map(|(scheme, _)| scheme) {
                Some("https") => {}
                Some("http") if self.allow_http => {}
                Some("http") => {
                    bail!("[lake.s3] endpoint: {shown} has no TLS; use https://, or say allow_http = true")
                }
                _ => bail!("[lake.s3] endpoint: '{shown}' is no URL; want https://HOST[:PORT]"),
            }
            ensure!(
                self.path_style || !is_address(endpoint),
                "[lake.s3] path_style: no bucket can stand in front of an address ({shown}): name the host, or say \
                 path_style = true"
            );
        }
        if self.access_key.is_none() && self.session_token.is_some() {
            bail!("[lake.s3] session_token would do nothing without access_key and secret_key");
        }
        self.secrets()?;
        self.authorities().map(drop)
    }

    #[cfg(any(feature = "recorder", feature = "reader"))]
    fn options(&self) -> Result<S3Options> {
        let credentials = self.secrets()?.map(|[access_key, secret_key, token]| S3Credentials {
            access_key,
            secret_key,
            session_token: (!token.is_empty()).then_some(token),
        });
        Ok(S3Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            credentials,
            ca: self.authorities()?,
            allow_http: self.allow_http,
            path_style: self.path_style,
            timeout: std::time::Duration::from_secs(self.timeout_seconds),
            retry: std::time::Duration::from_secs(self.retry_seconds),
        })
    }

    /// Name, secret and token of the key; the token is empty when there is none.
    fn secrets(&self) -> Result<Option<[String; 3]>> {
        let read = |name: &str, reference: &str| {
            crate::reference::read(reference).with_context(|| format!("[lake.s3] {name}"))
        };
        let (access, secret) = match (&self.access_key, &self.secret_key) {
            (None, None) => return Ok(None),
            (Some(access), Some(secret)) => (access, secret),
            _ => bail!("[lake.s3] access_key and secret_key go together: give both or none"),
        };
        let token = match &self.session_token {
            Some(token) => read("session_token", token)?,
            None => String::new(),
        };
        Ok(Some([read("access_key", access)?, read("secret_key", secret)?, token]))
    }

    fn authorities(&self) -> Result<Option<Vec<u8>>> {
        let read = |ca: &PathBuf| {
            let pem =
                std::fs::read(ca).with_context(|| format!("[lake.s3] ca: cannot read {}", ca.display()))?;
            let marker = b"-----BEGIN CERTIFICATE-----";
            let holds_one = pem.windows(marker.len()).any(|window| window == marker);
            ensure!(holds_one, "[lake.s3] ca: {} holds no certificate (PEM)", ca.display());
            Ok(pem)
        };
        self.ca.as_ref().map(read).transpose()
    }
}

/// Whether the host of a URL is an address and no name.
#[cfg(feature = "gateway")]
fn is_address(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split([':', '/']).next().unwrap_or_default();
    rest.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}
