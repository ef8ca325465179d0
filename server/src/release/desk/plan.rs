//! Which versions of a model shall be loaded: the live one, one that arrives, those kept at hand; and what follows once
//! they are loaded, or are not.

use std::collections::BTreeSet;

use crossfade_models::{Found, RegistryError};
use crossfade_rollout::State;
use crossfade_rollout::state::{Arrival, Event, Reason, arrival};

use super::{Desk, First, SERVER, failed};
use crate::metrics::resident_bytes;
use crate::release::record::{Created, Record};
use crate::release::world::World;

impl Desk {
    /// Which versions shall be loaded, given what is on disk; a new one may become the candidate.
    ///
    /// Errors: `Conflict` for a call that brings a new version while a release is active.
    pub(in crate::release) fn plan(
        &mut self,
        world: &World,
        found: &Found<'_>,
        now: u64,
    ) -> Result<Vec<u64>, RegistryError> {
        self.directory = found.directory.to_owned();
        self.on_disk.clone_from(found.on_disk);
        if self
            .book
            .candidate()
            .is_none_or(|version| world.servable(&self.model, version).is_none())
        {
            self.resident = resident_bytes();
        }
        self.config_rev = world.config_rev(found);
        let Some(champion) = self.champion(world, found, now)? else {
            self.divide(world);
            return Ok(self.wanted(found));
        };
        let unlisted = self
            .book
            .candidate()
            .filter(|candidate| !found.on_disk.contains(candidate));
        if unlisted.is_some_and(|candidate| self.is_gone(found, candidate)) {
            let why = Some("its files are gone, or are not those that were released".to_owned());
            self.advance_or_warn(world, failed(Reason::Aborted), SERVER, why, now);
        }
        self.arrivals(world, found, champion, now)?;
        if matches!(self.book.active().map(|run| &run.state), Some(State::Verifying)) {
            self.advance_or_warn(world, Event::Verified, SERVER, None, now);
        }
        self.divide(world);
        // A listing from before its files came plans nothing for it; the operation that its release asked for will.
        let planned = self.book.active().filter(|_| unlisted.is_none());
        self.planned = planned.map(|run| run.created.id.clone());
        Ok(self.wanted(found))
    }

    /// Whether the files of the candidate, which was not among those that can be loaded, are gone or changed: else the
    /// listing is older than they are.
    fn is_gone(&self, found: &Found<'_>, candidate: u64) -> bool {
        !found.directory.join(candidate.to_string()).is_dir() || self.has_changed(candidate)
    }

    /// The live version; where it is gone from the disk, or there never was one, another takes its place: one that was
    /// live before at once, any other after its gates. `None` until then.
    ///
    /// Errors: `LoadFailed` while nothing may take its place.
    fn champion(&mut self, world: &World, found: &Found<'_>, now: u64) -> Result<Option<u64>, RegistryError> {
        let there = |version: &u64| found.on_disk.contains(version);
        self.first = None;
        if let Some(champion) = self.book.champion.filter(there) {
            return Ok(Some(champion));
        }
        if self.book.active().is_some() {
            let why = Some("the live version's files are gone".to_owned());
            self.advance_or_warn(world, failed(Reason::Aborted), SERVER, why, now);
        }
        let before = self.book.warm.iter().copied().find(there);
        if let (None, Some(live)) = (before, self.book.champion)
            && world.series(&self.model, live).is_some()
        {
            let reason = format!(
                "the files of version {live}, which is live, are gone; it goes on serving until the process ends. Put them \
                 back: nothing else has been released that could take its place"
            );
            return Err(RegistryError::LoadFailed {
                model: self.model.to_string(),
                reason,
            });
        }
        let good = |version: &&u64| !self.book.barred.contains(version);
        let next = || found.chosen.iter().rev().find(good);
        let Some(version) = before.or_else(|| next().copied()) else {
            if found.chosen.is_empty() {
                return Ok(None);
            }
            let reason = "the live version's files are gone, and every version that is there was taken back; put them \
                          back, or bring a version of a higher number"
                .to_owned();
            return Err(RegistryError::LoadFailed {
                model: self.model.to_string(),
                reason,
            });
        };
        let first = First {
            version,
            seen: found.chosen.iter().copied().collect(),
        };
        // What answers already, because the model had no rules so far, goes on answering.
        if before.is_some() || world.servable(&self.model, version).is_some() {
            self.adopt(first, now);
            return Ok(Some(version));
        }
        self.first = Some(first);
        Ok(None)
    }

    /// Makes a version the live one without a release.
    pub(super) fn adopt(&mut self, first: First, now: u64) {
        let First { version, seen } = first;
        let record = Record::Adopted {
            version,
            seen,
            at: now,
        };
        tracing::info!(model = %self.model, version, "live without a release");
        let written = self.write(&record);
        self.warn_unless(written);
        self.note(&record);
    }

    /// A version that the version policy chooses and that nobody has seen yet, or that failed to load and has changed
    /// or is asked for again.
    fn arrivals(
        &mut self,
        world: &World,
        found: &Found<'_>,
        champion: u64,
        now: u64,
    ) -> Result<(), RegistryError> {
        // One below the live version is not new: it waits until someone deploys it.
        let unseen = |version: &&u64| **version > champion && !self.book.seen.contains(version);
        let failed_before = |version: &&u64| self.book.failed(**version).is_some();
        let arrived = found.chosen.iter().rev().find(unseen);
        let again = || found.chosen.iter().rev().find(failed_before);
        let Some(&version) = arrived.or_else(|| again().filter(|_| self.book.active().is_none())) else {
            return Ok(());
        };
        if let Some(run) = self.book.active() {
            let message = format!(
                "release {} of version {} is active; version {version} waits until it has ended",
                run.created.id, run.created.version
            );
            if found.called {
                return Err(RegistryError::Conflict(message));
            }
            tracing::info!(model = %self.model, version, "{message}");
            return Ok(());
        }
        let folder = found.directory.join(version.to_string());
        let model = self.model.clone();
        let failed = |reason: String| RegistryError::LoadFailed {
            model: model.to_string(),
            reason: format!("version {version}: {reason}"),
        };
        let digest = self.digest_of(&folder, version);
        let digest = digest.map_err(|error| failed(error.to_string()))?;
        let unchanged = |earlier: &Created| earlier.digest == digest && !found.called;
        if self.book.failed(version).is_some_and(unchanged) {
            return Ok(());
        }
        let quarantined = self.book.quarantine.contains(&digest);
        match arrival(found.policy.on_new_version, quarantined, false) {
            Arrival::Release => self
                .create(
                    world,
                    version,
                    champion,
                    digest,
                    found.caller.unwrap_or(SERVER),
                    None,
                    now,
                )
                .map_err(failed),
            Arrival::Immediate | Arrival::Wait | Arrival::Registered => {
                tracing::info!(model = %self.model, version, quarantined, "registered; it waits until someone deploys it");
                Ok(())
            }
        }
    }

    /// The versions to load: the live one, the candidate, those kept at hand, and what the version policy chooses
    /// besides and was not taken back.
    fn wanted(&self, found: &Found<'_>) -> Vec<u64> {
        let rolling = matches!(
            self.book.active().map(|run| &run.state),
            Some(State::RollingBack { .. })
        );
        let baking = matches!(self.book.active().map(|run| &run.state), Some(State::Baking));
        let warm = self.policy.keep_warm.max(usize::from(baking));
        let candidate = self.book.candidate().filter(|_| !rolling);
        let first = self.first.as_ref();
        let seen = |version: &u64| {
            self.book.seen.contains(version) || first.is_some_and(|first| first.seen.contains(version))
        };
        let beside = found.chosen.iter().copied();
        let beside = beside.filter(|version| seen(version) && !self.book.barred.contains(version));
        let live = first.map(|first| first.version).or(self.book.champion);
        let wanted: BTreeSet<u64> = live
            .into_iter()
            .chain(candidate)
            .chain(self.book.warm.iter().copied().take(warm))
            .chain(beside)
            .filter(|version| found.on_disk.contains(version))
            .collect();
        // The live version first: after a restart it has to answer before anything else is loaded.
        let mut wanted: Vec<u64> = wanted.into_iter().rev().collect();
        wanted.sort_by_key(|version| Some(*version) != live);
        wanted
    }

    /// What was planned is loaded, or is not.
    pub(in crate::release) fn settled(&mut self, world: &World, live: &BTreeSet<u64>, now: u64) {
        let Some(run) = self.book.active().cloned() else {
            return self.divide(world);
        };
        let version = run.created.version;
        let loaded = live.contains(&version);
        if !loaded && self.planned.as_ref() != Some(&run.created.id) {
            // What was planned before it began says nothing about it.
            return self.divide(world);
        }
        if let (Some(counting), Some(series)) = (&mut self.counting, world.series(&self.model, version)) {
            counting.series = Some(series);
        }
        match &run.state {
            State::Loading if loaded => {
                self.advance_or_warn(world, Event::Loaded, SERVER, None, now);
            }
            State::Gating if loaded => {}
            State::AwaitingApproval { .. } if loaded => {
                self.divide(world);
                self.wait_for_approval(world, now);
            }
            State::Loading | State::Gating | State::AwaitingApproval { .. } => {
                let why = Some(self.unloaded(world, version, "it does not load"));
                self.advance_or_warn(world, failed(Reason::Load), SERVER, why, now);
            }
            State::Promoting if loaded => self.advance_or_warn(world, Event::Switched, SERVER, None, now),
            state if state.is_armed() && !loaded => {
                let why = Some(self.unloaded(world, version, "it does not load any more"));
                self.advance_or_warn(world, failed(Reason::HardTrigger), SERVER, why, now);
            }
            _ => self.divide(world),
        }
    }

    /// That a version is not loaded, and what its loader says of it.
    fn unloaded(&self, world: &World, version: u64, what: &str) -> String {
        match world.load_failure(&self.model, version) {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }
}
