//! Tensors of many records as Arrow columns.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, BooleanBuilder, Int64Builder, ListBuilder, PrimitiveBuilder};
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray};
use crossfade_runtimes_core::{BytesElements, Datatype};
use half::{bf16, f16};

use crate::record::LoggedTensor;
use crate::schema::Column;

/// The tensors of one column, one per record; `None` where a record has none.
pub(crate) type Cells<'a> = Vec<Option<&'a LoggedTensor<'a>>>;

/// The columns that a tensor becomes, with their names: a scalar one per element of a row where that is possible, and then a list
/// for the requests of several rows; a list of all elements, row-major, else, and its dimensions where they vary.
///
/// * `prefix`: `in` or `out`
///
/// FP16 and BF16 become 32 bits wide, which every reader knows; their values stay what they are.
pub(crate) fn columns(
    prefix: &str,
    column: &Column,
    datatype: Datatype,
    cells: &Cells<'_>,
) -> Vec<(String, ArrayRef)> {
    let name = format!("{prefix}.{}", column.name);
    let mut made = Vec::new();
    let Some(width) = column.scalars() else {
        made.push((name.clone(), lists(datatype, cells)));
        if column.varies() {
            made.push((format!("{name}.shape"), shapes(cells)));
        }
        return made;
    };
    let is_row = |tensor: &&LoggedTensor<'_>| tensor.shape.first() == Some(&1);
    let rows: Cells<'_> = cells.iter().map(|cell| cell.filter(is_row)).collect();
    // Texts have no width: where each begins is found once for all columns.
    let texts: Vec<Option<Vec<&[u8]>>> = match datatype.width() {
        Some(_) => Vec::new(),
        None => rows
            .iter()
            .map(|cell| cell.map(|tensor| elements(datatype, tensor.bytes)))
            .collect(),
    };
    for place in 0..width {
        let own = if width == 1 {
            name.clone()
        } else {
            format!("{name}.{place}")
        };
        let values = match datatype.width() {
            Some(bytes) => rows
                .iter()
                .map(|cell| cell.and_then(|tensor| tensor.bytes.get(place * bytes..(place + 1) * bytes)))
                .collect(),
            None => texts
                .iter()
                .map(|row| row.as_ref().and_then(|row| row.get(place).copied()))
                .collect(),
        };
        made.push((own, scalars(datatype, values)));
    }
    let several: Cells<'_> = cells
        .iter()
        .map(|cell| cell.filter(|tensor| !is_row(tensor)))
        .collect();
    if several.iter().any(Option::is_some) {
        made.push((format!("{name}.rows"), lists(datatype, &several)));
    }
    made
}

/// The elements of a tensor, each its bytes.
fn elements(datatype: Datatype, bytes: &[u8]) -> Vec<&[u8]> {
    match datatype.width() {
        Some(width) => bytes.chunks_exact(width).collect(),
        None => BytesElements::new(bytes).map_while(Result::ok).collect(),
    }
}

fn shapes(cells: &Cells<'_>) -> ArrayRef {
    let mut list = ListBuilder::new(Int64Builder::new());
    for cell in cells {
        if let Some(tensor) = cell {
            let sizes = tensor
                .shape
                .iter()
                .map(|size| i64::try_from(*size).unwrap_or(i64::MAX));
            sizes.for_each(|size| list.values().append_value(size));
        }
        list.append(cell.is_some());
    }
    Arc::new(list.finish())
}

/// Reads an element of fixed width from its bytes, which are as many.
macro_rules! read {
    ($type:ty) => {
        |bytes: &[u8]| <$type>::from_le_bytes(bytes.try_into().unwrap_or_default())
    };
}

fn scalars(datatype: Datatype, cells: Vec<Option<&[u8]>>) -> ArrayRef {
    macro_rules! numbers {
        ($arrow:ty, $read:expr) => {{
            let read = $read;
            Arc::new(
                cells
                    .into_iter()
                    .map(|cell| cell.map(|bytes| read(bytes)))
                    .collect::<PrimitiveArray<$arrow>>(),
            )
        }};
    }
    match datatype {
        Datatype::Bool => {
            let bits = cells.into_iter().map(|cell| cell.map(|bytes| bytes != [0]));
            Arc::new(bits.collect::<BooleanArray>())
        }
        Datatype::Uint8 => numbers!(UInt8Type, read!(u8)),
        Datatype::Uint16 => numbers!(UInt16Type, read!(u16)),
        Datatype::Uint32 => numbers!(UInt32Type, read!(u32)),
        Datatype::Uint64 => numbers!(UInt64Type, read!(u64)),
        Datatype::Int8 => numbers!(Int8Type, read!(i8)),
        Datatype::Int16 => numbers!(Int16Type, read!(i16)),
        Datatype::Int32 => numbers!(Int32Type, read!(i32)),
        Datatype::Int64 => numbers!(Int64Type, read!(i64)),
        Datatype::Fp16 => numbers!(Float32Type, half_precision),
        Datatype::Bf16 => numbers!(Float32Type, brain),
        Datatype::Fp32 => numbers!(Float32Type, read!(f32)),
        Datatype::Fp64 => numbers!(Float64Type, read!(f64)),
        Datatype::Bytes => Arc::new(cells.into_iter().collect::<BinaryArray>()),
    }
}

fn lists(datatype: Datatype, cells: &Cells<'_>) -> ArrayRef {
    macro_rules! list {
        ($builder:expr, $read:expr) => {{
            let read = $read;
            let mut list = ListBuilder::new($builder);
            for cell in cells {
                if let Some(tensor) = cell {
                    for bytes in elements(datatype, tensor.bytes) {
                        list.values().append_value(read(bytes));
                    }
                }
                list.append(cell.is_some());
            }
            Arc::new(list.finish())
        }};
    }
    match datatype {
        Datatype::Bool => list!(BooleanBuilder::new(), |bytes: &[u8]| bytes != [0]),
        Datatype::Uint8 => list!(PrimitiveBuilder::<UInt8Type>::new(), read!(u8)),
        Datatype::Uint16 => list!(PrimitiveBuilder::<UInt16Type>::new(), read!(u16)),
        Datatype::Uint32 => list!(PrimitiveBuilder::<UInt32Type>::new(), read!(u32)),
        Datatype::Uint64 => list!(PrimitiveBuilder::<UInt64Type>::new(), read!(u64)),
        Datatype::Int8 => list!(PrimitiveBuilder::<Int8Type>::new(), read!(i8)),
        Datatype::Int16 => list!(PrimitiveBuilder::<Int16Type>::new(), read!(i16)),
        Datatype::Int32 => list!(PrimitiveBuilder::<Int32Type>::new(), read!(i32)),
        Datatype::Int64 => list!(PrimitiveBuilder::<Int64Type>::new(), read!(i64)),
        Datatype::Fp16 => list!(PrimitiveBuilder::<Float32Type>::new(), half_precision),
        Datatype::Bf16 => list!(PrimitiveBuilder::<Float32Type>::new(), brain),
        Datatype::Fp32 => list!(PrimitiveBuilder::<Float32Type>::new(), read!(f32)),
        Datatype::Fp64 => list!(PrimitiveBuilder::<Float64Type>::new(), read!(f64)),
        Datatype::Bytes => list!(BinaryBuilder::new(), |bytes| bytes),
    }
}

fn half_precision(bytes: &[u8]) -> f32 {
    f16::from_le_bytes(bytes.try_into().unwrap_or_default()).to_f32()
}

fn brain(bytes: &[u8]) -> f32 {
    bf16::from_le_bytes(bytes.try_into().unwrap_or_default()).to_f32()
}
