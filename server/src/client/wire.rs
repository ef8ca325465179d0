//! One server's admin listener, as its clients ask it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ClientError;
use super::events::Events;
use super::release::Release;
use crate::config::ServerArgs;
use crate::outgoing::{Asked, Target};

/// A call may have to read all of a version's files.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a name in a path keeps as it is.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A server, and as whom it is asked.
pub(super) struct Server {
    target: Target,
    token: Option<HeaderValue>,
}

impl Server {
    /// The server that the arguments name; `token` stands in for a file.
    pub(super) fn new(args: &ServerArgs, token: Option<String>) -> Result<Self, ClientError> {
        let token = match &args.token_file {
            Some(file) => {
                let read = std::fs::read_to_string(file);
                Some(read.map_err(|error| {
                    ClientError::Usage(format!("--token-file {}: {error}", file.display()))
                })?)
            }
            None => token,
        };
        let header = |token: String| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
                ClientError::Usage("the token holds characters that no header takes".to_owned())
            })?;
            value.set_sensitive(true);
            Ok::<_, ClientError>(value)
        };
        Ok(Self {
            target: Target::parse(&args.admin_url)?,
            token: token.map(header).transpose()?,
        })
    }

    /// Asks for what stands at a path.
    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Asks for a deed.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, body.to_string().into()).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Value, ClientError> {
        let answered = self.target.ask(self.asked(method, path, body), PATIENCE).await?;
        let value: Option<Value> = serde_json::from_slice(&answered.body).ok().map(plain);
        if answered.status.is_success() {
            return value.ok_or_else(|| self.strange("its answer is no JSON"));
        }
        let message = value
            .as_ref()
            .and_then(|value| value["error"].as_str())
            .unwrap_or("it does not say why");
        Err(refused(answered.status, message))
    }

    fn asked(&self, method: Method, path: &str, body: Bytes) -> Asked {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Asked {
            method,
            path: path.to_owned(),
            headers,
            body,
        }
    }

    /// The releases of a model, or of all models, oldest first.
    pub(super) async fn releases(&self, model: Option<&str>) -> Result<Vec<Release>, ClientError> {
        self.read(self.get(&rollouts(model)).await?)
    }

    /// The release that people mean: by its id, or the last one of a model.
    pub(super) async fn find(&self, wanted: &str) -> Result<Release, ClientError> {
        let all = self.releases(None).await?;
        let mut found: Option<Release> = None;
        for release in all {
            if release.id == wanted {
                return Ok(release);
            }
            if release.model == wanted {
                found = Some(release);
            }
        }
        found.ok_or_else(|| {
            ClientError::Refused(format!("no model and no release `{wanted}` has a release here"))
        })
    }

    /// What happens to releases from now on.
    pub(super) async fn events(&self) -> Result<Events, ClientError> {
        let asked = self.asked(Method::GET, "/crossfade/v1/events", Bytes::new());
        let streaming = self.target.stream(asked).await?;
        match streaming.response.status() {
            StatusCode::OK => Ok(Events::new(streaming)),
            status => Err(refused(status, "it does not tell what happens")),
        }
    }

    /// Reads what the server answered.
    pub(super) fn read<T: DeserializeOwned>(&self, value: Value) -> Result<T, ClientError> {
        serde_json::from_value(value).map_err(|error| self.strange(&error.to_string()))
    }

    fn strange(&self, why: &str) -> ClientError {
        ClientError::Unreachable(format!(
            "{} does not answer as an admin listener of this version does: {why}",
            self.target.url()
        ))
    }
}

/// Texts without control characters: what someone gave as a reason must not move the cursor of whoever reads it.
pub(super) fn plain(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let shown = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
            Value::String(text.chars().map(shown).collect())
        }
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, plain(value)))
            .collect(),
        other => other,
    }
}

fn refused(status: StatusCode, message: &str) -> ClientError {
    let hint = match status {
        StatusCode::UNAUTHORIZED => " (--token-file FILE, or the variable CROSSFADE_TOKEN)",
        _ => "",
    };
    ClientError::Refused(format!("{message}{hint}"))
}

/// The path of a model's releases, or of all.
pub(super) fn rollouts(model: Option<&str>) -> String {
    match model {
        Some(model) => format!("{}/rollouts", of(model)),
        None => "/crossfade/v1/rollouts".to_owned(),
    }
}

/// The path of a model.
pub(super) fn of(model: &str) -> String {
    format!("/crossfade/v1/models/{}", name(model))
}

/// A name as a path has it.
pub(super) fn name(text: &str) -> String {
    utf8_percent_encode(text, NAME).to_string()
}
