//! An encoder by candle's operations, for every device and datatype.
//!
//! Tokens are rows of one matrix, as in [`packed`](crate::packed); only for attention they go to places in a padded one,
//! and back.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops;

use crate::card::{Activation, Card};
use crate::tokens::Tokens;
use crate::weights::{Layer, Linear, Norm, Weights};

/// Weights where they are computed with.
pub(crate) struct Portable {
    card: Card,
    weights: Weights,
    device: Device,
    dtype: DType,
}

/// Where tokens are in a padded batch.
struct Places {
    rows: usize,
    longest: usize,
    /// Of each place its token, of padding the first: `[rows · longest]`.
    tokens: Tensor,
    /// Of each token its place: `[tokens]`.
    places: Tensor,
    /// Added to scores, `[rows, 1, 1, longest]`: so much below zero for padding that its share is nothing.
    mask: Tensor,
}

impl Portable {
    /// Takes the weights over.
    pub(crate) fn new(card: Card, weights: Weights, device: Device) -> Self {
        let dtype = weights.embeddings.words.dtype();
        Self {
            card,
            weights,
            device,
            dtype,
        }
    }

    /// The tokens' vectors in FP32, `[tokens, hidden]`.
    pub(crate) fn encode(&self, tokens: &Tokens) -> candle_core::Result<Vec<f32>> {
        if tokens.len() == 0 {
            return Ok(Vec::new());
        }
        let places = self.places(tokens)?;
        let mut rows = self.embed(tokens)?;
        for layer in &self.weights.layers {
            rows = self.layer(layer, &rows, &places)?;
        }
        rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
    }

    fn numbers(&self, values: &[u32]) -> candle_core::Result<Tensor> {
        Tensor::from_slice(values, values.len(), &self.device)
    }

    fn places(&self, tokens: &Tokens) -> candle_core::Result<Places> {
        let longest = tokens.spans().map(|span| span.len()).max().unwrap_or(0);
        let count = tokens.rows * longest;
        let (mut of_place, mut of_token) = (vec![0u32; count], Vec::with_capacity(tokens.len()));
        let mut mask = vec![NOTHING; count];
        for (row, span) in tokens.spans().enumerate() {
            for (token, place) in span.zip(row * longest..) {
                of_place[place] = u32::try_from(token).unwrap_or(u32::MAX);
                of_token.push(u32::try_from(place).unwrap_or(u32::MAX));
                mask[place] = 0.0;
            }
        }
        let mask = Tensor::from_vec(mask, (tokens.rows, 1, 1, longest), &self.device)?;
        Ok(Places {
            rows: tokens.rows,
            longest,
            tokens: self.numbers(&of_place)?,
            places: self.numbers(&of_token)?,
            mask: mask.to_dtype(self.dtype)?,
        })
    }

    fn embed(&self, tokens: &Tokens) -> candle_core::Result<Tensor> {
        let embeddings = &self.weights.embeddings;
        let mut sum = embeddings.words.index_select(&self.numbers(&tokens.ids)?, 0)?;
        if let Some(types) = &embeddings.types {
            sum = (sum + types.index_select(&self.numbers(&tokens.types)?, 0)?)?;
        }
        sum = (sum
            + embeddings
                .positions
                .index_select(&self.numbers(&tokens.positions)?, 0)?)?;
        self.norm(&embeddings.norm, &sum)
    }

    fn layer(&self, layer: &Layer, rows: &Tensor, places: &Places) -> candle_core::Result<Tensor> {
        let context = self.attend(layer, rows, places)?;
        let attended = (affine(&layer.attended, &context)? + rows)?;
        let rows = self.norm(&layer.attended_norm, &attended)?;
        let middle = affine(&layer.up, &rows)?;
        let middle = match self.card.activation {
            Activation::Gelu => middle.gelu_erf()?,
            Activation::GeluTanh => middle.gelu()?,
            Activation::Relu => middle.relu()?,
        };
        let out = (affine(&layer.down, &middle)? + rows)?;
        self.norm(&layer.norm, &out)
    }

    fn attend(&self, layer: &Layer, rows: &Tensor, places: &Places) -> candle_core::Result<Tensor> {
        let (heads, head) = (self.card.heads, self.card.head());
        let split = |linear: &Linear| {
            affine(linear, rows)?
                .index_select(&places.tokens, 0)?
                .reshape((places.rows, places.longest, heads, head))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = (split(&layer.query)? * (1.0 / (head as f64).sqrt()))?;
        let scores = query
            .matmul(&split(&layer.key)?.t()?)?
            .broadcast_add(&places.mask)?;
        let context = ops::softmax_last_dim(&scores)?.matmul(&split(&layer.value)?)?;
        context
            .transpose(1, 2)?
            .contiguous()?
            .reshape((places.rows * places.longest, self.card.hidden))?
            .index_select(&places.places, 0)
    }

    fn norm(&self, norm: &Norm, rows: &Tensor) -> candle_core::Result<Tensor> {
        ops::layer_norm(
            &rows.contiguous()?,
            &norm.weight,
            &norm.shift,
            epsilon(&self.card),
        )
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        let Card {
            hidden,
            layers,
            intermediate,
            vocabulary,
            positions,
            types,
            ..
        } = self.card;
        // What grows with the model; norms and biases are thousandths of it.
        let tables = (vocabulary + positions + types) * hidden;
        (tables + layers * (4 * hidden * hidden + 2 * hidden * intermediate)) * self.dtype.size_in_bytes()
    }
}

/// Added to a score it leaves no share of it, in FP16 too, whose least number is -65 504.
const NOTHING: f32 = -3e4;

fn affine(linear: &Linear, rows: &Tensor) -> candle_core::Result<Tensor> {
    rows.matmul(&linear.weight.t()?)?.broadcast_add(&linear.bias)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "1e-12 and its like are exact enough in FP32"
)]
fn epsilon(card: &Card) -> f32 {
    card.epsilon as f32
}
