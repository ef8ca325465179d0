//! Encoded answers read back by the generated types.

use std::io::Read as _;

use crossfade_proto::inference::infer_parameter::ParameterChoice;
use crossfade_runtimes_core::{Datatype, Shape};

use super::*;

const MAX: usize = 1 << 20;

fn response(sizes: &[usize]) -> InferResponse {
    let tensor = |&size: &usize| Tensor {
        datatype: Datatype::Uint8,
        shape: Shape::from([1, size]),
        data: vec![7; size].into(),
    };
    InferResponse {
        model: "m".into(),
        version: 12,
        id: Some("i".into()),
        outputs: sizes.iter().map(|size| ("y".into(), tensor(size))).collect(),
        tokens: None,
    }
}

fn expected(sizes: &[usize]) -> ModelInferResponse {
    let output = |&size: &usize| InferOutputTensor {
        name: "y".into(),
        datatype: "UINT8".into(),
        shape: vec![1, i64::try_from(size).unwrap()],
        ..Default::default()
    };
    ModelInferResponse {
        model_name: "m".into(),
        model_version: "12".into(),
        id: "i".into(),
        outputs: sizes.iter().map(output).collect(),
        raw_output_contents: sizes.iter().map(|&size| vec![7; size].into()).collect(),
        ..Default::default()
    }
}

#[test]
fn unary_answers_read_back_whatever_the_sizes() {
    for sizes in [
        &[][..],
        &[0],
        &[5, 0, 3],
        &[SHARED_FROM - 1],
        &[SHARED_FROM],
        &[3, 100_000, 4, 50_000],
    ] {
        let frame = unary(&response(sizes), None, MAX).unwrap().concat();
        let (start, message) = frame.split_at(PREFIX);
        assert_eq!(start, prefix(false, u32::try_from(message.len()).unwrap()));
        assert_eq!(ModelInferResponse::decode(message).unwrap(), expected(sizes));
    }
}

#[test]
fn large_tensors_are_shared_and_small_ones_travel_together() {
    let response = response(&[10, SHARED_FROM, 10, 10]);
    let pieces = unary(&response, None, MAX).unwrap();
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[1].as_ptr(), response.outputs[1].1.data.as_ptr());
}

#[test]
fn compressed_answers_read_back() {
    for encoding in [Encoding::Gzip, Encoding::Deflate] {
        let frame = unary(&response(&[100_000]), Some(encoding), MAX)
            .unwrap()
            .concat();
        let (start, data) = frame.split_at(PREFIX);
        assert_eq!(start, prefix(true, u32::try_from(data.len()).unwrap()));
        let mut message = Vec::new();
        match encoding {
            Encoding::Gzip => flate2::read::GzDecoder::new(data).read_to_end(&mut message),
            Encoding::Deflate => flate2::read::ZlibDecoder::new(data).read_to_end(&mut message),
        }
        .unwrap();
        assert_eq!(
            ModelInferResponse::decode(&message[..]).unwrap(),
            expected(&[100_000])
        );
    }
}

#[test]
fn an_answer_over_the_limit_is_refused() {
    let refusal = unary(&response(&[1000]), None, 1000).unwrap_err();
    assert_eq!(refusal.status, Status::Internal);
    assert!(
        refusal.message.contains("more than the limit of 1000"),
        "{refusal}"
    );
}

/// The message in a frame that is not compressed.
fn unframed(pieces: Vec<Bytes>) -> Vec<u8> {
    let frame = pieces.concat();
    let (start, message) = frame.split_at(PREFIX);
    assert_eq!(start, prefix(false, u32::try_from(message.len()).unwrap()));
    message.to_vec()
}

#[test]
fn stream_messages_read_back_with_their_parameters() {
    let parameter = InferParameter {
        parameter_choice: Some(ParameterChoice::BoolParam(true)),
    };
    let parameters = BTreeMap::from([("triton_final_response".to_owned(), parameter)]);
    let message = streamed(&response(&[3, 20_000]), parameters.clone(), None, MAX).unwrap();
    let message = unframed(message);
    let infer_response = ModelInferResponse {
        parameters: parameters.clone(),
        ..expected(&[3, 20_000])
    };
    let expected = ModelStreamInferResponse {
        error_message: String::new(),
        infer_response: Some(infer_response),
    };
    assert_eq!(ModelStreamInferResponse::decode(&message[..]).unwrap(), expected);

    let error = unframed(stream_error("no".into(), "9".into(), parameters.clone()));
    let error = ModelStreamInferResponse::decode(&error[..]).unwrap();
    assert_eq!(error.error_message, "no");
    let expected = ModelInferResponse {
        id: "9".into(),
        parameters,
        ..Default::default()
    };
    assert_eq!(error.infer_response, Some(expected));
}
