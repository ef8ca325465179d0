//! Calls that change the server: each is one record of the audit before it takes effect, refused ones included.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crossfade_journal::Head;
use crossfade_models::{Loader, PreparedLoad, Registry, RegistryError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::settings::{LogSettings, NotUpdated};
use super::{LoadParameters, Settings, settings};
use crate::audit::{Action, AuditLog, Call, Entry, Listener, Outcome};
use crate::infer::Parameter;
use crate::service::Service;
use crate::status::{Refusal, Status};

/// Files of a load call that its record lists.
const MAX_FILES: usize = 64;

/// What calls that change something need.
pub struct Changes {
    /// The log settings.
    pub log: Arc<LogSettings>,
    /// Where each call is recorded.
    pub audit: Arc<AuditLog>,
    /// The admin listener, if calls of the protocol that change something are taken there only.
    pub only_at: Option<SocketAddr>,
}

impl Changes {
    /// Errors: `Forbidden` over a listener that takes no changes.
    fn taken(&self, call: &Call) -> Result<(), Refusal> {
        match self.only_at {
            Some(admin) if call.listener() != Listener::Admin => {
                let message = format!("the admin listener takes such calls, at {admin} (admin.v2_control)");
                Err(Refusal::new(Status::Forbidden, message))
            }
            _ => Ok(()),
        }
    }
}

impl Service {
    /// Loads or reloads a model; returns once every chosen version is ready or failed.
    ///
    /// A caller that goes away does not stop the load. A load that was accepted and fails is recorded once more, as
    /// the server's own deed.
    pub async fn load(
        &self,
        call: Call,
        repository: &str,
        model: &str,
        parameters: LoadParameters,
    ) -> Result<(), Refusal> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let known = self
            .changes
            .taken(&call)
            .and_then(|()| self.in_repository(repository));
        let caller = call.caller().map(str::to_owned);
        let entry = Entry::new(call, Action::Load, &object(repository, model));
        let (audit, registry, name) = (
            self.changes.audit.clone(),
            self.registry().clone(),
            model.to_owned(),
        );
        blocking(move || {
            let entry = entry.before(versions(&registry, &name));
            let entry = given(&parameters).into_iter().fold(entry, Entry::evidence);
            let prepared = known.and_then(|()| Ok(registry.prepare_load(&name, parameters)?));
            let load: PreparedLoad = prepared.map_err(|refusal| audit.refused(entry.clone(), refusal))?;
            let seq = audit.write(entry.clone().ended(Outcome::Accepted))?;
            let done = move |result: Result<(), RegistryError>| {
                let result = result.map_err(Refusal::from);
                if let Err(refusal) = &result {
                    let failed = entry
                        .following(seq)
                        .ended(Outcome::Failed)
                        .error(&refusal.message);
                    // What cannot be written is in the log already; the call has failed either way.
                    let _written = audit.write(failed);
                }
                // The caller may have gone away; the load stands.
                let _heard = sender.send(result);
            };
            registry.start_load(load.asked_by(caller), Box::new(done));
            Ok(())
        })
        .await?;
        receiver
            .await
            .map_err(|_| Refusal::new(Status::NotReady, "the server is shutting down"))?
    }

    /// Unloads a model; returns once it is no longer routed to.
    pub async fn unload(&self, call: Call, repository: &str, model: &str) -> Result<(), Refusal> {
        let known = self
            .changes
            .taken(&call)
            .and_then(|()| self.in_repository(repository));
        let entry = Entry::new(call, Action::Unload, &object(repository, model));
        let (audit, registry, name) = (
            self.changes.audit.clone(),
            self.registry().clone(),
            model.to_owned(),
        );
        blocking(move || {
            let entry = entry.before(versions(&registry, &name));
            let allowed = known.and_then(|()| Ok(registry.must_be_explicit("unload")?));
            allowed.map_err(|refusal| audit.refused(entry.clone(), refusal))?;
            audit.write(entry.ended(Outcome::Ok))?;
            Ok(registry.unload(&name)?)
        })
        .await
    }

    /// Reads (empty `changes`) or writes log settings and returns them all.
    pub async fn log_settings(&self, call: Call, changes: Settings) -> Result<Settings, Refusal> {
        let (audit, log) = (self.changes.audit.clone(), self.changes.log.clone());
        let taken = match changes.is_empty() {
            true => Ok(()),
            false => self.changes.taken(&call),
        };
        let entry = Entry::new(call, Action::LogSettings, "log");
        blocking(move || {
            taken.map_err(|refusal| audit.refused(entry.clone(), refusal))?;
            let written = entry.clone();
            let record = |before: &Settings, after: &Settings| {
                let entry = written.before(value(before)).after(value(after));
                audit.write(entry.ended(Outcome::Ok)).map(|_seq| ())
            };
            log.update(changes, record).map_err(|failed| match failed {
                NotUpdated::Wrong(refusal) => audit.refused(entry, refusal),
                NotUpdated::Unrecorded(refusal) => refusal,
            })
        })
        .await
    }

    /// Reads (empty `changes`) or writes trace settings and returns them all, each a list of strings.
    ///
    /// Errors: `NotFound` for an unknown model (empty: the server's own), `Unsupported` for what would trace.
    pub async fn trace_settings(
        &self,
        call: Call,
        model: &str,
        changes: BTreeMap<String, Vec<String>>,
    ) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
        let known = match model {
            "" => Ok(()),
            model => self.registry().route(model, "").map(|_routed| ()),
        };
        let known = known.map_err(Refusal::from);
        if changes.is_empty() {
            return known.and_then(|()| settings::trace(changes));
        }
        let taken = self.changes.taken(&call);
        let settings = taken.and(known).and_then(|()| settings::trace(changes));
        let entry = Entry::new(call, Action::TraceSettings, &trace_object(model));
        let audit = self.changes.audit.clone();
        blocking(move || match settings {
            // There is but one value that each can have.
            Ok(settings) => audit.write(entry.ended(Outcome::Ok)).map(|_seq| settings),
            Err(refusal) => Err(audit.refused(entry, refusal)),
        })
        .await
    }

    /// Records of the audit after number `since`, one per line, and the head after the last of them.
    ///
    /// Errors: `Internal` if they cannot be read.
    pub(crate) async fn audit_lines(
        &self,
        since: u64,
        limit: usize,
    ) -> Result<(Vec<u8>, Option<Head>), Refusal> {
        let audit = self.changes.audit.clone();
        blocking(move || audit.lines(since, limit)).await
    }

    /// Records that a call was refused before it came as far as the calls above; returns what to answer.
    pub(crate) async fn refuse_change(
        &self,
        call: Call,
        action: Action,
        object: &str,
        refusal: Refusal,
    ) -> Refusal {
        let audit = self.changes.audit.clone();
        let entry = Entry::new(call, action, object);
        let recorded = blocking(move || Ok(audit.refused(entry, refusal))).await;
        recorded.unwrap_or_else(|refusal| refusal)
    }

    /// A call that names a repository names one that there is.
    fn in_repository(&self, repository: &str) -> Result<(), Refusal> {
        let known = self.registry().repository_names();
        if repository.is_empty() || known.iter().any(|name| name == repository) {
            return Ok(());
        }
        let name: String = repository.chars().take(64).collect();
        Err(Refusal::new(
            Status::NotFound,
            format!("unknown repository `{name}`"),
        ))
    }
}

/// What records call a model.
pub(crate) fn object(repository: &str, model: &str) -> String {
    match repository {
        "" => format!("model/{model}"),
        repository => format!("model/{repository}/{model}"),
    }
}

/// What records call the trace settings of a model, or of the server.
pub(crate) fn trace_object(model: &str) -> String {
    match model {
        "" => "trace".to_owned(),
        model => format!("trace/{model}"),
    }
}

/// Does what waits for the disk. A caller that goes away does not stop it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::new(Status::Internal, error.to_string()))?
}

/// The versions that answer.
fn versions<L: Loader>(registry: &Registry<L>, model: &str) -> Value {
    match registry.ready_versions(model) {
        Ok(versions) => json!({ "versions": versions }),
        Err(_) => Value::Null,
    }
}

/// What a load call brings along: digests, because a model does not fit into a record.
fn given(parameters: &LoadParameters) -> Option<Value> {
    let mut given = serde_json::Map::new();
    if let Some(config) = &parameters.config {
        given.insert("config_sha256".to_owned(), digest(config.as_bytes()));
    }
    if let Some(labels) = &parameters.labels {
        given.insert("labels_sha256".to_owned(), digest(labels.as_bytes()));
    }
    if !parameters.files.is_empty() {
        let files = parameters.files.iter().take(MAX_FILES);
        let files: Vec<Value> = files
            .map(|(name, content)| {
                let name: String = name.chars().take(256).collect();
                json!({ "name": name, "bytes": content.len(), "sha256": digest(content) })
            })
            .collect();
        given.insert("files".to_owned(), files.into());
        given.insert("file_count".to_owned(), parameters.files.len().into());
    }
    (!given.is_empty()).then_some(Value::Object(given))
}

fn digest(bytes: &[u8]) -> Value {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    crossfade_journal::Hash(digest).to_string().into()
}

fn value(settings: &Settings) -> Value {
    let one = |setting: &Parameter| match setting {
        Parameter::Bool(value) => Value::from(*value),
        Parameter::Int(value) => Value::from(*value),
        Parameter::Uint(value) => Value::from(*value),
        Parameter::Double(value) => Value::from(*value),
        Parameter::String(value) => Value::from(value.as_str()),
    };
    settings
        .iter()
        .map(|(key, setting)| (key.clone(), one(setting)))
        .collect()
}
