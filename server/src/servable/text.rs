//! Text in front of a version: the tokenizer of its folder, and the threads that all versions share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crossfade_models::LoadError;
use crossfade_models::config::{RawConfig, RuntimeChoice};
use crossfade_runtimes::Runtimes;
use crossfade_runtimes_core::{InputError, ModelSignature, ModelSource, Runtime, Tensor};
use crossfade_text::{Cut, Folder, Front, Pool, Settings, Stage, Staged, TextError};

/// Makes tokens of the text of a version's requests.
pub(crate) struct TextStage {
    stage: Stage,
    pool: Arc<Pool>,
    max_rows: Option<usize>,
}

impl TextStage {
    /// Checks a request that is not divided.
    ///
    /// Errors: `TooManyRows` for more than the model takes at once.
    pub(crate) fn check_rows(&self, rows: usize) -> Result<(), InputError> {
        match self.max_rows {
            Some(max) if rows > max => Err(InputError::TooManyRows { got: rows, max }),
            _ => Ok(()),
        }
    }

    /// The mask among these inputs, as `tokens` gave them.
    pub(crate) fn mask<'a>(&self, inputs: &'a [Option<Tensor>]) -> Option<&'a Tensor> {
        self.stage.mask(inputs)
    }

    /// Puts tokens in the place of text.
    ///
    /// * `inputs`: checked against the signature; `cut`: what becomes of texts that are too long, where a request says
    ///
    /// Errors: `Input`; `Busy`.
    pub(crate) async fn tokens(
        &self,
        inputs: Vec<Option<Tensor>>,
        cut: Option<Cut>,
    ) -> Result<Staged, TextError> {
        let cut = cut.unwrap_or(self.stage.text().usual());
        self.stage.tokens(&self.pool, inputs, cut).await
    }
}

/// The tokenizing threads, started when the first model takes text.
pub(super) struct Tokenizing {
    threads: usize,
    pool: OnceLock<Arc<Pool>>,
}

impl Tokenizing {
    /// As many threads as cores.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads,
            pool: OnceLock::new(),
        }
    }

    fn pool(&self) -> Result<Arc<Pool>, LoadError> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool.clone());
        }
        let started = Pool::start(self.threads.max(1));
        let started = started.map_err(|error| {
            LoadError::Refused(format!("cannot start the threads that tokenize: {error}"))
        })?;
        // Of two that were started at once one is dropped.
        Ok(self.pool.get_or_init(|| Arc::new(started)).clone())
    }
}

/// The runtime of a version, and what its folder and parameters say of text.
#[derive(Clone)]
pub(crate) struct Fronted {
    /// The runtime, with the tokenizer in front where there is one.
    pub(crate) runtime: Arc<dyn Runtime>,
    front: Option<Arc<Front>>,
    /// The most tokens that are merged, where the configuration says.
    pub(super) max_batch_tokens: Option<usize>,
}

impl Fronted {
    /// The runtime that `config` asks for, and what it is to read.
    ///
    /// * `model_file`: by the configuration and the layout's rules; `directory`: the version's
    ///
    /// Errors: a runtime that is not there; as [`new`](Self::new).
    pub(crate) fn open(
        runtimes: &Runtimes,
        config: &RawConfig,
        model_file: PathBuf,
        directory: &Path,
    ) -> Result<(Self, ModelSource), LoadError> {
        let choice = choice(config.runtime()?);
        let path = match config.model_filename() {
            None => runtimes.preferred(&choice, model_file),
            Some(_) => model_file,
        };
        let mut parameters = config.parameters();
        let fronted = Self::new(runtimes.get(&choice, &path)?, directory, &mut parameters)?;
        let source = ModelSource {
            path,
            parameters,
            graph_level: config.graph_level(),
            accelerators: config.accelerators()?,
            devices: Vec::new(),
        };
        Ok((fronted, source))
    }

    /// Puts the tokenizer of `directory`, if there is one, in front of `runtime`; takes the `text.*` entries out of
    /// `parameters`.
    ///
    /// Errors: `Refused` for a file or a parameter that cannot be used.
    fn new(
        runtime: Arc<dyn Runtime>,
        directory: &Path,
        parameters: &mut BTreeMap<String, String>,
    ) -> Result<Self, LoadError> {
        let refused = |error: TextError| LoadError::Refused(error.to_string());
        let named = parameters.keys().find(|key| key.starts_with("text.")).cloned();
        let settings = Settings::take(parameters).map_err(refused)?;
        let max_batch_tokens = settings.max_batch_tokens;
        let plain = |runtime| Self {
            runtime,
            front: None,
            max_batch_tokens,
        };
        if !settings.enabled {
            return Ok(plain(runtime));
        }
        let Some(folder) = Folder::read(directory, &settings).map_err(refused)? else {
            return match named {
                None => Ok(plain(runtime)),
                Some(key) => Err(LoadError::Refused(format!(
                    "parameter `{key}` is for models with text, and the version has no tokenizer.json; put it beside the model"
                ))),
            };
        };
        let front = Front::new(runtime, directory, folder, settings).map_err(refused)?;
        let front = Arc::new(front);
        Ok(Self {
            runtime: front.clone(),
            front: Some(front),
            max_batch_tokens,
        })
    }

    /// The stage for the loaded version, whose served signature this is; `max_rows`: as it was in there.
    pub(super) fn stage(
        &self,
        signature: &ModelSignature,
        max_rows: Option<usize>,
        tokenizing: &Tokenizing,
    ) -> Result<Option<TextStage>, LoadError> {
        let staged = |stage| {
            Ok(TextStage {
                stage,
                pool: tokenizing.pool()?,
                max_rows,
            })
        };
        self.in_front(signature).map(staged).transpose()
    }

    fn in_front(&self, signature: &ModelSignature) -> Option<Stage> {
        let front = self.front.as_ref()?;
        Stage::of(signature, front.text())
    }

    /// The most rows of a request, out of the signature of a version whose lists are divided: it is for those that are not.
    pub(super) fn take_max_rows(&self, signature: &mut ModelSignature) -> Option<usize> {
        self.in_front(signature)?;
        signature.max_rows.take()
    }

    /// Names of classes by the folder.
    pub(super) fn labels(&self) -> &[String] {
        self.front.as_ref().map_or(&[], |front| front.labels())
    }
}

/// The runtimes' name for what a configuration asks for.
fn choice(configured: RuntimeChoice) -> crossfade_runtimes::RuntimeChoice {
    match configured {
        RuntimeChoice::Auto => crossfade_runtimes::RuntimeChoice::Auto,
        RuntimeChoice::Ort => crossfade_runtimes::RuntimeChoice::Ort,
        RuntimeChoice::Tract => crossfade_runtimes::RuntimeChoice::Tract,
        RuntimeChoice::Candle => crossfade_runtimes::RuntimeChoice::Candle,
        RuntimeChoice::Fake => crossfade_runtimes::RuntimeChoice::Named(configured.name().to_owned()),
    }
}
