//! A model and its instances.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device as Computing};
use crossfade_runtimes_core::{
    Datatype, Device, DeviceUse, Dim, Instance, InstanceOptions, Model, ModelSignature, ModelSource, Outputs,
    Padding, RuntimeError, Shape, ShapeSpec, TensorSpec, TensorView,
};

use crate::card::{Card, Task};
use crate::error::{load, not_loaded, not_run};
use crate::gpu;
use crate::packed::{Packed, Scratch};
use crate::parameters::{Parameters, Pooling};
use crate::pooling::{self, Logits};
use crate::portable::Portable;
use crate::threads::{Run, Threads};
use crate::tokens::{INPUTS, Tokens};
use crate::weights::Weights;

/// A model's folder, understood; weights are read for each device that computes with them, once.
pub(crate) struct CandleModel {
    signature: ModelSignature,
    card: Card,
    parameters: Parameters,
    file: PathBuf,
    /// `None`: a run stays on its calling thread.
    threads: Option<Arc<Threads>>,
    computed: Mutex<BTreeMap<Device, Arc<Computed>>>,
}

/// What instances on one device share.
struct Computed {
    device: Device,
    card: Card,
    pooling: Pooling,
    normalize: bool,
    logits: Option<Logits>,
    encoder: Encoder,
    threads: Option<Arc<Threads>>,
}

/// How the tokens' vectors are computed.
enum Encoder {
    Packed(Packed),
    Portable(Portable),
}

impl CandleModel {
    /// Reads `source`'s folder as far as `config.json`, the parameters and what weights there are; the first instance reads them.
    pub(crate) fn load(threads: &Arc<Threads>, source: &ModelSource) -> Result<Self, RuntimeError> {
        let parameters = Parameters::read(source)?;
        let file = source.model_file("model.safetensors")?;
        let folder = file
            .parent()
            .ok_or_else(|| load("the weights lie in no folder"))?;
        let card = Card::read(folder)?;
        Weights::check(&file, &card)?;
        if matches!(card.task, Task::Classify { .. }) && parameters.pooling != Pooling::None {
            return Err(RuntimeError::Parameter {
                key: "pooling".to_owned(),
                reason: "this model classifies; only encoders are pooled".to_owned(),
            });
        }
        let threads = match parameters.threads {
            None => Some(threads.clone()),
            Some(1) => None,
            Some(threads) => Some(Arc::new(Threads::start(threads)?)),
        };
        Ok(Self {
            signature: signature(&card, &parameters),
            card,
            parameters,
            file,
            threads: threads.filter(|threads| threads.count() > 1),
            computed: Mutex::default(),
        })
    }

    /// What instances on a device share; reads the weights for the first of them.
    fn on(&self, device: Device) -> Result<Arc<Computed>, RuntimeError> {
        let mut computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = computed.get(&device) {
            return Ok(known.clone());
        }
        let made = self
            .compute_on(device)
            .map_err(|error| gpu::blamed(error, device))?;
        let made = Arc::new(made);
        computed.insert(device, made.clone());
        Ok(made)
    }

    fn compute_on(&self, device: Device) -> Result<Computed, RuntimeError> {
        let computing = match device {
            Device::Cpu => Computing::Cpu,
            Device::Cuda(index) => gpu::open(index)?,
        };
        let dtype = match (self.parameters.dtype, device) {
            (None, Device::Cpu) => Some(DType::F32),
            (given, _) => given,
        };
        let weights = Weights::read(&self.file, &self.card, dtype, &computing)?;
        let logits = weights.classifier.as_ref().map(Logits::new).transpose()?;
        // On a GPU each thread has a stream of its own: weights are there before another thread computes with them.
        computing.synchronize().map_err(|error| not_loaded(&error))?;
        let encoder = match (dtype, device) {
            (Some(DType::F32), Device::Cpu) => Encoder::Packed(Packed::new(&self.card, &weights)?),
            _ => Encoder::Portable(Portable::new(self.card.clone(), weights, computing)),
        };
        Ok(Computed {
            device,
            card: self.card.clone(),
            pooling: self.parameters.pooling,
            normalize: self.parameters.normalize,
            logits,
            encoder,
            // A GPU has threads enough; the pool's would wait for it, and models on the CPU for them.
            threads: self.threads.clone().filter(|_| device == Device::Cpu),
        })
    }
}

/// What goes in and out.
fn signature(card: &Card, parameters: &Parameters) -> ModelSignature {
    let table = |name: &str, fill: i64, optional: bool| TensorSpec {
        optional,
        padding: Some(Padding { dim: 1, fill }),
        ..TensorSpec::new(
            name,
            Datatype::Int64,
            ShapeSpec(vec![batch(), Dim::Named("sequence".into())]),
        )
    };
    let mut inputs = vec![
        table(INPUTS[0], i64::from(card.padding), false),
        table(INPUTS[1], 0, true),
    ];
    if card.types > 0 {
        inputs.push(table(INPUTS[2], 0, true));
    }
    let vectors = |name: &str, size: usize| {
        TensorSpec::new(name, Datatype::Fp32, ShapeSpec(vec![batch(), Dim::Fixed(size)]))
    };
    let output = match (card.task, parameters.pooling) {
        (Task::Classify { labels }, _) => vectors("logits", labels),
        (Task::Encode, Pooling::None) => TensorSpec {
            padding: Some(Padding { dim: 1, fill: 0 }),
            ..TensorSpec::new(
                "last_hidden_state",
                Datatype::Fp32,
                ShapeSpec(vec![
                    batch(),
                    Dim::Named("sequence".into()),
                    Dim::Fixed(card.hidden),
                ]),
            )
        },
        (Task::Encode, _) => vectors("embeddings", card.hidden),
    };
    ModelSignature {
        inputs,
        outputs: vec![output],
        skips_padding: true,
        ..ModelSignature::default()
    }
}

fn batch() -> Dim {
    Dim::Named("batch".into())
}

impl Model for CandleModel {
    fn signature(&self) -> &ModelSignature {
        &self.signature
    }

    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        Ok(Box::new(CandleInstance {
            computed: self.on(options.device)?,
            scratch: Scratch::default(),
        }))
    }

    fn memory_bytes(&self) -> u64 {
        let computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner);
        computed.get(&Device::Cpu).map_or(0, |computed| computed.bytes())
    }

    fn devices(&self) -> Vec<DeviceUse> {
        let computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner);
        if computed.keys().all(|device| *device == Device::Cpu) {
            return Vec::new();
        }
        let there = computed.values().map(|computed| DeviceUse {
            device: computed.device,
            // All that share it, but for the model.
            instances: Arc::strong_count(computed) - 1,
            bytes: computed.bytes(),
            served_by: match computed.device {
                Device::Cpu => "cpu".to_owned(),
                Device::Cuda(_) => "cuda".to_owned(),
            },
        });
        there.collect()
    }
}

struct CandleInstance {
    computed: Arc<Computed>,
    scratch: Scratch,
}

impl Instance for CandleInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let computed = &*self.computed;
        let tokens = Tokens::read(&computed.card, inputs)?;
        if !outputs.wanted(0) {
            return Ok(());
        }
        let run = Run::begin(computed.threads.as_deref());
        let vectors = match &computed.encoder {
            Encoder::Packed(packed) => packed.encode(&tokens, &run, &mut self.scratch),
            // candle shares its loops with the pool in which it is called.
            Encoder::Portable(portable) => match run.pool() {
                Some(pool) => pool.install(|| portable.encode(&tokens)),
                None => portable.encode(&tokens),
            }
            .map_err(|error| gpu::blamed(not_run(&error), computed.device))?,
        };
        computed.put(&tokens, &vectors, outputs)
    }
}

impl Computed {
    /// Of the weights.
    fn bytes(&self) -> u64 {
        let bytes = match &self.encoder {
            Encoder::Packed(packed) => packed.bytes(),
            Encoder::Portable(portable) => portable.bytes(),
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Makes the output from the tokens' vectors, `[tokens, hidden]`.
    fn put(&self, tokens: &Tokens, vectors: &[f32], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let (rows, columns, hidden) = (tokens.rows, tokens.columns, self.card.hidden);
        let shape: Shape = match (&self.logits, self.pooling) {
            (Some(logits), _) => [rows, logits.labels()].into(),
            (None, Pooling::None) => [rows, columns, hidden].into(),
            (None, _) => [rows, hidden].into(),
        };
        let Some(count) = shape.element_count() else {
            return Err(RuntimeError::Run {
                reason: format!("an output of shape {shape} does not fit into memory"),
            });
        };
        let mut numbers = vec![0.0; count];
        match (&self.logits, self.pooling) {
            (Some(logits), _) => {
                let mut first = vec![0.0; rows * hidden];
                pooling::pool(Pooling::Cls, false, tokens, vectors, &mut first);
                logits.of(&first, &mut numbers);
            }
            (None, Pooling::None) => pooling::spread(tokens, vectors, &mut numbers),
            (None, pooling) => {
                pooling::pool(pooling, self.normalize, tokens, vectors, &mut numbers);
            }
        }
        let buffer = outputs.buffer(0, Datatype::Fp32, shape);
        for (bytes, number) in buffer.chunks_exact_mut(4).zip(&numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }
}
