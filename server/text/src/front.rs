//! A runtime whose models take text where those of the one behind it take tokens; and what makes tokens of a request's text
//! before it is queued.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crossfade_runtimes_core::{
    Datatype, DeviceUse, Dim, Instance, InstanceOptions, Model, ModelSignature, ModelSource, OutputSlot,
    Outputs, Padding, Runtime, RuntimeError, Shape, ShapeSpec, Tensor, TensorSpec, TensorView,
};

use crate::error::TextError;
use crate::folder::Folder;
use crate::pool::Pool;
use crate::settings::{Pooling, Settings};
use crate::tokenizer::{Cut, Text, Tokenized};
use crate::vectors;

/// The input with text: BYTES `[rows, 1]`.
pub const TEXT: &str = "text";
/// The input with the second texts of pairs, of models that classify: BYTES `[rows, 1]`.
pub const TEXT_PAIR: &str = "text_pair";
/// The output with one vector per row.
const EMBEDDINGS: &str = "embeddings";

/// The inputs that tokens go into: INT64 `[rows, tokens]`.
const TOKENS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
/// Outputs with one vector per token, by the names that exporters use.
const HIDDEN: [&str; 2] = ["last_hidden_state", "token_embeddings"];
/// Outputs with one vector per row, likewise.
const POOLED: [&str; 2] = ["sentence_embedding", EMBEDDINGS];

/// A runtime with a tokenizer in front.
pub struct Front {
    runtime: Arc<dyn Runtime>,
    text: Arc<Text>,
    folder: Folder,
    settings: Settings,
}

impl Front {
    /// Puts the tokenizer in `directory` in front of `runtime`.
    ///
    /// Errors: `File` if `tokenizer.json` is none.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        directory: &Path,
        folder: Folder,
        settings: Settings,
    ) -> Result<Self, TextError> {
        let json = std::fs::read(directory.join("tokenizer.json")).map_err(|error| TextError::File {
            file: "tokenizer.json".to_owned(),
            reason: error.to_string(),
        })?;
        let most = settings
            .max_tokens
            .unwrap_or(folder.max_tokens)
            .min(folder.max_tokens);
        Ok(Self {
            text: Arc::new(Text::new(&json, most, folder.padding, settings.truncate)?),
            runtime,
            folder,
            settings,
        })
    }

    /// The tokenizer.
    pub fn text(&self) -> &Arc<Text> {
        &self.text
    }

    /// The folder's names of classes.
    pub fn labels(&self) -> &[String] {
        &self.folder.labels
    }

    /// What one vector is made by, if it is.
    fn pooling(&self) -> Option<(Pooling, bool)> {
        let pooling = self.settings.pooling.unwrap_or(Some(self.folder.pooling))?;
        Some((pooling, self.settings.normalize.unwrap_or(self.folder.normalize)))
    }

    /// `source`, changed so that the runtime pools by itself; `None` where it does not.
    fn pooled_there(&self, source: &ModelSource, signature: &ModelSignature) -> Option<ModelSource> {
        let (pooling, normalize) = self.pooling()?;
        let hidden = signature.outputs.iter().any(|spec| HIDDEN.contains(&&*spec.name));
        if self.runtime.name() != "candle" || !hidden || source.parameters.contains_key("pooling") {
            return None;
        }
        let mut source = source.clone();
        let mut set = |key: &str, value: &str| source.parameters.insert(key.to_owned(), value.to_owned());
        set("pooling", pooling.name());
        set("normalize", if normalize { "1" } else { "0" });
        Some(source)
    }
}

impl Runtime for Front {
    fn name(&self) -> &'static str {
        self.runtime.name()
    }

    fn platform(&self) -> &'static str {
        self.runtime.platform()
    }

    fn version(&self) -> String {
        self.runtime.version()
    }

    /// A model that takes no tokens is given out as it is.
    fn load(&self, source: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        let mut model = self.runtime.load(source)?;
        if let Some(source) = self.pooled_there(source, model.signature()) {
            model = self.runtime.load(&source)?;
        }
        let Some(plan) = Plan::of(model.signature(), self.folder.padding, self.pooling()) else {
            return Ok(model);
        };
        Ok(Box::new(FrontModel {
            model,
            plan: Arc::new(plan),
            text: self.text.clone(),
        }))
    }

    fn single_threaded(&self, source: &ModelSource) -> Option<ModelSource> {
        self.runtime.single_threaded(source)
    }

    fn gpus(&self) -> Result<u32, RuntimeError> {
        self.runtime.gpus()
    }
}

/// How a model behind a tokenizer is called.
#[derive(Debug)]
struct Plan {
    /// What clients see: the texts, then the model's own inputs, all of them optional.
    signature: ModelSignature,
    /// The model's own, for what it cannot do without.
    required: Vec<bool>,
    /// Inputs with texts.
    texts: usize,
    /// Where among the model's inputs each of [`TOKENS`] is.
    tokens: [Option<usize>; 3],
    /// The output that is pooled, and how.
    pooled: Option<(usize, Pooling, bool)>,
}

impl Plan {
    /// `None` for a model that takes no tokens, or needs something else besides.
    fn of(own: &ModelSignature, padding: u32, pooling: Option<(Pooling, bool)>) -> Option<Self> {
        let is_tokens = |spec: &TensorSpec| {
            TOKENS.contains(&&*spec.name) && spec.datatype == Datatype::Int64 && spec.shape.len() == 2
        };
        if !own.inputs.iter().all(|spec| spec.optional || is_tokens(spec)) {
            return None;
        }
        let tokens = TOKENS.map(|name| {
            own.inputs
                .iter()
                .position(|spec| *spec.name == *name && is_tokens(spec))
        });
        tokens[0]?;
        let classifies = own.outputs.iter().any(|spec| &*spec.name == "logits");
        let batch = own
            .inputs
            .first()
            .and_then(|spec| spec.shape.first().cloned())
            .unwrap_or(Dim::Any);
        let text = |name: &str| TensorSpec {
            optional: true,
            ..TensorSpec::new(
                name,
                Datatype::Bytes,
                ShapeSpec(vec![batch.clone(), Dim::Fixed(1)]),
            )
        };
        let mut inputs = vec![text(TEXT)];
        if classifies {
            inputs.push(text(TEXT_PAIR));
        }
        let texts = inputs.len();
        inputs.extend(
            own.inputs
                .iter()
                .map(|spec| taken(spec, padding, tokens[1].is_some())),
        );
        let has_pooled = own.outputs.iter().any(|spec| POOLED.contains(&&*spec.name));
        let pooled = pooling.filter(|_| !has_pooled).and_then(|(pooling, normalize)| {
            let hidden = |spec: &TensorSpec| {
                HIDDEN.contains(&&*spec.name) && spec.datatype == Datatype::Fp32 && spec.shape.len() == 3
            };
            Some((own.outputs.iter().position(hidden)?, pooling, normalize))
        });
        let outputs = own.outputs.iter().enumerate();
        let outputs = outputs.map(|(index, spec)| match pooled {
            Some((place, ..)) if place == index => TensorSpec::new(
                EMBEDDINGS,
                Datatype::Fp32,
                ShapeSpec(vec![batch.clone(), spec.shape[2].clone()]),
            ),
            _ => given(spec),
        });
        Some(Self {
            signature: ModelSignature {
                inputs,
                outputs: outputs.collect(),
                ..own.clone()
            },
            required: own.inputs.iter().map(|spec| !spec.optional).collect(),
            texts,
            tokens,
            pooled,
        })
    }
}

/// An input of the model's own: it may be left out, and is filled up where a mask says so.
fn taken(spec: &TensorSpec, padding: u32, masked: bool) -> TensorSpec {
    let fill = match *spec.name == *TOKENS[0] {
        true => i64::from(padding),
        false => 0,
    };
    let fills =
        masked && TOKENS.contains(&&*spec.name) && spec.shape.get(1).is_some_and(|dim| dim.fixed().is_none());
    TensorSpec {
        optional: true,
        padding: spec.padding.or(fills.then_some(Padding { dim: 1, fill })),
        ..spec.clone()
    }
}

/// An output of the model's own: as long as its inputs, where it has a vector per token.
fn given(spec: &TensorSpec) -> TensorSpec {
    let hidden = HIDDEN.contains(&&*spec.name) && spec.shape.get(1).is_some_and(|dim| dim.fixed().is_none());
    TensorSpec {
        padding: spec.padding.or(hidden.then_some(Padding { dim: 1, fill: 0 })),
        ..spec.clone()
    }
}

struct FrontModel {
    model: Box<dyn Model>,
    plan: Arc<Plan>,
    text: Arc<Text>,
}

impl Model for FrontModel {
    fn signature(&self) -> &ModelSignature {
        &self.plan.signature
    }

    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        Ok(Box::new(FrontInstance {
            instance: self.model.instantiate(options)?,
            plan: self.plan.clone(),
            text: self.text.clone(),
        }))
    }

    fn memory_bytes(&self) -> u64 {
        self.model.memory_bytes()
    }

    fn devices(&self) -> Vec<DeviceUse> {
        self.model.devices()
    }
}

struct FrontInstance {
    instance: Box<dyn Instance>,
    plan: Arc<Plan>,
    text: Arc<Text>,
}

impl Instance for FrontInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let plan = &*self.plan;
        let (texts, own) = inputs.split_at(plan.texts);
        let ids = plan.tokens[0].and_then(|index| own[index]);
        let made = made(&self.text, texts, ids)?;
        let mut given: Vec<Option<TensorView<'_>>> = own.to_vec();
        for (place, tensor) in plan.tokens.iter().zip([&made.ids, &made.mask, &made.types]) {
            if let (Some(place), Some(tensor)) = (*place, tensor)
                && given[place].is_none()
                && (texts[0].is_some() || plan.required[place])
            {
                given[place] = Some(tensor.view());
            }
        }
        let Some((index, pooling, normalize)) = plan.pooled else {
            return self.instance.run(&given, outputs);
        };
        let slots = (0..outputs.len()).map(|k| match k == index {
            true => OutputSlot::new(outputs.wanted(k), None),
            false => OutputSlot::new(outputs.wanted(k), outputs.expected(k).cloned()),
        });
        let mut inner = Outputs::new(slots.collect());
        self.instance.run(&given, &mut inner)?;
        let mask = plan.tokens[1]
            .and_then(|place| given[place])
            .map(owned)
            .or(made.mask);
        for (k, tensor) in inner.into_tensors().into_iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            if k != index {
                outputs.put(k, tensor.datatype, tensor.shape, tensor.data);
                continue;
            }
            let failed = |reason: String| RuntimeError::Run { reason };
            let mask = mask
                .as_ref()
                .ok_or_else(|| failed("there is no mask to pool by".to_owned()))?;
            let pooled = vectors::pool(&tensor, mask, pooling, normalize).map_err(failed)?;
            let rows = tensor.shape[0];
            let width = pooled.len() / rows.max(1);
            let data: Vec<u8> = pooled.iter().flat_map(|x| x.to_le_bytes()).collect();
            outputs.put(k, Datatype::Fp32, [rows, width].into(), data.into());
        }
        Ok(())
    }
}

/// What is put beside, or in place of, a request's tokens.
struct Made {
    ids: Option<Tensor>,
    mask: Option<Tensor>,
    types: Option<Tensor>,
}

/// Tokens of the texts; or of `ids`, that all of them count and are of the first type.
fn made(
    text: &Text,
    texts: &[Option<TensorView<'_>>],
    ids: Option<TensorView<'_>>,
) -> Result<Made, RuntimeError> {
    let refused = |error: TextError| RuntimeError::InvalidInput {
        reason: error.to_string(),
    };
    let pair = texts.get(1).copied().flatten();
    match (texts[0], ids) {
        (Some(first), None) => {
            let (first, pair) = (owned(first), pair.map(owned));
            let Tokenized { ids, mask, types, .. } = text
                .tokenize(&first, pair.as_ref(), text.usual())
                .map_err(refused)?;
            Ok(Made {
                ids: Some(ids),
                mask: Some(mask),
                types: Some(types),
            })
        }
        (None, Some(ids)) => Ok(Made {
            ids: None,
            mask: Some(constant(ids.shape, 1)),
            types: Some(constant(ids.shape, 0)),
        }),
        (Some(_), Some(_)) | (None, None) => Err(refused(either())),
    }
}

fn either() -> TextError {
    TextError::input(
        TEXT,
        None,
        format!("give either `{TEXT}` or `{}`, and one of them", TOKENS[0]),
    )
}

fn owned(view: TensorView<'_>) -> Tensor {
    Tensor {
        datatype: view.datatype,
        shape: Shape::from(view.shape),
        data: Bytes::copy_from_slice(view.data),
    }
}

/// INT64 of one value.
fn constant(shape: &[usize], value: i64) -> Tensor {
    let shape = Shape::from(shape);
    let count = shape.element_count().unwrap_or(0);
    Tensor {
        datatype: Datatype::Int64,
        shape,
        data: value.to_le_bytes().repeat(count).into(),
    }
}

/// A request whose text became tokens.
#[derive(Debug)]
pub struct Staged {
    /// As the model behind takes them.
    pub inputs: Vec<Option<Tensor>>,
    /// Tokens, without what fills up.
    pub tokens: usize,
    /// What is left out of texts that were too long, if any was.
    pub cut: Option<Cut>,
}

/// What makes tokens of a request's text before it is queued, for one version.
pub struct Stage {
    text: Arc<Text>,
    /// Where the texts and each of [`TOKENS`] are among the served inputs.
    first: usize,
    second: Option<usize>,
    tokens: [Option<usize>; 3],
}

impl Stage {
    /// The stage for a version that serves `signature`; `None` where it serves no text, or no tokens beside it.
    pub fn of(signature: &ModelSignature, text: &Arc<Text>) -> Option<Self> {
        let place = |name: &str| signature.inputs.iter().position(|spec| *spec.name == *name);
        let tokens = TOKENS.map(place);
        tokens[0]?;
        let masked = tokens[1].is_some();
        masked.then_some(())?;
        Some(Self {
            text: text.clone(),
            first: place(TEXT)?,
            second: place(TEXT_PAIR),
            tokens,
        })
    }

    /// The tokenizer.
    pub fn text(&self) -> &Arc<Text> {
        &self.text
    }

    /// The mask among these inputs.
    pub fn mask<'a>(&self, inputs: &'a [Option<Tensor>]) -> Option<&'a Tensor> {
        inputs[self.tokens[1]?].as_ref()
    }

    /// Puts tokens in the place of text, and beside given tokens that all of them count.
    ///
    /// * `inputs`: checked against the signature; `cut`: what becomes of texts that are too long
    ///
    /// Errors: `Input`; `Busy`.
    pub async fn tokens(
        &self,
        pool: &Pool,
        mut inputs: Vec<Option<Tensor>>,
        cut: Cut,
    ) -> Result<Staged, TextError> {
        let ids = self.tokens[0].and_then(|place| inputs[place].as_ref());
        let text = inputs[self.first].as_ref();
        let pair = self.second.and_then(|place| inputs[place].as_ref());
        let made = match (text, ids) {
            (Some(text), None) => pool.tokenize(&self.text, text, pair, cut).await?,
            (None, Some(ids)) => {
                let mask = constant(&ids.shape, 1);
                Tokenized {
                    types: constant(&ids.shape, 0),
                    ids: ids.clone(),
                    mask,
                    tokens: 0,
                    is_cut: false,
                }
            }
            (Some(_), Some(_)) | (None, None) => return Err(either()),
        };
        let cut = made.is_cut.then_some(cut);
        inputs[self.first] = None;
        if let Some(second) = self.second {
            inputs[second] = None;
        }
        for (place, tensor) in self.tokens.iter().zip([made.ids, made.mask, made.types]) {
            if let Some(place) = *place {
                inputs[place].get_or_insert(tensor);
            }
        }
        let mask = self.tokens[1].and_then(|place| inputs[place].as_ref());
        let ones = mask.map_or(0, |mask| {
            mask.data
                .chunks_exact(8)
                .filter(|bytes| **bytes != [0; 8])
                .count()
        });
        Ok(Staged {
            inputs,
            tokens: ones,
            cut,
        })
    }
}

#[cfg(test)]
mod tests;
