//! What the files beside a model say of text, as transformers and sentence-transformers write them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::TextError;
use crate::settings::{Pooling, Settings};

/// The largest file that is read, `tokenizer.json` apart.
const MOST_BYTES: u64 = 16 << 20;

/// Tokens of the longest text, where no file says.
const USUAL_TOKENS: usize = 512;

/// A version's folder with a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Tokens of the longest text, special ones included.
    pub max_tokens: usize,
    /// The token that fills up.
    pub padding: u32,
    /// How one vector is made of the tokens' (`modules.json`), or their mean.
    pub pooling: Pooling,
    /// Whether it has length 1 then.
    pub normalize: bool,
    /// Names of classes in order, empty where there are none.
    pub labels: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    model_type: Option<String>,
    max_position_embeddings: Option<usize>,
    pad_token_id: Option<u32>,
    id2label: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    /// Some write 1e30 for "no limit".
    model_max_length: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PoolingConfig {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
}

impl Folder {
    /// Reads the files of `folder`; `None` without `tokenizer.json`. What `settings` say of pooling is not looked for.
    ///
    /// Errors: `File` for one that cannot be read, or asks for what there is not.
    pub fn read(folder: &Path, settings: &Settings) -> Result<Option<Self>, TextError> {
        if !folder.join("tokenizer.json").is_file() {
            return Ok(None);
        }
        let config: Config = json(folder, "config.json")?.unwrap_or_default();
        let sentence: SentenceConfig = json(folder, "sentence_bert_config.json")?.unwrap_or_default();
        let tokenizer: TokenizerConfig = json(folder, "tokenizer_config.json")?.unwrap_or_default();
        let padding = config.pad_token_id;
        // RoBERTa's table of positions begins with rows for padding.
        let reserved = match config.model_type.as_deref() {
            Some("roberta" | "xlm-roberta" | "camembert") => usize::try_from(padding.unwrap_or(1))
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            _ => 0,
        };
        let positions = config
            .max_position_embeddings
            .map(|positions| positions.saturating_sub(reserved));
        let stated = tokenizer
            .model_max_length
            .filter(|&most| (8.0..1e6).contains(&most));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 8 and a million"
        )]
        let stated = stated.map(|most| most as usize);
        let limits = [sentence.max_seq_length, positions, stated];
        let max_tokens = limits.into_iter().flatten().min().unwrap_or(USUAL_TOKENS);
        if max_tokens < 8 {
            return Err(TextError::File {
                file: "config.json".to_owned(),
                reason: format!("it leaves {max_tokens} tokens for a text"),
            });
        }
        let (pooling, normalize) = match settings.pooling {
            None => modules(folder)?,
            Some(given) => (given.unwrap_or(Pooling::Mean), false),
        };
        Ok(Some(Self {
            max_tokens,
            padding: padding.unwrap_or_default(),
            pooling,
            normalize,
            labels: labels(config.id2label.unwrap_or_default()),
        }))
    }
}

/// Pooling and normalisation by `modules.json`; without one, the mean as it is.
fn modules(folder: &Path) -> Result<(Pooling, bool), TextError> {
    let modules: Vec<Module> = json(folder, "modules.json")?.unwrap_or_default();
    let of = |module: &Module, kind: &str| module.kind.rsplit('.').next() == Some(kind);
    if let Some(other) = modules.iter().find(|module| {
        !["Transformer", "Pooling", "Normalize"]
            .iter()
            .any(|kind| of(module, kind))
    }) {
        return Err(TextError::File {
            file: "modules.json".to_owned(),
            reason: format!(
                "module `{}` is not computed; there are Transformer, Pooling and Normalize. Set text.pooling to serve the model \
                 without the modules",
                other.kind
            ),
        });
    }
    let path = modules
        .iter()
        .find(|module| of(module, "Pooling"))
        .map_or("1_Pooling", |module| &*module.path);
    // A path of the file's own choosing does not lead out of the folder.
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let file = format!("{}/config.json", name.unwrap_or("1_Pooling"));
    let pooling: Option<PoolingConfig> = json(folder, &file)?;
    let pooling = match pooling {
        None => Pooling::Mean,
        Some(config) => match (
            config.pooling_mode_cls_token,
            config.pooling_mode_mean_tokens,
            config.pooling_mode_max_tokens,
        ) {
            (true, false, false) => Pooling::Cls,
            (false, true, false) => Pooling::Mean,
            (false, false, true) => Pooling::Max,
            _ => {
                return Err(TextError::File {
                    file,
                    reason: "exactly one of pooling_mode_cls_token, pooling_mode_mean_tokens and pooling_mode_max_tokens is \
                             computed; set text.pooling to choose one"
                        .to_owned(),
                });
            }
        },
    };
    Ok((pooling, modules.iter().any(|module| of(module, "Normalize"))))
}

/// Names in the order of their numbers; empty where the numbers are no 0, 1, 2, …
fn labels(by_number: BTreeMap<String, String>) -> Vec<String> {
    let mut numbered: Vec<(usize, String)> = by_number
        .into_iter()
        .filter_map(|(number, label)| Some((number.parse().ok()?, label)))
        .collect();
    numbered.sort();
    let complete = numbered.iter().enumerate().all(|(k, (number, _))| k == *number);
    match complete {
        true => numbered.into_iter().map(|(_, label)| label).collect(),
        false => Vec::new(),
    }
}

/// A JSON file of the folder; `None` where it is not there.
fn json<T: DeserializeOwned>(folder: &Path, file: &str) -> Result<Option<T>, TextError> {
    let path = folder.join(file);
    let failed = |reason: String| TextError::File {
        file: file.to_owned(),
        reason,
    };
    let Ok(metadata) = std::fs::metadata(&path) else {
        return Ok(None);
    };
    if metadata.len() > MOST_BYTES {
        return Err(failed(format!("it is larger than {MOST_BYTES} bytes")));
    }
    let text = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Option<Folder>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Folder::read(folder.path(), &Settings::default()).map_err(|error| error.to_string())
    }

    const TOKENIZER: (&str, &str) = ("tokenizer.json", "{}");

    #[test]
    fn without_a_tokenizer_there_is_no_text() {
        assert_eq!(read(&[("config.json", "{}")]), Ok(None));
    }

    #[test]
    fn the_least_limit_counts_and_modules_say_what_becomes_of_vectors() {
        let folder = read(&[
            TOKENIZER,
            (
                "config.json",
                r#"{"max_position_embeddings": 512, "pad_token_id": 0}"#,
            ),
            ("sentence_bert_config.json", r#"{"max_seq_length": 256}"#),
            ("tokenizer_config.json", r#"{"model_max_length": 1e30}"#),
            (
                "modules.json",
                r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
                    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
            ),
            ("1_Pooling/config.json", r#"{"pooling_mode_cls_token": true}"#),
        ]);
        let folder = folder.unwrap().unwrap();
        assert_eq!(
            (folder.max_tokens, folder.pooling, folder.normalize),
            (256, Pooling::Cls, true)
        );
        let plain = read(&[TOKENIZER]).unwrap().unwrap();
        assert_eq!(
            (plain.max_tokens, plain.pooling, plain.normalize),
            (512, Pooling::Mean, false)
        );
        let roberta = read(&[
            TOKENIZER,
            (
                "config.json",
                r#"{"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1,
                "id2label": {"1": "yes", "0": "no"}}"#,
            ),
        ]);
        let roberta = roberta.unwrap().unwrap();
        assert_eq!((roberta.max_tokens, roberta.padding), (512, 1));
        assert_eq!(roberta.labels, ["no", "yes"]);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let dense = r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
        for (file, text, named) in [
            ("modules.json", dense, "models.Dense"),
            (
                "1_Pooling/config.json",
                r#"{"pooling_mode_weightedmean_tokens": true}"#,
                "exactly one",
            ),
            (
                "config.json",
                r#"{"max_position_embeddings": "many"}"#,
                "config.json",
            ),
            ("config.json", r#"{"max_position_embeddings": 5}"#, "5 tokens"),
        ] {
            let error = read(&[TOKENIZER, (file, text)]).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
