//! What the fuzz targets call, and the test that replays their corpora: each parser of outside bytes, with the
//! properties that must hold besides not panicking.

use bytes::Bytes;
use crossfade_models::config;
use crossfade_runtimes_core::Tensor;

use crate::grpc;
use crate::http::{binary, json};
use crate::infer::{InferRequest, Inputs};

/// A JSON request body. What is accepted holds tensors whose bytes are bounded by the body's.
pub fn http_json(body: &Bytes) {
    if let Ok(decoded) = json::decode_request("m", "", body) {
        bounded(&decoded.request, body.len());
    }
}

/// A body with the binary extension: two bytes of JSON length, little-endian, then the body.
pub fn http_binary(data: &Bytes) {
    let Some((length, _)) = data.split_first_chunk::<2>() else {
        return;
    };
    let header = u16::from_le_bytes(*length).to_string();
    let body = data.slice(2..);
    if let Ok(decoded) = binary::decode_request("m", "", &body, Some(&header)) {
        bounded(&decoded.request, body.len());
    }
}

/// A ModelInferRequest message.
pub fn grpc_decode(message: &Bytes) {
    if let Ok(request) = grpc::decode::request_from_wire(message.clone()) {
        bounded(&request, message.len());
    }
}

/// config.pbtxt. What is accepted is accepted again.
pub fn pbtxt(data: &[u8]) {
    let first = config::pbtxt::read(data);
    assert_eq!(first.is_ok(), config::pbtxt::read(data).is_ok());
}

/// model.toml.
pub fn model_toml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let first = config::toml::read(text);
        assert_eq!(first.is_ok(), config::toml::read(text).is_ok());
    }
}

/// The ModelConfig JSON of a load call.
pub fn model_json(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let first = config::json::read(text);
        assert_eq!(first.is_ok(), config::json::read(text).is_ok());
    }
}

/// No request makes tensors much larger than itself: an element takes at least one byte on the wire (a digit and
/// no comma, or a zero varint), and at most eight in a tensor.
fn bounded(request: &InferRequest, wire_bytes: usize) {
    if let Inputs::Named(tensors) = &request.inputs {
        let held: usize = tensors.iter().map(|(_, Tensor { data, .. })| data.len()).sum();
        assert!(
            held <= 8 * wire_bytes,
            "{held} bytes of tensors out of {wire_bytes} on the wire"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs every file of a target's corpus through it.
    fn replay(target: &str, run: impl Fn(&Bytes)) {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/");
        let files = std::fs::read_dir(format!("{corpus}{target}")).expect("every target has seeds");
        let mut count = 0;
        for file in files {
            run(&std::fs::read(file.unwrap().path()).unwrap().into());
            count += 1;
        }
        assert!(count > 0, "no seeds for {target}");
    }

    #[test]
    fn seeds_and_past_findings_are_read_without_a_panic() {
        replay("http_json", http_json);
        replay("http_binary", http_binary);
        replay("grpc_decode", grpc_decode);
        replay("pbtxt", |data| pbtxt(data));
        replay("model_toml", |data| model_toml(data));
        replay("model_json", |data| model_json(data));
    }
}
