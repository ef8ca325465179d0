//! Sealed files of the log in S3-compatible storage, under the names that they have in the data folder.
//!
//! What has to be sent is what the manifest names; a sink only keeps what it has sent, on disk. A file in whose place another came
//! (compacted, or without a person who was erased) goes there, too, once the other is there. What retention removes here stays there.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crossfade_inference_log::{Content, SealedFile, manifest_in};
use crossfade_journal::{Hash, snapshot};
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{SinkError, pause};
use crate::config::{Bucket, SinkConfig};
use crate::metrics::Metrics;
use crate::outgoing::storage::Carrier;
use crate::recorder::{Recorder, Sent};

/// Between two looks for files.
const LOOK: Duration = Duration::from_secs(1);
/// Larger files are sent in parts of so many bytes.
const PART: usize = 8 << 20;

/// A bucket that gets every sealed file.
pub(crate) struct ObjectSink {
    name: String,
    store: Arc<dyn ObjectStore>,
    prefix: String,
    data_dir: PathBuf,
    /// What was sent.
    sent: Sent,
    /// Where it keeps that.
    file: PathBuf,
    metrics: Arc<Metrics>,
}

/// Why a file is not there.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("reading it: {0}")]
    Read(#[from] io::Error),
    #[error("it is not the bytes that were written; `crossfade log verify` says what else is not")]
    Damaged,
}

impl ObjectSink {
    /// A sink that goes on where it was. Credentials are those of the environment (`AWS_ACCESS_KEY_ID` and so on) or of the machine. Blocks
    /// for the disk.
    ///
    /// Errors: a place that cannot be read or written; a bucket that has no address.
    pub(crate) fn open(
        config: &SinkConfig,
        bucket: &Bucket,
        recorder: &Recorder,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, SinkError> {
        let failed = |reason: String| SinkError {
            name: config.name.clone(),
            reason,
        };
        let data_dir = recorder.data_dir();
        let file = super::state(data_dir, &config.name).map_err(failed)?;
        let kept = snapshot::read(&file).map_err(|error| failed(error.to_string()))?;
        let sent: BTreeMap<String, Hash> = match kept {
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| failed(format!("`{}`: {error}; remove it to begin anew", file.display())))?,
            None => BTreeMap::new(),
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&bucket.name)
            .with_region(&bucket.region)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_http_connector(Carrier::new(config.ca.clone()))
            // What fails is tried again here, where it is seen.
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        let store = builder.build().map_err(|error| failed(error.to_string()))?;
        let sink = Self {
            name: config.name.clone(),
            store: Arc::new(store),
            prefix: bucket.prefix.clone(),
            data_dir: data_dir.to_owned(),
            sent: Arc::new(Mutex::new(sent)),
            file,
            metrics: metrics.clone(),
        };
        if bucket.upload_before_expiry {
            recorder.await_sent(sink.sent.clone());
        }
        Ok(sink)
    }

    /// Sends until the task is ended.
    pub(crate) async fn run(self) {
        let mut tries = 0;
        let mut looked = None;
        loop {
            let manifest = manifest_in(&self.data_dir);
            let now = std::fs::metadata(&manifest).and_then(|about| Ok((about.len(), about.modified()?)));
            let now = now.ok();
            if now.is_none() || now == looked {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            match self.send_all().await {
                Ok(()) => {
                    (tries, looked) = (0, now);
                    self.metrics.sink_lag(&self.name, Duration::ZERO);
                }
                Err(why) => {
                    self.metrics.sink(&self.name, "failed", 1);
                    tries += 1;
                    let pause = pause(tries);
                    tracing::warn!(
                        sink = self.name,
                        why,
                        tries,
                        ?pause,
                        "a sink's storage is asked again"
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Sends what is not there yet, and removes there what was replaced.
    async fn send_all(&self) -> Result<(), String> {
        let folder = self.data_dir.clone();
        let content = tokio::task::spawn_blocking(move || Content::read(&folder));
        let content = content.await.map_err(|error| error.to_string())?;
        let content = content.map_err(|error| error.to_string())?;
        for file in content.files.values() {
            if self.lock().get(&file.path) == Some(&file.sha256) {
                continue;
            }
            match self.upload(file).await {
                Ok(()) => {
                    self.lock().insert(file.path.clone(), file.sha256);
                    self.keep()?;
                    self.metrics.sink(&self.name, "delivered", 1);
                }
                // Compacted or removed meanwhile; the manifest says so the next time.
                Err(UploadError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
                // It holds up no other; `upload_before_expiry` keeps it here.
                Err(error @ UploadError::Damaged) => {
                    self.metrics.sink(&self.name, "refused", 1);
                    tracing::error!(sink = self.name, file = file.path, %error, "a file of the log that is not sent");
                }
                Err(error) => {
                    self.lags(&file.path);
                    return Err(format!("`{}`: {error}", file.path));
                }
            }
        }
        let known: Vec<String> = self.lock().keys().cloned().collect();
        let gone: Vec<String> = known
            .into_iter()
            .filter(|path| !content.files.contains_key(path))
            .collect();
        for path in gone {
            if content.replaced.contains(&path) {
                match self.store.delete(&self.key(&path)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(format!("removing `{path}`: {error}")),
                }
            }
            self.lock().remove(&path);
            self.keep()?;
        }
        Ok(())
    }

    /// Sends a file; the storage checks the sha256 of what it gets, and this what it reads.
    async fn upload(&self, file: &SealedFile) -> Result<(), UploadError> {
        let key = self.key(&file.path);
        let mut from = tokio::fs::File::open(self.data_dir.join(&file.path)).await?;
        let mut hash = Sha256::new();
        let mut part = next(&mut from, &mut hash).await?;
        if part.len() < PART {
            whole(hash, file)?;
            self.store.put(&key, part.into()).await?;
            return Ok(());
        }
        let mut upload = WriteMultipart::new_with_chunk_size(self.store.put_multipart(&key).await?, PART);
        let read = async {
            while !part.is_empty() {
                upload.wait_for_capacity(1).await?;
                upload.put(part);
                part = next(&mut from, &mut hash).await?;
            }
            whole(hash, file)
        };
        match read.await {
            Ok(()) => {
                upload.finish().await?;
                Ok(())
            }
            Err(error) => {
                // Parts that stay cost money.
                let _gone = upload.abort().await.is_ok();
                Err(error)
            }
        }
    }

    fn key(&self, path: &str) -> Path {
        let key = match self.prefix.as_str() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        };
        Path::parse(&key).unwrap_or_else(|_| Path::from(key))
    }

    /// Shows how long a file has waited.
    fn lags(&self, path: &str) {
        let modified = std::fs::metadata(self.data_dir.join(path)).and_then(|about| about.modified());
        let age = modified
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        self.metrics.sink_lag(&self.name, age.unwrap_or_default());
    }

    /// Writes down what was sent.
    fn keep(&self) -> Result<(), String> {
        let text = serde_json::to_vec(&*self.lock()).map_err(|error| error.to_string())?;
        snapshot::replace(&self.file, &text).map_err(|error| error.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Hash>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next part of a file; shorter at its end.
async fn next(from: &mut tokio::fs::File, hash: &mut Sha256) -> io::Result<Bytes> {
    let mut part = Vec::with_capacity(PART);
    let most = u64::try_from(PART).unwrap_or(u64::MAX);
    from.take(most).read_to_end(&mut part).await?;
    hash.update(&part);
    Ok(part.into())
}

/// Errors: what was read is not what was written.
fn whole(hash: Sha256, file: &SealedFile) -> Result<(), UploadError> {
    match Hash(hash.finalize().into()) == file.sha256 {
        true => Ok(()),
        false => Err(UploadError::Damaged),
    }
}
