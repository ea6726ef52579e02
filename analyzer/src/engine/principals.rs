//! The names behind pseudonyms, opened with the tenant key. No name is read unless a query asks for this table.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use bodycam_lake::columns::Table;
use bodycam_lake::{ContentReader, Filter, LakeError, View};
use bodycam_record::{Id16, TenantKey};
use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::datasource::{MemTable, TableProvider, TableType};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;

/// The column of `sessions` that names one.
const PRINCIPAL: &str = "principal_ref";

/// One row a principal whose name the lake holds.
#[derive(Debug)]
pub(super) struct PrincipalsTable {
    view: Option<View>,
    tenant: Option<TenantKey>,
    schema: SchemaRef,
}

impl PrincipalsTable {
    /// `view` says who had a session, and where the wrapped names are.
    pub(super) fn new(view: Option<View>, tenant: Option<TenantKey>) -> Self {
        let text = |name| Field::new(name, DataType::Utf8, false);
        let schema = Arc::new(Schema::new(vec![text(PRINCIPAL), text("name")]));
        Self { view, tenant, schema }
    }

    /// The names of all principals that a session names.
    async fn read(view: &View, tenant: &TenantKey) -> std::result::Result<Vec<(String, String)>, LakeError> {
        let mut principals = BTreeSet::new();
        let filter = Filter::all().with_columns(&[PRINCIPAL]);
        let mut batches = view.read(Table::Sessions, &filter);
        while let Some((_, batch)) = batches.try_next().await? {
            let column = batch.column_by_name(PRINCIPAL).and_then(|c| c.as_fixed_size_binary_opt());
            let column = column.ok_or_else(|| LakeError::Columns {
                table: Table::Sessions.name(),
                reason: format!("a file lacks {PRINCIPAL}"),
            })?;
            principals.extend(column.iter().flatten().filter_map(|id| Some(Id16(id.try_into().ok()?))));
        }
        let mut names = ContentReader::new(view.clone(), tenant.clone());
        let mut rows = Vec::new();
        for principal in principals {
            if let Some(name) = names.name(principal).await? {
                rows.push((principal.to_hex(), name));
            }
        }
        Ok(rows)
    }
}

#[async_trait]
impl TableProvider for PrincipalsTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(tenant), Some(view)) = (&self.tenant, &self.view) else {
            return plan_err!(
                "names are encrypted and no tenant key is configured: set the tenant key, or leave out the table principals"
            );
        };
        let rows = Self::read(view, tenant).await.map_err(|err| DataFusionError::External(Box::new(err)))?;
        let (refs, names): (Vec<String>, Vec<String>) = rows.into_iter().unzip();
        let columns = [refs, names].map(|texts| Arc::new(StringArray::from(texts)) as _);
        let batch = RecordBatch::try_new(self.schema.clone(), columns.into())?;
        MemTable::try_new(self.schema.clone(), vec![vec![batch]])?
            .scan(state, projection, filters, limit)
            .await
    }
}
