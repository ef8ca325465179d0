use proptest::prelude::*;

use super::*;

const INPUT: &str = r#"{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}"#;

fn check(document: &str, expected: Result<(), &str>) {
    let got = read(document.as_bytes());
    match expected {
        Ok(()) => drop(got.expect(document)),
        Err(part) => {
            let refusal = got.expect_err(document);
            assert!(refusal.message.contains(part), "{document}: {}", refusal.message);
        }
    }
}

fn with_input(input: &str) -> String {
    format!(r#"{{"inputs":[{input}]}}"#)
}

fn tensor(input: &str) -> Vec<u8> {
    let mut document = read(with_input(input).as_bytes()).expect(input);
    match document.inputs.remove(0).data {
        Data::Json(data) => data.to_vec(),
        Data::Binary(size) => panic!("binary of {size} bytes"),
    }
}

#[test]
fn a_whole_request_is_read() {
    let document = read(
        br#" {"id":"r1","parameters":{"a":"s","b":-1,"c":18446744073709551615,"d":1.5,"e":true,"f":null},
        "unknown":[{"deep":[[]]}], "inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2.5],"extra":0},
        {"parameters":{"binary_data_size":4},"name":"y","shape":[4],"datatype":"UINT8"}],
        "outputs":[{"name":"o"},{"name":"p","parameters":{"binary_data":true,"classification":3,"mine":"x"}}]} "#,
    )
    .unwrap();
    assert_eq!(document.id.as_deref(), Some("r1"));
    let parameters: Vec<_> = document.parameters.into_values().collect();
    assert_eq!(
        parameters,
        [
            Parameter::String("s".to_owned()),
            Parameter::Int(-1),
            Parameter::Uint(u64::MAX),
            Parameter::Double(1.5),
            Parameter::Bool(true),
        ]
    );
    let [x, y] = &document.inputs[..] else {
        panic!("{:?}", document.inputs)
    };
    assert_eq!(
        (&*x.name, x.datatype, &x.shape[..]),
        ("x", Datatype::Fp32, &[1, 2][..])
    );
    let expected: Vec<u8> = [1f32, 2.5].into_iter().flat_map(f32::to_le_bytes).collect();
    assert!(matches!(&x.data, Data::Json(data) if *data == expected));
    assert!(matches!(y.data, Data::Binary(4)));
    let outputs = document.outputs.unwrap();
    assert_eq!(
        (&*outputs[0].name, outputs[0].binary, outputs[0].classification),
        ("o", None, 0)
    );
    assert_eq!((outputs[1].binary, outputs[1].classification), (Some(true), 3));
}

#[test]
fn keys_come_in_any_order_and_the_last_one_counts() {
    let expected = [1, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(
        tensor(r#"{"data":[1,2],"shape":[2],"datatype":"INT32","name":"x"}"#),
        expected
    );
    assert_eq!(
        tensor(r#"{"shape":[2],"data":[[1],[2]],"shape":[2,1],"datatype":"INT32","name":"x"}"#),
        expected
    );
    assert_eq!(
        tensor(r#"{"name":"x","datatype":"INT8","shape":[2],"data":[1,2],"datatype":"INT32"}"#),
        expected
    );
    assert_eq!(
        tensor(r#"{"name":"x","datatype":"INT32","shape":[2],"data":[3,4],"data":[1,2]}"#),
        expected
    );
}

#[test]
fn null_is_as_good_as_absent() {
    check(
        &format!(r#"{{"id":null,"parameters":null,"outputs":null,"inputs":[{INPUT}]}}"#),
        Ok(()),
    );
    check(&format!(r#"{{"outputs":[],"inputs":[{INPUT}]}}"#), Ok(()));
    check(r#"{"inputs":null}"#, Err("`inputs` is missing"));
    check(
        &with_input(r#"{"name":"x","datatype":"INT32","shape":[1],"data":null}"#),
        Err("input `x`: neither `data` nor `binary_data_size`"),
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (document, part) in [
        ("", "at byte 0: unexpected end"),
        ("[]", "expected an object"),
        ("{}", "`inputs` is missing"),
        (r#"{"inputs":{}}"#, "`inputs` must be an array"),
        (r#"{"inputs":[1]}"#, "expected an object"),
        (r#"{"id":7}"#, "`id` must be a string"),
        (r#"{"parameters":[]}"#, "`parameters` must be an object"),
        (r#"{"parameters":{"k":[1]}}"#, "parameter `k` must be"),
        (r#"{"inputs":[]} x"#, "at byte 14: unexpected text"),
        (
            r#"{"outputs":[{}],"inputs":[]}"#,
            "a requested output has no `name`",
        ),
    ] {
        check(document, Err(part));
    }
    for (input, part) in [
        (
            r#"{"datatype":"INT32","shape":[1],"data":[1]}"#,
            "an input has no `name`",
        ),
        (
            r#"{"name":"x","shape":[1],"data":[1]}"#,
            "input `x`: `datatype` is missing",
        ),
        (
            r#"{"name":"x","datatype":"INT32","data":[1]}"#,
            "input `x`: `shape` is missing",
        ),
        (
            r#"{"name":"x","datatype":"fp32"}"#,
            "input `x`: unknown datatype `fp32`",
        ),
        (r#"{"name":"x","datatype":32}"#, "must be a string"),
        (r#"{"name":"x","shape":[-1]}"#, "input `x`: `shape` must be"),
        (r#"{"name":"x","shape":[1.0]}"#, "input `x`: `shape` must be"),
        (r#"{"name":"x","shape":["1"]}"#, "input `x`: `shape` must be"),
        (
            r#"{"name":"x","shape":[99999999999999999999]}"#,
            "input `x`: `shape` must be",
        ),
        (r#"{"name":"x","shape":3}"#, "input `x`: `shape` must be"),
        (
            r#"{"name":"x","datatype":"INT8","shape":[1],"data":[300]}"#,
            "input `x`: element 0 of `data` is no INT8: out of range",
        ),
        (
            r#"{"name":"x","datatype":"FP16","shape":[1],"data":[1]}"#,
            "`binary_data_size`",
        ),
        (
            r#"{"name":"x","datatype":"INT8","shape":[1],"data":[1],"parameters":{"binary_data_size":1}}"#,
            "both `data` and `binary_data_size`",
        ),
        (
            r#"{"name":"x","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":-1}}"#,
            "`binary_data_size` must be",
        ),
        (
            r#"{"name":"x","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1.5}}"#,
            "`binary_data_size` must be",
        ),
        (
            r#"{"name":"x","datatype":"INT8","shape":[9007199254740993,9007199254740993],"data":[1]}"#,
            "too many elements",
        ),
    ] {
        check(&with_input(input), Err(part));
    }
    for (parameters, part) in [
        (r#"{"binary_data":1}"#, "output `o`: `binary_data` must be"),
        (r#"{"classification":-1}"#, "output `o`: `classification` must be"),
        (
            r#"{"classification":"3"}"#,
            "output `o`: `classification` must be",
        ),
    ] {
        check(
            &format!(r#"{{"outputs":[{{"name":"o","parameters":{parameters}}}],"inputs":[{INPUT}]}}"#),
            Err(part),
        );
    }
}

#[test]
fn shared_memory_is_unsupported() {
    let region = r#""parameters":{"shared_memory_region":"r"}"#;
    for document in [
        with_input(&format!(
            r#"{{"name":"x","datatype":"INT8","shape":[1],{region}}}"#
        )),
        format!(r#"{{"inputs":[{INPUT}],"outputs":[{{"name":"o",{region}}}]}}"#),
    ] {
        assert_eq!(
            read(document.as_bytes()).unwrap_err().status,
            Status::Unsupported,
            "{document}"
        );
    }
}

#[test]
fn deep_documents_are_refused_at_once() {
    for opening in ["[", "{\"a\":", "{\"inputs\":[{\"data\":[", "{\"inputs\":["] {
        assert!(read(opening.repeat(200_000).as_bytes()).is_err());
    }
    let nested = "[".repeat(200_000) + &"]".repeat(200_000);
    check(&format!(r#"{{"x":{nested}}}"#), Err("nested deeper than 64"));
    let shape = vec!["1"; 200_000].join(",");
    let input = format!(r#"{{"name":"x","datatype":"INT8","shape":[{shape}],"data":{nested}}}"#);
    check(&with_input(&input), Err("nested deeper than 64"));
}

#[test]
fn bytes_that_are_no_utf8_are_refused() {
    let refusal = read(b"{\"id\":\"\xff\"}").unwrap_err();
    assert_eq!(refusal.message, "malformed JSON at byte 7: invalid UTF-8");
}

/// A request with every part that one can have.
fn document() -> Vec<u8> {
    format!(
        r#"{{"id":"a","parameters":{{"k":1}},"inputs":[{INPUT},{{"data":[["é"],["\u00e9"]],"name":"y","datatype":"BYTES","shape":[2,1]}}],"outputs":[{{"name":"o"}}]}}"#
    )
    .into_bytes()
}

#[test]
fn a_request_that_is_cut_anywhere_is_refused() {
    let document = document();
    assert!(read(&document).is_ok());
    for cut in 0..document.len() {
        assert!(read(&document[..cut]).is_err(), "cut at byte {cut}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        drop(read(&bytes));
    }

    #[test]
    fn any_damage_to_a_request_is_survived(at in 0usize..document().len(), byte: u8) {
        let mut document = document();
        document[at] = byte;
        drop(read(&document));
    }

    #[test]
    fn values_agree_with_serde_json(values: Vec<f64>) {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let data = serde_json::to_string(&values).unwrap();
        let bytes = tensor(&format!(r#"{{"name":"x","datatype":"FP64","shape":[{}],"data":{data}}}"#, values.len()));
        prop_assert_eq!(bytes, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
}
