//! A lake behind the API of S3: Amazon's, or any server that speaks it and honours `If-None-Match: *`.
//!
//! Source: [PutObject](https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html) (conditional writes).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use super::object_path;
use super::objects::ObjectWrites;
use crate::error::LakeError;
use crate::layout;

/// Scheme of the locations.
pub(super) const SCHEME: &str = "s3";
/// Longest bucket name, and shortest.
const BUCKET: std::ops::RangeInclusive<usize> = 3..=63;
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// For how long somebody who waits is let wait for a service that takes no connection.
const FIRST_CONTACT: Duration = Duration::from_secs(3);

/// How an S3 service is reached. What is absent here comes from the environment, as for Amazon's own tools
/// (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …, a web identity, or the role of the machine).
#[derive(Clone)]
pub struct S3Options {
    /// URL of the service; Amazon's when absent.
    pub endpoint: Option<String>,
    /// Region; `us-east-1` when nothing names one.
    pub region: Option<String>,
    /// The key that signs requests.
    pub credentials: Option<S3Credentials>,
    /// Authorities (PEM) that are trusted beside the system's.
    pub ca: Option<Vec<u8>>,
    /// Whether an endpoint without TLS will do.
    pub allow_http: bool,
    /// Whether the bucket stands in the path of requests, or in front of the endpoint's host.
    pub path_style: bool,
    /// Longest a single request may take.
    pub timeout: Duration,
    /// For how long a request that fails in a way that may pass is tried again.
    pub retry: Duration,
}

/// A key of an S3 service. It is never shown.
#[derive(Clone)]
pub struct S3Credentials {
    /// Its name.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The token of a session, for keys that are valid for a time only.
    pub session_token: Option<String>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            credentials: None,
            ca: None,
            allow_http: false,
            path_style: true,
            timeout: Duration::from_secs(30),
            retry: Duration::from_secs(60),
        }
    }
}

/// The two sides of the lake in a bucket.
pub(super) struct Sides {
    pub reads: Arc<dyn ObjectStore>,
    pub writes: ObjectWrites,
    pub contact: Contact,
}

/// How it is found out whether the service is there at all.
pub(super) struct Contact {
    /// Gives up soon.
    store: Arc<dyn ObjectStore>,
    /// What messages call the lake, and the service.
    lake: String,
    service: String,
    timeout: Duration,
}

impl Contact {
    /// Whether connections are taken. Whatever the service answers is an answer.
    pub async fn reach(&self) -> Result<(), LakeError> {
        let began = Instant::now();
        let Err(err) = self.store.head(&object_path(&layout::stream(0))?).await else { return Ok(()) };
        let causes = || std::iter::successors(Some(&err as &dyn std::error::Error), |err| err.source());
        let kind = causes().find_map(|err| err.downcast_ref::<HttpError>()).map(HttpError::kind);
        let refused = match kind {
            Some(HttpErrorKind::Connect) => true,
            // For a connection, not for an answer.
            Some(HttpErrorKind::Timeout) => began.elapsed() < self.timeout,
            _ => false,
        };
        if !refused {
            return Ok(());
        }
        Err(LakeError::Unreachable {
            store: self.lake.clone(),
            service: self.service.clone(),
            // The last cause is what the system says; those before it repeat one another.
            reason: bodycam_record::shown(&causes().last().map(ToString::to_string).unwrap_or_default()),
        })
    }
}

/// The lake at `place`, `bucket[/prefix]`. Nothing is asked of the service yet.
pub(super) fn open(place: &str, options: &S3Options) -> Result<Sides, LakeError> {
    let unsuitable = |reason: String| LakeError::Unsuitable {
        store: bodycam_record::shown(&format!("{SCHEME}://{place}")),
        reason: bodycam_record::shown(&reason),
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if !BUCKET.contains(&bucket.len()) || !bucket.chars().all(known) {
        let rule = "a bucket has 3 to 63 small letters, digits, '-' and '.': s3://bucket/prefix";
        return Err(unsuitable(rule.to_owned()));
    }
    let prefix = Path::parse(prefix).map_err(|err| unsuitable(err.to_string()))?;
    let endpoint = options.endpoint.clone().or_else(endpoint_of_environment);
    let endpoint = match (endpoint, options.path_style) {
        (Some(endpoint), false) => Some(in_front_of(&endpoint, bucket).map_err(unsuitable)?),
        (endpoint, _) => endpoint,
    };
    let build = |retry: RetryConfig| {
        let client = client(options).map_err(|err| unsuitable(err.to_string()))?;
        let mut builder = from_environment(AmazonS3Builder::new().with_client_options(client), options)
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_virtual_hosted_style_request(!options.path_style);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if options.allow_http {
            builder = builder.with_allow_http(true);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some(key) = &options.credentials {
            builder = builder.with_access_key_id(&key.access_key).with_secret_access_key(&key.secret_key);
            if let Some(token) = &key.session_token {
                builder = builder.with_token(token);
            }
        }
        let store = builder.build().map_err(|err| unsuitable(err.to_string()))?;
        Ok::<Arc<dyn ObjectStore>, LakeError>(Arc::new(PrefixStore::new(store, prefix.clone())))
    };
    let retry = RetryConfig { max_retries: usize::MAX, retry_timeout: options.retry, backoff: backoff() };
    let reads = build(retry.clone())?;
    let once = build(RetryConfig { max_retries: 0, ..retry.clone() })?;
    let backoff = BackoffConfig { max_backoff: FIRST_CONTACT / 4, ..backoff() };
    let soon = RetryConfig { retry_timeout: FIRST_CONTACT.min(options.retry), backoff, ..retry };
    let contact = Contact {
        store: build(soon)?,
        lake: bodycam_record::shown(&format!("{SCHEME}://{place}")),
        service: bodycam_record::shown(endpoint.as_deref().unwrap_or("Amazon's endpoint of the region")),
        timeout: options.timeout,
    };
    let writes = ObjectWrites::new(reads.clone(), once, options.retry);
    Ok(Sides { reads, writes, contact })
}

/// The endpoint with the bucket as the first part of its host.
fn in_front_of(endpoint: &str, bucket: &str) -> Result<String, String> {
    let want = || format!("'{endpoint}' is no URL; want https://HOST[:PORT]");
    let (scheme, rest) = endpoint.trim_end_matches('/').split_once("://").ok_or_else(want)?;
    let host = rest.split([':', '/']).next().unwrap_or_default();
    if rest.starts_with('[') || host.parse::<Ipv4Addr>().is_ok() {
        return Err(format!(
            "no bucket can stand in front of an address ({endpoint}): name the host, or say lake.s3.path_style = true"
        ));
    }
    match host.split_once('.') {
        Some((first, _)) if first == bucket => Ok(format!("{scheme}://{rest}")),
        _ => Ok(format!("{scheme}://{bucket}.{rest}")),
    }
}

/// Where the environment says that the service is.
fn endpoint_of_environment() -> Option<String> {
    let named =
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut named = named.filter(|endpoint| !endpoint.is_empty());
    named.next()
}

/// Variables that say how an endpoint of the environment is reached.
const ENDPOINT: [&str; 1] = ["AWS_ALLOW_HTTP"];
/// Variables that name the region.
const REGION: [&str; 2] = ["AWS_DEFAULT_REGION", "AWS_REGION"];
/// Variables that hold a key, or say where one is to be had.
const CREDENTIALS: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// What the environment says, of what the options do not. Nothing else is taken from there: no variable overrides what is
/// configured, or takes away the checks of certificates and signatures.
fn from_environment(mut builder: AmazonS3Builder, options: &S3Options) -> AmazonS3Builder {
    let groups: [(bool, &[&str]); 3] = [
        (options.endpoint.is_none(), &ENDPOINT),
        (options.region.is_none(), &REGION),
        (options.credentials.is_none(), &CREDENTIALS),
    ];
    for name in groups.into_iter().filter(|(absent, _)| *absent).flat_map(|(_, names)| names) {
        if let (Ok(value), Ok(key)) = (std::env::var(name), name.to_ascii_lowercase().parse()) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

fn client(options: &S3Options) -> object_store::Result<ClientOptions> {
    let mut client =
        ClientOptions::new().with_timeout(options.timeout).with_connect_timeout(CONNECT.min(options.timeout));
    if options.allow_http {
        client = client.with_allow_http(true);
    }
    if let Some(pem) = &options.ca {
        for certificate in Certificate::from_pem_bundle(pem)? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

fn backoff() -> BackoffConfig {
    BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2. }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_in_front_of_the_host_of_an_endpoint() {
        for (endpoint, hosted) in [
            ("https://s3.example.com", Ok("https://lake.s3.example.com")),
            ("https://s3.example.com/", Ok("https://lake.s3.example.com")),
            ("http://localhost:9000", Ok("http://lake.localhost:9000")),
            ("https://lake.s3.example.com:9000", Ok("https://lake.s3.example.com:9000")),
            ("https://lakes.example.com", Ok("https://lake.lakes.example.com")),
            ("http://127.0.0.1:9000", Err("path_style = true")),
            ("http://[::1]:9000", Err("path_style = true")),
            ("s3.example.com", Err("want https://HOST")),
        ] {
            match (in_front_of(endpoint, "lake"), hosted) {
                (Ok(made), Ok(hosted)) => assert_eq!(made, hosted),
                (Err(why), Err(said)) => assert!(why.contains(said), "{why}"),
                other => panic!("{endpoint}: {other:?}"),
            }
        }
    }

    /// An address at which nobody listens.
    fn nowhere() -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    #[tokio::test]
    async fn a_service_that_takes_no_connection_is_named_within_seconds_however_patient_the_lake_is() {
        for endpoint in [nowhere(), "http://no-such-host.invalid".to_owned()] {
            let options = S3Options {
                endpoint: Some(endpoint.clone()),
                credentials: Some(S3Credentials {
                    access_key: "key".to_owned(),
                    secret_key: "secret".to_owned(),
                    session_token: None,
                }),
                allow_http: true,
                ..S3Options::default()
            };
            let began = Instant::now();
            let sides = open("the-lake/v1", &options).unwrap();
            let message = sides.contact.reach().await.unwrap_err().to_string();
            assert!(began.elapsed() < 4 * FIRST_CONTACT, "{:?}", began.elapsed());
            assert!(message.contains("s3://the-lake/v1") && message.contains(&endpoint), "{message}");
        }
    }
}
