//! `POST /embed`, `/rerank` and `/predict`, as clients of text-embeddings-inference call them.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::super::json::response::{push_float, push_string};
use super::super::reply::Failure;
use super::openai::push_row;
use super::{Ability, OneOrMore, ask, bytes, choose, count, heavy, parse, request, usual};
use crate::infer::Parameter;
use crate::scope::RequestScope;
use crate::service::Service;
use crate::status::{Refusal, Status};

#[derive(Debug, Deserialize)]
struct Embed {
    inputs: OneOrMore,
    #[serde(default = "yes")]
    normalize: bool,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    dimensions: Option<usize>,
    prompt_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rerank {
    query: String,
    texts: Vec<String>,
    #[serde(default)]
    raw_scores: bool,
    #[serde(default)]
    return_text: bool,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
}

#[derive(Debug, Deserialize)]
struct Predict {
    inputs: Sequences,
    #[serde(default)]
    raw_scores: bool,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum Direction {
    #[default]
    #[serde(alias = "right")]
    Right,
    #[serde(alias = "left")]
    Left,
}

/// Bytes of a query, once for each text that is ranked by it.
const MOST_QUERY_BYTES: usize = 32 << 20;

fn yes() -> bool {
    true
}

/// A text, a pair of texts, or a batch of `[text]` and `[text, text]`.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`inputs` must be a string, a pair of strings, or an array of arrays of one or two strings"
)]
enum Sequences {
    One(String),
    Pair(Vec<String>),
    Batch(Vec<Vec<String>>),
}

impl Sequences {
    /// One or two texts each.
    fn rows(&self) -> Vec<Vec<&str>> {
        match self {
            Self::One(text) => vec![vec![text]],
            Self::Pair(texts) => vec![borrowed(texts)],
            Self::Batch(rows) => rows.iter().map(|row| borrowed(row)).collect(),
        }
    }

    fn is_batch(&self) -> bool {
        matches!(self, Self::Batch(_))
    }
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Without `truncate` it is as the model is set.
fn parameters(truncate: Option<bool>, direction: Option<Direction>) -> Vec<(&'static str, Parameter)> {
    let Some(truncate) = truncate else {
        return Vec::new();
    };
    let direction = match direction.unwrap_or_default() {
        Direction::Right => "right",
        Direction::Left => "left",
    };
    vec![
        ("truncate", Parameter::Bool(truncate)),
        ("truncation_direction", Parameter::String(direction.to_owned())),
    ]
}

fn not_empty(texts: &[&str]) -> Result<(), Refusal> {
    match texts.iter().position(|text| text.is_empty()) {
        Some(index) => Err(Refusal::invalid(format!("input {index} is an empty string"))),
        None => Ok(()),
    }
}

/// Answers `/embed`.
pub(super) async fn embed(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Vec<u8>, Failure> {
    let asked: Embed = parse(body)?;
    let texts: Vec<&str> = asked.inputs.texts().iter().map(String::as_str).collect();
    count(texts.len(), service)?;
    not_empty(&texts)?;
    if let Some(name) = &asked.prompt_name {
        let reason = format!(
            "`prompt_name` is `{name}`; there are no prompts by name here: put the prompt before the text"
        );
        return Err(Refusal::invalid(reason).into());
    }
    let chosen = choose(service, Ability::Embed, None)?;
    let inputs = vec![(crossfade_text::TEXT.to_owned(), bytes(texts.into_iter()))];
    let cut = parameters(asked.truncate, asked.truncation_direction);
    let (_, rows) = ask(
        service,
        scope,
        headers,
        request(&chosen, inputs, cut, asked.dimensions),
    )
    .await?;
    heavy(rows.text_bytes(), || {
        let cut = rows.cut(asked.dimensions)?;
        let rows = if asked.normalize { cut.normalized() } else { cut };
        let mut out = vec![b'['];
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_row(row, &mut out);
        }
        out.push(b']');
        Ok(out)
    })
}

/// Answers `/rerank`.
pub(super) async fn rerank(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Vec<u8>, Failure> {
    let asked: Rerank = parse(body)?;
    let texts: Vec<&str> = asked.texts.iter().map(String::as_str).collect();
    count(texts.len(), service)?;
    not_empty(&[&asked.query])?;
    not_empty(&texts)?;
    let queries = asked.query.len().saturating_mul(texts.len());
    if queries > MOST_QUERY_BYTES {
        return Err(Failure::TooMany(format!(
            "the query is read once for each of {} texts, {queries} bytes in all, of which there may be {MOST_QUERY_BYTES}; send \
             fewer texts at once",
            texts.len()
        )));
    }
    let chosen = choose(service, Ability::Rank, None)?;
    let queries = std::iter::repeat_n(&*asked.query, texts.len());
    let inputs = vec![
        (crossfade_text::TEXT.to_owned(), bytes(queries)),
        (crossfade_text::TEXT_PAIR.to_owned(), bytes(texts.iter().copied())),
    ];
    let cut = parameters(asked.truncate, asked.truncation_direction);
    let (_, rows) = ask(service, scope, headers, request(&chosen, inputs, cut, None)).await?;
    let rows = rows.of_width(1)?;
    let score = |row: &[f32]| match asked.raw_scores {
        true => row[0],
        false => sigmoid(row[0]),
    };
    let mut ranked: Vec<(usize, f32)> = rows.iter().map(score).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut out = vec![b'['];
    for (place, (index, score)) in ranked.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("{{\"index\":{index},").as_bytes());
        if asked.return_text {
            out.extend_from_slice(b"\"text\":");
            push_string(texts[index], &mut out);
            out.push(b',');
        }
        push_score(score, &mut out);
        out.push(b'}');
    }
    out.push(b']');
    Ok(out)
}

/// Answers `/predict`.
pub(super) async fn predict(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Vec<u8>, Failure> {
    let asked: Predict = parse(body)?;
    let texts = asked.inputs.rows();
    count(texts.len(), service)?;
    let pairs = texts[0].len() == 2;
    for (index, row) in texts.iter().enumerate() {
        if !(1..=2).contains(&row.len()) || (row.len() == 2) != pairs {
            let reason = format!(
                "input {index} has {} texts; all inputs have one text, or all have two",
                row.len()
            );
            return Err(Refusal::invalid(reason).into());
        }
        not_empty(row)?;
    }
    let chosen = choose(service, Ability::Classify, None)?;
    let column = |place: usize| bytes(texts.iter().map(|row| row[place]).collect::<Vec<_>>().into_iter());
    let mut inputs = vec![(crossfade_text::TEXT.to_owned(), column(0))];
    if pairs {
        inputs.push((crossfade_text::TEXT_PAIR.to_owned(), column(1)));
    }
    let cut = parameters(asked.truncate, asked.truncation_direction);
    let (response, rows) = ask(service, scope, headers, request(&chosen, inputs, cut, None)).await?;
    let output = &response.outputs[0].0;
    let labels = service.labels_of(&response.model, response.version, output);
    let mut out = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"" } else { b"," });
        push_classes(row, asked.raw_scores, &labels, &mut out);
    }
    if asked.inputs.is_batch() {
        out.insert(0, b'[');
        out.push(b']');
    }
    Ok(out)
}

/// Classes with their scores, the likeliest first: a softmax, or of a single class a sigmoid.
fn push_classes(row: &[f32], raw: bool, labels: &[String], out: &mut Vec<u8>) {
    let mut scores = match (raw, row) {
        (true, _) => row.to_vec(),
        (false, &[one]) => vec![sigmoid(one)],
        (false, _) => softmax(row),
    }
    .into_iter()
    .enumerate()
    .collect::<Vec<_>>();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    out.push(b'[');
    for (place, (index, score)) in scores.into_iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"{" } else { b",{" });
        push_score(score, out);
        out.extend_from_slice(b",\"label\":");
        match labels.get(index) {
            Some(label) => push_string(label, out),
            None => push_string(&format!("LABEL_{index}"), out),
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn push_score(score: f32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"score\":");
    push_float(score, out);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = row.iter().map(|x| (x - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// A failure as text-embeddings-inference words it (router/src/http/server.rs, `From<&ErrorType> for StatusCode`).
pub(super) fn error(failure: &Failure) -> (StatusCode, Vec<u8>) {
    let refused = match failure {
        Failure::Refused(refusal) => Some(refusal.status),
        _ => None,
    };
    let (status, kind) = match (failure, refused) {
        (Failure::TooMany(_), _) => (StatusCode::PAYLOAD_TOO_LARGE, "validation"),
        (Failure::Json(_), _) => (StatusCode::UNPROCESSABLE_ENTITY, "validation"),
        (_, Some(Status::InvalidInput)) => (StatusCode::UNPROCESSABLE_ENTITY, "tokenizer"),
        (_, Some(Status::Overloaded)) => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
        (_, Some(Status::NotReady)) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (_, Some(Status::Internal)) => (StatusCode::FAILED_DEPENDENCY, "backend"),
        _ => (usual(failure), "validation"),
    };
    let mut body = b"{\"error\":".to_vec();
    push_string(&failure.message(), &mut body);
    body.extend_from_slice(format!(",\"error_type\":\"{kind}\"}}").as_bytes());
    (status, body)
}

/// Reads a request as the routes do; for the fuzz target.
pub(crate) fn fuzz(body: &[u8]) {
    drop(serde_json::from_slice::<Embed>(body));
    drop(serde_json::from_slice::<Rerank>(body));
    if let Ok(asked) = serde_json::from_slice::<Predict>(body) {
        drop(asked.inputs.rows());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(inputs: &str) -> Result<Vec<usize>, String> {
        let asked: Predict =
            serde_json::from_str(&format!(r#"{{"inputs": {inputs}}}"#)).map_err(|e| e.to_string())?;
        Ok(asked.inputs.rows().iter().map(Vec::len).collect())
    }

    #[test]
    fn every_form_of_sequences_is_read() {
        assert_eq!(rows(r#""a""#), Ok(vec![1]));
        assert_eq!(rows(r#"["a", "b"]"#), Ok(vec![2]));
        assert_eq!(rows(r#"[["a"], ["a", "b"]]"#), Ok(vec![1, 2]));
        assert!(rows("[1]").unwrap_err().contains("pair of strings"));
    }

    #[test]
    fn classes_come_likeliest_first_with_their_names() {
        let mut out = Vec::new();
        push_classes(
            &[0.0, 2.0, f32::NEG_INFINITY],
            false,
            &["no".to_owned(), "yes".to_owned()],
            &mut out,
        );
        let classes: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let labels: Vec<&str> = classes
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["label"].as_str().unwrap())
            .collect();
        assert_eq!(labels, ["yes", "no", "LABEL_2"]);
        assert!((classes[0]["score"].as_f64().unwrap() - 0.880_797).abs() < 1e-5);
        let mut out = Vec::new();
        push_classes(&[0.0], false, &[], &mut out);
        assert_eq!(out, br#"[{"score":0.5,"label":"LABEL_0"}]"#);
    }
}
