//! Sinks: every record of the inference log is sent to those who asked for it, at least once.
//!
//! What has to be sent lies in the log; a sink only keeps how far it has come, on disk. So an outage of a receiver is lag and no loss,
//! as long as retention leaves the records, nothing queues in memory, and a restart goes on where it was. No request waits for any of
//! this. What a receiver refuses again and again is put into the folder `sink_dead`, and the next one is sent.

mod event;
mod kserve;
pub(crate) mod objects;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossfade_inference_log::{Cursor, Follower};
use crossfade_journal::snapshot;
use crossfade_journal::storage::create_folder;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use self::event::{Event, Wanted};
use crate::config::{SinkConfig, SinkTarget};
use crate::metrics::Metrics;
use crate::outgoing::{Asked, Peer};
use crate::recorder::Recorder;

/// One event is sent so; several, as a batch.
const ONE: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const BATCH: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");
/// The data of an event whose attributes are headers.
const DATA: HeaderValue = HeaderValue::from_static("application/json");
/// Events of a batch, and their bytes, unless one has more.
const TOGETHER: usize = 200;
const TOGETHER_BYTES: usize = 1 << 20;
/// Between two looks for records.
const LOOK: Duration = Duration::from_millis(200);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the first failure; twice as long after each further one, at most as long as the second.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Why a sink cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("log.sink `{name}`: {reason}")]
pub struct SinkError {
    name: String,
    reason: String,
}

/// One receiver of records.
pub struct Sink {
    config: SinkConfig,
    peer: Peer,
    follower: Option<Follower>,
    /// Where it keeps how far it has come.
    file: PathBuf,
    dead: PathBuf,
    /// Whose log it is.
    recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
}

/// What became of a try.
enum Tried {
    Delivered,
    /// The receiver does not take this.
    Refused(String),
    /// It may take it later.
    Failed(String),
}

impl Sink {
    /// A sink that goes on where it was, or begins now. Blocks for the disk.
    ///
    /// Errors: a place that cannot be read or written; certificates that cannot be.
    pub(crate) fn open(
        config: &SinkConfig,
        recorder: &Arc<Recorder>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, SinkError> {
        let (data_dir, keys) = (recorder.data_dir(), recorder.keys());
        let failed = |reason: String| SinkError {
            name: config.name.clone(),
            reason,
        };
        let SinkTarget::Events { target } = &config.to else {
            return Err(failed("it gets files and no events".to_owned()));
        };
        let peer = Peer::new(target.clone(), config.ca.as_deref());
        let file = state(data_dir, &config.name).map_err(failed)?;
        let kept = snapshot::read(&file).map_err(|error| failed(error.to_string()))?;
        let follower = match kept {
            Some(text) => {
                let cursor: Cursor = serde_json::from_slice(&text).map_err(|error| {
                    failed(format!("`{}`: {error}; remove it to begin anew", file.display()))
                })?;
                Follower::resume(data_dir, keys, cursor)
            }
            None => Follower::from_now(data_dir, keys).map_err(|error| failed(error.to_string()))?,
        };
        let sink = Self {
            peer: peer.map_err(|error| failed(error.to_string()))?,
            dead: data_dir.join("sink_dead").join(&config.name),
            follower: Some(follower),
            config: config.clone(),
            recorder: recorder.clone(),
            file,
            metrics: metrics.clone(),
        };
        // A sink that is new begins here, also if nothing is sent before the next start.
        sink.keep().map_err(failed)?;
        Ok(sink)
    }

    /// Sends until the task is ended; what was not delivered then is sent after the next start.
    pub async fn run(mut self) {
        let mut tries = 0;
        loop {
            // Reading blocks; the follower comes back with what it has read.
            let Some(mut follower) = self.follower.take() else {
                return;
            };
            let wanted = Wanted {
                format: self.config.format,
                namespace: self.config.namespace.clone(),
                models: self.config.models.clone(),
                only_success: self.config.only_success,
                without: self.recorder.restricted(),
            };
            let read = tokio::task::spawn_blocking(move || {
                let events = follower.poll().and_then(|tables| event::all(&tables, &wanted));
                (follower, events)
            });
            let Ok((follower, events)) = read.await else {
                return;
            };
            self.follower = Some(follower);
            match events {
                Ok(events) if events.is_empty() => {
                    self.lags(Duration::ZERO);
                    tokio::time::sleep(LOOK).await;
                }
                Ok(events) => {
                    tries = 0;
                    self.deliver_all(&events).await;
                    let kept = self.keep();
                    if let Err(error) = kept {
                        tracing::warn!(
                            sink = self.config.name,
                            error,
                            "after a restart it may send again what it has sent"
                        );
                    }
                }
                Err(error) => {
                    tries += 1;
                    tracing::error!(sink = self.config.name, %error, "the inference log cannot be read");
                    tokio::time::sleep(pause(tries)).await;
                }
            }
        }
    }

    /// Sends events in their order, until each is delivered or put aside.
    async fn deliver_all(&self, events: &[Event]) {
        let mut rest = events;
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take(TOGETHER)
                .take_while(|event| {
                    bytes += event.text.len();
                    bytes <= TOGETHER_BYTES && event.headers.is_none()
                })
                .count();
            let (batch, later) = rest.split_at(count.max(1));
            self.deliver(batch).await;
            rest = later;
        }
    }

    /// Sends a batch until it is delivered; one that is refused, event by event.
    async fn deliver(&self, batch: &[Event]) {
        let mut tries = 0;
        loop {
            self.lags(age(batch));
            match self.attempt(batch).await {
                Tried::Delivered => {
                    self.metrics.sink(&self.config.name, "delivered", batch.len());
                    return;
                }
                Tried::Refused(why) => {
                    self.metrics.sink(&self.config.name, "refused", batch.len());
                    let [one] = batch else {
                        for one in batch {
                            Box::pin(self.deliver(std::slice::from_ref(one))).await;
                        }
                        return;
                    };
                    tries += 1;
                    if tries >= self.config.max_attempts {
                        self.put_aside(one, &why);
                        return;
                    }
                    tokio::time::sleep(pause(tries)).await;
                }
                Tried::Failed(why) => {
                    self.metrics.sink(&self.config.name, "failed", batch.len());
                    tries = tries.saturating_add(1);
                    let pause = pause(tries);
                    tracing::warn!(
                        sink = self.config.name,
                        why,
                        tries,
                        ?pause,
                        "a sink's receiver is asked again"
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&self, batch: &[Event]) -> Tried {
        let mut headers = HeaderMap::new();
        let (kind, body): (HeaderValue, Bytes) = match batch {
            [
                Event {
                    headers: Some(attributes),
                    text,
                    ..
                },
            ] => {
                headers.clone_from(attributes);
                (DATA, text.clone().into())
            }
            [one] => (ONE, one.text.clone().into()),
            several => {
                let texts: Vec<&str> = several.iter().map(|event| event.text.as_str()).collect();
                (BATCH, format!("[{}]", texts.join(",")).into())
            }
        };
        headers.insert(header::CONTENT_TYPE, kind);
        let asked = Asked {
            method: Method::POST,
            path: String::new(),
            headers,
            body,
        };
        match self.peer.ask(asked, PATIENCE).await {
            Ok(answered) => match answered.status {
                status if status.is_success() => Tried::Delivered,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                    Tried::Failed(answered.status.to_string())
                }
                status if status.is_client_error() => Tried::Refused(status.to_string()),
                status => Tried::Failed(status.to_string()),
            },
            Err(error) => Tried::Failed(error.to_string()),
        }
    }

    /// Keeps an event that its receiver does not take, for people to look at.
    fn put_aside(&self, event: &Event, why: &str) {
        self.metrics.sink(&self.config.name, "dead", 1);
        let file = self.dead.join(format!("{}.json", event.name));
        tracing::error!(
            sink = self.config.name, why, event = event.id, file = %file.display(),
            "a sink's receiver refuses an event; it is not sent again"
        );
        let text = match !self.recorder.keys().is_none() {
            // Nothing of it may lie on a disk as it is; the log has it.
            true => serde_json::json!({ "id": event.id, "refused": why }).to_string(),
            false => event.text.clone(),
        };
        let kept = create_folder(&self.dead).and_then(|()| std::fs::write(&file, text));
        if let Err(error) = kept {
            tracing::error!(%error, file = %file.display(), "the event that was refused is not kept");
        }
    }

    /// Writes down how far it has come.
    fn keep(&self) -> Result<(), String> {
        let Some(follower) = &self.follower else {
            return Ok(());
        };
        let text = serde_json::to_vec(follower.cursor()).map_err(|error| error.to_string())?;
        snapshot::replace(&self.file, &text).map_err(|error| error.to_string())
    }

    /// Shows how old the oldest record is that was not delivered.
    fn lags(&self, by: Duration) {
        self.metrics.sink_lag(&self.config.name, by);
    }
}

/// Where a sink keeps how far it has come.
///
/// Errors: the system's.
fn state(data_dir: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = data_dir.join("state").join("sinks");
    create_folder(&folder).map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
    Ok(folder.join(format!("{name}.json")))
}

fn age(batch: &[Event]) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = batch.iter().map(|event| event.ts_us).min().unwrap_or_default();
    now.saturating_sub(Duration::from_micros(u64::try_from(oldest).unwrap_or_default()))
}

/// Twice as long each time, of which up to a half by chance: sinks of many servers do not all come back at once.
fn pause(tries: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(20));
    let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
    doubled.min(LONGEST).mul_f64(0.5 + chance / 2.0)
}
