//! `POST /v1/embeddings`, as OpenAI's clients call it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Shape, Tensor};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::super::json::response::{push_float, push_string};
use super::super::reply::Failure;
use super::{Ability, OneOrMore, ask, bytes, choose, count, parse, request, usual};
use crate::scope::RequestScope;
use crate::service::Service;
use crate::status::{Refusal, Status};

/// The request; what changes nothing here, such as `user`, is let through.
#[derive(Debug, Deserialize)]
struct Embeddings {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

/// Texts, or tokens of the model's own vocabulary.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`input` must be a string, an array of strings, an array of token numbers or an array of such arrays"
)]
enum Input {
    Texts(OneOrMore),
    Tokens(Vec<i64>),
    Rows(Vec<Vec<i64>>),
}

impl Input {
    fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.texts().len(),
            Self::Tokens(tokens) => usize::from(!tokens.is_empty()),
            Self::Rows(rows) => rows.len(),
        }
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>, Refusal> {
        match self {
            Self::Texts(texts) => {
                let texts = texts.texts();
                if let Some(index) = texts.iter().position(String::is_empty) {
                    return Err(Refusal::invalid(format!("input {index} is an empty string")));
                }
                let texts = bytes(texts.iter().map(String::as_str));
                Ok(vec![(crossfade_text::TEXT.to_owned(), texts)])
            }
            Self::Tokens(tokens) => tokens_of(std::slice::from_ref(tokens)),
            Self::Rows(rows) => tokens_of(rows),
        }
    }
}

/// Tokens of one request, each row filled up to the longest.
const MOST_ELEMENTS: usize = 1 << 22;

/// Rows of tokens, the shorter ones filled up and masked.
fn tokens_of(rows: &[Vec<i64>]) -> Result<Vec<(String, Tensor)>, Refusal> {
    if let Some(index) = rows.iter().position(Vec::is_empty) {
        return Err(Refusal::invalid(format!("input {index} has no tokens")));
    }
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    if rows.len().saturating_mul(longest) > MOST_ELEMENTS {
        return Err(Refusal::invalid(format!(
            "{} inputs, of which the longest has {longest} tokens, are too many for one request; send fewer at once",
            rows.len()
        )));
    }
    let tensor = |value: &dyn Fn(&[i64], usize) -> i64| {
        let places = rows
            .iter()
            .flat_map(|row| (0..longest).map(move |column| (row, column)));
        let data: Vec<u8> = places
            .flat_map(|(row, column)| value(row, column).to_le_bytes())
            .collect();
        Tensor {
            datatype: Datatype::Int64,
            shape: Shape::from([rows.len(), longest]),
            data: data.into(),
        }
    };
    let ids = tensor(&|row, column| row.get(column).copied().unwrap_or(0));
    let mask = tensor(&|row, column| i64::from(column < row.len()));
    Ok(vec![
        ("input_ids".to_owned(), ids),
        ("attention_mask".to_owned(), mask),
    ])
}

/// Answers a request.
pub(super) async fn embeddings(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Vec<u8>, Failure> {
    let asked: Embeddings = parse(body)?;
    scope.note_target(&asked.model, "");
    count(asked.input.len(), service)?;
    let chosen = choose(service, Ability::Embed, Some(&asked.model))?;
    let request = request(&chosen, asked.input.tensors()?, Vec::new());
    let (response, mut rows) = ask(service, scope, headers, request).await?;
    if asked.dimensions.is_some() {
        rows = rows.cut(asked.dimensions)?;
        rows.normalize();
    }
    let mut out = Vec::with_capacity(rows.numbers.len() * 12);
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        out.extend_from_slice(
            format!("{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":").as_bytes(),
        );
        match asked.encoding_format {
            Format::Float => push_row(row, &mut out),
            Format::Base64 => {
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                push_string(&STANDARD.encode(bytes), &mut out);
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"model\":");
    push_string(&response.model, &mut out);
    let tokens = response.tokens.unwrap_or_default();
    out.extend_from_slice(
        format!(",\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}").as_bytes(),
    );
    Ok(out)
}

/// A row as an array of numbers.
pub(super) fn push_row(row: &[f32], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, &number) in row.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_float(number, out);
    }
    out.push(b']');
}

/// A failure as OpenAI words it.
pub(super) fn error(failure: &Failure) -> (StatusCode, Vec<u8>) {
    let status = usual(failure);
    let (kind, code) = match failure {
        Failure::Refused(refusal) if refusal.status == Status::NotFound => {
            ("invalid_request_error", "\"model_not_found\"")
        }
        Failure::Refused(refusal) if refusal.status == Status::Overloaded => {
            ("rate_limit_error", "\"rate_limit_exceeded\"")
        }
        _ if status.is_server_error() => ("server_error", "null"),
        _ => ("invalid_request_error", "null"),
    };
    let mut body = b"{\"error\":{\"message\":".to_vec();
    push_string(&failure.message(), &mut body);
    body.extend_from_slice(format!(",\"type\":\"{kind}\",\"param\":null,\"code\":{code}}}}}").as_bytes());
    (status, body)
}

/// Reads a request as the route does; for the fuzz target.
pub(crate) fn fuzz(body: &[u8]) {
    if let Ok(asked) = serde_json::from_slice::<Embeddings>(body)
        && asked.input.len() < 64
    {
        drop(asked.input.tensors());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(input: &str) -> Result<Vec<(String, Vec<usize>)>, String> {
        let text = format!(r#"{{"model": "m", "input": {input}, "user": "u"}}"#);
        let asked: Embeddings = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let tensors = asked.input.tensors().map_err(|refusal| refusal.message)?;
        Ok(tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.shape.to_vec()))
            .collect())
    }

    #[test]
    fn every_form_of_input_is_read() {
        let text = |rows| Ok(vec![("text".to_owned(), vec![rows, 1])]);
        let tokens = |rows, longest| {
            let names = ["input_ids", "attention_mask"];
            Ok(names.map(|name| (name.to_owned(), vec![rows, longest])).to_vec())
        };
        assert_eq!(tensors(r#""a""#), text(1));
        assert_eq!(tensors(r#"["a", "b"]"#), text(2));
        assert_eq!(tensors("[1, 2, 3]"), tokens(1, 3));
        assert_eq!(tensors("[[1], [2, 3]]"), tokens(2, 2));
        for (input, named) in [
            (r#"["a", ""]"#, "input 1"),
            ("[[1], []]", "input 1"),
            ("{}", "must be a string"),
            (r#"["a", 1]"#, "must be a string"),
            (
                &*format!("[[{}1], {}[1]]", "1,".repeat(9999), "[1],".repeat(500)),
                "send fewer",
            ),
            ("1.5", "must be a string"),
        ] {
            assert!(
                tensors(input).unwrap_err().contains(named),
                "{input}: {:?}",
                tensors(input)
            );
        }
    }
}
