//! A data set in a folder: `NAME.request.json` with `NAME.response.json`, or with `NAME.labels.json`, a list of one label
//! per row. Requests and responses are those of the protocol.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crossfade_runtimes_core::Tensor;
use serde_json::{Value, json};

use super::{Case, Cases, DatasetError, Label, Reading, Want};
use crate::http::binary::decode_request;
use crate::infer::Inputs;

/// What the name of a request ends with.
const REQUEST: &str = ".request.json";

/// The cases of a folder, by name.
///
/// Errors: the folder cannot be read.
pub(super) fn cases<'a>(folder: &Path, reading: Reading<'a>) -> Result<Cases<'a>, DatasetError> {
    let failed = |source| DatasetError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.to_string_lossy().ends_with(REQUEST) {
            found.push(path);
        }
    }
    found.sort();
    let cases = found
        .into_iter()
        .map(move |path| case(&path, reading).map_err(|problem| DatasetError::File { path, problem }));
    Ok(Box::new(cases.filter_map(Result::transpose)))
}

/// One case; `None` if its answer is that of another version.
fn case(request: &Path, reading: Reading<'_>) -> Result<Option<Case>, String> {
    let (mut outputs, mut labels) = (Vec::new(), Vec::new());
    match reading.want {
        Want::Inputs => {}
        Want::Outputs => match expected(&beside(request, "response"), reading.version)? {
            Some(expected) => outputs = expected,
            None => return Ok(None),
        },
        Want::Labels => labels = read_labels(&beside(request, "labels"))?,
    }
    let text = fs::read(request).map_err(|error| error.to_string())?;
    let name = request.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some(Case {
        name: name.into_owned(),
        inputs: tensors(text.into())?,
        outputs,
        labels,
    }))
}

/// The file of another kind that belongs to a request.
fn beside(request: &Path, kind: &str) -> PathBuf {
    let name = request.to_string_lossy();
    let name = name.strip_suffix(REQUEST).unwrap_or(&name);
    PathBuf::from(format!("{name}.{kind}.json"))
}

/// The outputs that a request must get; `None` if they are those of another version.
fn expected(path: &Path, version: u64) -> Result<Option<Vec<(String, Tensor)>>, String> {
    let text = fs::read(path).map_err(|error| format!("its answer `{}`: {error}", path.display()))?;
    let response: Value = serde_json::from_slice(&text).map_err(|error| format!("its answer: {error}"))?;
    if response["model_version"]
        .as_str()
        .is_some_and(|of| of != version.to_string())
    {
        return Ok(None);
    }
    // Outputs are written as inputs are, so that one reader serves both.
    let turned = json!({ "inputs": response["outputs"] }).to_string();
    let outputs = tensors(turned.into()).map_err(|error| format!("its answer: {error}"))?;
    Ok(Some(outputs))
}

fn read_labels(path: &Path) -> Result<Vec<Label>, String> {
    let wrong = |problem: String| format!("its labels `{}`: {problem}", path.display());
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let values: Vec<Value> = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let labels = values.iter().enumerate().map(|(index, value)| {
        let row = index + 1;
        Label::from_json(value).ok_or_else(|| wrong(format!("row {row}: {value} is no label")))
    });
    labels.collect()
}

fn tensors(json: Bytes) -> Result<Vec<(String, Tensor)>, String> {
    let decoded = decode_request("", "", &json, None).map_err(|refusal| refusal.message)?;
    match decoded.request.inputs {
        Inputs::Named(tensors) => Ok(tensors),
        Inputs::RawBody(_) => Err("it names no tensors".to_owned()),
    }
}
