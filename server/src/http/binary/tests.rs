use crossfade_runtimes_core::{Datatype, Shape, push_element};
use proptest::prelude::*;

use super::*;
use crate::http::json;

fn body(json: &str, raw: &[u8]) -> (Bytes, String) {
    ([json.as_bytes(), raw].concat().into(), json.len().to_string())
}

fn check(json: &str, raw: &[u8], expected: Result<&[&[u8]], &str>) {
    let (body, length) = body(json, raw);
    match (decode_request("m", "1", &body, Some(&length)), expected) {
        (Ok(decoded), Ok(expected)) => {
            let Inputs::Named(inputs) = decoded.request.inputs else {
                panic!("raw body");
            };
            let data: Vec<&[u8]> = inputs.iter().map(|(_, tensor)| &tensor.data[..]).collect();
            assert_eq!(data, expected, "{json}");
        }
        (Err(refusal), Err(part)) => assert!(refusal.message.contains(part), "{json}: {refusal}"),
        (got, _) => panic!("{json}: {got:?}"),
    }
}

fn input(name: &str, datatype: &str, shape: &str, size: &str) -> String {
    format!(
        r#"{{"name":"{name}","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{size}}}}}"#
    )
}

#[test]
fn tensors_follow_in_input_order() {
    let (a, b) = (input("a", "INT8", "[2]", "2"), input("b", "BYTES", "[1]", "5"));
    let json = r#"{"name":"j","datatype":"UINT8","shape":[1],"data":[9]}"#;
    check(
        &format!(r#"{{"inputs":[{a},{json},{b}]}}"#),
        b"\x01\x02\x01\0\0\0x",
        Ok(&[b"\x01\x02", b"\x09", b"\x01\0\0\0x"]),
    );
}

#[test]
fn sizes_that_lie_are_refused() {
    let one = |input: String| format!(r#"{{"inputs":[{input}]}}"#);
    let a = one(input("a", "INT8", "[4]", "4"));
    check(
        &a,
        &[1, 2],
        Err("unexpected size for input 'a', expecting 2 additional bytes for model 'm'"),
    );
    check(
        &a,
        &[1, 2, 3, 4, 5],
        Err("unexpected additional input data for model 'm'"),
    );
    check(
        &one(input("a", "INT8", "[4]", "3")),
        &[1, 2, 3],
        Err("`binary_data_size` is 3"),
    );
    check(
        &one(input("a", "INT8", "[4]", "-1")),
        &[],
        Err("`binary_data_size` must be"),
    );
    check(
        &one(input("a", "INT8", "[4]", "\"4\"")),
        &[0; 4],
        Err("`binary_data_size` must be"),
    );
    check(
        &one(input("a", "FP64", "[4611686018427387904]", "0")),
        &[],
        Err("`binary_data_size` is 0"),
    );
    let huge = u64::MAX.to_string();
    check(
        &one(input("a", "BYTES", "[1]", &huge)),
        &[],
        Err("unexpected size for input 'a'"),
    );
    let both = r#"{"name":"a","datatype":"INT8","shape":[1],"data":[1],"parameters":{"binary_data_size":1}}"#;
    check(&one(both.to_owned()), &[1], Err("both"));
}

#[test]
fn header_lengths_are_plain_numbers_within_the_body() {
    let body = Bytes::from_static(b"{\"inputs\":[]}");
    for text in ["-1", "+1", "", " 5", "x", "1e1", "14", "99999999999999999999999"] {
        let refusal = decode_request("m", "", &body, Some(text)).unwrap_err();
        let expected = format!("inference header size should be in range (0, 13), got: {text}");
        assert_eq!(refusal.message, expected);
    }
    assert!(decode_request("m", "", &body, Some("13")).is_ok());
    assert!(decode_request("m", "", &body, None).is_ok());
}

#[test]
fn a_raw_body_is_the_only_input_and_answered_in_binary() {
    let body = Bytes::from_static(b"\x01\x02");
    let decoded = decode_request("m", "2", &body, Some("0")).unwrap();
    assert!(matches!(decoded.request.inputs, Inputs::RawBody(raw) if raw == body));
    assert_eq!((&*decoded.request.model, &*decoded.request.version), ("m", "2"));
    assert!(decoded.forms.binary("anything"));
}

#[test]
fn an_output_says_its_form_before_the_request_does() {
    let document = |parameters: &str| {
        let outputs = r#"[{"name":"a","parameters":{"binary_data":false}},{"name":"b","parameters":{"binary_data":true}},{"name":"c"}]"#;
        format!(r#"{{"parameters":{parameters},"inputs":[],"outputs":{outputs}}}"#)
    };
    for (parameters, expected) in [
        ("{}", [false, true, false]),
        (r#"{"binary_data_output":true}"#, [false, true, true]),
    ] {
        let decoded = json::decode_request("m", "", &document(parameters).into()).unwrap();
        assert_eq!(["a", "b", "c"].map(|name| decoded.forms.binary(name)), expected);
    }
    let refusal = json::decode_request("m", "", &document(r#"{"binary_data_output":1}"#).into()).unwrap_err();
    assert!(refusal.message.contains("`binary_data_output`"));
}

fn tensors() -> impl Strategy<Value = Tensor> {
    let datatypes = prop::sample::select(Datatype::ALL.to_vec());
    (datatypes, prop::collection::vec(any::<u64>(), 0..8)).prop_map(|(datatype, values)| {
        let mut data = Vec::new();
        for value in &values {
            let bytes = value.to_le_bytes();
            match datatype {
                Datatype::Bool => data.push(bytes[0] & 1),
                Datatype::Bytes => push_element(&mut data, value.to_string().as_bytes()),
                _ => data.extend_from_slice(&bytes[..datatype.width().unwrap()]),
            }
        }
        Tensor {
            datatype,
            shape: Shape::from([values.len(), 1]),
            data: data.into(),
        }
    })
}

/// The bytes as they compare: every NaN is one, for JSON has one token for all.
fn comparable(tensor: &Tensor) -> Vec<u8> {
    match tensor.datatype {
        Datatype::Fp32 => {
            let values = tensor
                .data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes));
            values
                .flat_map(|value| if value.is_nan() { f32::NAN } else { value }.to_le_bytes())
                .collect()
        }
        Datatype::Fp64 => {
            let values = tensor
                .data
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f64::from_le_bytes(bytes));
            values
                .flat_map(|value| if value.is_nan() { f64::NAN } else { value }.to_le_bytes())
                .collect()
        }
        _ => tensor.data.to_vec(),
    }
}

proptest! {
    #[test]
    fn what_a_response_says_a_request_can_say_back(tensors in prop::collection::vec(tensors(), 0..4), binary: bool) {
        let named = tensors.iter().enumerate().map(|(k, tensor)| (format!("t{k}").into(), tensor.clone()));
        let response = InferResponse { model: "m".into(), version: 1, id: None, outputs: named.collect(), tokens: None };
        let forms = Forms { default: binary, named: Vec::new() };
        let half = tensors.iter().any(|tensor| matches!(tensor.datatype, Datatype::Fp16 | Datatype::Bf16));
        let encoded = encode_response(&response, &forms);
        if half && !binary {
            prop_assert!(encoded.unwrap_err().message.contains("`binary_data`"));
            return Ok(());
        }
        let encoded = encoded.unwrap();
        prop_assert_eq!(encoded.header_length.is_some(), binary && !tensors.is_empty());
        let (json, raw) = encoded.parts.split_first().unwrap();
        let json = String::from_utf8(json.to_vec()).unwrap().replace("\"outputs\"", "\"inputs\"");
        let length = encoded.header_length.map(|_| json.len().to_string());
        let body: Bytes = [json.as_bytes(), &raw.concat()].concat().into();
        let decoded = decode_request("m", "1", &body, length.as_deref()).unwrap();
        let Inputs::Named(inputs) = decoded.request.inputs else { panic!("raw body") };
        prop_assert_eq!(inputs.len(), tensors.len());
        for ((_, back), tensor) in inputs.iter().zip(&tensors) {
            prop_assert_eq!((back.datatype, &back.shape), (tensor.datatype, &tensor.shape));
            prop_assert_eq!(comparable(back), comparable(tensor));
        }
    }

    #[test]
    fn any_body_is_decoded_without_a_panic(body: Vec<u8>, length in prop::option::of(0usize..80)) {
        let length = length.map(|length| length.to_string());
        drop(decode_request("m", "", &body.into(), length.as_deref()));
    }

    #[test]
    fn any_sizes_are_survived(size: i64, dims: Vec<u64>, raw: Vec<u8>) {
        let shape = serde_json::to_string(&dims).unwrap();
        let json = format!(r#"{{"inputs":[{}]}}"#, input("a", "INT16", &shape, &size.to_string()));
        let (body, length) = body(&json, &raw);
        drop(decode_request("m", "", &body, Some(&length)));
    }
}
