//! The tokens of a batch that count, row after row, without padding.

use crossfade_runtimes_core::{RuntimeError, TensorView};

use crate::card::{Card, Family};
use crate::error::refused;

/// The inputs' names, in the signature's order.
pub(crate) const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// Tokens of one run, padding included: their vectors take some gigabytes in the larger models.
const MOST_TOKENS: usize = 1 << 18;

/// A batch without its padding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Rows of the batch.
    pub(crate) rows: usize,
    /// Columns of the batch, padding included.
    pub(crate) columns: usize,
    /// Row `r` has the tokens `starts[r]..starts[r + 1]`.
    pub(crate) starts: Vec<usize>,
    /// Each token's number, below the vocabulary's size.
    pub(crate) ids: Vec<u32>,
    /// Each token's row in the table of positions.
    pub(crate) positions: Vec<u32>,
    /// Each token's type; empty for a model without types.
    pub(crate) types: Vec<u32>,
    /// Each token's column.
    pub(crate) columns_of: Vec<usize>,
}

impl Tokens {
    /// Reads the inputs: `input_ids`, and where they are there `attention_mask` and `token_type_ids`, each INT64
    /// `[rows, columns]`.
    ///
    /// Errors: `InvalidInput` naming input and value.
    pub(crate) fn read(card: &Card, inputs: &[Option<TensorView<'_>>]) -> Result<Self, RuntimeError> {
        let view = |index: usize| inputs.get(index).copied().flatten();
        let Some(ids) = view(0) else {
            return Err(refused(format!("input `{}` is missing", INPUTS[0])));
        };
        let &[rows, columns] = ids.shape else {
            return Err(refused(format!("input `{}` has not two dimensions", INPUTS[0])));
        };
        for (index, other) in INPUTS.iter().enumerate().skip(1) {
            if let Some(other_view) = view(index)
                && other_view.shape != ids.shape
            {
                return Err(refused(format!(
                    "input `{other}` has shape {:?}, and `{}` {:?}; they belong together token by token",
                    other_view.shape, INPUTS[0], ids.shape
                )));
            }
        }
        let places = rows.saturating_mul(columns);
        if places > MOST_TOKENS {
            return Err(refused(format!(
                "{rows} rows of {columns} tokens are more than the {MOST_TOKENS} tokens that one run takes; send fewer rows at once"
            )));
        }
        if columns > card.longest() {
            return Err(refused(format!(
                "{columns} tokens are given, and the model takes at most {}",
                card.longest()
            )));
        }
        let mut tokens = Self {
            rows,
            columns,
            starts: Vec::with_capacity(rows + 1),
            ids: Vec::with_capacity(rows * columns),
            positions: Vec::with_capacity(rows * columns),
            types: Vec::new(),
            columns_of: Vec::with_capacity(rows * columns),
        };
        tokens.starts.push(0);
        for row in 0..rows {
            tokens.read_row(card, row, ids, view(1), view(2))?;
        }
        Ok(tokens)
    }

    fn read_row(
        &mut self,
        card: &Card,
        row: usize,
        ids: TensorView<'_>,
        mask: Option<TensorView<'_>>,
        types: Option<TensorView<'_>>,
    ) -> Result<(), RuntimeError> {
        let mut counted = 0;
        for column in 0..self.columns {
            let at = row * self.columns + column;
            let id = number(ids, at);
            if mask.is_some_and(|mask| number(mask, at) == 0) {
                counted += usize::from(id != i64::from(card.padding));
                continue;
            }
            self.ids.push(index(INPUTS[0], row, id, card.vocabulary)?);
            let position = match card.family {
                // transformers' create_position_ids_from_input_ids: padding stays at its own row, whatever the mask.
                Family::Roberta if id == i64::from(card.padding) => card.first_position() - 1,
                Family::Roberta => card.first_position() + counted,
                Family::Bert | Family::DistilBert => column,
            };
            counted += usize::from(id != i64::from(card.padding));
            self.positions.push(u32::try_from(position).unwrap_or(u32::MAX));
            if card.types > 0 {
                let kind = types.map_or(0, |types| number(types, at));
                self.types.push(index(INPUTS[2], row, kind, card.types)?);
            }
            self.columns_of.push(column);
        }
        self.starts.push(self.ids.len());
        Ok(())
    }

    /// How many tokens count.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The tokens of each row.
    pub(crate) fn spans(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + Clone + '_ {
        self.starts.windows(2).map(|pair| pair[0]..pair[1])
    }
}

/// Element `at` of an INT64 tensor, of any alignment.
fn number(view: TensorView<'_>, at: usize) -> i64 {
    let bytes = view.data[at * 8..at * 8 + 8].try_into();
    i64::from_le_bytes(bytes.expect("eight bytes"))
}

fn index(input: &str, row: usize, value: i64, count: usize) -> Result<u32, RuntimeError> {
    let fits = u32::try_from(value).ok();
    fits.filter(|&value| usize::try_from(value).is_ok_and(|value| value < count))
        .ok_or_else(|| {
            refused(format!(
                "input `{input}`, row {row}: {value} is not within 0 to {}",
                count - 1
            ))
        })
}
