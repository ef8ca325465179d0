//! `POST /v1/embeddings`, as OpenAI's clients call it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Shape, Tensor};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::super::json::response::{push_float, push_string};
use super::super::reply::Failure;
use super::{Ability, OneOrMore, Rows, ask, bytes, choose, count, heavy, parse, request, usual};
use crate::infer::InferResponse;
use crate::scope::RequestScope;
use crate::service::Service;
use crate::status::{Refusal, Status};

/// The request; what changes nothing here, such as `user`, is let through.
#[derive(Debug, Deserialize)]
struct Embeddings {
    model: String,
    input: Input,
    encoding_format: Option<Format>,
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
#[derive(Debug)]
enum Input {
    Texts(OneOrMore),
    Tokens(Vec<i64>),
    Rows(Vec<Vec<i64>>),
}

/// The first element of an array decides what the others are, and no more of them are kept than a request may have.
impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Inputs;
        impl<'de> Visitor<'de> for Inputs {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "`input` must be a string, an array of strings, an array of token numbers or an array of such arrays: anything else",
                )
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Texts(OneOrMore::One(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Input, A::Error> {
                Ok(match elements.next_element()? {
                    None => Input::Tokens(Vec::new()),
                    Some(Element::Text(first)) => Input::Texts(OneOrMore::More(rest(first, elements)?)),
                    Some(Element::Token(first)) => Input::Tokens(rest(first, elements)?),
                    Some(Element::Tokens(Row(first))) => {
                        let rows: Vec<Row> = rest(Row(first), elements)?;
                        Input::Rows(rows.into_iter().map(|Row(row)| row).collect())
                    }
                })
            }
        }
        deserializer.deserialize_any(Inputs)
    }
}

/// `first`, and all that follow of its kind.
fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(first: T, mut elements: A) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(element) = elements.next_element()? {
        if all.len() == MOST_ELEMENTS {
            return Err(A::Error::custom(format!("more than {MOST_ELEMENTS} inputs")));
        }
        all.push(element);
    }
    Ok(all)
}

/// A row of tokens.
struct Row(Vec<i64>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of token numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Row, A::Error> {
                match tokens.next_element()? {
                    None => Ok(Row(Vec::new())),
                    Some(first) => rest(first, tokens).map(Row),
                }
            }
        }
        deserializer.deserialize_seq(Tokens)
    }
}

/// The first of an array.
enum Element {
    Text(String),
    Token(i64),
    Tokens(Row),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token number or an array of token numbers: `input` must be a string or an array of these")
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }

            fn visit_i64<E>(self, token: i64) -> Result<Element, E> {
                Ok(Element::Token(token))
            }

            fn visit_u64<E: serde::de::Error>(self, token: u64) -> Result<Element, E> {
                let token =
                    i64::try_from(token).map_err(|_| E::custom(format!("{token} is no token number")))?;
                Ok(Element::Token(token))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Element, A::Error> {
                let elements = serde::de::value::SeqAccessDeserializer::new(elements);
                Row::deserialize(elements).map(Element::Tokens)
            }
        }
        deserializer.deserialize_any(First)
    }
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
    let request = request(&chosen, asked.input.tensors()?, Vec::new(), asked.dimensions);
    let (response, rows) = ask(service, scope, headers, request).await?;
    heavy(rows.text_bytes(), || {
        let rows = match asked.dimensions {
            None => rows,
            some => rows.cut(some)?.normalized(),
        };
        Ok(list(&rows, asked.encoding_format.unwrap_or_default(), &response))
    })
}

/// Vectors as OpenAI lists them.
fn list(rows: &Rows, format: Format, response: &InferResponse) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.numbers.len() * 12);
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (index, row) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        out.extend_from_slice(
            format!("{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":").as_bytes(),
        );
        match format {
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
    out
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
            (r#"["a", 1]"#, "expected a string"),
            (r#"[1, "a"]"#, "expected i64"),
            ("[true]", "must be a string"),
            ("[99999999999999999999]", "must be a string"),
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
