//! The sealed chunks of the lake with a column that opens them. Nothing is decrypted, and no key read, unless
//! a query names that column.
//!
//! A chunk whose session key is gone (erased) opens to NULL; one that was altered is an error.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryBuilder, FixedSizeBinaryArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use bodycam_lake::{LakeError, Store, Table, layout};
use bodycam_record::{SealedChunk, SessionId, SessionKey, TenantKey};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, exec_err, internal_err, plan_err};
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};

/// The column that opens a chunk.
pub(super) const CLEAR: &str = "clear";

/// The columns that opening needs.
const SEALED: [&str; 5] = ["session_id", "content_no", "chunk_index", "content_kind", "sealed"];

/// The content table with a `clear` column.
#[derive(Debug)]
pub(super) struct ContentTable {
    sealed: Arc<dyn TableProvider>,
    store: Option<Store>,
    tenant: Option<TenantKey>,
    schema: SchemaRef,
}

impl ContentTable {
    /// `sealed` as it rests; `store` holds the wrapped keys.
    pub(super) fn new(
        sealed: Arc<dyn TableProvider>,
        store: Option<Store>,
        tenant: Option<TenantKey>,
    ) -> Self {
        let clear = Arc::new(Field::new(CLEAR, DataType::Binary, true));
        let fields = sealed.schema().fields().iter().cloned().chain([clear]).collect::<Vec<_>>();
        Self { sealed, store, tenant, schema: Arc::new(Schema::new(fields)) }
    }
}

#[async_trait]
impl TableProvider for ContentTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let on_clear = |f: &Expr| f.column_refs().iter().any(|c| c.name == CLEAR);
        let support = |f: &&Expr| match on_clear(f) {
            true => TableProviderFilterPushDown::Unsupported,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let clear_at = self.sealed.schema().fields().len();
        let projection = projection.cloned().unwrap_or_else(|| (0..=clear_at).collect());
        if !projection.contains(&clear_at) {
            return self.sealed.scan(state, Some(&projection), filters, limit).await;
        }
        let (Some(tenant), Some(store)) = (&self.tenant, &self.store) else {
            return plan_err!(
                "content is encrypted and no tenant key is configured: set the tenant key, or leave out the columns text and bytes"
            );
        };
        let schema = Arc::new(self.schema.project(&projection)?);
        let sealed = self.sealed.scan(state, None, filters, limit).await?;
        let keys = WrappedKeys { store: store.clone(), tenant: tenant.clone() };
        Ok(Arc::new(OpenContent::new(sealed, Opener { keys: Some(keys), schema })))
    }
}

/// Where the keys of sessions lie, and what opens them.
#[derive(Debug, Clone)]
pub(crate) struct WrappedKeys {
    pub store: Store,
    pub tenant: TenantKey,
}

/// The columns that `plan` gives, when it is what opens content.
#[cfg(feature = "cluster")]
pub(crate) fn opened_columns(plan: &dyn ExecutionPlan) -> Option<Vec<String>> {
    let open = (plan as &dyn std::any::Any).downcast_ref::<OpenContent>()?;
    Some(open.opener.schema.fields().iter().map(|field| field.name().clone()).collect())
}

/// What opens the content that `sealed` reads, and gives these columns. Without keys it can be planned and not run.
#[cfg(feature = "cluster")]
pub(crate) fn opened(
    sealed: Arc<dyn ExecutionPlan>,
    columns: &[String],
    keys: Option<WrappedKeys>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let clear = Arc::new(Field::new(CLEAR, DataType::Binary, true));
    let input = sealed.schema();
    let fields = columns.iter().map(|name| match name.as_str() {
        CLEAR => Ok(clear.clone()),
        name => Ok(Arc::new(input.field_with_name(name)?.clone())),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?));
    Ok(Arc::new(OpenContent::new(sealed, Opener { keys, schema })))
}

/// Opens the chunks that its input reads.
#[derive(Debug)]
struct OpenContent {
    sealed: Arc<dyn ExecutionPlan>,
    opener: Opener,
    properties: Arc<PlanProperties>,
}

impl OpenContent {
    /// Has as many partitions as its input, which the optimizer may replace by one that has more; by which columns they are
    /// made is not said, for those may not be among the ones that are given.
    fn new(sealed: Arc<dyn ExecutionPlan>, opener: Opener) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(opener.schema.clone()),
            Partitioning::UnknownPartitioning(sealed.output_partitioning().partition_count()),
            sealed.pipeline_behavior(),
            sealed.boundedness(),
        );
        Self { sealed, opener, properties: Arc::new(properties) }
    }
}

impl DisplayAs for OpenContent {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenContent")
    }
}

impl ExecutionPlan for OpenContent {
    fn name(&self) -> &str {
        "OpenContent"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.sealed]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(sealed) = children.pop() else { return internal_err!("OpenContent has one input") };
        Ok(Arc::new(Self::new(sealed, self.opener.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.sealed.execute(partition, context)?;
        let opener = Arc::new(self.opener.clone());
        let keys: Keys = HashMap::new();
        let opened = futures::stream::try_unfold((input, keys), move |(mut input, mut keys)| {
            let opener = opener.clone();
            async move {
                let Some(batch) = input.try_next().await? else { return Ok(None) };
                let opened = opener.open(&batch, &mut keys).await?;
                Ok::<_, DataFusionError>(Some((opened, (input, keys))))
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.properties.eq_properties.schema().clone(),
            opened.boxed(),
        )))
    }
}

/// Keys of the sessions seen so far; none for those whose key is gone.
type Keys = HashMap<SessionId, Option<SessionKey>>;

#[derive(Debug, Clone)]
struct Opener {
    keys: Option<WrappedKeys>,
    schema: SchemaRef,
}

impl Opener {
    async fn open(&self, batch: &RecordBatch, keys: &mut Keys) -> Result<RecordBatch> {
        let failed = |err: LakeError| DataFusionError::External(Box::new(err));
        let chunks = Sealed::of(batch).ok_or_else(|| {
            failed(LakeError::Columns { table: "content", reason: format!("a file lacks one of {SEALED:?}") })
        })?;
        let Some(wrapped) = &self.keys else {
            return exec_err!("content is encrypted and no tenant key is configured here");
        };
        let mut clear = BinaryBuilder::new();
        for row in 0..batch.num_rows() {
            let chunk = chunks.row(row).map_err(failed)?;
            if let Entry::Vacant(slot) = keys.entry(chunk.session) {
                slot.insert(Self::key(wrapped, chunk.session).await.map_err(failed)?);
            }
            let Some(key) = keys.get(&chunk.session).and_then(Option::as_ref) else {
                clear.append_null();
                continue;
            };
            let opened = chunk.open(key).map_err(|_| {
                failed(LakeError::Damaged {
                    path: format!(
                        "chunk {} of content {} of session {}",
                        chunk.index, chunk.content_no, chunk.session
                    ),
                    reason: "it does not open under the session's key".to_owned(),
                })
            })?;
            clear.append_value(opened.bytes);
        }
        let clear: Arc<dyn Array> = Arc::new(clear.finish());
        let column = |field: &Arc<Field>| match field.name().as_str() {
            CLEAR => Some(clear.clone()),
            name => batch.column_by_name(name).cloned(),
        };
        let columns: Option<Vec<_>> = self.schema.fields().iter().map(column).collect();
        match columns {
            Some(columns) => Ok(RecordBatch::try_new(self.schema.clone(), columns)?),
            None => internal_err!("a projected column of content is not in its input"),
        }
    }

    async fn key(
        keys: &WrappedKeys,
        session: SessionId,
    ) -> std::result::Result<Option<SessionKey>, LakeError> {
        let path = layout::session_key(session);
        let Some(wrapped) = keys.store.get(&path).await? else { return Ok(None) };
        match keys.tenant.unwrap(session, &wrapped) {
            Ok(key) => Ok(Some(key)),
            Err(source) => Err(LakeError::Unopenable { path, source }),
        }
    }
}

/// The sealed columns of a batch.
struct Sealed<'a> {
    session: &'a FixedSizeBinaryArray,
    content_no: &'a Int64Array,
    index: &'a Int64Array,
    kind: &'a Int64Array,
    sealed: &'a arrow::array::BinaryArray,
}

impl<'a> Sealed<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let [session, content_no, index, kind, sealed] = SEALED;
        let int = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        Some(Self {
            session: batch.column_by_name(session)?.as_fixed_size_binary_opt()?,
            content_no: int(content_no)?,
            index: int(index)?,
            kind: int(kind)?,
            sealed: batch.column_by_name(sealed)?.as_binary_opt::<i32>()?,
        })
    }

    fn row(&self, row: usize) -> std::result::Result<SealedChunk, LakeError> {
        let malformed = || LakeError::Columns {
            table: Table::Content.name(),
            reason: "a row does not hold a sealed chunk".to_owned(),
        };
        Ok(SealedChunk {
            session: SessionId::try_from(self.session.value(row)).map_err(|_| malformed())?,
            content_no: self.content_no.value(row),
            index: u32::try_from(self.index.value(row)).map_err(|_| malformed())?,
            kind: self.kind.value(row),
            sealed: self.sealed.value(row).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bodycam_record::content::Chunk;
    use bodycam_record::{ContentKind, SessionId, SessionKey, TenantKey};

    use super::*;
    use crate::query::{QueryOptions, collect};
    use crate::scene::Scene;

    #[tokio::test]
    async fn a_file_of_many_batches_is_opened_to_its_last_row() {
        let (tenant, key, id) = (TenantKey::new([1; 32]), SessionKey::new([2; 32]), SessionId([1; 16]));
        let chunks: Vec<SealedChunk> = (0..20_000)
            .map(|no: i64| {
                let text = format!("select {no}").into_bytes();
                Chunk { kind: ContentKind::SqlText, index: 0, bytes: text }.seal(&key, id, no)
            })
            .collect();
        let mut scene = Scene::new().await;
        scene.commit_content("gw/0", &chunks).await;
        let wrapped = tenant.wrap(id, &key).into();
        scene.store.put_new(&layout::session_key(id), wrapped).await.unwrap();
        let sql = "SELECT count(*), count(text), count(DISTINCT text) FROM content".to_owned();
        let options = QueryOptions { sql, tenant: Some(tenant), ..QueryOptions::default() };
        let (_, batches) = collect(&scene.store, &options).await.unwrap();
        let counts = batches[0].columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0));
        assert_eq!(counts.collect::<Vec<_>>(), [20_000; 3]);
    }
}
