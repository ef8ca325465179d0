//! An encoder on a CPU in FP32: every token of the batch is a row of one matrix, padding is not there.
//!
//! A layer is two passes over blocks of rows: the first makes queries, keys and values, the second all the rest, since
//! nothing but attention looks at other rows. Blocks are what threads share, and small enough for the cache.

use candle_core::Tensor;
use crossfade_runtimes_core::RuntimeError;
use rayon::prelude::*;

use crate::card::{Activation, Card};
use crate::convert::{Matrix, product};
use crate::error::not_loaded;
use crate::kernels::{self, Kernels};
use crate::threads::Run;
use crate::tokens::Tokens;
use crate::weights::{Layer, Linear, Norm, Weights};

/// The most rows of a block: their vectors between the products fit into a core's second cache for a hidden size of
/// 384 (`cargo xtask encoders`).
const BLOCK: usize = 128;

/// Weights as the passes want them.
pub(crate) struct Packed {
    kernels: Kernels,
    activation: Activation,
    hidden: usize,
    heads: usize,
    epsilon: f32,
    /// `[vocabulary, hidden]`, and so on, as in [`Weights`].
    words: Vec<f32>,
    positions: Vec<f32>,
    types: Vec<f32>,
    norm: [Vec<f32>; 2],
    layers: Vec<PackedLayer>,
}

/// Products are `[in, out]`, other than in the file: so the kernel reads them in order.
struct PackedLayer {
    /// `[hidden, 3 · hidden]`: query, key, value; the query's scaled by 1 / √head.
    project: Dense,
    attended: Dense,
    attended_norm: [Vec<f32>; 2],
    up: Dense,
    down: Dense,
    norm: [Vec<f32>; 2],
}

struct Dense {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// What one thread needs for a block; keeps its memory between blocks.
#[derive(Default)]
pub(crate) struct Scratch {
    scores: Vec<f32>,
    context: Vec<f32>,
    middle: Vec<f32>,
    sums: Vec<f32>,
}

impl Packed {
    /// Rearranges FP32 weights.
    pub(crate) fn new(card: &Card, weights: &Weights) -> Result<Self, RuntimeError> {
        let embeddings = &weights.embeddings;
        let layers = weights.layers.iter().map(|layer| PackedLayer::new(card, layer));
        Ok(Self {
            kernels: Kernels::new(),
            activation: card.activation,
            hidden: card.hidden,
            heads: card.heads,
            epsilon: narrowed(card.epsilon),
            words: numbers(&embeddings.words)?,
            positions: numbers(&embeddings.positions)?,
            types: match &embeddings.types {
                Some(types) => numbers(types)?,
                None => Vec::new(),
            },
            norm: norm(&embeddings.norm)?,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    /// The tokens' vectors, `[tokens, hidden]`.
    ///
    pub(crate) fn encode(&self, tokens: &Tokens, run: &Run<'_>, scratch: &mut Scratch) -> Vec<f32> {
        if tokens.len() == 0 {
            return Vec::new();
        }
        let width = self.hidden;
        let mut rows = self.embed(tokens);
        let mut projected = vec![0.0; tokens.len() * 3 * width];
        // Multiples of what the product computes at once; whoever computes them, since a number may be rounded otherwise
        // in another block.
        let block = tokens
            .len()
            .div_ceil(run.threads())
            .next_multiple_of(16)
            .min(BLOCK);
        for layer in &self.layers {
            let project = |_: &mut Scratch, first: usize, out: &mut [f32]| {
                let count = out.len() / (3 * width);
                let input = &rows[first * width..(first + count) * width];
                layer.project.affine(input, out);
            };
            blocks(
                run,
                scratch,
                &mut projected,
                block * 3 * width,
                &|scratch, index, out| {
                    project(scratch, index * block, out);
                },
            );
            blocks(run, scratch, &mut rows, block * width, &|scratch, index, rows| {
                self.layer(layer, tokens, &projected, index * block, rows, scratch);
            });
        }
        rows
    }

    fn embed(&self, tokens: &Tokens) -> Vec<f32> {
        let width = self.hidden;
        let row = |table: &[f32], index: u32| {
            let start = usize::try_from(index).map_or(usize::MAX, |index| index * width);
            start..start + width.min(table.len())
        };
        let mut rows = Vec::with_capacity(tokens.len() * width);
        for (k, (&id, &position)) in tokens.ids.iter().zip(&tokens.positions).enumerate() {
            let words = &self.words[row(&self.words, id)];
            let positions = &self.positions[row(&self.positions, position)];
            match tokens.types.get(k) {
                Some(&kind) => {
                    let types = &self.types[row(&self.types, kind)];
                    let sums = words.iter().zip(positions).zip(types);
                    rows.extend(sums.map(|((word, position), kind)| word + kind + position));
                }
                None => rows.extend(
                    words
                        .iter()
                        .zip(positions)
                        .map(|(word, position)| word + position),
                ),
            }
        }
        self.kernels.norm(&mut rows, &self.norm_of(&self.norm));
        rows
    }

    /// Everything behind the projections, for the tokens of one block.
    ///
    /// * `projected`: `[tokens, 3 · hidden]` of the whole batch
    /// * `rows`: the block's vectors, which become the next layer's; `first`: the number of its first token
    fn layer(
        &self,
        layer: &PackedLayer,
        tokens: &Tokens,
        projected: &[f32],
        first: usize,
        rows: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let width = self.hidden;
        let count = rows.len() / width;
        let Scratch {
            scores,
            context,
            middle,
            sums,
        } = scratch;
        context.resize(count * width, 0.0);
        let begin = tokens.starts.partition_point(|&start| start <= first) - 1;
        for span in tokens.spans().skip(begin) {
            let asked = span.start.max(first)..span.end.min(first + count);
            if asked.start >= first + count {
                break;
            }
            if !asked.is_empty() {
                let out = &mut context[(asked.start - first) * width..(asked.end - first) * width];
                self.attend(projected, span, asked, out, scores);
            }
        }
        sums.resize(count * width, 0.0);
        layer.attended.times(context, sums);
        let norm = self.norm_of(&layer.attended_norm);
        self.kernels.add_and_norm(rows, sums, &layer.attended.bias, &norm);
        middle.resize(count * layer.up.bias.len(), 0.0);
        layer.up.times(rows, middle);
        self.kernels.activate(middle, &layer.up.bias, self.activation);
        layer.down.times(middle, sums);
        self.kernels
            .add_and_norm(rows, sums, &layer.down.bias, &self.norm_of(&layer.norm));
    }

    /// Attention of the tokens `asked` to those of their row, `span`: softmax(q · kᵀ) · v for each head
    /// (Vaswani et al. 2017, section 3.2).
    fn attend(
        &self,
        projected: &[f32],
        span: std::ops::Range<usize>,
        asked: std::ops::Range<usize>,
        out: &mut [f32],
        scores: &mut Vec<f32>,
    ) {
        let (width, head) = (self.hidden, self.hidden / self.heads);
        let stride = 3 * width;
        let (queries, keys) = (asked.len(), span.len());
        scores.resize(queries * keys, 0.0);
        for index in 0..self.heads {
            let at = |token: usize, part: usize| token * stride + part * width + index * head;
            let query = Matrix::rows(&projected[at(asked.start, 0)..], queries, head, stride);
            let key = Matrix::rows(&projected[at(span.start, 1)..], keys, head, stride);
            let value = Matrix::rows(&projected[at(span.start, 2)..], keys, head, stride);
            product(scores, keys, query, key.transposed(), false);
            self.kernels.softmax(scores, keys);
            let scores = Matrix::rows(scores, queries, keys, keys);
            product(&mut out[index * head..], width, scores, value, false);
        }
    }

    fn norm_of<'a>(&self, norm: &'a [Vec<f32>; 2]) -> kernels::Norm<'a> {
        kernels::Norm {
            weight: &norm[0],
            shift: &norm[1],
            epsilon: self.epsilon,
        }
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let dense = [&layer.project, &layer.attended, &layer.up, &layer.down];
            dense
                .iter()
                .map(|dense| dense.weight.len() + dense.bias.len())
                .sum::<usize>()
        });
        4 * (self.words.len() + self.positions.len() + self.types.len() + layers.sum::<usize>())
    }
}

impl PackedLayer {
    fn new(card: &Card, layer: &Layer) -> Result<Self, RuntimeError> {
        Ok(Self {
            project: projection(card, layer)?,
            attended: Dense::new(&layer.attended)?,
            attended_norm: norm(&layer.attended_norm)?,
            up: Dense::new(&layer.up)?,
            down: Dense::new(&layer.down)?,
            norm: norm(&layer.norm)?,
        })
    }
}

/// Query, key and value as one product.
fn projection(card: &Card, layer: &Layer) -> Result<Dense, RuntimeError> {
    let parts = [&layer.query, &layer.key, &layer.value];
    let joined = || {
        let scale = 1.0 / (card.head() as f64).sqrt();
        let scaled = |part: usize, tensor: &Tensor| match part {
            0 => tensor * scale,
            _ => Ok(tensor.clone()),
        };
        let part = |(k, linear): (usize, &&Linear)| {
            Ok(Linear {
                weight: scaled(k, &linear.weight)?,
                bias: scaled(k, &linear.bias)?,
            })
        };
        let parts = parts.iter().enumerate().map(part);
        let parts = parts.collect::<candle_core::Result<Vec<Linear>>>()?;
        let weights: Vec<&Tensor> = parts.iter().map(|linear| &linear.weight).collect();
        let biases: Vec<&Tensor> = parts.iter().map(|linear| &linear.bias).collect();
        Ok(Linear {
            weight: Tensor::cat(&weights, 0)?,
            bias: Tensor::cat(&biases, 0)?,
        })
    };
    let joined: candle_core::Result<Linear> = joined();
    Dense::new(&joined.map_err(|error| not_loaded(&error))?)
}

impl Dense {
    /// The file's `[out, in]` as `[in, out]`.
    pub(crate) fn new(linear: &Linear) -> Result<Self, RuntimeError> {
        let weight = linear.weight.t().map_err(|error| not_loaded(&error))?;
        Ok(Self {
            weight: numbers(&weight)?,
            bias: numbers(&linear.bias)?,
        })
    }

    /// `out = rows · weight`.
    fn times(&self, rows: &[f32], out: &mut [f32]) {
        self.multiply(rows, out, false);
    }

    /// `out = rows · weight + bias`.
    fn affine(&self, rows: &[f32], out: &mut [f32]) {
        for row in out.chunks_exact_mut(self.bias.len()) {
            row.copy_from_slice(&self.bias);
        }
        self.multiply(rows, out, true);
    }

    fn multiply(&self, rows: &[f32], out: &mut [f32], adds: bool) {
        let to = self.bias.len();
        let (from, count) = (self.weight.len() / to, out.len() / to);
        let left = Matrix::rows(rows, count, from, from);
        product(out, to, left, Matrix::rows(&self.weight, from, to, to), adds);
    }
}

/// Does `work` for each block of `size` elements: its scratch memory, its number, the block.
fn blocks(
    run: &Run<'_>,
    scratch: &mut Scratch,
    all: &mut [f32],
    size: usize,
    work: &(dyn Fn(&mut Scratch, usize, &mut [f32]) + Sync),
) {
    match run.pool() {
        Some(pool) if all.len() > size => pool.install(|| {
            let blocks = all.par_chunks_mut(size).enumerate();
            blocks.for_each_init(Scratch::default, |scratch, (index, block)| {
                work(scratch, index, block)
            });
        }),
        _ => {
            for (index, block) in all.chunks_mut(size).enumerate() {
                work(scratch, index, block);
            }
        }
    }
}

/// A tensor's numbers, row-major.
fn numbers(tensor: &Tensor) -> Result<Vec<f32>, RuntimeError> {
    let read = || tensor.flatten_all()?.to_vec1::<f32>();
    read().map_err(|error| not_loaded(&error))
}

fn norm(norm: &Norm) -> Result<[Vec<f32>; 2], RuntimeError> {
    Ok([numbers(&norm.weight)?, numbers(&norm.shift)?])
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "1e-12 and its like are exact enough in FP32"
)]
fn narrowed(epsilon: f64) -> f32 {
    epsilon as f32
}
