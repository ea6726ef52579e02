//! What plans of the analyzer hold beside DataFusion's own nodes and functions, as bytes.
//!
//! Invariant: no key and no credential is in them. Whatever bytes come, decoding them gives an error or a plan that
//! can be refused.

use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use crate::engine::content::{WrappedKeys, opened, opened_columns};
use crate::engine::functions::{window_ns, window_of};

/// How the encoding of our node begins; a Protobuf message never begins with a zero byte.
const OPEN_CONTENT: &[u8] = b"\0bodycam open content 1\0";
/// The function that has a parameter.
const WINDOW_OF: &str = "window_of";

/// The codec of a process; only an executor has keys.
#[derive(Debug, Default)]
pub(super) struct Codec {
    ballista: BallistaPhysicalExtensionCodec,
    keys: Option<WrappedKeys>,
}

impl Codec {
    /// With what opens content.
    pub(super) fn with_keys(keys: Option<WrappedKeys>) -> Self {
        Self { keys, ..Self::default() }
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(columns) = buf.strip_prefix(OPEN_CONTENT) else {
            return self.ballista.try_decode(buf, inputs, context, converter);
        };
        let columns: Vec<String> = serde_json::from_slice(columns)
            .map_err(|err| exec_datafusion_err!("a plan's OpenContent does not decode: {err}"))?;
        match inputs {
            [sealed] => opened(Arc::clone(sealed), &columns, self.keys.clone()),
            _ => exec_err!("a plan's OpenContent has {} inputs, not one", inputs.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(columns) = opened_columns(node.as_ref()) else {
            return self.ballista.try_encode(node, buf, converter);
        };
        buf.extend_from_slice(OPEN_CONTENT);
        serde_json::to_writer(buf, &columns).map_err(|err| exec_datafusion_err!("{err}"))
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        if let Some(ns) = window_ns(node) {
            buf.extend_from_slice(&ns.to_le_bytes());
        }
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        match (name, <[u8; 8]>::try_from(buf)) {
            (WINDOW_OF, Ok(ns)) if i64::from_le_bytes(ns) > 0 => {
                Ok(Arc::new(window_of(i64::from_le_bytes(ns))))
            }
            _ => exec_err!(
                "a plan names the function {}, which is not known here",
                bodycam_record::shown(name)
            ),
        }
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.ballista.try_decode_udaf(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.ballista.try_encode_udaf(node, buf)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        self.ballista.try_decode_udwf(name, buf)
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.ballista.try_encode_udwf(node, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_lake::Table;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion_proto::physical_plan::{AsExecutionPlan, DefaultPhysicalProtoConverter};
    use datafusion_proto::protobuf::PhysicalPlanNode;
    use proptest::prelude::*;

    fn sealed() -> Arc<dyn ExecutionPlan> {
        Arc::new(EmptyExec::new(Table::Content.schema()))
    }

    fn decode(bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
        let context = TaskContext::default();
        Codec::default().try_decode(bytes, inputs, &context, &DefaultPhysicalProtoConverter {})
    }

    #[test]
    fn what_opens_content_travels_without_what_opens_it() {
        let columns = ["content_kind", "clear"].map(str::to_owned);
        let plan = opened(sealed(), &columns, None).unwrap();
        let node = PhysicalPlanNode::try_from_physical_plan(plan.clone(), &Codec::default()).unwrap();
        let mut bytes = Vec::new();
        node.try_encode(&mut bytes).unwrap();
        let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
        let decoded = node.try_into_physical_plan(&TaskContext::default(), &Codec::default()).unwrap();
        assert_eq!(decoded.schema(), plan.schema());
        assert_eq!(opened_columns(decoded.as_ref()).unwrap(), columns);
    }

    #[test]
    fn functions_that_are_not_known_are_refused() {
        let codec = Codec::default();
        let mut bytes = Vec::new();
        codec.try_encode_udf(&window_of(3_600), &mut bytes).unwrap();
        assert_eq!(window_ns(&codec.try_decode_udf("window_of", &bytes).unwrap()), Some(3_600));
        for (name, bytes) in [
            ("window_of", [0; 8].as_slice()),
            ("window_of", &(-1i64).to_le_bytes()),
            ("window_of", &[1]),
            ("system", &1i64.to_le_bytes()),
            ("system", &[]),
        ] {
            let said = codec.try_decode_udf(name, bytes).unwrap_err().to_string();
            assert!(said.contains("not known here"), "{said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_there_is_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
            let bytes = if ours { [OPEN_CONTENT, &bytes].concat() } else { bytes };
            prop_assert!(decode(&bytes, &[sealed()]).is_err() || !ours);
        }

        #[test]
        fn columns_that_are_not_there_are_an_error(name in "[a-z_]{1,12}") {
            let bytes = [OPEN_CONTENT, format!("[\"{name}\"]").as_bytes()].concat();
            let is_there = name == "clear" || Table::Content.schema().field_with_name(&name).is_ok();
            prop_assert_eq!(decode(&bytes, &[sealed()]).is_ok(), is_there);
            prop_assert!(decode(&bytes, &[]).is_err());
        }
    }
}
