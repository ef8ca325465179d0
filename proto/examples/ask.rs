//! Sends one V2 JSON request (a file such as the zoo's golden ones) over gRPC and prints the answer.
//!
//! usage: ask http://HOST:PORT MODEL REQUEST.json

use anyhow::{Context, Result, bail};
use crossfade_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use crossfade_proto::inference::model_infer_request::InferInputTensor;
use crossfade_proto::inference::{InferTensorContents, ModelInferRequest};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, model, file] = &args[..] else {
        bail!("usage: ask http://HOST:PORT MODEL REQUEST.json")
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let body: Value = serde_json::from_str(&text).with_context(|| format!("{file} is no JSON"))?;
    let inputs = body["inputs"].as_array().context("the request has no inputs")?;
    let inputs = inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
    let request = ModelInferRequest {
        model_name: model.clone(),
        inputs,
        ..ModelInferRequest::default()
    };

    let mut client = GrpcInferenceServiceClient::connect(url.clone()).await?;
    let response = client.model_infer(request).await?;
    let id = response
        .metadata()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or("-")
        .to_owned();
    let answer = response.into_inner();
    print(&format!(
        "{} version {}, request {id}",
        answer.model_name, answer.model_version
    ));
    for (output, raw) in answer.outputs.iter().zip(&answer.raw_output_contents) {
        print(&format!(
            "  {} {} {:?}: {}",
            output.name,
            output.datatype,
            output.shape,
            show(&output.datatype, raw)
        ));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the example's output")]
fn print(line: &str) {
    println!("{line}");
}

/// One input with typed contents, for the datatypes that the examples use.
fn input(input: &Value) -> Result<InferInputTensor> {
    let text = |key: &str| {
        input[key]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("an input has no {key}"))
    };
    let (name, datatype) = (text("name")?, text("datatype")?);
    let shape = input["shape"].as_array().context("an input has no shape")?;
    let mut flat = Vec::new();
    flatten(&input["data"], &mut flat);
    let mut contents = InferTensorContents::default();
    match datatype.as_str() {
        "FP32" => contents.fp32_contents = numbers(&flat, |value| value.to_string().parse::<f32>().ok())?,
        "FP64" => contents.fp64_contents = numbers(&flat, Value::as_f64)?,
        "INT64" => contents.int64_contents = numbers(&flat, Value::as_i64)?,
        "BYTES" => {
            contents.bytes_contents =
                numbers(&flat, |value| Some(value.as_str()?.as_bytes().to_vec().into()))?;
        }
        other => bail!("this example does not send {other}"),
    }
    let shape = shape
        .iter()
        .map(|dim| dim.as_i64().context("a dimension is no number"))
        .collect::<Result<_>>()?;
    Ok(InferInputTensor {
        name,
        datatype,
        shape,
        contents: Some(contents),
        ..InferInputTensor::default()
    })
}

fn flatten<'a>(data: &'a Value, flat: &mut Vec<&'a Value>) {
    match data {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, flat)),
        leaf => flat.push(leaf),
    }
}

fn numbers<T>(flat: &[&Value], read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    flat.iter()
        .map(|value| read(value).with_context(|| format!("unexpected element {value}")))
        .collect()
}

/// The first elements of a raw tensor.
fn show(datatype: &str, raw: &[u8]) -> String {
    let shown = |texts: Vec<String>| {
        let more = if texts.len() > 12 { ", …" } else { "" };
        format!(
            "[{}{more}]",
            texts.iter().take(12).cloned().collect::<Vec<_>>().join(", ")
        )
    };
    match datatype {
        "FP32" => shown(
            raw.as_chunks()
                .0
                .iter()
                .map(|c| f32::from_le_bytes(*c).to_string())
                .collect(),
        ),
        "FP64" => shown(
            raw.as_chunks()
                .0
                .iter()
                .map(|c| f64::from_le_bytes(*c).to_string())
                .collect(),
        ),
        "INT64" => shown(
            raw.as_chunks()
                .0
                .iter()
                .map(|c| i64::from_le_bytes(*c).to_string())
                .collect(),
        ),
        "BYTES" => {
            let mut texts = Vec::new();
            let mut rest = raw;
            while let Some((prefix, tail)) = rest.split_first_chunk::<4>() {
                let Some((text, tail)) = tail.split_at_checked(u32::from_le_bytes(*prefix) as usize) else {
                    break;
                };
                texts.push(String::from_utf8_lossy(text).into_owned());
                rest = tail;
            }
            shown(texts)
        }
        _ => format!("{} bytes", raw.len()),
    }
}
