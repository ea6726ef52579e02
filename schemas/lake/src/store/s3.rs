//! A lake behind the API of S3: Amazon's, or any server that speaks it and honours `If-None-Match: *`.
//!
//! Source: [PutObject](https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html) (conditional writes).

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::objects::ObjectWrites;
use crate::error::LakeError;

/// Scheme of the locations.
pub(super) const SCHEME: &str = "s3";
/// Longest bucket name, and shortest.
const BUCKET: std::ops::RangeInclusive<usize> = 3..=63;
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

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
    /// Whether the bucket stands in the path of requests, or in the name of the host.
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
    let build = |max_retries| {
        let client = client(options).map_err(|err| unsuitable(err.to_string()))?;
        let retry = RetryConfig { max_retries, retry_timeout: options.retry, backoff: backoff() };
        let mut builder = from_environment(AmazonS3Builder::new().with_client_options(client), options)
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_virtual_hosted_style_request(!options.path_style);
        if let Some(endpoint) = &options.endpoint {
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
    let reads = build(usize::MAX)?;
    let writes = ObjectWrites::new(reads.clone(), build(0)?, options.retry);
    Ok(Sides { reads, writes })
}

/// Variables that say where the service is; a later one goes before an earlier one.
const ENDPOINT: [&str; 3] = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"];
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
