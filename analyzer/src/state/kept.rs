//! Roll-ups as objects under `state/`: what they are called, and who may have written them.
//!
//! Invariant: what is read back was written under the tenant key, under this very name; and the name, which only the
//! tenant key can make, says which rows it was made of. So workers of one key share what they keep, those of another
//! key never meet it, and a worker that is killed leaves the object that was there, or the new one.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bodycam_lake::store::Put;
use bodycam_lake::window::ReadPosition;
use bodycam_lake::{LakeError, Store, layout};
use bodycam_record::{Digest, TenantKey};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::{Period, columns};
use crate::detect::Metrics;
use crate::engine::Part;

/// Rows in a page and in a row group: little is decoded for one principal or host.
const PAGE_ROWS: usize = 2048;
const GROUP_ROWS: usize = 64 * 1024;
/// Key of a file's metadata under which it says how far every stream was read when it was made.
const READ: &str = "bodycam.read";

/// Where roll-ups are kept.
pub(super) struct Kept {
    store: Store,
    tenant: Option<TenantKey>,
    metrics: Arc<Metrics>,
}

impl Kept {
    pub(super) fn new(store: Store, tenant: Option<TenantKey>, metrics: Arc<Metrics>) -> Self {
        Self { store, tenant, metrics }
    }

    /// The roll-up of these rows, if it is kept and can be used.
    pub(super) async fn read(
        &self,
        table: &str,
        period: Period,
        id: Digest,
    ) -> Result<Option<Part>, LakeError> {
        let Some(tenant) = &self.tenant else { return Ok(None) };
        let path = path(tenant, table, period, id)?;
        let reason = match self.store.get(&path).await {
            Ok(None) => return Ok(None),
            Ok(Some(object)) => match opened(tenant, &path, object) {
                Ok(part) => {
                    self.metrics.rollup_read();
                    return Ok(Some(part));
                }
                Err(reason) => reason,
            },
            Err(err) => err.to_string(),
        };
        self.metrics.rollup_unreadable();
        tracing::warn!(event = "detect.rollup_unreadable", path = %path, reason = %reason, "it is made again from the events");
        Ok(None)
    }

    /// Keeps a roll-up in the lake. That it cannot is no reason not to go on.
    pub(super) async fn keep(&self, table: &str, period: Period, id: Digest, part: &Part) {
        let Some(tenant) = &self.tenant else { return };
        let kept = async {
            let path = path(tenant, table, period, id)?;
            let mac = tenant.state_mac(&path, part.bytes());
            let object = Bytes::from([&mac.0, part.bytes().as_ref()].concat());
            if self.store.put_new(&path, object.clone()).await? == Put::New {
                return Ok(());
            }
            // Another worker was faster, or what lies there is no roll-up of ours: then this one takes its place.
            let there = self.store.get(&path).await?;
            match there.is_some_and(|there| opened(tenant, &path, there).is_ok()) {
                true => Ok(()),
                false => self.store.put(&path, object).await,
            }
        };
        if let Err(err) = kept.await {
            tracing::warn!(event = "detect.rollup_not_kept", error = %err, "it is made again when it is needed");
        }
    }
}

impl Kept {
    /// Where the roll-up of these rows lies; none without a tenant key.
    pub(super) fn path(&self, table: &str, period: Period, id: Digest) -> Result<Option<String>, LakeError> {
        self.tenant.as_ref().map(|tenant| path(tenant, table, period, id)).transpose()
    }

    /// Whether what lies there was written under the tenant key.
    pub(super) async fn is_ours(&self, at: &str) -> Result<bool, LakeError> {
        let Some(tenant) = &self.tenant else { return Ok(false) };
        let Some(object) = self.store.get(at).await? else { return Ok(false) };
        Ok(object.split_at_checked(32).is_some_and(|(mac, rest)| mac == tenant.state_mac(at, rest).0))
    }
}

/// The part of a roll-up's path that says of what it is: table and period.
pub(super) fn what(path: &str) -> Option<&str> {
    Some(path.strip_suffix(".rollup")?.rsplit_once('-')?.0)
}

fn path(tenant: &TenantKey, table: &str, period: Period, id: Digest) -> Result<String, LakeError> {
    let name = match period {
        Period::Hour(hour) => format!("{table}-hour{hour}"),
        Period::Day(day) => format!("{table}-day{day}"),
    };
    let id = tenant.state_mac(&name, &id.0).to_hex();
    // Hours before 1970 have a sign, which would read as one more separator.
    layout::state(&format!(
        "{}-{}.rollup",
        name.replace("hour-", "hourm").replace("day-", "daym"),
        id.get(..32).unwrap_or_default()
    ))
}

/// A kept roll-up: 32 bytes that only the tenant key can make of its name and the rest, and the rest as Parquet.
/// Nothing is parsed that was not authenticated.
fn opened(tenant: &TenantKey, path: &str, object: Bytes) -> Result<Part, String> {
    let Some((mac, parquet)) = object.split_at_checked(32) else { return Err("it is cut".to_owned()) };
    if mac != tenant.state_mac(path, parquet).0 {
        return Err("it was not written under the tenant key".to_owned());
    }
    Part::new(object.slice(32..)).map_err(|err| bodycam_record::shown(&err.to_string()))
}

/// A roll-up as Parquet, which says how far the streams were read: `read`.
pub(super) fn encode(
    table: &'static str,
    batch: &RecordBatch,
    read: &[ReadPosition],
) -> Result<Part, LakeError> {
    let read = serde_json::to_string(read).unwrap_or_default();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_key_value_metadata(Some(vec![KeyValue::new(READ.to_owned(), read)]))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))
        .map_err(|err| columns(table, err))?;
    writer.write(batch).map_err(|err| columns(table, err))?;
    let bytes = Bytes::from(writer.into_inner().map_err(|err| columns(table, err))?);
    Part::new(bytes).map_err(|err| columns(table, err))
}
