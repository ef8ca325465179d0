//! `config.json`: which architecture a folder holds, and its sizes.

use std::collections::BTreeMap;
use std::path::Path;

use crossfade_runtimes_core::RuntimeError;
use serde::Deserialize;

use crate::error::{load, unsupported};

/// The families that this runtime computes, by their `architectures`, for refusals.
const SUPPORTED: &str = "BertModel, BertForMaskedLM, BertForSequenceClassification, RobertaModel, \
                         RobertaForMaskedLM, RobertaForSequenceClassification, XLMRobertaModel, XLMRobertaForMaskedLM, \
                         XLMRobertaForSequenceClassification, DistilBertModel, DistilBertForMaskedLM and \
                         DistilBertForSequenceClassification";

/// The largest size of anything that a card may state: what is larger is a mistake, or an attempt to exhaust memory.
const MOST: usize = 1 << 24;

/// How the weights are named and the positions counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// BERT.
    Bert,
    /// RoBERTa and XLM-R, which differ in their tokenizers only.
    Roberta,
    /// DistilBERT.
    DistilBert,
}

/// What is computed from the tokens' vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Vectors.
    Encode,
    /// Logits of classes.
    Classify {
        /// Number of classes.
        labels: usize,
    },
}

/// The function between the two products of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · Φ(x), by the error function.
    Gelu,
    /// Its approximation by the hyperbolic tangent (Hendrycks and Gimpel 2016, section 2).
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// What a model is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Card {
    pub(crate) family: Family,
    pub(crate) task: Task,
    pub(crate) activation: Activation,
    /// Size of a token's vector.
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Size between the two products of a feed-forward block.
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    /// Rows of the table of positions.
    pub(crate) positions: usize,
    /// Rows of the table of token types; 0: there is none.
    pub(crate) types: usize,
    pub(crate) epsilon: f64,
    /// The token that stands for padding; RoBERTa counts positions from behind it.
    pub(crate) padding: u32,
}

/// The file, as it is published. Keys that change nothing here are many, so unknown ones are let through.
#[derive(Debug, Deserialize)]
struct RawCard {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    num_labels: Option<usize>,
    id2label: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    is_decoder: bool,
}

impl Card {
    /// Reads `config.json` in `folder`.
    ///
    /// Errors: `Load` if it is absent or no such file; `Unsupported` naming the architecture and what there is.
    pub(crate) fn read(folder: &Path) -> Result<Self, RuntimeError> {
        let text = std::fs::read_to_string(folder.join("config.json")).map_err(|error| {
            load(format!(
                "config.json beside the weights cannot be read ({error}); a Hugging Face model is a folder with config.json, \
                 model.safetensors and tokenizer.json"
            ))
        })?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, RuntimeError> {
        // Before its sizes, whose names differ between architectures.
        #[derive(Deserialize)]
        struct Kind {
            architectures: Option<Vec<String>>,
            model_type: Option<String>,
        }
        let wrong = |error: serde_json::Error| load(format!("config.json: {error}"));
        let kind: Kind = serde_json::from_str(text).map_err(wrong)?;
        architecture(kind.architectures.as_deref(), kind.model_type.as_deref())?;
        let raw: RawCard = serde_json::from_str(text).map_err(wrong)?;
        Self::of(&raw)
    }

    fn of(raw: &RawCard) -> Result<Self, RuntimeError> {
        let (family, classifies) = architecture(raw.architectures.as_deref(), raw.model_type.as_deref())?;
        let position = raw.position_embedding_type.as_deref().unwrap_or("absolute");
        if position != "absolute" {
            return Err(unsupported(format!(
                "position_embedding_type `{position}`; only `absolute` is there"
            )));
        }
        if raw.is_decoder {
            return Err(unsupported("a decoder (is_decoder); only encoders are there"));
        }
        let card = Self {
            family,
            task: match classifies {
                true => Task::Classify {
                    // transformers' own default is two.
                    labels: raw
                        .id2label
                        .as_ref()
                        .map(BTreeMap::len)
                        .or(raw.num_labels)
                        .unwrap_or(2),
                },
                false => Task::Encode,
            },
            activation: activation(raw.hidden_act.as_deref().unwrap_or("gelu"))?,
            hidden: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            intermediate: raw.intermediate_size,
            vocabulary: raw.vocab_size,
            positions: raw.max_position_embeddings,
            types: match family {
                Family::DistilBert => 0,
                // transformers' own default is two, too: what is left out is not nothing.
                Family::Bert | Family::Roberta => raw.type_vocab_size.unwrap_or(2),
            },
            epsilon: raw.layer_norm_eps.unwrap_or(1e-12),
            padding: raw.pad_token_id.unwrap_or(match family {
                Family::Roberta => 1,
                Family::Bert | Family::DistilBert => 0,
            }),
        };
        card.check()?;
        Ok(card)
    }

    fn check(&self) -> Result<(), RuntimeError> {
        let labels = match self.task {
            Task::Encode => 1,
            Task::Classify { labels } => labels,
        };
        for (name, size) in [
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("intermediate_size", self.intermediate),
            ("vocab_size", self.vocabulary),
            ("max_position_embeddings", self.positions),
            ("id2label", labels),
        ] {
            if !(1..=MOST).contains(&size) {
                return Err(load(format!("config.json: {name} is {size}")));
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(load(format!(
                "config.json: hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden, self.heads
            )));
        }
        if self.longest() == 0 {
            return Err(load("config.json: max_position_embeddings leaves no position"));
        }
        Ok(())
    }

    /// The row of the table of positions at which counting begins.
    pub(crate) fn first_position(&self) -> usize {
        match self.family {
            Family::Roberta => usize::try_from(self.padding).map_or(usize::MAX, |padding| padding + 1),
            Family::Bert | Family::DistilBert => 0,
        }
    }

    /// Tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        self.positions.saturating_sub(self.first_position())
    }

    /// Size of one head's vector.
    pub(crate) fn head(&self) -> usize {
        self.hidden / self.heads
    }
}

/// Family, and whether there is a classifier on top, by `architectures`, or else by `model_type`, as an encoder.
fn architecture(names: Option<&[String]>, kind: Option<&str>) -> Result<(Family, bool), RuntimeError> {
    let known = |name: &str| {
        let (family, head) = [
            ("XLMRoberta", Family::Roberta),
            ("Roberta", Family::Roberta),
            ("DistilBert", Family::DistilBert),
            ("Bert", Family::Bert),
        ]
        .into_iter()
        .find_map(|(prefix, family)| Some((family, name.strip_prefix(prefix)?)))?;
        match head {
            "Model" | "ForMaskedLM" => Some((family, false)),
            "ForSequenceClassification" => Some((family, true)),
            _ => None,
        }
    };
    match (names.and_then(<[String]>::first), kind) {
        (Some(name), _) => {
            known(name).ok_or_else(|| unsupported(format!("architecture `{name}`; there are {SUPPORTED}")))
        }
        (None, Some("bert")) => Ok((Family::Bert, false)),
        (None, Some("roberta" | "xlm-roberta")) => Ok((Family::Roberta, false)),
        (None, Some("distilbert")) => Ok((Family::DistilBert, false)),
        (None, other) => Err(unsupported(format!(
            "model_type `{}` without `architectures`; there are {SUPPORTED}",
            other.unwrap_or("none")
        ))),
    }
}

fn activation(name: &str) -> Result<Activation, RuntimeError> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => Err(unsupported(format!(
            "hidden_act `{other}`; there are gelu, gelu_new, gelu_pytorch_tanh and relu"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(more: &str) -> Result<Card, String> {
        let text = format!(
            r#"{{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "vocab_size": 30, "max_position_embeddings": 10, "type_vocab_size": 2 {more}}}"#
        );
        Card::parse(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_architecture_decides_names_positions_and_task() {
        let bert = card(r#", "architectures": ["BertModel"], "hidden_act": "gelu""#).unwrap();
        assert_eq!(
            (bert.family, bert.task, bert.longest()),
            (Family::Bert, Task::Encode, 10)
        );
        let xlmr =
            card(r#", "architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "a"}"#);
        let xlmr = xlmr.unwrap();
        assert_eq!(xlmr.task, Task::Classify { labels: 1 });
        assert_eq!(
            (xlmr.family, xlmr.first_position(), xlmr.longest()),
            (Family::Roberta, 2, 8)
        );
        let named = card(r#", "model_type": "distilbert""#).unwrap();
        assert_eq!((named.family, named.types), (Family::DistilBert, 0));
    }

    #[test]
    fn what_is_left_out_is_what_transformers_takes() {
        let text = r#"{"architectures": ["BertForSequenceClassification"], "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30, "max_position_embeddings": 10}"#;
        let card = Card::parse(text).unwrap();
        assert_eq!((card.types, card.task), (2, Task::Classify { labels: 2 }));
        assert_eq!(
            (card.activation, card.epsilon, card.padding),
            (Activation::Gelu, 1e-12, 0)
        );
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (more, named) in [
            (
                r#", "architectures": ["LlamaForCausalLM"]"#,
                "`LlamaForCausalLM`; there are BertModel",
            ),
            (
                r#", "architectures": ["BertForQuestionAnswering"]"#,
                "`BertForQuestionAnswering`",
            ),
            (r#", "model_type": "t5""#, "`t5`"),
            ("", "`none`"),
            (
                r#", "architectures": ["BertModel"], "hidden_act": "swish""#,
                "`swish`",
            ),
            (
                r#", "architectures": ["BertModel"], "position_embedding_type": "relative_key""#,
                "relative_key",
            ),
            (
                r#", "architectures": ["BertModel"], "is_decoder": true"#,
                "is_decoder",
            ),
        ] {
            let error = card(more).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        let with = |from: &str, to: &str| {
            let text = r#"{"architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30, "max_position_embeddings": 10}"#;
            Card::parse(&text.replace(from, to)).unwrap_err().to_string()
        };
        assert!(with("\"hidden_size\": 8", "\"hidden_size\": 7").contains("not a multiple"));
        assert!(with("\"hidden_size\": 8", "\"hidden_size\": 0").contains("hidden_size is 0"));
        assert!(with("30", "999999999999").contains("vocab_size is 999999999999"));
        assert!(with("30", "-1").contains("config.json"));
        assert!(with("\"hidden_size\": 8,", "").contains("hidden_size"));
    }
}
