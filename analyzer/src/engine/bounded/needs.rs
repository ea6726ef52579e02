//! How many bytes a function may need for some rows: never too few, and too many where it is hard to tell.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

/// What any function may make of its input, a byte: upper case has up to three, hex two.
const PER_BYTE: usize = 4;
/// Of each value: offsets, lengths, views.
const PER_VALUE: usize = 16;

/// An argument: a column, or one value for all rows.
struct Arg {
    array: ArrayRef,
    constant: bool,
}

/// Most bytes that the function `name` makes of `rows` rows of `args`.
pub(super) fn needed_bytes(name: &str, args: &[ColumnarValue], rows: usize) -> Result<usize> {
    let args = args
        .iter()
        .map(|arg| {
            Ok(match arg {
                ColumnarValue::Array(array) => Arg { array: ArrayRef::clone(array), constant: false },
                ColumnarValue::Scalar(value) => Arg { array: value.to_array()?, constant: true },
            })
        })
        .collect::<Result<Vec<Arg>>>()?;
    let each = |needed: &dyn Fn(usize) -> usize| (0..rows).map(needed).fold(0, usize::saturating_add);
    let arg = |at: usize| args.get(at);
    let size = |at: usize, row: usize| arg(at).map_or(0, |arg| arg.bytes(row));
    let count = |at: usize| arg(at).map(Arg::counts).transpose();
    let bytes = match name {
        "repeat" => {
            let times = count(1)?;
            each(&|row| size(0, row).saturating_mul(at(&times, row)))
        }
        "lpad" | "rpad" => {
            let width = count(1)?;
            each(&|row| at(&width, row).saturating_mul(PER_BYTE).saturating_add(size(0, row)))
        }
        "array_repeat" => {
            let times = count(1)?;
            each(&|row| size(0, row).saturating_add(PER_VALUE).saturating_mul(at(&times, row)))
        }
        "array_resize" => {
            let length = count(1)?;
            each(&|row| {
                let value = size(2, row).saturating_add(PER_VALUE);
                at(&length, row).saturating_mul(value).saturating_add(size(0, row))
            })
        }
        "range" | "generate_series" => {
            let spans = spans(&args)?;
            each(&|row| spans.at(row).saturating_mul(PER_VALUE))
        }
        "replace" => each(&|row| {
            let (text, from, to) = (size(0, row), size(1, row), size(2, row));
            let times = text.checked_div(from).unwrap_or(text + 1);
            times.saturating_mul(to).saturating_add(text)
        }),
        // Every match may become the replacement, and every reference in it the whole match.
        "regexp_replace" => {
            each(&|row| (size(0, row) + 1).saturating_mul(size(2, row) + 1).saturating_mul(2))
        }
        // A character becomes another, which may be many bytes when it is a cluster of them.
        "translate" => each(&|row| size(0, row).saturating_mul(size(2, row).max(1))),
        "array_to_string" => each(&|row| {
            let between = size(1, row).saturating_add(size(2, row)).saturating_add(32);
            let items = arg(0).map_or(0, |list| list.items(row));
            items.saturating_mul(between).saturating_add(size(0, row).saturating_mul(PER_BYTE))
        }),
        name if name.starts_with("array_replace") => each(&|row| {
            let items = arg(0).map_or(0, |list| list.items(row));
            items.saturating_mul(size(2, row).saturating_add(PER_VALUE)).saturating_add(size(0, row))
        }),
        _ => {
            let all = |arg: &Arg| match arg.constant {
                true => held_bytes(&arg.array).saturating_mul(rows),
                false => held_bytes(&arg.array),
            };
            args.iter().map(all).fold(0, usize::saturating_add).saturating_mul(PER_BYTE)
        }
    };
    Ok(bytes.saturating_add(rows.saturating_mul(PER_VALUE)))
}

fn at(counts: &Option<Counts>, row: usize) -> usize {
    counts.as_ref().map_or(0, |counts| counts.at(row))
}

/// Bytes that the values of an array take, without what its buffers hold beside them.
pub(super) fn held_bytes(array: &ArrayRef) -> usize {
    let span =
        |first: Option<usize>, last: Option<usize>| last.unwrap_or(0).saturating_sub(first.unwrap_or(0));
    let own = |width: usize| array.len().saturating_mul(width);
    match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => own(1),
        DataType::Utf8 => array.as_string_opt::<i32>().map_or(0, |a| {
            let offsets = a.value_offsets();
            own(4) + span(offsets.first().map(|o| *o as usize), offsets.last().map(|o| *o as usize))
        }),
        DataType::LargeUtf8 => array.as_string_opt::<i64>().map_or(0, |a| {
            let offsets = a.value_offsets();
            own(8) + span(offsets.first().map(|o| *o as usize), offsets.last().map(|o| *o as usize))
        }),
        DataType::Binary => array.as_binary_opt::<i32>().map_or(0, |a| {
            let offsets = a.value_offsets();
            own(4) + span(offsets.first().map(|o| *o as usize), offsets.last().map(|o| *o as usize))
        }),
        DataType::Utf8View => array
            .as_string_view_opt()
            .map_or(0, |a| own(16) + a.lengths().map(|n| n as usize).fold(0, usize::saturating_add)),
        DataType::List(_) => array.as_list_opt::<i32>().map_or(0, |a| {
            let offsets = a.value_offsets();
            let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
            let (first, last) = (first as usize, last as usize);
            own(4) + held_bytes(&a.values().slice(first, last.saturating_sub(first)))
        }),
        DataType::Struct(_) => array
            .as_struct_opt()
            .map_or(0, |a| a.columns().iter().map(held_bytes).fold(0, usize::saturating_add)),
        ty => match ty.primitive_width() {
            Some(width) => own(width),
            None => array.to_data().get_slice_memory_size().unwrap_or(usize::MAX),
        },
    }
}

impl Arg {
    fn row(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }

    /// Bytes of the value of a row.
    fn bytes(&self, row: usize) -> usize {
        let row = self.row(row);
        match self.array.data_type() {
            DataType::Utf8 => self
                .array
                .as_string_opt::<i32>()
                .map_or(0, |a| usize::try_from(a.value_length(row)).unwrap_or(0)),
            _ => held_bytes(&self.array.slice(row, 1)),
        }
    }

    /// Items of the list of a row.
    fn items(&self, row: usize) -> usize {
        let row = self.row(row);
        match self.array.data_type() {
            DataType::List(_) => self
                .array
                .as_list_opt::<i32>()
                .map_or(0, |a| usize::try_from(a.value_length(row)).unwrap_or(0)),
            DataType::Null => 0,
            // At least a bit an item.
            _ => held_bytes(&self.array.slice(row, 1)).saturating_mul(8),
        }
    }

    /// The whole numbers of the rows; negative ones and NULL are none.
    fn counts(&self) -> Result<Counts> {
        let numbers = cast(&self.array, &DataType::Int64)?;
        let whole = |n: Option<i64>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let counts = numbers.as_primitive_opt::<Int64Type>().map(|a| a.iter().map(whole).collect());
        Ok(Counts { of: counts.unwrap_or_default(), constant: self.constant })
    }

    /// The values of the rows in seconds, when they are times, else as they are. NULL is not a number.
    fn places(&self) -> Result<Vec<f64>> {
        let numbers = match self.array.data_type() {
            DataType::Interval(_) => {
                let steps = cast(&self.array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
                let seconds = |step: Option<arrow::datatypes::IntervalMonthDayNano>| {
                    step.map_or(f64::NAN, |s| {
                        // The shortest month and the shortest day: not fewer steps than there will be.
                        f64::from(s.months) * 28.0 * 82_800.0
                            + f64::from(s.days) * 82_800.0
                            + s.nanoseconds as f64 / 1e9
                    })
                };
                let steps = steps.as_primitive_opt::<IntervalMonthDayNanoType>();
                return Ok(steps.map(|a| a.iter().map(seconds).collect()).unwrap_or_default());
            }
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
                cast(&cast(&self.array, &DataType::Timestamp(TimeUnit::Second, None))?, &DataType::Int64)?
            }
            _ => cast(&self.array, &DataType::Int64)?,
        };
        let place = |n: Option<i64>| n.map_or(f64::NAN, |n| n as f64);
        let numbers = numbers.as_primitive_opt::<Int64Type>();
        Ok(numbers.map(|a| a.iter().map(place).collect()).unwrap_or_default())
    }
}

/// A count for each row, or one for all.
struct Counts {
    of: Vec<usize>,
    constant: bool,
}

impl Counts {
    fn at(&self, row: usize) -> usize {
        self.of.get(if self.constant { 0 } else { row }).copied().unwrap_or(0)
    }
}

/// How many values `range(stop)`, `range(start, stop)` or `range(start, stop, step)` has, row by row.
fn spans(args: &[Arg]) -> Result<Counts> {
    let places = args.iter().map(Arg::places).collect::<Result<Vec<_>>>()?;
    let rows = args.iter().filter(|arg| !arg.constant).map(|arg| arg.array.len()).next().unwrap_or(1);
    let value = |at: usize, row: usize| -> Option<f64> {
        let row = args.get(at)?.row(row);
        places.get(at)?.get(row).copied()
    };
    let span = |row: usize| {
        let (start, stop, step) = match args.len() {
            1 => (0.0, value(0, row)?, 1.0),
            2 => (value(0, row)?, value(1, row)?, 1.0),
            _ => (value(0, row)?, value(1, row)?, value(2, row)?),
        };
        let steps = ((stop - start) / step).abs();
        // A step of zero is refused by the function itself, and NULL gives nothing.
        (step != 0.0 && !steps.is_nan()).then_some((steps as usize).saturating_add(1))
    };
    let of = (0..rows).map(|row| span(row).unwrap_or(0)).collect();
    Ok(Counts { of, constant: args.iter().all(|arg| arg.constant) })
}
