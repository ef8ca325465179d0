//! `model.safetensors`, whole or in shards: the weights of an encoder by their published names.

use std::path::Path;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use crossfade_runtimes_core::RuntimeError;

use crate::card::{Card, Family, Task};
use crate::convert;
use crate::error::{load, not_loaded};
use crate::shards;

/// `x · weightᵀ + bias`.
pub(crate) struct Linear {
    /// `[out, in]`
    pub(crate) weight: Tensor,
    /// `[out]`
    pub(crate) bias: Tensor,
}

/// Parameters of a layer normalisation, each `[hidden]`.
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) shift: Tensor,
}

/// The tables that make a token's first vector.
pub(crate) struct Embeddings {
    /// `[vocabulary, hidden]`
    pub(crate) words: Tensor,
    /// `[positions, hidden]`
    pub(crate) positions: Tensor,
    /// `[types, hidden]`
    pub(crate) types: Option<Tensor>,
    pub(crate) norm: Norm,
}

/// One layer: attention, then two products.
pub(crate) struct Layer {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) attended: Linear,
    pub(crate) attended_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) norm: Norm,
}

/// What is on top of the first token: a product, a function, and the product that gives logits.
pub(crate) struct Classifier {
    pub(crate) dense: Linear,
    /// DistilBERT's function is max(x, 0), the others' tanh.
    pub(crate) rectifies: bool,
    pub(crate) out: Linear,
}

/// Everything that a model was trained to.
pub(crate) struct Weights {
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<Layer>,
    pub(crate) classifier: Option<Classifier>,
}

impl Weights {
    /// Checks `file`, or what it lists: every tensor is there. Reads headers only.
    ///
    /// Errors: `Load` naming a tensor that is absent or has another shape than `card` says.
    pub(crate) fn check(file: &Path, card: &Card) -> Result<(), RuntimeError> {
        Self::of(file, card, None).map(drop)
    }

    /// Reads `file`, or what it lists, converted to `dtype` (`None`: as they are), onto `device`.
    ///
    /// Errors: as [`check`](Self::check).
    pub(crate) fn read(
        file: &Path,
        card: &Card,
        dtype: Option<DType>,
        device: &Device,
    ) -> Result<Self, RuntimeError> {
        Self::of(file, card, Some((dtype, device)))
    }

    fn of(file: &Path, card: &Card, target: Target<'_>) -> Result<Self, RuntimeError> {
        let mapped = convert::map(&shards::of(file)?).map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            load(format!(
                "the weights are no safetensors: {}",
                without_folder(line, file)
            ))
        })?;
        let mut reader = Reader {
            mapped,
            prefix: "",
            target,
        };
        let prefix = match card.family {
            Family::Bert => "bert.",
            Family::Roberta => "roberta.",
            Family::DistilBert => "distilbert.",
        };
        let prefixed = format!("{prefix}embeddings.word_embeddings.weight");
        if reader.mapped.get(&prefixed).is_ok() {
            reader.prefix = prefix;
        }
        Ok(Self {
            embeddings: embeddings(&reader, card)?,
            layers: (0..card.layers)
                .map(|index| layer(&reader, card, index))
                .collect::<Result<_, _>>()?,
            classifier: match card.task {
                Task::Encode => None,
                Task::Classify { labels } => Some(classifier(&mut reader, card, labels)?),
            },
        })
    }
}

fn embeddings(reader: &Reader<'_>, card: &Card) -> Result<Embeddings, RuntimeError> {
    let table =
        |name: &str, rows: usize| reader.tensor(&format!("embeddings.{name}.weight"), &[rows, card.hidden]);
    Ok(Embeddings {
        words: table("word_embeddings", card.vocabulary)?,
        positions: table("position_embeddings", card.positions)?,
        types: match card.types {
            0 => None,
            types => Some(table("token_type_embeddings", types)?),
        },
        norm: reader.norm("embeddings.LayerNorm", card.hidden)?,
    })
}

fn layer(reader: &Reader<'_>, card: &Card, index: usize) -> Result<Layer, RuntimeError> {
    let (hidden, middle) = (card.hidden, card.intermediate);
    let names: [&str; 8] = match card.family {
        Family::Bert | Family::Roberta => [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ],
        Family::DistilBert => [
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "sa_layer_norm",
            "ffn.lin1",
            "ffn.lin2",
            "output_layer_norm",
        ],
    };
    let stack = match card.family {
        Family::Bert | Family::Roberta => "encoder",
        Family::DistilBert => "transformer",
    };
    let name = |part: usize| format!("{stack}.layer.{index}.{}", names[part]);
    let linear = |part: usize, from: usize, to: usize| reader.linear(&name(part), from, to);
    Ok(Layer {
        query: linear(0, hidden, hidden)?,
        key: linear(1, hidden, hidden)?,
        value: linear(2, hidden, hidden)?,
        attended: linear(3, hidden, hidden)?,
        attended_norm: reader.norm(&name(4), hidden)?,
        up: linear(5, hidden, middle)?,
        down: linear(6, middle, hidden)?,
        norm: reader.norm(&name(7), hidden)?,
    })
}

fn classifier(reader: &mut Reader<'_>, card: &Card, labels: usize) -> Result<Classifier, RuntimeError> {
    let hidden = card.hidden;
    let (dense, out) = match card.family {
        // BERT's is part of the encoder, and has its prefix.
        Family::Bert => (reader.linear("pooler.dense", hidden, hidden)?, "classifier"),
        Family::Roberta => {
            reader.prefix = "";
            (
                reader.linear("classifier.dense", hidden, hidden)?,
                "classifier.out_proj",
            )
        }
        Family::DistilBert => {
            reader.prefix = "";
            (reader.linear("pre_classifier", hidden, hidden)?, "classifier")
        }
    };
    reader.prefix = "";
    Ok(Classifier {
        dense,
        rectifies: card.family == Family::DistilBert,
        out: reader.linear(out, hidden, labels)?,
    })
}

/// The datatype that tensors get, if another, and where they go; `None`: nothing of them is read.
type Target<'a> = Option<(Option<DType>, &'a Device)>;

/// A mapped file, and what becomes of its tensors.
struct Reader<'a> {
    mapped: MmapedSafetensors,
    /// Before every name.
    prefix: &'static str,
    target: Target<'a>,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, RuntimeError> {
        let name = format!("{}{name}", self.prefix);
        let view = self.mapped.get(&name).map_err(|_| absent(&name))?;
        if view.shape() != shape {
            return Err(load(format!(
                "tensor `{name}` has shape {:?}, and config.json says {shape:?}",
                view.shape()
            )));
        }
        let stored = DType::try_from(view.dtype()).map_err(|error| not_loaded(&error))?;
        if !stored.is_float() {
            return Err(load(format!("tensor `{name}` holds {stored:?}, not floats")));
        }
        let read = || match self.target {
            None => Tensor::zeros(0, stored, &Device::Cpu),
            Some((None, device)) => self.mapped.load(&name, device),
            Some((Some(dtype), device)) => self.mapped.load(&name, device)?.to_dtype(dtype),
        };
        read().map_err(|error| not_loaded(&error))
    }

    fn linear(&self, name: &str, from: usize, to: usize) -> Result<Linear, RuntimeError> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"), &[to, from])?,
            bias: self.tensor(&format!("{name}.bias"), &[to])?,
        })
    }

    /// The first checkpoints call them gamma and beta.
    fn norm(&self, name: &str, width: usize) -> Result<Norm, RuntimeError> {
        let old = format!("{}{name}.gamma", self.prefix);
        let (weight, shift) = match self.mapped.get(&old) {
            Ok(_) => ("gamma", "beta"),
            Err(_) => ("weight", "bias"),
        };
        Ok(Norm {
            weight: self.tensor(&format!("{name}.{weight}"), &[width])?,
            shift: self.tensor(&format!("{name}.{shift}"), &[width])?,
        })
    }
}

fn absent(name: &str) -> RuntimeError {
    load(format!(
        "the weights have no tensor `{name}`, which the architecture in config.json needs"
    ))
}

/// An error's line without the file's folder.
fn without_folder(line: &str, file: &Path) -> String {
    let folder = file.with_file_name("");
    line.replace(&folder.display().to_string(), "")
}
