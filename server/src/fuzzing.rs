//! What the fuzz targets call, and the test that replays their corpora: each parser of outside bytes, with the
//! properties that must hold besides not panicking.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use crossfade_inference_log::Record;
use crossfade_inference_log::scan::scan;
use crossfade_journal::keys::{PublicKey, Signature, SigningKey};
use crossfade_journal::{Head, audit};
use crossfade_models::config::{self, Completion, RawConfig};
use crossfade_runtimes_core::{Datatype, Dim, ModelSignature, ShapeSpec, Tensor, TensorSpec};
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::{ApproveRelease, CreateRelease};
use crate::arriving::Arriving;
use crate::config::revision;
use crate::dataset::{Reading, Table, Want};
use crate::encoding::Encoding;
use crate::grpc;
use crate::grpc::framing::{Bounds, Messages};
use crate::grpc::reply::Failure;
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

/// The body of a gRPC stream: a byte that chooses the compression and the size of pieces, then the framed messages.
/// In what pieces it comes makes no difference.
pub fn grpc_frames(data: &Bytes) {
    let Some((&choice, stream)) = data.split_first() else {
        return;
    };
    let encoding = [None, Some(Encoding::Gzip), Some(Encoding::Deflate), None][usize::from(choice & 3)];
    let pieces = |len: usize| stream.chunks(len).map(Bytes::copy_from_slice).collect();
    let whole = framed_messages(pieces(usize::MAX), encoding);
    assert_eq!(
        whole,
        framed_messages(pieces(1 + usize::from(choice >> 2)), encoding)
    );
}

/// The messages in `frames`, up to the first that is broken, and how that one is answered.
fn framed_messages(frames: Vec<Bytes>, encoding: Option<Encoding>) -> (Vec<Bytes>, Option<String>) {
    let bounds = Bounds {
        max_bytes: 1 << 20,
        idle: Duration::from_secs(3600),
        deadline: None,
    };
    let frames = frames
        .into_iter()
        .map(|data| Ok::<_, Infallible>(Frame::data(data)));
    let mut messages = Messages::new(StreamBody::new(stream::iter(frames)), bounds, encoding);
    let arriving = Arriving::new(1 << 30);
    let mut read = Vec::new();
    let reading = async {
        while messages.another().await? {
            let announced = messages.announced().await?;
            read.push(
                messages
                    .message(announced, &arriving)
                    .await?
                    .decompress(|_| Ok(()))?,
            );
        }
        Ok(())
    };
    let end: Result<(), Failure> = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without input and output takes nothing that can be missing")
        .block_on(reading);
    (read, end.err().map(|failure| failure.status().to_string()))
}

/// config.pbtxt.
pub fn pbtxt(data: &[u8]) {
    if let Ok(config) = config::pbtxt::read(data) {
        completed(&config);
    }
}

/// model.toml.
pub fn model_toml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(config) = config::toml::read(text)
    {
        completed(&config);
    }
}

/// Requests over OpenAI's and text-embeddings-inference's paths.
pub fn text_json(data: &[u8]) {
    crate::http::text::openai::fuzz(data);
    crate::http::text::tei::fuzz(data);
}

/// The ModelConfig JSON of a load call.
pub fn model_json(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(config) = config::json::read(text)
    {
        completed(&config);
    }
}

/// A Parquet file of labelled rows. What is accepted fits the model's signature in number and names; its rows are at
/// most as many as a small file can claim in a few batches.
pub fn parquet(data: &Bytes) {
    let signature = ModelSignature {
        inputs: vec![
            TensorSpec::new("x", Datatype::Fp32, ShapeSpec(vec![Dim::Any, Dim::Fixed(2)])),
            TensorSpec::new("t", Datatype::Bytes, ShapeSpec(vec![Dim::Any])),
        ],
        batched: true,
        ..ModelSignature::default()
    };
    let reading = Reading {
        signature: &signature,
        version: 1,
        want: Want::Labels,
    };
    let Ok(table) = Table::open(Path::new("fuzz.parquet"), data.clone(), reading) else {
        return;
    };
    for case in table.take(1000).flatten() {
        assert_eq!((case.inputs.len(), case.labels.len()), (2, 1));
        let checked = signature.check(case.inputs);
        assert_eq!(checked.map(|(_, rows)| rows), Ok(1));
    }
}

/// A journal's file. What is read is one chain: it ends where a check of the whole ends.
pub fn journal(data: &[u8]) {
    if let Ok(records) = crossfade_journal::read_bytes(data) {
        let total: usize = records.iter().map(|record| record.payload.len()).sum();
        assert!(
            total <= data.len(),
            "{total} bytes of records out of {}",
            data.len()
        );
        let numbers = records.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq);
        assert!(numbers, "records out of order");
    }
}

/// A segment of the inference log, and records: the bytes behind a first one that says which. What is read of a segment lies in it,
/// in order; a record is written as it was read.
pub fn segment(data: &[u8]) {
    match data.split_first() {
        Some((0, record)) => {
            let Ok(read) = Record::decode(record) else { return };
            let mut again = Vec::new();
            read.encode(&mut again);
            read.tensors.iter().for_each(|tensor| again.extend(tensor.bytes));
            let again = Record::decode(&again).expect("what was written is read");
            assert_eq!(format!("{again:?}"), format!("{read:?}"));
        }
        Some((_, segment)) => {
            let Ok(found) = scan(segment) else { return };
            let numbers = found.frames.windows(2).all(|pair| pair[0].seq < pair[1].seq);
            assert!(numbers, "records out of order");
            let bytes: usize = found.frames.iter().map(|frame| frame.payload.len()).sum();
            assert!(bytes <= segment.len() && found.end <= segment.len());
            for frame in &found.frames {
                let _read = Record::decode(&frame.payload).is_ok();
            }
        }
        None => {}
    }
}

/// An export of the audit. What verifies is canonical: its records are written as they were read.
pub fn audit_export(data: &[u8]) {
    let path = std::path::Path::new("fuzzed");
    let Ok(head) = audit::export::verify(data, path, Head::EMPTY, None) else {
        return;
    };
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let records: Vec<_> = lines
        .map(|line| audit::AuditRecord::from_line(line).expect("what verified can be read"))
        .collect();
    assert_eq!(records.last().map_or(Head::EMPTY, audit::AuditRecord::head), head);
    let mut written = Vec::new();
    let records = records.into_iter().map(Ok);
    audit::export::write(records, &mut written, path).expect("what was read can be written");
    assert_eq!(written, data, "what verified is not canonical");
}

/// A snapshot's file: its content, or why not; never more than it holds.
pub fn snapshot(data: &[u8]) {
    if let Ok(content) = crossfade_journal::snapshot::decode(data) {
        assert!(content.len() < data.len());
    }
}

/// A key, a public key or a signature. What is read as text is written as it was; a key's signature is its own.
pub fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = SigningKey::from_text(text) {
        assert!(key.public_key().verifies(data, &key.sign(data)));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(signature) = text.parse::<Signature>() {
        assert_eq!(signature.to_string(), text);
    }
    if let Ok(key) = PublicKey::from_pem(text) {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

/// The body of a call that begins a release, or agrees to one. What is read can be told apart from others, and written
/// and read again.
pub fn admin_json(data: &[u8]) {
    if let Ok(asked) = serde_json::from_slice::<CreateRelease>(data) {
        written_again(&asked);
    }
    if let Ok(asked) = serde_json::from_slice::<ApproveRelease>(data) {
        written_again(&asked);
    }
}

fn written_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(asked: &T) {
    assert!(
        revision::of(asked).is_ok(),
        "a key could not be held against {asked:?}"
    );
    let text = serde_json::to_vec(asked).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(*asked, again);
}

/// Completes a configuration against a model of one input and one output. What comes out is a configuration that
/// can be given again, and says the same then.
fn completed(config: &RawConfig) {
    let tensor = |name: &str| TensorSpec::new(name, Datatype::Fp32, ShapeSpec(vec![Dim::Any, Dim::Fixed(4)]));
    let signature = ModelSignature {
        inputs: vec![tensor("x")],
        outputs: vec![tensor("y")],
        ..ModelSignature::default()
    };
    let completion = Completion {
        model: "m",
        signature: &signature,
        runtime: "ort",
        default_max_batch_size: 4,
        auto_complete: true,
        label_files: &BTreeMap::new(),
    };
    let Ok(first) = config.complete(&completion) else {
        return;
    };
    let text = first.to_json().to_string();
    let again = config::json::read(&text)
        .unwrap_or_else(|error| panic!("what was completed is refused: {error}: {text}"));
    let second = again
        .complete(&completion)
        .unwrap_or_else(|error| panic!("what was completed does not fit: {error}: {text}"));
    assert_eq!(text, second.to_json().to_string());
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
        replay("grpc_frames", grpc_frames);
        replay("pbtxt", |data| pbtxt(data));
        replay("model_toml", |data| model_toml(data));
        replay("text_json", |data| text_json(data));
        replay("model_json", |data| model_json(data));
        replay("parquet", parquet);
        replay("segment", |data| segment(data));
        replay("journal", |data| journal(data));
        replay("audit_export", |data| audit_export(data));
        replay("snapshot", |data| snapshot(data));
        replay("keys", |data| keys(data));
        replay("admin_json", |data| admin_json(data));
    }
}
