//! `data` of an input: numbers and strings straight from the text into a tensor's bytes.

use crossfade_runtimes_core::{Datatype, Shape, push_element};

use super::number::{Bool, Element, Misfit};
use super::reader::{JsonError, MAX_DEPTH, Reader};

/// Why `data` is not the tensor that `shape` and `datatype` announce.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DataError {
    #[error("malformed JSON {0}")]
    Json(#[from] JsonError),
    #[error("element {index} of `data` is no {datatype}: {}", explain(*.datatype, *.misfit))]
    Element {
        index: usize,
        datatype: Datatype,
        misfit: Misfit,
    },
    #[error("shape {shape} has {expected} elements, `data` has {}{got}", if got > expected { "at least " } else { "" })]
    Count {
        shape: Shape,
        expected: usize,
        got: usize,
    },
    #[error("shape {shape} has size {} in dimension {dimension}, `data` has {got} there", shape[*.dimension])]
    Size {
        shape: Shape,
        dimension: usize,
        got: usize,
    },
    #[error("`data` is nested unlike shape {0}; give it flat, or nested with the sizes of the shape")]
    Nesting(Shape),
    #[error("shape {0} has too many elements")]
    TooManyElements(Shape),
    #[error("{0} has no JSON form; send it as binary data (`binary_data_size`)")]
    BinaryOnly(Datatype),
}

fn explain(datatype: Datatype, misfit: Misfit) -> &'static str {
    match (misfit, datatype) {
        (Misfit::Range, _) => "out of range",
        (Misfit::Fraction, _) => "expected a JSON integer, without fraction or exponent",
        (Misfit::Kind, Datatype::Bool) => "expected true, false, 0 or 1",
        (Misfit::Kind, Datatype::Bytes) => "expected a string",
        (Misfit::Kind, Datatype::Fp32 | Datatype::Fp64) => "expected a number, NaN, Infinity or -Infinity",
        (Misfit::Kind, _) => "expected a JSON integer",
    }
}

/// Reads `data`, flat or nested, into the bytes of a tensor (BYTES in wire form).
///
/// What is allocated is bounded by the text that is left, whatever `shape` announces.
pub(super) fn read(reader: &mut Reader<'_>, datatype: Datatype, shape: &Shape) -> Result<Vec<u8>, DataError> {
    match datatype {
        Datatype::Bool => fixed::<Bool>(reader, datatype, shape),
        Datatype::Uint8 => fixed::<u8>(reader, datatype, shape),
        Datatype::Uint16 => fixed::<u16>(reader, datatype, shape),
        Datatype::Uint32 => fixed::<u32>(reader, datatype, shape),
        Datatype::Uint64 => fixed::<u64>(reader, datatype, shape),
        Datatype::Int8 => fixed::<i8>(reader, datatype, shape),
        Datatype::Int16 => fixed::<i16>(reader, datatype, shape),
        Datatype::Int32 => fixed::<i32>(reader, datatype, shape),
        Datatype::Int64 => fixed::<i64>(reader, datatype, shape),
        Datatype::Fp32 => fixed::<f32>(reader, datatype, shape),
        Datatype::Fp64 => fixed::<f64>(reader, datatype, shape),
        Datatype::Bytes => strings(reader, shape),
        Datatype::Fp16 | Datatype::Bf16 => Err(DataError::BinaryOnly(datatype)),
    }
}

fn element_count(shape: &Shape) -> Result<usize, DataError> {
    shape
        .element_count()
        .ok_or_else(|| DataError::TooManyElements(shape.clone()))
}

fn fixed<T: Element>(
    reader: &mut Reader<'_>,
    datatype: Datatype,
    shape: &Shape,
) -> Result<Vec<u8>, DataError> {
    let count = element_count(shape)?;
    // An element takes two bytes of text: itself and the comma or bracket after it.
    let mut out = Vec::with_capacity(count.min(reader.rest().len() / 2 + 1) * T::WIDTH);
    walk(reader, shape, count, |reader, index| {
        match T::read(reader) {
            Ok(element) => element.push(&mut out),
            Err(misfit) => {
                return Err(DataError::Element {
                    index,
                    datatype,
                    misfit,
                });
            }
        }
        Ok(())
    })?;
    Ok(out)
}

fn strings(reader: &mut Reader<'_>, shape: &Shape) -> Result<Vec<u8>, DataError> {
    let count = element_count(shape)?;
    let mut out = Vec::new();
    walk(reader, shape, count, |reader, index| {
        if reader.peek() != Some(b'"') {
            return Err(DataError::Element {
                index,
                datatype: Datatype::Bytes,
                misfit: Misfit::Kind,
            });
        }
        push_element(&mut out, reader.string()?.as_bytes());
        Ok(())
    })?;
    Ok(out)
}

/// Calls `leaf` at each element, in order, and checks brackets and sizes.
///
/// Either every element stands in the outermost array (flat), or arrays are nested as deep as `shape` has
/// dimensions and each has the size of its dimension. A scalar may stand without an array.
#[inline]
fn walk<'a>(
    reader: &mut Reader<'a>,
    shape: &Shape,
    count: usize,
    mut leaf: impl FnMut(&mut Reader<'a>, usize) -> Result<(), DataError>,
) -> Result<(), DataError> {
    if shape.is_empty() && reader.peek() != Some(b'[') {
        return leaf(reader, 0);
    }
    reader.open(b'[', "an array")?;
    let mut sizes = [0usize; MAX_DEPTH as usize]; // Members so far of the array open at each level.
    let mut level = 0;
    let mut total = 0;
    let mut flat = true; // Until an inner array is opened.
    loop {
        match reader.peek() {
            Some(b'[') => {
                if level + 1 >= shape.len() {
                    return Err(DataError::Nesting(shape.clone()));
                }
                reader.open(b'[', "an array")?;
                flat = false;
                level += 1;
                sizes[level] = 0;
                continue;
            }
            Some(b']') if sizes[level] == 0 => {}
            _ => {
                if !flat && level + 1 != shape.len() {
                    return Err(DataError::Nesting(shape.clone()));
                }
                let before = total;
                loop {
                    leaf(reader, total)?;
                    total += 1;
                    if total > count {
                        return Err(wrong_count(shape, count, total));
                    }
                    if !reader.take(b',') {
                        break;
                    }
                    reader.peek();
                }
                sizes[level] = total - before;
            }
        }
        // The innermost open array ends here, and perhaps those around it.
        loop {
            if !reader.take(b']') {
                return Err(reader.expected("`,` or `]`").into());
            }
            reader.closed();
            if !flat && sizes[level] != shape[level] {
                return Err(DataError::Size {
                    shape: shape.clone(),
                    dimension: level,
                    got: sizes[level],
                });
            }
            if level == 0 {
                return if total == count {
                    Ok(())
                } else {
                    Err(wrong_count(shape, count, total))
                };
            }
            level -= 1;
            sizes[level] += 1;
            if reader.take(b',') {
                break;
            }
        }
    }
}

#[cold]
fn wrong_count(shape: &Shape, expected: usize, got: usize) -> DataError {
    DataError::Count {
        shape: shape.clone(),
        expected,
        got,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<const N: usize>(text: &str, shape: [usize; N], expected: Result<&[u8], &str>) {
        let mut reader = Reader::new(text.as_bytes()).unwrap();
        let got = read(&mut reader, Datatype::Uint8, &Shape::from(shape));
        match expected {
            Ok(bytes) => {
                assert_eq!(got.as_deref(), Ok(bytes), "{text}");
                assert_eq!((reader.at(), reader.depth()), (text.len(), 0), "{text}");
            }
            Err(message) => {
                let error = got.expect_err(text).to_string();
                assert!(error.contains(message), "{text}: {error}");
            }
        }
    }

    #[test]
    fn flat_and_nested_data_are_the_same_tensor() {
        check("[1,2,3,4]", [2, 2], Ok(&[1, 2, 3, 4]));
        check(" [ [1 , 2],[3,\n4] ]", [2, 2], Ok(&[1, 2, 3, 4]));
        check("[[[1],[2]]]", [1, 2, 1], Ok(&[1, 2]));
        check("7", [], Ok(&[7]));
        check("[7]", [], Ok(&[7]));
        check("[]", [0], Ok(&[]));
        check("[]", [0, 3], Ok(&[]));
        check("[]", [2, 0], Ok(&[]));
        check("[[],[]]", [2, 0], Ok(&[]));
        check("[[],[]]", [2, 0, 5], Ok(&[]));
    }

    #[test]
    fn data_unlike_its_shape_is_refused() {
        check("[1,2,3]", [2, 2], Err("shape [2,2] has 4 elements, `data` has 3"));
        check("[1,2,3,4,5]", [2, 2], Err("at least 5"));
        check("[[1,2],[3]]", [2, 2], Err("size 2 in dimension 1, `data` has 1"));
        check("[[1,2]]", [2, 2], Err("size 2 in dimension 0, `data` has 1"));
        check("[[1,2,3,4]]", [2, 2], Err("size 2 in dimension 1, `data` has 4"));
        check("[[1,2],3]", [2, 2], Err("nested unlike"));
        check("[1,[2]]", [2, 2], Err("element 1"));
        check("[[[1]]]", [1, 1], Err("nested unlike"));
        check("[[1]]", [1], Err("nested unlike"));
        check("[[1]]", [], Err("nested unlike"));
        check("[[]]", [2, 0], Err("dimension 0"));
        check("1", [1], Err("expected an array"));
        check("[1,]", [2], Err("element 1"));
        check("[1", [1], Err("unexpected end"));
        check("[[1}", [1, 1], Err("expected `,` or `]`"));
        check("[null]", [1], Err("expected a JSON integer"));
        check("[]", [usize::MAX, 2], Err("too many elements"));
        check("[1]", [usize::MAX], Err("has 18446744073709551615 elements"));
    }

    #[test]
    fn half_floats_have_no_json_form() {
        for datatype in [Datatype::Fp16, Datatype::Bf16] {
            let mut reader = Reader::new(b"[1]").unwrap();
            let error = read(&mut reader, datatype, &Shape::from([1])).unwrap_err();
            assert_eq!(error, DataError::BinaryOnly(datatype));
        }
    }

    #[test]
    fn strings_become_framed_elements() {
        let mut reader = Reader::new(r#"["a\u0000b", "", "é"]"#.as_bytes()).unwrap();
        let bytes = read(&mut reader, Datatype::Bytes, &Shape::from([3])).unwrap();
        assert_eq!(bytes, b"\x03\0\0\0a\0b\0\0\0\0\x02\0\0\0\xc3\xa9");
    }

    proptest! {
        #[test]
        fn nesting_never_changes_the_elements(dims in prop::collection::vec(0usize..4, 0..5), seed: u32) {
            let count: usize = dims.iter().product();
            let values: Vec<u32> = (0..count).map(|k| seed.wrapping_add(u32::try_from(k).unwrap())).collect();
            let nested = dims.iter().skip(1).rev().fold(
                values.iter().map(|value| serde_json::json!(value)).collect::<Vec<_>>(),
                |flat, &dim| match flat.is_empty() || dim == 0 {
                    true => Vec::new(),
                    false => flat.chunks(dim).map(|row| serde_json::json!(row)).collect(),
                },
            );
            let shape: Shape = dims.iter().copied().collect();
            let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            for document in [serde_json::json!(values), serde_json::json!(nested)] {
                let text = document.to_string();
                let mut reader = Reader::new(text.as_bytes()).unwrap();
                prop_assert_eq!(read(&mut reader, Datatype::Uint32, &shape), Ok(expected.clone()), "{} {:?}", text, shape);
            }
        }
    }
}
