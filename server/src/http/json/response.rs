//! An inference response's JSON, written into one buffer.

use crossfade_runtimes_core::{BytesElements, Datatype, Tensor};

use crate::infer::InferResponse;
use crate::status::Refusal;

/// Writes the response; `binary(k)` says whether output `k` follows the JSON in binary.
///
/// Errors: `InvalidInput` for an output asked for as JSON that JSON cannot carry.
pub(crate) fn write(
    response: &InferResponse,
    binary: impl Fn(usize) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    out.extend_from_slice(b"{\"model_name\":");
    push_string(&response.model, out);
    out.extend_from_slice(b",\"model_version\":\"");
    push_integer(response.version, out);
    out.push(b'"');
    if let Some(id) = &response.id {
        out.extend_from_slice(b",\"id\":");
        push_string(id, out);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (k, (name, tensor)) in response.outputs.iter().enumerate() {
        if k > 0 {
            out.push(b',');
        }
        push_tensor(name, tensor, binary(k), out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Writes one tensor, as requests and responses have it.
///
/// * `is_binary`: its bytes follow the JSON
///
/// Errors: `InvalidInput` for one that JSON cannot carry.
pub(crate) fn push_tensor(
    name: &str,
    tensor: &Tensor,
    is_binary: bool,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    out.extend_from_slice(b"{\"name\":");
    push_string(name, out);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(tensor.datatype.wire_name().as_bytes());
    out.extend_from_slice(b"\",\"shape\":[");
    push_all(tensor.shape.iter(), out, |&dim, out| push_integer(dim, out));
    if is_binary {
        out.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
        push_integer(tensor.data.len(), out);
        out.extend_from_slice(b"}}");
    } else {
        out.extend_from_slice(b"],\"data\":[");
        push_data(name, tensor, out)?;
        out.extend_from_slice(b"]}");
    }
    Ok(())
}

/// Writes the elements, flat and row-major.
fn push_data(name: &str, tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let data = &tensor.data[..];
    match tensor.datatype {
        Datatype::Bool => push_all(data.iter(), out, |&byte, out| {
            out.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
        }),
        Datatype::Uint8 => integers(data, out, u8::from_le_bytes),
        Datatype::Uint16 => integers(data, out, u16::from_le_bytes),
        Datatype::Uint32 => integers(data, out, u32::from_le_bytes),
        Datatype::Uint64 => integers(data, out, u64::from_le_bytes),
        Datatype::Int8 => integers(data, out, i8::from_le_bytes),
        Datatype::Int16 => integers(data, out, i16::from_le_bytes),
        Datatype::Int32 => integers(data, out, i32::from_le_bytes),
        Datatype::Int64 => integers(data, out, i64::from_le_bytes),
        Datatype::Fp32 => push_all(data.as_chunks().0.iter(), out, |&bytes, out| {
            push_float(f32::from_le_bytes(bytes), out);
        }),
        Datatype::Fp64 => push_all(data.as_chunks().0.iter(), out, |&bytes, out| {
            push_float(f64::from_le_bytes(bytes), out);
        }),
        Datatype::Bytes => return push_strings(name, data, out),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(Refusal::invalid(format!(
                "output `{name}`: {} has no JSON form; set `binary_data`",
                tensor.datatype
            )));
        }
    }
    Ok(())
}

/// Writes items with commas between them.
fn push_all<T>(items: impl ExactSizeIterator<Item = T>, out: &mut Vec<u8>, push: impl Fn(T, &mut Vec<u8>)) {
    out.reserve(items.len() * 4);
    for (k, item) in items.enumerate() {
        if k > 0 {
            out.push(b',');
        }
        push(item, out);
    }
}

fn integers<T: itoa::Integer, const N: usize>(data: &[u8], out: &mut Vec<u8>, decode: fn([u8; N]) -> T) {
    push_all(data.as_chunks().0.iter(), out, |&bytes, out| {
        push_integer(decode(bytes), out)
    });
}

fn push_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes the shortest text that reads back to the same bits, or a bare token.
/// A float, shortest; `NaN` and its like bare.
pub(crate) fn push_float<T: zmij::Float + Into<f64> + Copy>(value: T, out: &mut Vec<u8>) {
    let wide: f64 = value.into();
    if wide.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if wide.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if wide > 0.0 {
        out.extend_from_slice(b"Infinity");
    } else {
        out.extend_from_slice(b"-Infinity");
    }
}

fn push_strings(name: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    for (k, element) in BytesElements::new(data).enumerate() {
        if k > 0 {
            out.push(b',');
        }
        let text = element.ok().and_then(|element| std::str::from_utf8(element).ok());
        let text = text.ok_or_else(|| {
            Refusal::invalid(format!(
                "output `{name}`: element {k} is not UTF-8, which JSON cannot carry; set `binary_data`"
            ))
        })?;
        push_string(text, out);
    }
    Ok(())
}

/// Writes a string in quotes, escaping what JSON requires and nothing else.
pub(crate) fn push_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0; // Start of the bytes not written yet.
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => 0,
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        if short != 0 {
            out.extend_from_slice(&[b'\\', short]);
        } else {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::{Shape, push_element};
    use proptest::prelude::*;

    fn written(datatype: Datatype, data: Vec<u8>) -> Result<String, Refusal> {
        let tensor = Tensor {
            datatype,
            shape: Shape::from([1]),
            data: data.into(),
        };
        let mut out = Vec::new();
        push_data("y", &tensor, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn floats_are_shortest_and_non_finite_ones_bare() {
        let values = [
            0.1f32,
            -0.0,
            1e-45,
            f32::MAX,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
        ];
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let text = written(Datatype::Fp32, data).unwrap();
        let back: Vec<&str> = text.split(',').collect();
        assert_eq!(back[4..], ["NaN", "Infinity", "-Infinity"]);
        for (text, value) in back[..4].iter().zip(values) {
            assert_eq!(text.parse::<f32>().unwrap().to_bits(), value.to_bits());
            assert!(text.len() <= 14, "{text}");
        }
        assert_eq!(back[0], "0.1");
    }

    #[test]
    fn what_json_cannot_carry_says_to_set_binary_data() {
        for (datatype, data) in [
            (Datatype::Fp16, vec![0, 0]),
            (Datatype::Bf16, vec![0, 0]),
            (Datatype::Bytes, vec![1, 0, 0, 0, 0xff]),
        ] {
            let refusal = written(datatype, data).unwrap_err();
            assert!(refusal.message.contains("`binary_data`") && refusal.message.contains("`y`"));
        }
    }

    #[test]
    fn a_response_reads_as_documented() {
        let response = InferResponse {
            model: "m\"1".into(),
            version: 3,
            id: Some("é\n".to_owned()),
            tokens: None,
            outputs: vec![
                ("a".into(), tensor(Datatype::Bool, [2, 1], &[1, 0])),
                ("b".into(), tensor(Datatype::Fp32, [1, 0], &[])),
                ("c".into(), tensor(Datatype::Int8, [1, 1], &[0xff])),
            ],
        };
        let mut out = Vec::new();
        write(&response, |k| k == 2, &mut out).unwrap();
        let expected = concat!(
            r#"{"model_name":"m\"1","model_version":"3","id":"é\n","outputs":["#,
            r#"{"name":"a","datatype":"BOOL","shape":[2,1],"data":[true,false]},"#,
            r#"{"name":"b","datatype":"FP32","shape":[1,0],"data":[]},"#,
            r#"{"name":"c","datatype":"INT8","shape":[1,1],"parameters":{"binary_data_size":1}}]}"#,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    fn tensor(datatype: Datatype, shape: [usize; 2], data: &[u8]) -> Tensor {
        Tensor {
            datatype,
            shape: shape.into(),
            data: data.to_vec().into(),
        }
    }

    proptest! {
        #[test]
        fn strings_read_back(texts: Vec<String>) {
            let mut data = Vec::new();
            texts.iter().for_each(|text| push_element(&mut data, text.as_bytes()));
            let text = format!("[{}]", written(Datatype::Bytes, data).unwrap());
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), texts);
        }

        #[test]
        fn doubles_read_back_bit_for_bit(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = written(Datatype::Fp64, value.to_le_bytes().to_vec()).unwrap();
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
        }
    }
}
