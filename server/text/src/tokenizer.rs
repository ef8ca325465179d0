//! From texts to tokens.

use bytes::Bytes;
use crossfade_runtimes_core::{BytesElements, Datatype, Shape, Tensor};
use tokenizers::{
    Encoding, PostProcessor as _, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy,
};

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

impl Cut {
    /// The side of a text that is left out, as requests and records call it; `None` where it is refused.
    pub fn side(self) -> Option<&'static str> {
        match self {
            Self::Refuse => None,
            Self::Right => Some("right"),
            Self::Left => Some("left"),
        }
    }

    /// By the name of its side, in any case.
    pub fn by_side(name: &str) -> Option<Self> {
        let sides = [Self::Right, Self::Left];
        sides
            .into_iter()
            .find(|cut| cut.side().is_some_and(|side| side.eq_ignore_ascii_case(name)))
    }
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
    /// Whether any text was longer than the model takes, and cut.
    pub is_cut: bool,
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
#[derive(Debug)]
pub(crate) struct Encoded {
    encoding: Encoding,
    /// Whether there were more.
    is_cut: bool,
}

/// A tokenizer, shared by all threads.
pub struct Text {
    /// Cuts at the right end.
    tokenizer: Tokenizer,
    /// Cuts at the left.
    left: Tokenizer,
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
            // One more than there may be tells a text that is too long; what comes behind it need not be looked at.
            max_length: max_tokens + 1,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
        let mut left = tokenizer.clone();
        if let Some(truncation) = left.get_truncation_mut() {
            truncation.direction = TruncationDirection::Left;
        }
        Ok(Self {
            tokenizer,
            left,
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
        let (tokenizer, direction) = match cut {
            Cut::Refuse | Cut::Right => (&self.tokenizer, TruncationDirection::Right),
            Cut::Left => (&self.left, TruncationDirection::Left),
        };
        // Each text by itself, without what is left over of it: the library pairs all that is left over of one text with all that is left
        // over of the other.
        let alone = |text: &str| {
            let mut encoding = tokenizer.encode_fast(text, false)?;
            encoding.take_overflowing();
            Ok(encoding)
        };
        let mut first = alone(&row.first).map_err(failed)?;
        let mut second = row.second.as_deref().map(alone).transpose().map_err(failed)?;
        let processor = tokenizer.get_post_processor();
        let special = processor.map_or(0, |processor| processor.added_tokens(second.is_some()));
        let most = self.max_tokens.saturating_sub(special);
        let lengths = (first.len(), second.as_ref().map(Encoding::len));
        let is_cut = lengths.0 + lengths.1.unwrap_or(0) > most;
        if is_cut {
            if cut == Cut::Refuse {
                let reason = format!(
                    "the text has more than the {} tokens that the model takes; send a shorter one, or have it cut (parameter \
                     `truncate`)",
                    self.max_tokens
                );
                return Err(TextError::input(TEXT, index, reason));
            }
            // The library looks no further than that, either.
            let lengths = (
                lengths.0.min(self.max_tokens),
                lengths.1.map(|of| of.min(self.max_tokens)),
            );
            let (of_first, of_second) = longest_first(lengths, most);
            let shorten = |encoding: &mut Encoding, to: usize| {
                encoding.truncate(to, 0, direction);
                encoding.take_overflowing();
            };
            shorten(&mut first, of_first);
            if let Some(second) = &mut second {
                shorten(second, of_second);
            }
        }
        let encoding = match (processor, second) {
            (Some(processor), second) => processor.process(first, second, true).map_err(failed)?,
            (None, None) => first,
            (None, Some(second)) => Encoding::merge([first, second], false),
        };
        if encoding.is_empty() {
            return Err(TextError::input(TEXT, index, "the text has no tokens"));
        }
        Ok(Encoded { encoding, is_cut })
    }

    /// Puts rows together, the shorter ones filled up.
    ///
    /// Errors: `Input` where filling up would take more memory than a request is worth.
    pub(crate) fn join(&self, rows: &[Encoded]) -> Result<Tokenized, TextError> {
        let length = |row: &Encoded| row.encoding.len();
        let longest = rows.iter().map(length).max().unwrap_or(0);
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
                let values = values(&row.encoding);
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
            tokens: rows.iter().map(length).sum(),
            is_cut: rows.iter().any(|row| row.is_cut),
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

/// How many tokens of each text stay of `most`: the longer one is cut first, and then both alike.
///
/// Source: tokenizers, `truncate_encodings` with `LongestFirst`.
fn longest_first((first, second): (usize, Option<usize>), most: usize) -> (usize, usize) {
    let Some(second) = second else {
        return (first.min(most), 0);
    };
    let (shorter, longer) = (first.min(second), first.max(second));
    let (shorter, longer) = match shorter > most / 2 {
        true => (most / 2, most - most / 2),
        false => (shorter, longer.min(most - shorter)),
    };
    match first <= second {
        true => (shorter, longer),
        false => (longer, shorter),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(model: &str) -> Vec<u8> {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtimes/candle/tests/models");
        std::fs::read(format!("{models}/{model}/tokenizer.json")).unwrap()
    }

    fn encoded(text: &Text, first: &str, second: Option<&str>, cut: Cut) -> Result<Vec<(u32, u32)>, String> {
        let row = Row {
            first: first.to_owned(),
            second: second.map(str::to_owned),
        };
        let encoded = text.encode(0, &row, cut).map_err(|error| error.to_string())?;
        let encoding = encoded.encoding;
        let pairs = encoding.get_ids().iter().copied();
        Ok(pairs.zip(encoding.get_type_ids().iter().copied()).collect())
    }

    /// The library's own way to cut, which pairs what is left over.
    fn of_library(
        json: &[u8],
        first: &str,
        second: Option<&str>,
        most: usize,
        left: bool,
    ) -> Vec<(u32, u32)> {
        let mut tokenizer = Tokenizer::from_bytes(json).unwrap();
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            direction: match left {
                true => TruncationDirection::Left,
                false => TruncationDirection::Right,
            },
            max_length: most,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.with_truncation(Some(truncation)).unwrap();
        let encoding = match second {
            None => tokenizer.encode(first, true),
            Some(second) => tokenizer.encode((first, second), true),
        }
        .unwrap();
        let pairs = encoding.get_ids().iter().copied();
        pairs.zip(encoding.get_type_ids().iter().copied()).collect()
    }

    proptest! {
        #[test]
        fn texts_are_cut_as_the_library_cuts_them(
            first in 1usize..40,
            second in prop::option::of(1usize..40),
            most in 6usize..30,
            left: bool,
            model in prop::sample::select(vec!["bert", "roberta"]),
        ) {
            let json = file(model);
            let text = Text::new(&json, most, 0, false).unwrap();
            let words = |count: usize| ["the", "cat", "a", "dog", "fish"].iter().cycle().take(count).copied().collect::<Vec<_>>().join(" ");
            let (first, second) = (words(first), second.map(words));
            let second = second.as_deref();
            let expected = of_library(&json, &first, second, most, left);
            let cut = if left { Cut::Left } else { Cut::Right };
            prop_assert_eq!(encoded(&text, &first, second, cut), Ok(expected.clone()));
            // What is not cut is not refused, and the other way round.
            let whole = of_library(&json, &first, second, 1000, left);
            prop_assert_eq!(encoded(&text, &first, second, Cut::Refuse).is_ok(), whole.len() <= most);
        }
    }

    #[test]
    fn special_tokens_in_the_text_cost_what_they_are_long() {
        // Both texts of a pair are too long in a way that the library does not see before it has all tokens: it would pair 1,900 pieces of
        // one with as many of the other.
        let text = Text::new(&file("roberta"), 34, 0, false).unwrap();
        let long = "<s>".repeat(60_000);
        assert_eq!(encoded(&text, &long, Some(&long), Cut::Right).unwrap().len(), 34);
        assert_eq!(encoded(&text, &long, Some(&long), Cut::Left).unwrap().len(), 34);
        let refused = encoded(&text, &long, Some(&long), Cut::Refuse).unwrap_err();
        assert!(refused.contains("34 tokens"), "{refused}");
    }
}
