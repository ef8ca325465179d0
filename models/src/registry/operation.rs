//! What a load thread does for one model: find out what shall serve, load what is missing, switch, let go of the rest.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::control::Control;
use super::overrides::{Override, write_files};
use super::plan::{NoPlan, Plan};
use super::table::Live;
use super::{Job, LoadRequest, Loader, Registry};
use crate::config::RawConfig;
use crate::error::{LoadError, RegistryError};
use crate::lifecycle::{Event, State};

/// Something to do for one model.
pub(super) enum Operation {
    /// Bring what serves in line with the disk and with what calls have set.
    Sync {
        /// The call that asks for it; absent at start and in polls.
        call: Option<Call>,
        /// Whom to tell.
        done: Option<Done>,
    },
}

/// Whom to tell.
pub(super) struct Done(pub(super) Box<dyn FnOnce(Result<(), RegistryError>) + Send>);

/// A load call, its parameters read and checked.
pub(super) struct Call {
    pub(super) config: Option<RawConfig>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) labels: Option<BTreeMap<String, u64>>,
    /// Who asks, where that is known.
    pub(super) caller: Option<String>,
}

impl Operation {
    /// Ends an operation that will not run.
    pub(super) fn refuse(self, error: RegistryError) {
        let Operation::Sync { done, .. } = self;
        if let Some(done) = done {
            (done.0)(Err(error));
        }
    }
}

impl<L: Loader> Registry<L> {
    /// Runs the next operation of a model.
    pub(super) fn operate(&self, name: &Arc<str>) {
        let next = {
            let mut control = self.locked();
            // The epoch of this moment: an unload from here on abandons the operation.
            let slot = control.models.get_mut(name);
            slot.and_then(|slot| Some((slot.queue.pop_front()?, slot.epoch)))
        };
        if let Some((Operation::Sync { call, done }, epoch)) = next {
            let result = self.sync(name, epoch, call);
            self.finish(name);
            if let Err(error) = &result {
                tracing::warn!(model = %name, %error, "load failed");
            }
            if let Some(done) = done {
                (done.0)(result);
            }
        } else {
            self.finish(name);
        }
        self.notify();
    }

    fn finish(&self, name: &Arc<str>) {
        let mut control = self.locked();
        let Some(slot) = control.models.get_mut(name) else {
            return;
        };
        if slot.queue.is_empty() {
            slot.busy = false;
            control.forget_if_empty(name);
        } else {
            control.jobs.push_back(Job::Model(name.clone()));
            self.wake.notify_one();
        }
        self.publish(&control, name);
    }

    fn sync(&self, name: &Arc<str>, epoch: u64, call: Option<Call>) -> Result<(), RegistryError> {
        let failed = |reason: String| RegistryError::LoadFailed {
            model: name.to_string(),
            reason,
        };
        let explicit = call.is_some();
        let caller = call.as_ref().and_then(|call| call.caller.clone());
        let before = slot_at(&mut self.locked(), name, epoch)?.over.clone();
        let (over, labels) = match call {
            None => (before, None),
            Some(call) => {
                let over = merge_override(before, call.config, &call.files)
                    .map_err(|error| failed(format!("the given files cannot be kept: {error}")))?;
                (over, call.labels)
            }
        };
        let plan = match self.plan(name, over.as_deref(), explicit, caller.as_deref()) {
            Ok(plan) => plan,
            Err(no_plan) => return self.without_plan(name, epoch, no_plan),
        };
        let todo = self.begin(name, epoch, &plan, explicit)?;
        let mut failures = Vec::new();
        for version in todo {
            if let Err(reason) = self.load_version(name, epoch, version, &plan)? {
                failures.push(format!("version {version}: {reason}"));
            }
        }
        let result = self.conclude(name, epoch, &plan, over, labels, failures);
        if let Some(conductor) = &self.options.conductor {
            let live = slot_at(&mut self.locked(), name, epoch)?.live_versions();
            conductor.settled(name, &live);
        }
        result
    }

    /// Nothing can be loaded: what serves goes on, unless it was removed from the disk.
    fn without_plan(&self, name: &Arc<str>, epoch: u64, no_plan: NoPlan) -> Result<(), RegistryError> {
        let mut control = self.locked();
        let slot = slot_at(&mut control, name, epoch)?;
        slot.attempted = true;
        let result = match no_plan {
            NoPlan::Absent => {
                let start = slot.due && slot.versions.is_empty();
                let due = slot.due;
                slot.let_go();
                slot.set_on_disk(BTreeSet::new());
                if start {
                    // It was named at start: the server waits for it.
                    slot.due = due;
                    slot.failure = Some("it is in no repository".into());
                }
                Err(RegistryError::NotFound(format!(
                    "model `{name}` is in no repository"
                )))
            }
            NoPlan::Broken(reason, on_disk) => {
                if let Some(on_disk) = on_disk.filter(BTreeSet::is_empty) {
                    let versions: Vec<u64> = slot.versions.keys().copied().collect();
                    versions.into_iter().for_each(|version| slot.drain(version));
                    slot.set_on_disk(on_disk);
                }
                slot.failure = Some(reason.as_str().into());
                Err(RegistryError::LoadFailed {
                    model: name.to_string(),
                    reason,
                })
            }
            NoPlan::Refused(error) => {
                if let RegistryError::LoadFailed { reason, .. } = &error {
                    slot.failure = Some(reason.as_str().into());
                }
                Err(error)
            }
        };
        self.publish(&control, name);
        result
    }

    /// Says what shall serve, marks what will load, and gives it back in that order.
    fn begin(
        &self,
        name: &Arc<str>,
        epoch: u64,
        plan: &Plan,
        explicit: bool,
    ) -> Result<Vec<u64>, RegistryError> {
        let mut control = self.locked();
        let slot = slot_at(&mut control, name, epoch)?;
        slot.failure = None;
        slot.chosen.clone_from(&plan.chosen);
        slot.file_labels = plan.config.labels();
        let mut todo = Vec::new();
        for (version, identity) in plan
            .order
            .iter()
            .filter_map(|version| plan.identities.get_key_value(version))
        {
            let entry = slot.version(*version);
            if entry.live.is_some() && plan.held.contains(version) {
                continue;
            }
            let same = entry.tried.as_ref().is_some_and(|tried| tried.same(identity));
            // A failure is worth another try only when someone asks for it or something changed.
            let settled = entry.live.is_some() && entry.update_failure.is_none()
                || !explicit && matches!(entry.state, State::Ready | State::Failed(_));
            if same && settled {
                continue;
            }
            if entry.live.is_none() {
                entry.step(Event::Load);
            }
            todo.push(*version);
        }
        self.publish(&control, name);
        Ok(todo)
    }

    /// Loads one version and, if it is good, lets requests in. The inner error is the version's, the outer one means
    /// that the model was unloaded meanwhile.
    fn load_version(
        &self,
        name: &Arc<str>,
        epoch: u64,
        version: u64,
        plan: &Plan,
    ) -> Result<Result<(), Arc<str>>, RegistryError> {
        slot_at(&mut self.locked(), name, epoch)?;
        tracing::info!(model = %name, version, "loading");
        let outcome = self.call_loader(name, epoch, version, plan);
        let mut control = self.locked();
        let generation = control.next_generation();
        // Made before the check: if the model was unloaded meanwhile, the servable goes to the reaper.
        let outcome = outcome.map(|loaded| {
            Arc::new(Live::new(
                name.clone(),
                version,
                generation,
                loaded,
                self.reaper.clone(),
            ))
        });
        let slot = slot_at(&mut control, name, epoch)?;
        let entry = slot.version(version);
        entry.tried = plan.identities.get(&version).cloned();
        let result = match outcome {
            Ok(live) => {
                for warning in &live.config.warnings {
                    tracing::warn!(model = %name, version, %warning, "configuration");
                }
                tracing::info!(model = %name, version, config_rev = %live.config.config_rev, "ready");
                if entry.live.replace(live).is_none() {
                    entry.step(Event::Loaded);
                }
                entry.update_failure = None;
                Ok(())
            }
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                tracing::warn!(model = %name, version, %error, "version failed to load");
                if entry.live.is_some() {
                    entry.update_failure = Some(reason.clone());
                } else {
                    entry.step(Event::Fail(reason.clone()));
                }
                Err(reason)
            }
        };
        slot.settle_labels();
        self.publish(&control, name);
        drop(control);
        self.notify();
        Ok(result)
    }

    fn call_loader(
        &self,
        name: &Arc<str>,
        epoch: u64,
        version: u64,
        plan: &Plan,
    ) -> Result<super::Loaded<L::Servable>, LoadError> {
        let progress = |state| self.progress(name, epoch, version, &state);
        let request = LoadRequest {
            name: name.clone(),
            version,
            model_directory: plan.directory.clone(),
            version_directory: plan.directory.join(version.to_string()),
            config: (*plan.config).clone(),
            label_files: (*plan.label_files).clone(),
            default_max_batch_size: self.options.default_max_batch_size,
            auto_complete: self.options.auto_complete,
            progress: &progress,
        };
        catch_unwind(AssertUnwindSafe(|| self.loader.load(&request)))
            .unwrap_or_else(|panic| Err(LoadError::Panicked(panic_message(&*panic))))
    }

    /// The loader has come to `state`. A version that serves while its successor warms up stays as it is.
    fn progress(&self, name: &str, epoch: u64, version: u64, state: &State) {
        if *state != State::WarmingUp {
            return;
        }
        let mut control = self.locked();
        let Ok(slot) = slot_at(&mut control, name, epoch) else {
            return;
        };
        let entry = slot.version(version);
        if entry.live.is_none() && entry.state == State::Loading {
            entry.step(Event::WarmUp);
            self.publish(&control, name);
        }
    }

    /// Lets go of what is no longer chosen, moves labels, and keeps what the call has set.
    fn conclude(
        &self,
        name: &Arc<str>,
        epoch: u64,
        plan: &Plan,
        over: Option<Arc<Override>>,
        labels: Option<BTreeMap<String, u64>>,
        failures: Vec<String>,
    ) -> Result<(), RegistryError> {
        let mut control = self.locked();
        let slot = slot_at(&mut control, name, epoch)?;
        slot.attempted = true;
        let serves = plan.chosen.iter().any(|version| slot.is_live(*version));
        let versions: Vec<u64> = slot.versions.keys().copied().collect();
        for version in versions {
            let wanted = plan.chosen.contains(&version);
            // While an update fails, the versions that it should replace serve on.
            let replaced = failures.is_empty() || serves && !plan.on_disk.contains(&version);
            if !wanted && replaced {
                slot.drain(version);
            }
        }
        slot.set_on_disk(plan.on_disk.clone());
        let result = if failures.is_empty() {
            slot.over = over;
            match labels {
                None => Ok(()),
                Some(labels) => match labels.iter().find(|(_, version)| !slot.is_live(**version)) {
                    None => {
                        slot.call_labels.extend(labels);
                        Ok(())
                    }
                    Some((label, version)) => Err(RegistryError::Conflict(format!(
                        "label `{label}` of model `{name}` cannot move: version {version} is not ready"
                    ))),
                },
            }
        } else {
            Err(RegistryError::LoadFailed {
                model: name.to_string(),
                reason: failures.join("; "),
            })
        };
        slot.settle_labels();
        self.publish(&control, name);
        result
    }
}

/// The model's slot, unless it was unloaded since `epoch`.
fn slot_at<'a, S>(
    control: &'a mut Control<S>,
    name: &str,
    epoch: u64,
) -> Result<&'a mut super::control::Slot<S>, RegistryError> {
    let abandoned = || RegistryError::Conflict(format!("model `{name}` was unloaded meanwhile"));
    control
        .models
        .get_mut(name)
        .filter(|slot| slot.epoch == epoch)
        .ok_or_else(abandoned)
}

/// The override after a call: a new configuration keeps the files of an earlier call.
fn merge_override(
    before: Option<Arc<Override>>,
    config: Option<RawConfig>,
    files: &BTreeMap<String, Vec<u8>>,
) -> std::io::Result<Option<Arc<Override>>> {
    let Some(config) = config else { return Ok(before) };
    let directory = if files.is_empty() {
        before.and_then(|before| before.directory.clone())
    } else {
        Some(Arc::new(write_files(files)?))
    };
    Ok(Some(Arc::new(Override { config, directory })))
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .to_owned()
}
