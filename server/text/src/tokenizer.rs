//! From texts to tokens.

use std::sync::OnceLock;

use bytes::Bytes;
use crossfade_runtimes_core::{BytesElements, Datatype, Shape, Tensor};
use tokenizers::{Encoding, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::TextError;
use crate::front::{TEXT, TEXT_PAIR};

/// The largest single text: a thousand times what the longest sequences hold.
const MOST_BYTES: usize = 1 << 20;

/// Tokens of one request, each row filled up to the longest: 32 MiB for each of three tensors.
const MOST_ELEMENTS: usize = 1 << 22;

/// What becomes of a text with more tokens than the model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is refused.
    Refuse,
    /// Its end is left out.
    Right,
    /// Its beginning is left out.
    Left,
}

/// Tokens of some rows, as a model takes them: three tensors of INT64 `[rows, longest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// Numbers of tokens; shorter rows are filled up.
    pub ids: Tensor,
    /// 1 for tokens, 0 for what fills up.
    pub mask: Tensor,
    /// 0 for the first text of a pair, 1 for the second.
    pub types: Tensor,
    /// Tokens, without what fills up.
    pub tokens: usize,
}

/// One row's text.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    first: String,
    second: Option<String>,
}

impl Row {
    /// Bytes of its text.
    pub(crate) fn bytes(&self) -> usize {
        self.first.len() + self.second.as_ref().map_or(0, String::len)
    }
}

/// One row's tokens.
pub(crate) type Encoded = Encoding;

/// A tokenizer, shared by all threads.
pub struct Text {
    /// Cuts at the right end.
    tokenizer: Tokenizer,
    /// Cuts at the left; made when somebody asks for it.
    left: OnceLock<Tokenizer>,
    max_tokens: usize,
    padding: u32,
    /// What a request that says nothing gets.
    usual: Cut,
}

impl Text {
    /// Reads `tokenizer.json`.
    ///
    /// Errors: `File` if it is none.
    pub fn new(json: &[u8], max_tokens: usize, padding: u32, truncate: bool) -> Result<Self, TextError> {
        let failed = |error: tokenizers::Error| TextError::File {
            file: "tokenizer.json".to_owned(),
            reason: error.to_string(),
        };
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(failed)?;
        // The file's own padding and truncation are those of a training run.
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
        Ok(Self {
            tokenizer,
            left: OnceLock::new(),
            max_tokens,
            padding,
            usual: if truncate { Cut::Right } else { Cut::Refuse },
        })
    }

    /// Tokens of the longest text.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// What becomes of longer texts where a request does not say.
    pub fn usual(&self) -> Cut {
        self.usual
    }

    /// Reads the texts of `text` and, row by row beside them, `pair`: BYTES of as many elements as there are rows.
    ///
    /// Errors: `Input` naming the row that is no UTF-8, or too large.
    pub(crate) fn rows(&self, text: &Tensor, pair: Option<&Tensor>) -> Result<Vec<Row>, TextError> {
        let first = strings(TEXT, text)?;
        let second = match pair {
            None => vec![None; first.len()],
            Some(pair) => strings(TEXT_PAIR, pair)?.into_iter().map(Some).collect(),
        };
        if first.len() != second.len() {
            let reason = format!("{} texts beside {} of `{TEXT}`", second.len(), first.len());
            return Err(TextError::input(TEXT_PAIR, None, reason));
        }
        let row = |(first, second)| Row { first, second };
        Ok(first.into_iter().zip(second).map(row).collect())
    }

    /// Tokenizes one row, number `index` of its request. Takes about a microsecond for each ten bytes.
    pub(crate) fn encode(&self, index: usize, row: &Row, cut: Cut) -> Result<Encoded, TextError> {
        let failed = |error: tokenizers::Error| TextError::input(TEXT, index, error.to_string());
        let tokenizer = match cut {
            Cut::Refuse | Cut::Right => &self.tokenizer,
            Cut::Left => self.left.get_or_init(|| {
                let mut left = self.tokenizer.clone();
                if let Some(truncation) = left.get_truncation_mut() {
                    truncation.direction = TruncationDirection::Left;
                }
                left
            }),
        };
        let mut encoding = match &row.second {
            None => tokenizer.encode_fast(&*row.first, true),
            Some(second) => tokenizer.encode_fast((&*row.first, &**second), true),
        }
        .map_err(failed)?;
        let rest = encoding.take_overflowing();
        if cut == Cut::Refuse && !rest.is_empty() {
            let reason = format!(
                "the text has more than the {} tokens that the model takes; send a shorter one, or have it cut (parameter \
                 `truncate`)",
                self.max_tokens
            );
            return Err(TextError::input(TEXT, index, reason));
        }
        if encoding.is_empty() {
            return Err(TextError::input(TEXT, index, "the text has no tokens"));
        }
        Ok(encoding)
    }

    /// Puts rows together, the shorter ones filled up.
    ///
    /// Errors: `Input` where filling up would take more memory than a request is worth.
    pub(crate) fn join(&self, rows: &[Encoded]) -> Result<Tokenized, TextError> {
        let longest = rows.iter().map(Encoding::len).max().unwrap_or(0);
        if rows.len().saturating_mul(longest) > MOST_ELEMENTS {
            let reason = format!(
                "{} texts, of which the longest has {longest} tokens, are too many for one request; send fewer at once",
                rows.len()
            );
            return Err(TextError::input(TEXT, None, reason));
        }
        let column = |values: fn(&Encoding) -> &[u32], fill: u32| {
            let mut data = Vec::with_capacity(rows.len() * longest * 8);
            for row in rows {
                let values = values(row);
                let filled = values
                    .iter()
                    .copied()
                    .chain(std::iter::repeat_n(fill, longest - values.len()));
                data.extend(filled.flat_map(|value| i64::from(value).to_le_bytes()));
            }
            Tensor {
                datatype: Datatype::Int64,
                shape: Shape::from([rows.len(), longest]),
                data: Bytes::from(data),
            }
        };
        Ok(Tokenized {
            ids: column(Encoding::get_ids, self.padding),
            mask: column(Encoding::get_attention_mask, 0),
            types: column(Encoding::get_type_ids, 0),
            tokens: rows.iter().map(Encoding::len).sum(),
        })
    }

    /// Tokenizes here and now.
    ///
    /// Errors: `Input`.
    pub fn tokenize(&self, text: &Tensor, pair: Option<&Tensor>, cut: Cut) -> Result<Tokenized, TextError> {
        let rows = self.rows(text, pair)?;
        let encoded = rows
            .iter()
            .enumerate()
            .map(|(index, row)| self.encode(index, row, cut));
        self.join(&encoded.collect::<Result<Vec<_>, _>>()?)
    }
}

fn strings(input: &'static str, tensor: &Tensor) -> Result<Vec<String>, TextError> {
    let element = |(row, element): (usize, Result<&[u8], _>)| {
        let bytes = element.map_err(|error: crossfade_runtimes_core::FramingError| {
            TextError::input(input, row, error.to_string())
        })?;
        if bytes.len() > MOST_BYTES {
            let reason = format!(
                "the text has {} bytes; at most {MOST_BYTES} are taken",
                bytes.len()
            );
            return Err(TextError::input(input, row, reason));
        }
        let text = std::str::from_utf8(bytes);
        let text =
            text.map_err(|error| TextError::input(input, row, format!("the text is not UTF-8: {error}")))?;
        Ok(text.to_owned())
    };
    BytesElements::new(&tensor.data)
        .enumerate()
        .map(element)
        .collect()
}
