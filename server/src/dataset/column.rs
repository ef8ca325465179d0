//! One value of a Parquet column as a tensor or a label.
//!
//! A column fits a tensor if its numbers are of the same kind: integers that the tensor's datatype holds, floating-point
//! numbers (rounded to the tensor's width), yes or no, or text and bytes for BYTES.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use crossfade_runtimes_core::{Datatype, Shape, Tensor, TensorSpec, push_element};
use half::{bf16, f16};

use super::Label;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// With the column.
    Type(String),
    /// With this value.
    Value(String),
}

/// The value at `row` as one row of a tensor.
///
/// * a scalar is one element, a list its elements, a list of lists of one length two dimensions, and so on
/// * where `batched`, or where dimension 0 may be of any size, that is 1; one more dimension may be of any size
///
/// Errors: another kind of column; a null; lists of different lengths; another number of elements than the shape has.
pub(super) fn tensor(
    array: &ArrayRef,
    row: usize,
    spec: &TensorSpec,
    batched: bool,
) -> Result<Tensor, Problem> {
    let mut data = Vec::new();
    let one = array.slice(row, 1);
    let mut dims = gather(&one, spec.datatype, &mut data)?;
    // The one row itself.
    dims.remove(0);
    let shape = shape(spec, &dims, batched).ok_or_else(|| {
        let got = Shape::from(&*dims);
        Problem::Value(format!("expected shape {} for one row, got {got}", spec.shape))
    })?;
    Ok(Tensor {
        datatype: spec.datatype,
        shape,
        data: data.into(),
    })
}

/// The shape of one row.
fn shape(spec: &TensorSpec, dims: &[usize], batched: bool) -> Option<Shape> {
    let one_row = batched || spec.shape.first().is_some_and(|dim| dim.fixed().is_none());
    let nested: Shape = one_row
        .then_some(1)
        .into_iter()
        .chain(dims.iter().copied())
        .collect();
    if spec.shape.accepts(&nested) {
        return Some(nested);
    }
    // Written flat: at most one size is still to be found.
    let count = Shape::from(dims).element_count()?;
    let sizes = spec.shape.iter().enumerate();
    let sizes: Vec<Option<usize>> = sizes
        .map(|(k, dim)| if k == 0 && one_row { Some(1) } else { dim.fixed() })
        .collect();
    let known = sizes
        .iter()
        .flatten()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))?;
    let open = sizes.iter().filter(|size| size.is_none()).count();
    let missing = match (open, known) {
        (0, _) => 1,
        (1, 1..) if count % known == 0 => count / known,
        _ => return None,
    };
    let shape: Shape = sizes.into_iter().map(|size| size.unwrap_or(missing)).collect();
    (shape.element_count()? == count && spec.shape.accepts(&shape)).then_some(shape)
}

/// Appends every element of an array, and gives its dimensions.
fn gather(array: &ArrayRef, datatype: Datatype, out: &mut Vec<u8>) -> Result<Vec<usize>, Problem> {
    if array.null_count() > 0 {
        return Err(Problem::Value("expected a value, got null".to_owned()));
    }
    if !matches!(array.data_type(), DataType::List(_)) {
        elements(array, datatype, out)?;
        return Ok(vec![array.len()]);
    }
    let lists = array.as_list::<i32>();
    let mut inner: Option<Vec<usize>> = None;
    for list in lists.iter().flatten() {
        let dims = gather(&list, datatype, out)?;
        if inner.as_ref().is_some_and(|before| *before != dims) {
            return Err(Problem::Value("its lists are of different lengths".to_owned()));
        }
        inner = Some(dims);
    }
    let mut dims = vec![array.len()];
    dims.extend(inner.unwrap_or_else(|| vec![0]));
    Ok(dims)
}

/// Appends numbers or texts.
fn elements(array: &ArrayRef, datatype: Datatype, out: &mut Vec<u8>) -> Result<(), Problem> {
    macro_rules! integers {
        ($type:ty) => {
            array
                .as_primitive::<$type>()
                .values()
                .iter()
                .try_for_each(|&value| integer(i128::from(value), datatype, out))
        };
    }
    macro_rules! floats {
        ($type:ty) => {
            array
                .as_primitive::<$type>()
                .values()
                .iter()
                .try_for_each(|&value| float(f64::from(value), datatype, out))
        };
    }
    let done = match array.data_type() {
        DataType::Boolean if datatype == Datatype::Bool => {
            out.extend(array.as_boolean().values().iter().map(u8::from));
            Some(())
        }
        DataType::Int8 if is_integer(datatype) => return integers!(Int8Type),
        DataType::Int16 if is_integer(datatype) => return integers!(Int16Type),
        DataType::Int32 if is_integer(datatype) => return integers!(Int32Type),
        DataType::Int64 if is_integer(datatype) => return integers!(Int64Type),
        DataType::UInt8 if is_integer(datatype) => return integers!(UInt8Type),
        DataType::UInt16 if is_integer(datatype) => return integers!(UInt16Type),
        DataType::UInt32 if is_integer(datatype) => return integers!(UInt32Type),
        DataType::UInt64 if is_integer(datatype) => return integers!(UInt64Type),
        DataType::Float16 => floats!(Float16Type),
        DataType::Float32 => floats!(Float32Type),
        DataType::Float64 => floats!(Float64Type),
        DataType::Utf8 if datatype == Datatype::Bytes => {
            let texts = array.as_string::<i32>().iter().flatten();
            texts.for_each(|text| push_element(out, text.as_bytes()));
            Some(())
        }
        DataType::Binary if datatype == Datatype::Bytes => {
            let texts = array.as_binary::<i32>().iter().flatten();
            texts.for_each(|bytes| push_element(out, bytes));
            Some(())
        }
        _ => None,
    };
    done.ok_or_else(|| Problem::Type(format!("expected {datatype}, got {}", array.data_type())))
}

fn is_integer(datatype: Datatype) -> bool {
    use Datatype::{Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
    matches!(
        datatype,
        Int8 | Int16 | Int32 | Int64 | Uint8 | Uint16 | Uint32 | Uint64
    )
}

/// Appends an integer if the datatype holds it.
fn integer(value: i128, datatype: Datatype, out: &mut Vec<u8>) -> Result<(), Problem> {
    macro_rules! fit {
        ($type:ty) => {
            <$type>::try_from(value)
                .ok()
                .map(|value| out.extend_from_slice(&value.to_le_bytes()))
        };
    }
    let fits = match datatype {
        Datatype::Int8 => fit!(i8),
        Datatype::Int16 => fit!(i16),
        Datatype::Int32 => fit!(i32),
        Datatype::Int64 => fit!(i64),
        Datatype::Uint8 => fit!(u8),
        Datatype::Uint16 => fit!(u16),
        Datatype::Uint32 => fit!(u32),
        Datatype::Uint64 => fit!(u64),
        _ => None,
    };
    fits.ok_or_else(|| Problem::Value(format!("{value} is no {datatype}")))
}

/// Appends a floating-point number, rounded to the datatype's width; `None` for other datatypes.
fn float(value: f64, datatype: Datatype, out: &mut Vec<u8>) -> Option<()> {
    #[expect(clippy::cast_possible_truncation, reason = "rounded to the datatype")]
    match datatype {
        Datatype::Fp16 => out.extend_from_slice(&f16::from_f64(value).to_le_bytes()),
        Datatype::Bf16 => out.extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
        Datatype::Fp32 => out.extend_from_slice(&(value as f32).to_le_bytes()),
        Datatype::Fp64 => out.extend_from_slice(&value.to_le_bytes()),
        _ => return None,
    }
    Some(())
}

/// The value at `row` as a label.
///
/// Errors: a column of another kind, a null, an integer beyond the 64-bit ones.
pub(super) fn label(array: &ArrayRef, row: usize) -> Result<Label, Problem> {
    if array.is_null(row) {
        return Err(Problem::Value("expected a value, got null".to_owned()));
    }
    macro_rules! integer {
        ($type:ty) => {{
            let value = array.as_primitive::<$type>().value(row);
            let value = i64::try_from(value);
            value
                .map(Label::Integer)
                .map_err(|error| Problem::Value(error.to_string()))
        }};
    }
    macro_rules! number {
        ($type:ty) => {
            Ok(Label::Number(f64::from(
                array.as_primitive::<$type>().value(row),
            )))
        };
    }
    match array.data_type() {
        DataType::Boolean => Ok(Label::Integer(i64::from(array.as_boolean().value(row)))),
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => integer!(UInt64Type),
        DataType::Float16 => number!(Float16Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => Ok(Label::Text(array.as_string::<i32>().value(row).to_owned())),
        other => Err(Problem::Type(format!(
            "expected integers, numbers, texts or yes and no, got {other}"
        ))),
    }
}
