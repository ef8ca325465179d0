//! The `text.*` parameters of a model's configuration.

use std::collections::BTreeMap;

use crate::error::TextError;

/// The prefix of the parameters; those with another are the runtime's.
const PREFIX: &str = "text.";

const KNOWN: &str = "text.enabled, text.max_tokens, text.max_batch_tokens, text.truncate, text.pooling and \
                     text.normalize";

/// How one vector is made of those of the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// Their mean.
    Mean,
    /// The largest of each element.
    Max,
}

impl Pooling {
    /// As parameters write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
        }
    }
}

/// What a configuration says of text; the folder says the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether the model takes text at all, where it has a tokenizer.
    pub enabled: bool,
    /// Tokens of the longest text; `None`: as the folder says.
    pub max_tokens: Option<usize>,
    /// Tokens of the largest batch that is merged; `None`: by the device.
    pub max_batch_tokens: Option<usize>,
    /// Whether longer texts are cut, rather than refused, where a request does not say.
    pub truncate: bool,
    /// `None`: as the folder says; `Some(None)`: the tokens' vectors go out as they are.
    pub pooling: Option<Option<Pooling>>,
    /// Whether pooled vectors have length 1; `None`: as the folder says.
    pub normalize: Option<bool>,
}

impl Default for Settings {
    /// Texts that are too long are refused: what is cut without anybody's asking is an answer to another text.
    fn default() -> Self {
        Self {
            enabled: true,
            max_tokens: None,
            max_batch_tokens: None,
            truncate: false,
            pooling: None,
            normalize: None,
        }
    }
}

impl Settings {
    /// Takes the `text.*` entries out of `parameters`.
    ///
    /// Errors: `Setting` for an unknown key or value.
    pub fn take(parameters: &mut BTreeMap<String, String>) -> Result<Self, TextError> {
        let mut settings = Self::default();
        let ours: Vec<String> = parameters
            .keys()
            .filter(|key| key.starts_with(PREFIX))
            .cloned()
            .collect();
        for key in ours {
            let value = parameters.remove(&key).unwrap_or_default();
            settings.set(&key, value.trim())?;
        }
        Ok(settings)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), TextError> {
        let wrong = |accepted: &str| TextError::Setting {
            key: key.to_owned(),
            reason: format!("`{value}` given; {accepted} are accepted"),
        };
        let switch = || match value {
            "0" | "false" => Ok(false),
            "1" | "true" => Ok(true),
            _ => Err(wrong("0 and 1")),
        };
        match &key[PREFIX.len()..] {
            "enabled" => self.enabled = switch()?,
            "truncate" => self.truncate = switch()?,
            "normalize" => self.normalize = Some(switch()?),
            name @ ("max_tokens" | "max_batch_tokens") => {
                let tokens = value.parse().ok().filter(|tokens| (8..=1 << 20).contains(tokens));
                let tokens = Some(tokens.ok_or_else(|| wrong("8 to 1048576"))?);
                match name {
                    "max_tokens" => self.max_tokens = tokens,
                    _ => self.max_batch_tokens = tokens,
                }
            }
            "pooling" => {
                self.pooling = Some(match value {
                    "cls" => Some(Pooling::Cls),
                    "mean" => Some(Pooling::Mean),
                    "max" => Some(Pooling::Max),
                    "none" => None,
                    _ => return Err(wrong("cls, mean, max and none")),
                });
            }
            _ => {
                return Err(TextError::Setting {
                    key: key.to_owned(),
                    reason: format!("there are {KNOWN}"),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pairs: &[(&str, &str)]) -> (Result<Settings, String>, Vec<String>) {
        let mut parameters: BTreeMap<String, String> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let settings = Settings::take(&mut parameters).map_err(|error| error.to_string());
        (settings, parameters.into_keys().collect())
    }

    #[test]
    fn what_is_text_is_taken_and_the_rest_left() {
        let (settings, rest) = taken(&[
            ("dtype", "fp16"),
            ("text.max_tokens", "64"),
            ("text.pooling", "none"),
            ("text.truncate", "1"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(
            (settings.max_tokens, settings.pooling, settings.truncate),
            (Some(64), Some(None), true)
        );
        assert_eq!((settings.enabled, settings.normalize), (true, None));
        assert_eq!(rest, ["dtype"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (key, value, named) in [
            ("text.max_tokens", "3", "8 to"),
            ("text.pooling", "first", "cls, mean"),
            ("text.normalize", "on", "0 and 1"),
            ("text.prompt", "x", "text.max_tokens"),
        ] {
            let error = taken(&[(key, value)]).0.unwrap_err();
            assert!(error.contains(key) && error.contains(named), "{error}");
        }
    }
}
