//! SQL functions of the engine: how ids become text, and pseudonyms and content from the tenant key.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, TimestampNanosecondArray};
use arrow::compute::kernels::concat_elements::concat_elements_utf8;
use arrow::datatypes::{DataType, Int64Type, TimestampNanosecondType};
use bodycam_record::content::{postgres, structured};
use bodycam_record::{ContentKind, SessionId, TenantKey};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;

use super::catalog::timestamp;

/// How the bytes of an id are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum IdForm {
    /// Lower-case hex digits.
    Hex,
    /// A hyphenated UUID.
    Uuid,
}

/// `hex(bytes)` and `uuid_text(bytes)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct IdText {
    pub form: IdForm,
    signature: Signature,
}

impl IdText {
    fn new(form: IdForm) -> Self {
        Self { form, signature: Signature::any(1, Volatility::Immutable) }
    }
}

/// The function of a form.
pub(super) fn id_text(form: IdForm) -> ScalarUDF {
    ScalarUDF::new_from_impl(IdText::new(form))
}

/// `expr` as the text of an id.
pub(super) fn id_text_of(form: IdForm, expr: Expr) -> Expr {
    id_text(form).call(vec![expr])
}

impl ScalarUDFImpl for IdText {
    fn name(&self) -> &str {
        match self.form {
            IdForm::Hex => "hex",
            IdForm::Uuid => "uuid_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match (self.form, args) {
            (IdForm::Hex, [DataType::FixedSizeBinary(_) | DataType::Binary | DataType::Null])
            | (IdForm::Uuid, [DataType::FixedSizeBinary(16) | DataType::Null]) => Ok(DataType::Utf8),
            _ => exec_err!("{} takes the bytes of an id", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let text = |bytes: &[u8]| match (self.form, SessionId::try_from(bytes)) {
            (IdForm::Uuid, Ok(id)) => id.to_string(),
            _ => bodycam_record::ids::to_hex(bytes),
        };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(array) = arrays.first() else { return exec_err!("{} takes one argument", self.name()) };
        let mut out = StringBuilder::with_capacity(array.len(), array.len() * 36);
        for row in 0..array.len() {
            match bytes_at(array, row) {
                Some(bytes) => out.append_value(text(bytes)),
                None => out.append_null(),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

fn bytes_at(array: &ArrayRef, row: usize) -> Option<&[u8]> {
    if array.is_null(row) {
        return None;
    }
    match array.data_type() {
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary_opt().map(|a| a.value(row)),
        DataType::Binary => array.as_binary_opt::<i32>().map(|a| a.value(row)),
        _ => None,
    }
}

/// `window_of(ts)`: the start of the window, of this many nanoseconds, that holds a time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowOf {
    window_ns: i64,
    signature: Signature,
}

/// The function for windows of this length.
pub(crate) fn window_of(window_ns: i64) -> ScalarUDF {
    let signature = Signature::exact(vec![timestamp()], Volatility::Immutable);
    ScalarUDF::new_from_impl(WindowOf { window_ns: window_ns.max(1), signature })
}

/// The length of the windows of a `window_of`.
#[cfg(feature = "cluster")]
pub(crate) fn window_ns(function: &ScalarUDF) -> Option<i64> {
    (function.inner().as_ref() as &dyn std::any::Any).downcast_ref::<WindowOf>().map(|f| f.window_ns)
}

/// The functions of this file that a name says all of.
#[cfg(feature = "cluster")]
pub(super) fn of_plans(tenant: Option<&TenantKey>) -> Vec<Arc<ScalarUDF>> {
    let ids = [IdForm::Hex, IdForm::Uuid].map(id_text);
    let content = [true, false].map(content_function);
    let functions = ids.into_iter().chain(content).chain(pseudonyms(tenant)).chain([text_join()]);
    functions.map(Arc::new).collect()
}

impl ScalarUDFImpl for WindowOf {
    fn name(&self) -> &str {
        "window_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(timestamp())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(times) = arrays.first().and_then(|a| a.as_primitive_opt::<TimestampNanosecondType>()) else {
            return exec_err!("window_of takes a time");
        };
        let start = |ts: i64| ts.div_euclid(self.window_ns).saturating_mul(self.window_ns);
        let starts: TimestampNanosecondArray = times.unary(start);
        Ok(ColumnarValue::Array(Arc::new(starts.with_timezone("+00:00"))))
    }
}

/// The functions of this file: what they make is bounded by the columns that they read.
const OWN: [&str; 7] = [
    "hex",
    "uuid_text",
    "window_of",
    "principal_ref",
    "correlation_ref",
    "content_text",
    "content_kind_name",
];

/// Whether a function is of this file.
pub(super) fn is_own(name: &str) -> bool {
    OWN.contains(&name)
}

/// `a || b` of texts as a function, so that what it makes can be bounded.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextJoin {
    signature: Signature,
}

/// The function that stands for `||`.
pub(super) fn text_join() -> ScalarUDF {
    ScalarUDF::new_from_impl(TextJoin { signature: Signature::user_defined(Volatility::Immutable) })
}

impl ScalarUDFImpl for TextJoin {
    fn name(&self) -> &str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, args: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![DataType::Utf8; args.len()])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = arrays.as_slice() else { return exec_err!("|| takes two texts") };
        let (Some(left), Some(right)) = (left.as_string_opt::<i32>(), right.as_string_opt::<i32>()) else {
            return exec_err!("|| takes two texts");
        };
        let joined = concat_elements_utf8(left, right)?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)),
            false => Ok(ColumnarValue::Array(Arc::new(joined))),
        }
    }
}

/// `principal_ref(name)` and `correlation_ref(id)`: what stands for a text under the tenant key.
pub(super) struct Pseudonym {
    name: &'static str,
    tenant: Option<TenantKey>,
    of: fn(&TenantKey, &str) -> String,
    signature: Signature,
}

/// The functions that need the tenant key. Without it they have their names only.
pub(super) fn pseudonyms(tenant: Option<&TenantKey>) -> [ScalarUDF; 2] {
    let function = |name, of| {
        let signature = Signature::exact(vec![DataType::Utf8], Volatility::Immutable);
        ScalarUDF::new_from_impl(Pseudonym { name, tenant: tenant.cloned(), of, signature })
    };
    [
        function("principal_ref", |key, name| key.principal_ref(name).to_hex()),
        function("correlation_ref", |key, id| key.correlation(id).to_hex()),
    ]
}

impl std::fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

// One engine has one tenant key: the name tells the functions apart.
impl PartialEq for Pseudonym {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Pseudonym {}

impl Hash for Pseudonym {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Pseudonym {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = matches!(args.args.as_slice(), [ColumnarValue::Scalar(_)]);
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(names) = arrays.first().and_then(|a| a.as_string_opt::<i32>()) else {
            return exec_err!("{} takes a text", self.name);
        };
        let Some(tenant) = &self.tenant else {
            return exec_err!("{} needs the tenant key, and none is configured here", self.name);
        };
        let refs: arrow::array::StringArray =
            names.iter().map(|name| name.map(|name| (self.of)(tenant, name))).collect();
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&refs, 0)?)),
            false => Ok(ColumnarValue::Array(Arc::new(refs))),
        }
    }
}

/// `content_kind_name(code)` and, of opened content, `content_text(code, bytes)`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ContentText {
    with_bytes: bool,
    signature: Signature,
}

/// The name of a content kind.
pub(super) fn content_kind_name(code: Expr) -> Expr {
    content_function(false).call(vec![code])
}

/// Opened content as text.
pub(super) fn content_text(code: Expr, clear: Expr) -> Expr {
    content_function(true).call(vec![code, clear])
}

fn content_function(with_bytes: bool) -> ScalarUDF {
    let arguments = if with_bytes { 2 } else { 1 };
    let signature = Signature::any(arguments, Volatility::Immutable);
    ScalarUDF::new_from_impl(ContentText { with_bytes, signature })
}

impl ScalarUDFImpl for ContentText {
    fn name(&self) -> &str {
        if self.with_bytes { "content_text" } else { "content_kind_name" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(codes) = arrays.first().and_then(|a| a.as_primitive_opt::<Int64Type>()) else {
            return exec_err!("{} takes the code of a content kind", self.name());
        };
        let clear = arrays.get(1).and_then(|a| a.as_binary_opt::<i32>());
        let mut out = StringBuilder::new();
        for (row, code) in codes.iter().enumerate() {
            let kind = code.and_then(|code| ContentKind::of(code).ok());
            match (self.with_bytes, clear) {
                (false, _) => out.append_option(kind.map(ContentKind::name)),
                (true, Some(clear)) if clear.is_valid(row) => {
                    out.append_value(text_of(kind, clear.value(row)))
                }
                (true, _) => out.append_null(),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

/// Content as text: what has a structure as JSON (a line for each row of a result), everything else as it is,
/// with U+FFFD where it is not UTF-8.
pub(crate) fn text_of(kind: Option<ContentKind>, bytes: &[u8]) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let cell = |cell: &Option<Vec<u8>>| cell.as_deref().map(lossy);
    let json = |value: &dyn erased::Json| value.json();
    match kind {
        Some(ContentKind::Rows) => {
            let rows = postgres::rows(bytes);
            let lines: Vec<String> =
                rows.iter().map(|row| json(&row.iter().map(cell).collect::<Vec<_>>())).collect();
            lines.join("\n")
        }
        Some(ContentKind::Columns) => {
            let columns = postgres::columns(bytes).unwrap_or_default();
            json(&columns.iter().map(|c| lossy(&c.name)).collect::<Vec<_>>())
        }
        Some(ContentKind::Binds) => {
            let binds = structured::decode_binds(bytes);
            json(&binds.iter().map(|b| cell(&b.value)).collect::<Vec<_>>())
        }
        Some(ContentKind::Error) => {
            let fields = postgres::error_fields(bytes);
            let fields = fields.iter().map(|(code, text)| (char::from(*code).to_string(), lossy(text)));
            json(&fields.collect::<Vec<_>>())
        }
        Some(
            ContentKind::RequestHead
            | ContentKind::ResponseHead
            | ContentKind::SessionFacts
            | ContentKind::Detail
            | ContentKind::Names,
        ) => match structured::decode_pairs(bytes) {
            Ok(pairs) => json(&pairs.iter().map(|(n, v)| (n.clone(), lossy(v))).collect::<Vec<_>>()),
            Err(_) => lossy(bytes),
        },
        _ => lossy(bytes),
    }
}

/// The one thing that is asked of a value that becomes JSON.
mod erased {
    pub(super) trait Json {
        fn json(&self) -> String;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_content_reads_as_json_and_the_rest_as_it_is() {
        let row: Vec<u8> = [
            b"D".as_slice(),
            &21i32.to_be_bytes(),
            &3i16.to_be_bytes(),
            &2i32.to_be_bytes(),
            b"ab",
            &(-1i32).to_be_bytes(),
            &1i32.to_be_bytes(),
            b"\xff",
        ]
        .concat();
        let pairs = structured::encode_pairs([("host", b"a\"b".as_slice())]);
        for (kind, bytes, expected) in [
            (ContentKind::SqlText, b"SELECT 1\xff".to_vec(), "SELECT 1\u{fffd}"),
            (
                ContentKind::Rows,
                [row.clone(), row].concat(),
                "[\"ab\",null,\"\u{fffd}\"]\n[\"ab\",null,\"\u{fffd}\"]",
            ),
            (ContentKind::RequestHead, pairs, r#"[["host","a\"b"]]"#),
            (ContentKind::Error, b"SERROR\0C42P01\0\0".to_vec(), r#"[["S","ERROR"],["C","42P01"]]"#),
        ] {
            assert_eq!(text_of(Some(kind), &bytes), expected, "{kind:?}");
        }
    }
}
