//! Scalar functions under a limit of memory. The pool of the engine counts what operators keep, not what a function
//! makes: `repeat('x', 2000000000)` would be made whole before anybody looked.
//!
//! Invariant: a function makes nothing before the bytes that it may need have been set aside, and these stay set
//! aside until the last user of its result lets go. What a constant becomes is held to one batch's share, because
//! it is written out for every row.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::Buffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef};
use bytes::Bytes;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Documentation, Expr, ExprSchemable, ExpressionPlacement, Operator,
    ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping,
};
use datafusion::scalar::ScalarValue;

use super::functions::{is_own, text_join};

mod needs;

use needs::{held_bytes, needed_bytes};

/// Results smaller than this are not followed: operators count them when they keep them.
const FOLLOWED: usize = 256 << 10;

/// The memory of the functions of one context.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    /// Most bytes of a value that is worked out while planning.
    constant: usize,
    held: AtomicUsize,
    planning: AtomicBool,
}

/// Bytes set aside; given back when dropped.
#[derive(Debug)]
struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

/// A function that keeps to a budget.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    budget: Arc<Budget>,
}

/// Puts bounded functions in the place of those that the parser and the optimizer bring of their own, `||` included.
#[derive(Debug)]
pub(super) struct BoundEverything(pub Arc<Budget>);

impl Budget {
    /// A budget of `limit` bytes for batches of `rows`.
    pub(super) fn new(limit: usize, rows: usize) -> Self {
        let constant = (limit / rows.max(1)).max(1024);
        Self { limit, constant, held: AtomicUsize::new(0), planning: AtomicBool::new(true) }
    }

    /// Says whether what is evaluated now is a plan in the making: its values are written into it.
    pub(super) fn plans(&self, now: bool) {
        self.planning.store(now, Ordering::SeqCst);
    }

    fn lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Lease { budget: Arc::clone(self), bytes })
    }

    /// For what is there already.
    fn lease_anyway(self: &Arc<Self>, bytes: usize) -> Lease {
        self.held.fetch_add(bytes, Ordering::SeqCst);
        Lease { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// `function` under `budget`.
pub(super) fn bounded(function: Arc<ScalarUDF>, budget: &Arc<Budget>) -> Arc<ScalarUDF> {
    if function.inner().is::<Bounded>() || function.as_async().is_some() || is_own(function.name()) {
        return function;
    }
    let bounded = Bounded { inner: function, budget: Arc::clone(budget) };
    Arc::new(ScalarUDF::new_from_impl(bounded))
}

impl FunctionRewrite for BoundEverything {
    fn name(&self) -> &str {
        "bound_everything"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::ScalarFunction(call) if !call.func.inner().is::<Bounded>() && !is_own(call.func.name()) => {
                let func = bounded(call.func, &self.0);
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: call.args }))
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right })
                if is_text(&left, schema) && is_text(&right, schema) =>
            {
                let func = bounded(Arc::new(text_join()), &self.0);
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*left, *right] }))
            }
            expr => Transformed::no(expr),
        })
    }
}

/// Whether `||` joins it as text.
fn is_text(expr: &Expr, schema: &DFSchema) -> bool {
    use DataType::{Boolean, LargeUtf8, Null, Utf8, Utf8View};
    let text = |ty: DataType| ty.is_numeric() || matches!(ty, Utf8 | LargeUtf8 | Utf8View | Null | Boolean);
    expr.get_type(schema).is_ok_and(text)
}

impl Bounded {
    fn too_much(&self, bytes: usize, limit: usize, why: &str) -> DataFusionError {
        DataFusionError::ResourcesExhausted(format!(
            "{} may need {bytes} bytes{why}, and {limit} are left for it",
            self.inner.name()
        ))
    }

    /// A value that is the same for every row.
    fn constant(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows.max(1);
        let bytes = needed_bytes(self.inner.name(), &args.args, 1)?;
        if rows == 1 && self.budget.planning.load(Ordering::SeqCst) && bytes > self.budget.constant {
            return Err(self.too_much(bytes, self.budget.constant, " for a constant of every row"));
        }
        let needed = bytes.saturating_mul(rows);
        let Some(_lease) = self.budget.lease(needed) else {
            return Err(self.too_much(needed, self.left(), if rows == 1 { "" } else { " for its rows" }));
        };
        self.inner.invoke_with_args(args)
    }

    fn left(&self) -> usize {
        self.budget.limit.saturating_sub(self.budget.held.load(Ordering::SeqCst))
    }

    /// The function on rows `[from, from + rows)`, in pieces when the whole could need too much: what it may need
    /// is often far more than what it makes.
    fn pieces(
        &self,
        args: &ScalarFunctionArgs,
        (from, rows): (usize, usize),
        made: &mut Vec<(ArrayRef, Lease)>,
    ) -> Result<()> {
        let part: Vec<ColumnarValue> = args
            .args
            .iter()
            .map(|arg| match arg {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, rows)),
                scalar => scalar.clone(),
            })
            .collect();
        let needed = needed_bytes(self.inner.name(), &part, rows)?;
        // Lists and texts have offsets of 31 bits.
        let so_far: usize = made.iter().map(|(_, lease)| lease.bytes).sum();
        let fits = so_far.saturating_add(needed) <= i32::MAX as usize;
        let Some(lease) = self.budget.lease(needed).filter(|_| fits) else {
            if rows <= 1 {
                return Err(self.too_much(needed, self.left().min(i32::MAX as usize), ""));
            }
            let half = rows / 2;
            self.pieces(args, (from, half), made)?;
            return self.pieces(args, (from + half, rows - half), made);
        };
        let part = ScalarFunctionArgs { args: part, number_rows: rows, ..args.clone() };
        let array = self.inner.invoke_with_args(part)?.into_array(rows)?;
        drop(lease);
        let lease = self.budget.lease_anyway(held_bytes(&array));
        made.push((array, lease));
        Ok(())
    }

    /// `array`, whose large buffers give their bytes back when the last user lets go of them. Buffers of the
    /// arguments are somebody else's.
    fn follow(&self, array: ArrayRef, args: &ScalarFunctionArgs) -> Result<ArrayRef> {
        if held_bytes(&array) < FOLLOWED {
            return Ok(array);
        }
        let mut foreign = HashSet::new();
        for arg in &args.args {
            if let ColumnarValue::Array(array) = arg {
                addresses(&array.to_data(), &mut foreign);
            }
        }
        Ok(make_array(self.followed(array.to_data(), &foreign)?))
    }

    fn followed(&self, data: ArrayData, foreign: &HashSet<usize>) -> Result<ArrayData> {
        let follow = |buffer: &Buffer| {
            if buffer.len() < FOLLOWED || foreign.contains(&address(buffer)) {
                return buffer.clone();
            }
            let lease = self.budget.lease_anyway(buffer.len());
            Buffer::from(Bytes::from_owner(Followed { buffer: buffer.clone(), _lease: lease }))
        };
        let buffers = data.buffers().iter().map(follow).collect();
        let children = data.child_data().iter().map(|child| self.followed(child.clone(), foreign));
        let children = children.collect::<Result<Vec<_>>>()?;
        Ok(data.into_builder().buffers(buffers).child_data(children).build()?)
    }
}

/// A buffer with what was set aside for it.
struct Followed {
    buffer: Buffer,
    _lease: Lease,
}

impl AsRef<[u8]> for Followed {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

fn address(buffer: &Buffer) -> usize {
    buffer.data_ptr().as_ptr() as usize
}

fn addresses(data: &ArrayData, found: &mut HashSet<usize>) {
    found.extend(data.buffers().iter().map(address));
    data.child_data().iter().for_each(|child| addresses(child, found));
}

// Budgets are of one context, and so are functions.
impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

// Everything but the invocation is the inner function's.
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.return_type().primitive_width().is_some()
            || matches!(args.return_type(), DataType::Boolean | DataType::Null)
        {
            return self.inner.invoke_with_args(args);
        }
        if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) {
            return self.constant(args);
        }
        let mut made = Vec::new();
        self.pieces(&args, (0, args.number_rows), &mut made)?;
        let array = match made.as_slice() {
            [(array, _)] => Arc::clone(array),
            many => {
                let arrays: Vec<&dyn Array> = many.iter().map(|(array, _)| array.as_ref()).collect();
                concat(&arrays)?
            }
        };
        drop(made);
        Ok(ColumnarValue::Array(self.follow(array, &args)?))
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Bounded { inner, budget: Arc::clone(&self.budget) }))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let simplified = match self.inner.simplify(args, info)? {
            ExprSimplifyResult::Simplified(expr) => expr,
            original => return Ok(original),
        };
        let bound = simplified.transform_up(|expr| {
            Ok(match expr {
                Expr::ScalarFunction(call) if !call.func.inner().is::<Bounded>() => {
                    let func = bounded(call.func, &self.budget);
                    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: call.args }))
                }
                expr => Transformed::no(expr),
            })
        })?;
        Ok(ExprSimplifyResult::Simplified(bound.data))
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.inner.preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(inputs)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.inner.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.placement(args)
    }
}
