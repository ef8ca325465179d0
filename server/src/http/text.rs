//! Text over the interfaces that others made usual: OpenAI's embeddings, and text-embeddings-inference's routes
//! (protocols.md, "Later protocols").
//!
//! Each call is an inference of the input `text` (or of tokens), with a scope, a route and a record as any other; only its
//! words are others.

pub(crate) mod openai;
pub(crate) mod tei;

use std::fmt;

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, ModelSignature, Shape, Tensor, push_element};
use http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::inference::heavy;
use super::reply::{Failure, ReplyBody, json};
use crate::infer::{self, InferRequest, InferResponse, Inputs, Parameter, Wanted, infer};
use crate::scope::{Protocol, RequestScope};
use crate::service::{Service, TextModels};
use crate::status::{Refusal, Status};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextRoute {
    /// `POST /v1/embeddings`
    OpenAi,
    /// `POST /embed`
    Embed,
    /// `POST /rerank`
    Rerank,
    /// `POST /predict`
    Predict,
    /// `POST /`: as one of these three, by what the only model can
    Root,
}

/// Outputs with one vector per row.
const VECTORS: [&str; 2] = ["embeddings", "sentence_embedding"];
/// The output of a classifier.
const LOGITS: &str = "logits";

impl TextRoute {
    /// As metrics and the inference log call it.
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Self::OpenAi => Protocol::OpenAi,
            Self::Embed | Self::Rerank | Self::Predict | Self::Root => Protocol::Tei,
        }
    }

    /// Answers a request whose body is all there: the body of the answer.
    pub(super) async fn answer(
        self,
        service: &Service,
        scope: &mut RequestScope,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Vec<u8>, Failure> {
        match self {
            Self::OpenAi => openai::embeddings(service, scope, headers, body).await,
            Self::Embed => tei::embed(service, scope, headers, body).await,
            Self::Rerank => tei::rerank(service, scope, headers, body).await,
            Self::Predict => tei::predict(service, scope, headers, body).await,
            Self::Root => match only(service)? {
                Ability::Embed => tei::embed(service, scope, headers, body).await,
                Ability::Rank => tei::rerank(service, scope, headers, body).await,
                Ability::Classify => tei::predict(service, scope, headers, body).await,
            },
        }
    }

    /// A failure in the words of the interface.
    pub(super) fn refusal(self, failure: &Failure) -> Response<ReplyBody> {
        let (status, body) = match self {
            Self::OpenAi => openai::error(failure),
            Self::Embed | Self::Rerank | Self::Predict | Self::Root => tei::error(failure),
        };
        let mut response = json(status, body);
        // Such as Retry-After, Allow and Accept-Encoding.
        for (name, value) in failure.response().headers() {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// What a model has to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ability {
    /// One vector per text.
    Embed,
    /// One number per pair.
    Rank,
    /// Logits of classes.
    Classify,
}

impl Ability {
    /// The output that a model of this signature does it by.
    fn output(self, signature: &ModelSignature) -> Option<&str> {
        let takes_text = signature
            .inputs
            .iter()
            .any(|spec| &*spec.name == crossfade_text::TEXT);
        let fits = |spec: &&crossfade_runtimes_core::TensorSpec| match self {
            Self::Embed => VECTORS.contains(&&*spec.name),
            Self::Rank => &*spec.name == LOGITS && spec.shape.get(1).and_then(|dim| dim.fixed()) == Some(1),
            Self::Classify => &*spec.name == LOGITS,
        };
        let output = signature.outputs.iter().filter(|_| takes_text).find(fits)?;
        Some(&output.name)
    }

    /// In a sentence about a model.
    fn words(self) -> &'static str {
        match self {
            Self::Embed => "takes text and gives embeddings",
            Self::Rank => "takes text and gives one logit per pair",
            Self::Classify => "takes text and gives logits",
        }
    }

    /// The model that the configuration binds, and the key that does.
    fn bound(self, models: &TextModels) -> (Option<&str>, &'static str) {
        match self {
            Self::Embed => (models.embed.as_deref(), "text.embed_model"),
            Self::Rank => (models.rerank.as_deref(), "text.rerank_model"),
            Self::Classify => (models.predict.as_deref(), "text.predict_model"),
        }
    }
}

/// A model, and what it is asked for.
struct Chosen {
    model: String,
    ability: Ability,
}

/// The model of this name, or the one that is bound, or else the only one that is able.
///
/// Errors: `NotFound`; `Conflict` where several are able and none is bound; `InvalidInput` for one that is not able.
fn choose(service: &Service, ability: Ability, named: Option<&str>) -> Result<Chosen, Refusal> {
    let models = service.registry().models();
    let (bound, key) = ability.bound(service.text_models());
    if let Some(name) = named.or(bound) {
        // Whether the version is able that the request goes to is seen once it is routed.
        if models.iter().any(|version| &**version.name() == name) {
            return Ok(Chosen {
                model: name.to_owned(),
                ability,
            });
        }
        return Err(Refusal::new(
            Status::NotFound,
            format!("model `{name}` is not loaded; GET /v1/models lists those that are"),
        ));
    }
    let mut able: Vec<Chosen> = models
        .iter()
        .filter_map(|version| {
            ability.output(version.signature())?;
            Some(Chosen {
                model: version.name().to_string(),
                ability,
            })
        })
        .collect();
    able.dedup_by(|a, b| a.model == b.model);
    match (able.pop(), able.as_slice()) {
        (Some(only), []) => Ok(only),
        (None, _) => Err(Refusal::new(
            Status::NotFound,
            format!("no model that {} is loaded", ability.words()),
        )),
        (Some(last), others) => {
            let names = others
                .iter()
                .chain([&last])
                .map(|chosen| format!("`{}`", chosen.model));
            let names = names.collect::<Vec<_>>().join(", ");
            let message = format!("several models can: {names}; say which in the configuration ({key})");
            Err(Refusal::new(Status::Conflict, message))
        }
    }
}

/// What the models that are loaded can do, where that is one thing.
///
/// Errors: `NotFound`; `Conflict` where there is more than one way to answer.
fn only(service: &Service) -> Result<Ability, Refusal> {
    // What ranks classifies, too.
    let abilities = [Ability::Embed, Ability::Rank, Ability::Classify];
    let mut able = abilities
        .into_iter()
        .filter(|&ability| choose(service, ability, None).is_ok());
    match (able.next(), able.next()) {
        (Some(ability), None) | (Some(ability @ Ability::Rank), Some(Ability::Classify)) => Ok(ability),
        (Some(_), Some(_)) => Err(Refusal::new(
            Status::Conflict,
            "several models can answer `/`; use /embed, /rerank or /predict",
        )),
        (None, _) => choose(service, Ability::Embed, None).map(|_| Ability::Embed),
    }
}

/// Texts as an inference.
///
/// * `cut`: parameters about texts that are too long; `dimensions`: numbers of each vector that are kept, where not all are
fn request(
    chosen: &Chosen,
    inputs: Vec<(String, Tensor)>,
    cut: Vec<(&str, Parameter)>,
    dimensions: Option<usize>,
) -> InferRequest {
    InferRequest {
        model: chosen.model.clone(),
        parameters: cut
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        inputs: Inputs::Named(inputs),
        wanted: Some(Wanted {
            output: match chosen.ability {
                Ability::Embed => |signature| Ability::Embed.output(signature),
                Ability::Rank => |signature| Ability::Rank.output(signature),
                Ability::Classify => |signature| Ability::Classify.output(signature),
            },
            what: chosen.ability.words(),
            dimensions,
        }),
        ..InferRequest::default()
    }
}

/// Texts as a BYTES tensor `[texts, 1]`.
fn bytes<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> Tensor {
    let shape = Shape::from([texts.len(), 1]);
    let mut data = Vec::new();
    texts.for_each(|text| push_element(&mut data, text.as_bytes()));
    Tensor {
        datatype: Datatype::Bytes,
        shape,
        data: data.into(),
    }
}

/// An answer's only output as rows of FP32.
struct Rows {
    width: usize,
    numbers: Vec<f32>,
}

impl Rows {
    fn of(response: &InferResponse) -> Result<Self, Refusal> {
        let wrong =
            |got: String| Refusal::new(Status::Internal, format!("model `{}` gave {got}", response.model));
        let [(name, tensor)] = &response.outputs[..] else {
            return Err(wrong("not one output".to_owned()));
        };
        let &[_, width] = &*tensor.shape else {
            return Err(wrong(format!(
                "`{name}` of shape {}, not [rows, size]",
                tensor.shape
            )));
        };
        if tensor.datatype != Datatype::Fp32 {
            return Err(wrong(format!("`{name}` of {}, not FP32", tensor.datatype)));
        }
        let numbers = tensor.data.chunks_exact(4);
        let numbers: Vec<f32> = numbers
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes")))
            .collect();
        // They have no form in JSON, and no rank.
        if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(wrong(format!(
                "{} in row {} of `{name}`",
                numbers[place],
                place / width.max(1)
            )));
        }
        Ok(Self { width, numbers })
    }

    /// The same, of so many numbers each.
    fn of_width(self, width: usize) -> Result<Self, Refusal> {
        match self.width == width {
            true => Ok(self),
            false => Err(Refusal::invalid(format!(
                "the version that the request went to gives {} numbers for each text, not {width}",
                self.width
            ))),
        }
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.width.max(1))
    }

    /// Keeps the first `dimensions` of each row (Kusupati et al. 2022).
    fn cut(self, dimensions: Option<usize>) -> Result<Self, Refusal> {
        match dimensions {
            None => Ok(self),
            Some(width) => {
                // Not said by every signature.
                infer::dimensions(width, self.width)?;
                let mut numbers = Vec::with_capacity(self.iter().len() * width);
                for row in self.iter() {
                    numbers.extend_from_slice(&row[..width]);
                }
                Ok(Self { width, numbers })
            }
        }
    }

    /// About as many bytes as they have as text.
    fn text_bytes(&self) -> usize {
        self.numbers.len() * 12
    }

    /// The same, every row of length 1, but one of zeros.
    fn normalized(mut self) -> Self {
        for row in self.numbers.chunks_exact_mut(self.width.max(1)) {
            let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let scale = 1.0 / squares.sqrt().max(1e-12);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the quotient is rounded to FP32, which it is one of"
            )]
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
        self
    }
}

/// One text, or several.
#[derive(Debug, PartialEq)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<OneOrMore, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = texts.next_element()? {
                    all.push(text);
                }
                Ok(OneOrMore::More(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<OneOrMore, A::Error> {
                Err(A::Error::custom(
                    "an object; expected a string or an array of strings",
                ))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// Checks how many inputs there are.
fn count(inputs: usize, service: &Service) -> Result<(), Invalid> {
    let most = service.text_models().max_inputs;
    match inputs {
        0 => Err(Invalid::Empty(
            "there is no input; send at least one text".to_owned(),
        )),
        inputs if inputs > most => Err(Invalid::TooMany(format!(
            "{inputs} inputs; one request may have {most} (text.max_inputs)"
        ))),
        _ => Ok(()),
    }
}

/// What is wrong with a request before a model is asked.
#[derive(Debug)]
enum Invalid {
    Empty(String),
    TooMany(String),
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Empty(message) => Refusal::invalid(message).into(),
            Invalid::TooMany(message) => Failure::TooMany(message),
        }
    }
}

/// Infers, and takes the rows out of the answer.
async fn ask(
    service: &Service,
    scope: &mut RequestScope,
    headers: &HeaderMap,
    request: InferRequest,
) -> Result<(InferResponse, Rows), Failure> {
    let response = infer(service, scope, headers, request).await?;
    let rows = Rows::of(&response)?;
    Ok((response, rows))
}

/// A body as JSON.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    let parsed = heavy(body.len(), || serde_json::from_slice(body));
    parsed.map_err(|error: serde_json::Error| Failure::Json(error.to_string()))
}

/// The status of a failure where the interface has no word of its own.
fn usual(failure: &Failure) -> StatusCode {
    failure.status()
}
