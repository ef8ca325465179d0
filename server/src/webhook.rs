//! Webhooks: every move of a release is told to those who asked for it, at least once.
//!
//! What has to be told lies in the logs of releases; a webhook only keeps how far it has come, on disk. So nothing
//! queues in memory while a receiver is away, and a restart goes on where it was. No release waits for any of this.

mod cursor;
mod message;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use ring::hmac;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use self::cursor::Cursor;
use crate::config::WebhookConfig;
use crate::metrics::Metrics;
use crate::outgoing::{Asked, Peer};
use crate::release::{News, NewsKind, Releases};

/// HMAC-SHA256 of the body, keyed with the secret: `sha256=` and hexadecimal digits.
const SIGNATURE: HeaderName = HeaderName::from_static("x-crossfade-signature");
const CLOUD_EVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
/// Moves that are read from a log at once.
const PIECE: usize = 64;
/// The shortest secret, bytes: what is shorter can be guessed.
const SHORTEST_SECRET: usize = 16;
/// Between two looks at the logs, where nobody tells of a move.
const EVERY: Duration = Duration::from_secs(1);

/// How long a receiver may take, and when it is asked again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one answer.
    pub answer: Duration,
    /// After the first failure; twice as long after each further one.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
        }
    }
}

/// How far a model's moves are told.
#[derive(Default)]
struct Progress {
    /// The length of its log when it was last read to its end and all was delivered.
    read: Option<u64>,
    /// Failures since something was delivered.
    tries: u32,
    /// When it is tried again.
    after: Option<Instant>,
}

impl Progress {
    fn is_due(&self) -> bool {
        self.left().is_none_or(|left| left.is_zero())
    }

    /// How long until it is tried again; `None` where nothing has failed.
    fn left(&self) -> Option<Duration> {
        self.after
            .map(|after| after.saturating_duration_since(Instant::now()))
    }
}

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its secret.
    #[error("webhook.secret_file `{path}`: {reason}")]
    Secret {
        /// As configured.
        path: String,
        /// Why.
        reason: String,
    },
    /// Whom to trust, where it is told over TLS.
    #[error("webhook.ca, to {to}: {reason}")]
    Trust {
        /// Its receiver.
        to: String,
        /// Why.
        reason: String,
    },
    /// Where it keeps how far it has come.
    #[error("webhook to {to}: {reason}")]
    Cursor {
        /// Its receiver.
        to: String,
        /// Why.
        reason: String,
    },
}

/// One receiver.
pub struct Webhook {
    peer: Peer,
    /// For the log.
    to: String,
    kinds: Vec<NewsKind>,
    secret: hmac::Key,
    cursor: Cursor,
    patience: Patience,
    releases: Arc<Releases>,
    news: Receiver<Arc<News>>,
    metrics: Arc<Metrics>,
}

/// What became of a try.
enum Tried {
    Delivered,
    /// The receiver does not want it, and will not want it later.
    Refused(StatusCode),
    /// Worth another try.
    Failed(String),
}

impl Webhook {
    /// A webhook that goes on where it was, or begins now. Blocks for the disk; before any release moves.
    ///
    /// Errors: [`WebhookError`].
    pub fn open(
        config: &WebhookConfig,
        state: &Path,
        releases: &Arc<Releases>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, WebhookError> {
        let news = releases.follow();
        let secret = secret(&config.secret_file)?;
        let to = config.target.url();
        let peer =
            Peer::new(config.target.clone(), config.ca.as_deref()).map_err(|error| WebhookError::Trust {
                to: to.clone(),
                reason: error.to_string(),
            })?;
        let cursor = Cursor::open(state, &config.url, releases).map_err(|reason| WebhookError::Cursor {
            to: to.clone(),
            reason,
        })?;
        Ok(Self {
            peer,
            to,
            kinds: config.events.clone(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            cursor,
            patience: config.patience,
            releases: releases.clone(),
            news,
            metrics: metrics.clone(),
        })
    }

    /// Delivers until the task is ended; what was not delivered then is delivered after the next start.
    pub async fn run(mut self) {
        let mut models: BTreeMap<String, Progress> = BTreeMap::new();
        loop {
            let releases = self.releases.clone();
            let logs = off_thread(move || releases.told_of()).await.unwrap_or_default();
            for (model, length) in logs {
                let progress = models.entry(model.clone()).or_default();
                if progress.read == Some(length) || !progress.is_due() {
                    continue;
                }
                *progress = match self.deliver_all(&model).await {
                    Ok(()) => Progress {
                        read: Some(length),
                        ..Progress::default()
                    },
                    Err(error) => self.again(&model, progress.tries + 1, &error),
                };
            }
            // A move is told as it takes effect, and is in the log soon after that, or was before.
            let next = models.values().filter_map(Progress::left).min();
            let told =
                tokio::time::timeout(next.map_or(EVERY, |left| left.min(EVERY)), self.news.recv()).await;
            if let Ok(Err(RecvError::Closed)) = told {
                return;
            }
        }
    }

    /// A model whose moves were not all taken: when it is its turn again. Those of others do not wait for it.
    fn again(&self, model: &str, tries: u32, error: &str) -> Progress {
        self.metrics.webhook("failed");
        let pause = self.pause(tries);
        tracing::warn!(
            to = self.to,
            model,
            error,
            tries,
            ?pause,
            "a webhook's receiver is asked again"
        );
        Progress {
            read: None,
            tries,
            after: Instant::now().checked_add(pause),
        }
    }

    /// Delivers what a model's log holds and was not delivered yet, in its order.
    ///
    /// Errors: why there is some left.
    async fn deliver_all(&mut self, model: &str) -> Result<(), String> {
        loop {
            let (releases, name, after) = (self.releases.clone(), model.to_owned(), self.cursor.of(model));
            let piece = off_thread(move || releases.news(&name, after, PIECE)).await;
            let piece = piece.unwrap_or_else(|| Err("the log was not read to its end".to_owned()))?;
            for news in &piece {
                if self.kinds.contains(&news.kind) {
                    self.deliver(news).await?;
                }
                let moved = self.cursor.moved(model, news.seq.unwrap_or(after));
                let kept = off_thread(move || moved.keep())
                    .await
                    .unwrap_or_else(|| Err("it was cut off".to_owned()));
                if let Err(error) = kept {
                    tracing::warn!(to = self.to, %error, "a webhook may tell again what it has told, after a restart");
                }
            }
            if piece.len() < PIECE {
                return Ok(());
            }
        }
    }

    /// Tells of a move, once; one that the receiver refuses is done with.
    ///
    /// Errors: why it has to be told again.
    async fn deliver(&self, news: &News) -> Result<(), String> {
        match self.attempt(message::body(news)).await {
            Tried::Delivered => self.metrics.webhook("delivered"),
            Tried::Refused(status) => {
                self.metrics.webhook("refused");
                tracing::error!(
                    to = self.to, %status, model = news.model, event = news.event,
                    "a webhook's receiver refuses a message; it is not sent again"
                );
            }
            Tried::Failed(error) => return Err(error),
        }
        Ok(())
    }

    async fn attempt(&self, body: Bytes) -> Tried {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, CLOUD_EVENT);
        match HeaderValue::from_str(&message::signature(&self.secret, &body)) {
            Ok(signature) => headers.insert(SIGNATURE, signature),
            Err(error) => return Tried::Failed(error.to_string()),
        };
        let asked = Asked {
            method: Method::POST,
            path: String::new(),
            headers,
            body,
        };
        match self.peer.ask(asked, self.patience.answer).await {
            Ok(answered) => match answered.status {
                status if status.is_success() => Tried::Delivered,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                    Tried::Failed(answered.status.to_string())
                }
                status if status.is_client_error() => Tried::Refused(status),
                status => Tried::Failed(status.to_string()),
            },
            Err(error) => Tried::Failed(error.to_string()),
        }
    }

    /// Twice as long each time, of which up to a half by chance: receivers that come back are not all asked at once.
    fn pause(&self, tries: u32) -> Duration {
        let doubled = self
            .patience
            .first
            .saturating_mul(1 << tries.saturating_sub(1).min(20));
        let whole = doubled.min(self.patience.longest);
        let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        whole.mul_f64(0.5 + chance / 2.0)
    }
}

/// Work for the disk, on a thread that may wait; `None` if that thread is gone.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn secret(path: &PathBuf) -> Result<Vec<u8>, WebhookError> {
    let failed = |reason: String| WebhookError::Secret {
        path: path.display().to_string(),
        reason,
    };
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let secret = text.trim_ascii();
    if secret.len() < SHORTEST_SECRET {
        let short = format!("it must hold {SHORTEST_SECRET} bytes or more: `openssl rand -hex 32`");
        return Err(failed(short));
    }
    Ok(secret.to_vec())
}
