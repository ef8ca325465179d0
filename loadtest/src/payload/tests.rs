use std::io::Write as _;

use bytes::{Buf as _, Bytes};
use crossfade_proto::inference::ModelInferRequest;
use prost::Message as _;
use serde_json::json;

use super::tensor::{Datatype, Tensor, from_request};
use super::{Input, Signature, bodies, npy};
use crate::plan::{MixEntry, Plan, Values};
use crate::target::{Protocol, Target};

fn signature(inputs: &[(&str, &str, &[i64])]) -> Signature {
    let input = |(name, datatype, shape): &(&str, &str, &[i64])| Input {
        name: (*name).to_owned(),
        datatype: (*datatype).to_owned(),
        shape: shape.to_vec(),
    };
    Signature {
        inputs: inputs.iter().map(input).collect(),
    }
}

async fn plan(protocol: Protocol, rows: u64) -> Plan {
    let target = Target::resolve("http://127.0.0.1:1", protocol, None)
        .await
        .unwrap();
    Plan::new(
        target,
        vec![MixEntry {
            rows,
            ..MixEntry::of("m")
        }],
    )
}

fn body_of(request: &Bytes) -> &[u8] {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    &request[end + 4..]
}

#[tokio::test]
async fn every_datatype_gets_values_of_its_shape_over_grpc() {
    let names = [
        ("BOOL", 1),
        ("UINT8", 1),
        ("UINT16", 2),
        ("UINT32", 4),
        ("UINT64", 8),
        ("INT8", 1),
        ("INT16", 2),
        ("INT32", 4),
        ("INT64", 8),
        ("FP16", 2),
        ("FP32", 4),
        ("FP64", 8),
        ("BF16", 2),
        ("BYTES", 20),
    ];
    let plan = plan(Protocol::Grpc, 3).await;
    for (name, width) in names {
        let made = bodies(&plan, 0, Some(&signature(&[("x", name, &[-1, 2])]))).unwrap();
        assert_eq!(made.len(), 8, "{name}");
        let request = ModelInferRequest::decode(made[0].bytes.clone()).unwrap();
        assert_eq!(request.inputs[0].shape, [3, 2]);
        assert_eq!(request.inputs[0].datatype, name);
        assert_eq!(request.raw_input_contents[0].len(), 6 * width, "{name}");
        let again = bodies(&plan, 0, Some(&signature(&[("x", name, &[-1, 2])]))).unwrap();
        assert_eq!(
            again[7].bytes, made[7].bytes,
            "the same seed gives the same bodies"
        );
    }
}

#[tokio::test]
async fn json_and_binary_carry_the_same_values() {
    let inputs = signature(&[("x", "FP32", &[-1, 2]), ("t", "BYTES", &[-1])]);
    let json = bodies(&plan(Protocol::HttpJson, 2).await, 0, Some(&inputs)).unwrap();
    let binary = bodies(&plan(Protocol::HttpBinary, 2).await, 0, Some(&inputs)).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(body_of(&json[0].bytes)).unwrap();
    let tensors = from_request(file.path()).unwrap();
    assert_eq!(tensors[0].shape, [2, 2]);
    let raw: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    assert!(body_of(&binary[0].bytes).ends_with(&raw));
    assert_eq!(raw.len(), 16 + 2 * 20);
}

#[tokio::test]
async fn zeros_are_zeros() {
    let mut plan = plan(Protocol::HttpJson, 1).await;
    plan.payload.values = Values::Zeros;
    let made = bodies(&plan, 0, Some(&signature(&[("x", "INT8", &[-1, 2])]))).unwrap();
    let body: serde_json::Value = serde_json::from_slice(body_of(&made[0].bytes)).unwrap();
    let expected = json!({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT8", "data": [0, 0]}]});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn what_the_metadata_leaves_open_is_asked_for() {
    let mut plan = plan(Protocol::Grpc, 1).await;
    let open = signature(&[("ids", "INT64", &[-1, -1])]);
    let message = bodies(&plan, 0, Some(&open)).unwrap_err().to_string();
    assert!(
        message.contains("`ids`") && message.contains("--shape ids="),
        "{message}"
    );
    plan.payload.shapes.insert("ids".to_owned(), vec![1, 32]);
    assert_eq!(bodies(&plan, 0, Some(&open)).unwrap().len(), 8);
    plan.mix[0].rows = 2;
    let message = bodies(&plan, 0, Some(&signature(&[("x", "FP32", &[1, 4])])))
        .unwrap_err()
        .to_string();
    assert!(message.contains("2 rows do not fit"), "{message}");
}

#[tokio::test]
async fn a_length_is_drawn_for_each_request_and_is_the_same_for_all_its_inputs() {
    let mut plan = plan(Protocol::Grpc, 2).await;
    plan.payload.lengths = Some((5, 9));
    let inputs = signature(&[
        ("ids", "INT64", &[-1, -1]),
        ("mask", "INT64", &[-1, -1]),
        ("text", "BYTES", &[-1, 1]),
    ]);
    let made = bodies(&plan, 0, Some(&inputs)).unwrap();
    assert_eq!(made.len(), 500);
    let mut lengths = [0; 4];
    for body in &made {
        let request = ModelInferRequest::decode(body.bytes.clone()).unwrap();
        let [ids, mask, text] = request.inputs.as_slice() else {
            panic!("three inputs are sent")
        };
        let length = usize::try_from(ids.shape[1]).unwrap();
        assert_eq!(ids.shape, mask.shape);
        assert_eq!(
            (text.shape.as_slice(), body.tokens),
            ([2, 1].as_slice(), 2 * length as u64)
        );
        let mut texts = request.raw_input_contents[2].clone();
        while texts.has_remaining() {
            let bytes = texts.get_u32_le() as usize;
            assert_eq!(texts.split_to(bytes).split(|byte| *byte == b' ').count(), length);
        }
        lengths[length - 5] += 1;
    }
    assert!(
        lengths.iter().all(|count| (75..175).contains(count)),
        "{lengths:?}"
    );

    plan.payload.only = vec!["text".to_owned()];
    plan.payload.variants = Some(3);
    let made = bodies(&plan, 0, Some(&inputs)).unwrap();
    let request = ModelInferRequest::decode(made[2].bytes.clone()).unwrap();
    assert_eq!(
        (made.len(), request.inputs.len(), request.inputs[0].name.as_str()),
        (3, 1, "text")
    );
}

#[test]
fn an_npy_file_is_read() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n";
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
    let tensor = npy::parse(&file).unwrap();
    let expected = Tensor {
        name: String::new(),
        datatype: Datatype::Fp32,
        shape: vec![1, 2],
        bytes: vec![0, 0, 0x80, 0x3f, 0, 0, 0, 0x40],
    };
    assert_eq!(tensor, expected);
    assert!(npy::parse(&file[..file.len() - 1]).is_err());
    assert!(npy::parse(b"PK").is_err());
}
