//! What a ModelInferRequest becomes, and what is refused.

use bytes::Bytes;
use crossfade_proto::inference::InferTensorContents;
use proptest::prelude::*;

use super::*;

fn input(datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "x".into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn typed(datatype: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor {
            contents: Some(contents),
            ..input(datatype, shape)
        }],
        ..Default::default()
    }
}

fn raw(datatype: &str, shape: &[i64], data: &'static [u8]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![input(datatype, shape)],
        raw_input_contents: vec![Bytes::from_static(data)],
        ..Default::default()
    }
}

fn decoded(message: &ModelInferRequest) -> Result<InferRequest, Refusal> {
    request_from_wire(message.encode_to_vec().into())
}

/// `expected`: the bytes of the only tensor, or the message of the refusal.
#[track_caller]
fn check(message: ModelInferRequest, expected: Result<&[u8], &str>) {
    match (decoded(&message), expected) {
        (Ok(request), Ok(expected)) => {
            let Inputs::Named(tensors) = request.inputs else {
                panic!("gRPC names its tensors");
            };
            assert_eq!(tensors.len(), 1);
            assert_eq!(&tensors[0].1.data[..], expected);
        }
        (Err(refusal), Err(expected)) => {
            assert_eq!(refusal.status, Status::InvalidInput);
            assert_eq!(refusal.message, expected);
        }
        (got, expected) => panic!("expected {expected:?}, got {got:?}"),
    }
}

fn ints(values: &[i32]) -> InferTensorContents {
    InferTensorContents {
        int_contents: values.to_vec(),
        ..Default::default()
    }
}

fn uints(values: &[u32]) -> InferTensorContents {
    InferTensorContents {
        uint_contents: values.to_vec(),
        ..Default::default()
    }
}

#[test]
fn raw_tensors_are_slices_of_the_request() {
    let wire: Bytes = raw("UINT8", &[4], b"abcd").encode_to_vec().into();
    let Inputs::Named(tensors) = request_from_wire(wire.clone()).unwrap().inputs else {
        panic!("gRPC names its tensors");
    };
    let data = &tensors[0].1.data;
    assert!(wire.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn typed_contents_become_little_endian_bytes() {
    let check = |datatype, contents, expected: &[u8]| check(typed(datatype, &[2], contents), Ok(expected));
    check(
        "BOOL",
        InferTensorContents {
            bool_contents: vec![true, false],
            ..Default::default()
        },
        &[1, 0],
    );
    check("INT8", ints(&[-1, 127]), &[255, 127]);
    check("INT16", ints(&[-2, 256]), &[254, 255, 0, 1]);
    check("INT32", ints(&[1, -1]), &[1, 0, 0, 0, 255, 255, 255, 255]);
    check("UINT8", uints(&[0, 255]), &[0, 255]);
    check("UINT16", uints(&[1, 65_535]), &[1, 0, 255, 255]);
    check("UINT32", uints(&[1, u32::MAX]), &[1, 0, 0, 0, 255, 255, 255, 255]);
    let contents = InferTensorContents {
        int64_contents: vec![1, -1],
        ..Default::default()
    };
    check(
        "INT64",
        contents,
        &[1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
    );
    let contents = InferTensorContents {
        uint64_contents: vec![1, u64::MAX],
        ..Default::default()
    };
    check(
        "UINT64",
        contents,
        &[1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
    );
    let contents = InferTensorContents {
        fp32_contents: vec![1.0, -2.0],
        ..Default::default()
    };
    check("FP32", contents, &[0, 0, 128, 63, 0, 0, 0, 192]);
    let contents = InferTensorContents {
        fp64_contents: vec![1.0, 0.0],
        ..Default::default()
    };
    check(
        "FP64",
        contents,
        &[0, 0, 0, 0, 0, 0, 240, 63, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let elements = vec![Bytes::from_static(b"a\0b"), Bytes::new()];
    let contents = InferTensorContents {
        bytes_contents: elements,
        ..Default::default()
    };
    check("BYTES", contents, b"\x03\0\0\0a\0b\0\0\0\0");
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let check = |datatype, contents, expected| check(typed(datatype, &[2], contents), Err(expected));
    check(
        "INT8",
        ints(&[0, 128]),
        "input `x`: element 1 is 128, which does not fit INT8",
    );
    check(
        "INT16",
        ints(&[-32_769, 0]),
        "input `x`: element 0 is -32769, which does not fit INT16",
    );
    check(
        "UINT8",
        uints(&[256, 0]),
        "input `x`: element 0 is 256, which does not fit UINT8",
    );
    check(
        "UINT16",
        uints(&[0, 65_536]),
        "input `x`: element 1 is 65536, which does not fit UINT16",
    );
}

#[test]
fn typed_contents_sit_in_the_field_of_their_datatype() {
    let check = |datatype, contents, expected| check(typed(datatype, &[1], contents), Err(expected));
    check(
        "FP32",
        ints(&[1]),
        "input `x`: FP32 belongs in fp32_contents, but int_contents is given",
    );
    check(
        "UINT8",
        ints(&[1]),
        "input `x`: UINT8 belongs in uint_contents, but int_contents is given",
    );
    let both = InferTensorContents {
        fp64_contents: vec![1.0],
        ..ints(&[1])
    };
    check(
        "INT32",
        both,
        "input `x`: INT32 belongs in int_contents, but fp64_contents is given",
    );
    check(
        "FP16",
        ints(&[1]),
        "input `x`: FP16 has no typed contents; use raw_input_contents",
    );
    check(
        "BF16",
        uints(&[1]),
        "input `x`: BF16 has no typed contents; use raw_input_contents",
    );
    check(
        "INT8",
        ints(&[1, 2]),
        "input `x`: the shape has 1 elements, but int_contents has 2",
    );
}

#[test]
fn data_comes_raw_for_all_inputs_or_typed_for_all() {
    let mut both = raw("INT32", &[1], &[0; 4]);
    both.inputs[0].contents = Some(ints(&[1]));
    check(
        both,
        Err("input `x`: contents and raw_input_contents are both given; use one of them"),
    );

    let mut empty_contents = raw("INT32", &[1], &[1, 0, 0, 0]);
    empty_contents.inputs[0].contents = Some(InferTensorContents::default());
    check(empty_contents, Ok(&[1, 0, 0, 0]));

    let mut surplus = raw("INT32", &[1], &[0; 4]);
    surplus.raw_input_contents.push(Bytes::new());
    check(
        surplus,
        Err("raw_input_contents has 2 entries for 1 inputs; it needs one per input"),
    );

    let mut few = raw("INT32", &[1], &[0; 4]);
    few.inputs.push(input("INT32", &[0]));
    check(
        few,
        Err("raw_input_contents has 1 entries for 2 inputs; it needs one per input"),
    );

    let none = typed("INT32", &[2, 1], InferTensorContents::default());
    check(
        none,
        Err("input `x`: shape [2,1] has elements, but there is no data"),
    );
    check(typed("INT32", &[2, 0], InferTensorContents::default()), Ok(&[]));
    check(raw("INT32", &[], &[1, 0, 0, 0]), Ok(&[1, 0, 0, 0]));
}

#[test]
fn impossible_shapes_and_datatypes_are_refused() {
    check(
        raw("INT8", &[2, -1], b""),
        Err("input `x`: dimension -1 of the shape is negative"),
    );
    let huge = [i64::MAX, i64::MAX];
    let expected = format!("input `x`: shape [{0},{0}] has too many elements", i64::MAX);
    check(raw("INT8", &huge, b""), Err(&expected));
    let refusal = decoded(&raw("fp32", &[1], b"")).unwrap_err();
    assert!(
        refusal.message.starts_with("input `x`: unknown datatype `fp32`"),
        "{refusal}"
    );
    let refusal = request_from_wire(Bytes::from_static(b"\x0a\xff")).unwrap_err();
    assert_eq!(refusal.status, Status::InvalidInput);
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

#[test]
fn parameters_of_all_five_types_pass() {
    let mut message = raw("INT8", &[0], b"");
    for (key, choice) in [
        ("b", ParameterChoice::BoolParam(true)),
        ("i", ParameterChoice::Int64Param(-1)),
        ("u", ParameterChoice::Uint64Param(u64::MAX)),
        ("d", ParameterChoice::DoubleParam(0.5)),
        ("s", ParameterChoice::StringParam("t".into())),
    ] {
        message.parameters.insert(key.into(), parameter(choice));
    }
    let parameters = decoded(&message).unwrap().parameters;
    let expected = [
        ("b", Parameter::Bool(true)),
        ("d", Parameter::Double(0.5)),
        ("i", Parameter::Int(-1)),
        ("s", Parameter::String("t".into())),
        ("u", Parameter::Uint(u64::MAX)),
    ];
    assert_eq!(
        parameters,
        expected.map(|(key, value)| (key.to_owned(), value)).into()
    );

    message.parameters.insert("e".into(), InferParameter::default());
    check(message, Err("parameter `e` has no value"));
}

#[test]
fn shared_memory_is_unsupported_wherever_it_is_named() {
    let region = || {
        [(
            "shared_memory_region".to_owned(),
            parameter(ParameterChoice::StringParam("r".into())),
        )]
    };
    let mut on_input = raw("INT8", &[0], b"");
    on_input.inputs[0].parameters = region().into();
    let mut on_output = raw("INT8", &[0], b"");
    on_output.outputs.push(InferRequestedOutputTensor {
        name: "y".into(),
        parameters: region().into(),
    });
    for (message, role) in [(on_input, "input `x`"), (on_output, "output `y`")] {
        let refusal = decoded(&message).unwrap_err();
        assert_eq!(refusal.status, Status::Unsupported);
        let expected = format!("{role}: parameter `shared_memory_region`: shared memory is not offered");
        assert_eq!(refusal.message, expected);
    }
}

#[test]
fn requested_outputs_keep_order_and_classification() {
    let mut message = raw("INT8", &[0], b"");
    assert!(decoded(&message).unwrap().outputs.is_none());
    let classes = |choice| [("classification".to_owned(), parameter(choice))].into();
    message.outputs = vec![
        InferRequestedOutputTensor {
            name: "b".into(),
            parameters: classes(ParameterChoice::Int64Param(3)),
        },
        InferRequestedOutputTensor {
            name: "a".into(),
            ..Default::default()
        },
    ];
    let outputs = decoded(&message).unwrap().outputs.unwrap();
    let seen: Vec<_> = outputs
        .iter()
        .map(|o| (o.name.as_str(), o.classification, o.binary))
        .collect();
    assert_eq!(seen, [("b", 3, None), ("a", 0, None)]);

    for wrong in [
        ParameterChoice::Int64Param(-1),
        ParameterChoice::StringParam("3".into()),
    ] {
        message.outputs[0].parameters = classes(wrong);
        let refusal = decoded(&message).unwrap_err();
        assert_eq!(refusal.status, Status::InvalidInput);
        assert!(
            refusal.message.contains("`b`: parameter `classification`"),
            "{refusal}"
        );
    }
}

#[test]
fn an_empty_id_is_no_id() {
    let mut message = raw("INT8", &[0], b"");
    assert_eq!(decoded(&message).unwrap().id, None);
    message.id = "7".into();
    message.model_version = "2".into();
    let request = decoded(&message).unwrap();
    assert_eq!(
        (request.id.as_deref(), &*request.model, &*request.version),
        (Some("7"), "m", "2")
    );
}

fn any_input() -> impl Strategy<Value = InferInputTensor> {
    let datatype = prop::sample::select(vec!["INT8", "UINT16", "FP32", "BYTES", "FP16", "BOOL", "?"]);
    let shape = prop::collection::vec(prop_oneof![-1i64..4, any::<i64>()], 0..3);
    let contents = (any::<Vec<i32>>(), any::<Vec<u32>>(), any::<Vec<Vec<u8>>>());
    (datatype, shape, prop::option::of(contents)).prop_map(|(datatype, shape, contents)| InferInputTensor {
        contents: contents.map(
            |(int_contents, uint_contents, bytes_contents)| InferTensorContents {
                int_contents,
                uint_contents,
                bytes_contents: bytes_contents.into_iter().map(Bytes::from).collect(),
                ..Default::default()
            },
        ),
        ..input(datatype, &shape)
    })
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes: Vec<u8>) {
        let parsed = ModelInferRequest::decode(&bytes[..]).is_ok();
        let decoded = request_from_wire(bytes.into());
        prop_assert!(parsed || decoded.is_err());
    }

    #[test]
    fn any_message_is_decoded_without_a_panic(
        inputs in prop::collection::vec(any_input(), 0..3),
        raw in prop::collection::vec(any::<Vec<u8>>(), 0..3),
    ) {
        let message = ModelInferRequest {
            raw_input_contents: raw.into_iter().map(Bytes::from).collect(),
            inputs,
            ..Default::default()
        };
        if let Ok(request) = decoded(&message) {
            let Inputs::Named(tensors) = request.inputs else { panic!("gRPC names its tensors") };
            prop_assert_eq!(tensors.len(), message.inputs.len());
        }
    }
}
