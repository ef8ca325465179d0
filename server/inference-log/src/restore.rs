//! Tensors of a record, as they were, from the columns that they became.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use crossfade_runtimes_core::{Datatype, Shape, ShapeSpec, Tensor, TensorSpec, push_element};
use half::{bf16, f16};

use crate::record::Side;
use crate::schema::Column;
use crate::table::{POLICY, TENSOR};

/// Kinds of tensors of one name in one file, at most, that are looked at.
const KINDS: usize = 16;

/// What became of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Restored {
    /// As it was sent or answered, bit for bit.
    Tensor(Tensor),
    /// It is not in the log: it was not there, was larger than is kept, or is no longer.
    Missing,
    /// It is not what was sent or answered, but what this policy made of it.
    Redacted(String),
    /// It is there, and does not fit the signature: another kind of tensor had this name.
    Other,
}

/// A tensor of the record at `row`.
///
/// * `spec`: as the signature of the version has it
pub fn restored(table: &RecordBatch, row: usize, side: Side, spec: &TensorSpec) -> Restored {
    let column = Column::of(spec);
    let prefix = if side == Side::Input { "in" } else { "out" };
    let name = format!("{prefix}.{}", spec.name);
    let mut found = Restored::Missing;
    for kind in 1..=KINDS {
        let suffixed = |part: &str| match kind {
            1 => format!("{name}{part}"),
            _ => format!("{name}{part}#{kind}"),
        };
        let of = |part: &str| {
            let column = table.column_by_name(&suffixed(part))?;
            column.is_valid(row).then(|| column.slice(row, 1))
        };
        match one(&of, &column, spec) {
            Some(Some(tensor)) => {
                return match policy(table, &suffixed) {
                    Some(policy) => Restored::Redacted(policy),
                    None => Restored::Tensor(tensor),
                };
            }
            Some(None) => found = Restored::Other,
            None => {}
        }
    }
    found
}

/// The tensors that a table has columns of, by what its fields say.
pub fn tensors(table: &RecordBatch, side: Side) -> Vec<TensorSpec> {
    let prefix = if side == Side::Input { "in." } else { "out." };
    let mut specs: Vec<TensorSpec> = Vec::new();
    for field in table.schema().fields() {
        let of = field
            .metadata()
            .get(TENSOR)
            .filter(|_| field.name().starts_with(prefix));
        let column = of.and_then(|text| serde_json::from_str::<Column>(text).ok());
        let spec = column.and_then(|column| {
            let shape = ShapeSpec::from(&*column.shape);
            Some(TensorSpec::new(column.name.clone(), column.datatype()?, shape))
        });
        if let Some(spec) = spec.filter(|spec| !specs.contains(spec)) {
            specs.push(spec);
        }
    }
    specs
}

/// What became of the values of a tensor, by the metadata of its first column.
fn policy(table: &RecordBatch, suffixed: &impl Fn(&str) -> String) -> Option<String> {
    let parts = ["", ".0", ".rows"];
    let schema = table.schema();
    let mut fields = parts
        .iter()
        .filter_map(|part| schema.field_with_name(&suffixed(part)).ok());
    fields.find_map(|field| field.metadata().get(POLICY).cloned())
}

/// One kind of a tensor; `None` where there is nothing, `Some(None)` where it does not fit.
fn one(of: &impl Fn(&str) -> Option<ArrayRef>, column: &Column, spec: &TensorSpec) -> Option<Option<Tensor>> {
    let mut data = Vec::new();
    let made = |data: Vec<u8>, dims: Vec<usize>| {
        let shape = Shape::from(&*dims);
        let fits = spec.shape.accepts(&shape);
        fits.then(|| Tensor {
            datatype: spec.datatype,
            shape,
            data: data.into(),
        })
    };
    if let Some(width) = column.scalars() {
        let is_vector = column.shape.len() == 1;
        let dims = |rows| if is_vector { vec![rows] } else { vec![rows, width] };
        if let Some(several) = of(".rows") {
            let count = push_list(&several, spec.datatype, &mut data)?;
            return Some(made(data, dims(count / width)).filter(|_| count.is_multiple_of(width)));
        }
        for place in 0..width {
            let own = match width {
                1 => of("")?,
                _ => of(&format!(".{place}"))?,
            };
            if !push(&own, spec.datatype, &mut data) {
                return Some(None);
            }
        }
        return Some(made(data, dims(1)));
    }
    let list = of("")?;
    let Some(count) = push_list(&list, spec.datatype, &mut data) else {
        return Some(None);
    };
    let dims = if column.varies() {
        let shape = of(".shape")?;
        let shape = shape.as_list_opt::<i32>()?.value(0);
        let sizes = shape.as_primitive_opt::<Int64Type>()?.values().to_vec();
        sizes.iter().map(|size| usize::try_from(*size).ok()).collect()
    } else {
        let known: usize = column
            .shape
            .iter()
            .filter_map(|size| usize::try_from(*size).ok())
            .product();
        let open = column.shape.iter().any(|size| *size < 0);
        let missing = if open && known > 0 { count / known } else { 0 };
        let sizes = column.shape.iter();
        Some(
            sizes
                .map(|size| usize::try_from(*size).unwrap_or(missing))
                .collect(),
        )
    };
    Some(dims.and_then(|dims: Vec<usize>| {
        let elements: Option<usize> = dims
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul(*size));
        (elements == Some(count)).then(|| made(data, dims)).flatten()
    }))
}

/// Adds the elements of a list; returns how many, or `None` for a column of another kind.
fn push_list(list: &ArrayRef, datatype: Datatype, data: &mut Vec<u8>) -> Option<usize> {
    let elements = list.as_list_opt::<i32>()?.value(0);
    push(&elements, datatype, data).then(|| elements.len())
}

/// Adds elements; returns whether they are of this datatype.
fn push(elements: &ArrayRef, datatype: Datatype, data: &mut Vec<u8>) -> bool {
    if elements.null_count() > 0 {
        return false;
    }
    macro_rules! numbers {
        ($arrow:ty, $write:expr) => {{
            let write = $write;
            elements.as_primitive_opt::<$arrow>().map(|numbers| {
                numbers
                    .values()
                    .iter()
                    .for_each(|number| data.extend(write(*number)))
            })
        }};
    }
    let pushed = match datatype {
        Datatype::Bool => elements
            .as_boolean_opt()
            .map(|bits| data.extend(bits.values().iter().map(u8::from))),
        Datatype::Uint8 => numbers!(UInt8Type, u8::to_le_bytes),
        Datatype::Uint16 => numbers!(UInt16Type, u16::to_le_bytes),
        Datatype::Uint32 => numbers!(UInt32Type, u32::to_le_bytes),
        Datatype::Uint64 => numbers!(UInt64Type, u64::to_le_bytes),
        Datatype::Int8 => numbers!(Int8Type, i8::to_le_bytes),
        Datatype::Int16 => numbers!(Int16Type, i16::to_le_bytes),
        Datatype::Int32 => numbers!(Int32Type, i32::to_le_bytes),
        Datatype::Int64 => numbers!(Int64Type, i64::to_le_bytes),
        Datatype::Fp16 => numbers!(Float32Type, |wide| f16::from_f32(wide).to_le_bytes()),
        Datatype::Bf16 => numbers!(Float32Type, |wide| bf16::from_f32(wide).to_le_bytes()),
        Datatype::Fp32 => numbers!(Float32Type, f32::to_le_bytes),
        Datatype::Fp64 => numbers!(Float64Type, f64::to_le_bytes),
        Datatype::Bytes => elements
            .as_binary_opt::<i32>()
            .map(|texts| texts.iter().flatten().for_each(|text| push_element(data, text))),
    };
    pushed.is_some()
}

#[cfg(test)]
mod tests;
