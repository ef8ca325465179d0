//! One model's releases while the server runs: its book, its log, the counts of the active release, and the one place
//! where a release moves on.
//!
//! The order of a move never changes: it is written down, then noted, then it takes effect. Only a move that takes
//! requests away from a candidate takes effect even if it cannot be written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crossfade_journal::Hash;
use crossfade_models::{Division, Found, RegistryError};
use crossfade_rollout::ledger::{HardTrigger, Latency, Ledger, Look, Report, Stage};
use crossfade_rollout::policy::{KeySource, Metric};
use crossfade_rollout::routing::{Portion, Salt, Traffic};
use crossfade_rollout::state::{Arrival, Event, Reason, arrival};
use crossfade_rollout::{Policy, State};
use crossfade_statistics::Arm;

use super::decision::Reader;
use super::examination::Examined;
use super::gating::Gating;
use super::log::{Counts, Log, Marker};
use super::news::{News, Teller};
use super::outputs::{Watch, Window};
use super::pinning::Artifacts;
use super::record::{Book, Created, Record, Run, takes_away};
use super::rehearsal::{Rehearsal, Rehearsals};
use super::report;
use super::shadow;
use super::tally::{Batches, Count, Tail, Tally};
use super::world::World;
use crate::admin::Approvers;
use crate::metrics::{CheckValues, Released, Series, resident_bytes};
use crate::scope::RequestId;
use crate::status::Status;

/// Who acts where no person does.
pub(super) const SERVER: &str = "crossfade";
/// Unclean ends with the same release, within [`CRASH_WINDOW`], after which it is taken back (rollout.md §10).
const CRASHES: usize = 2;
/// Seconds.
const CRASH_WINDOW: u64 = 600;
/// A candidate that answers nothing for so long, while requests wait for it, hangs …
const HANGS: Duration = Duration::from_secs(30);
/// … unless even this many times the live version's 99th percentile is longer.
const HANGS_PAST_TAIL: f64 = 10.0;

/// One model.
pub(super) struct Desk {
    pub(super) model: Arc<str>,
    /// The rules in force: those that the active release began with, or that the process found at its start.
    pub(super) policy: Policy,
    pub(super) book: Book,
    news: Teller,
    log: Log,
    /// Who can agree to releases.
    pub(super) approvers: Arc<Approvers>,
    /// All that is configured of the model, and of the server.
    pub(super) config_rev: Hash,
    pub(super) artifacts: Artifacts,
    /// Where the versions lie, and which there are.
    pub(super) directory: PathBuf,
    pub(super) on_disk: BTreeSet<u64>,
    counting: Option<Counting>,
    /// Copies of requests, and what they have shown.
    pub(super) shadow: shadow::Stage,
    /// Whether each gate let the last candidate pass.
    gates: BTreeMap<String, bool>,
    /// Repetitions of known answers.
    pub(super) rehearsals: Rehearsals,
    /// Resident memory before the candidate was loaded, bytes.
    resident: u64,
    /// Of the last look.
    pub(super) report: Option<Report>,
    epoch: u64,
    /// Moves that took effect and are not on disk yet, oldest first.
    unwritten: Vec<Record>,
    /// The release that the last plan was made for.
    planned: Option<String>,
    /// The model is not released any more.
    closed: bool,
    /// Requests that were not counted for want of room.
    pub(super) lost: u64,
    pub(super) promotions: u64,
    rollbacks: BTreeMap<String, u64>,
    rolled_back_in: Option<Duration>,
}

/// The counts of the active release.
struct Counting {
    ledger: Ledger,
    tally: Arc<Tally>,
    waiting: Receiver<Count>,
    batches: Batches,
    window: Window,
    control: Tail,
    canary: Tail,
    triggers: Vec<HardTrigger>,
    /// Looks until the counts are kept again.
    unkept: usize,
    /// The candidate's counters, once it was loaded.
    series: Option<Arc<Series>>,
    /// Requests that it had answered, well or not, at the last look.
    answered: u64,
    /// Requests that had not been waited for any longer.
    given_up: u64,
    /// Serving time since it answered one, with requests that waited for it.
    silent: Duration,
}

impl Counting {
    fn new(ledger: Ledger) -> Self {
        let (tally, waiting) = Tally::new();
        Self {
            ledger,
            tally: Arc::new(tally),
            waiting,
            batches: Batches::default(),
            window: Window::default(),
            control: Tail::default(),
            canary: Tail::default(),
            triggers: Vec::new(),
            unkept: 0,
            series: None,
            answered: 0,
            given_up: 0,
            silent: Duration::ZERO,
        }
    }

    /// Compute times of both arms.
    fn latency(&self) -> Latency {
        Latency {
            canary: self.canary.quantiles(),
            control: self.control.quantiles(),
        }
    }

    /// Notes for how long the candidate has answered nothing although it was asked.
    fn watch(&mut self, served: Duration) {
        let Some(series) = &self.series else { return };
        let answered = [None, Some(Status::Internal), Some(Status::InvalidInput)];
        let answered: u64 = answered.into_iter().map(|status| series.requests(status)).sum();
        let given_up = [Status::Cancelled, Status::DeadlineExceeded];
        let given_up: u64 = given_up
            .into_iter()
            .map(|status| series.requests(Some(status)))
            .sum();
        let asked = series.in_flight() > 0 || given_up > self.given_up;
        self.given_up = given_up;
        if answered != self.answered {
            self.answered = answered;
            self.silent = Duration::ZERO;
        } else if asked {
            self.silent += served;
        }
        let usual = Duration::try_from_secs_f64(HANGS_PAST_TAIL * self.control.quantile(0.99));
        if self.silent >= HANGS.max(usual.unwrap_or(HANGS)) {
            self.triggers.push(HardTrigger::Hang);
        }
    }

    /// Another stage begins.
    fn restart(&mut self) {
        self.batches.clear();
        self.window.clear();
        self.control = Tail::default();
        self.canary = Tail::default();
        self.triggers.clear();
    }

    /// Takes in what has ended since the last look.
    fn collect(&mut self, policy: &Policy, epoch: u64) {
        let sticky = !policy.route_key.is_empty();
        while let Ok(count) = self.waiting.try_recv() {
            self.triggers.extend(count.trigger);
            if count.epoch != epoch {
                continue;
            }
            self.ledger.request(count.arm, count.unit, count.failed);
            if let Some(reading) = count.reading {
                self.window.add(count.arm, sticky.then_some(count.unit), reading);
            }
            if let Some((began, compute)) = count.batch {
                match count.arm {
                    Arm::Canary => self.canary.add(compute),
                    Arm::Control => self.control.add(compute),
                }
                self.batches.add(count.arm, began, compute, count.unit);
            }
        }
        let threshold = self.ledger.threshold();
        for batch in self.batches.look() {
            let slow = threshold.is_some_and(|limit| batch.compute.as_secs_f64() > limit);
            let units = if slow { batch.units.as_slice() } else { &[] };
            self.ledger.batch(batch.arm, units);
        }
        if let Some(cells) = self.window.close(policy.compares_classes())
            && let Err(error) = self.ledger.outputs(&cells.control, &cells.canary)
        {
            tracing::error!(%error, "the outputs of two versions cannot be compared");
        }
    }
}

impl Desk {
    /// Opens the log of a model and takes up its release where it stood.
    ///
    /// * `now`: seconds since 1970
    ///
    /// Errors: a log that cannot be used.
    pub(super) fn open(world: &World, model: &str, policy: &Policy, now: u64) -> Result<Self, String> {
        let (log, book) = Log::open(&world.folder, model, &world.audit)?;
        let mut desk = Desk {
            model: model.into(),
            policy: policy.clone(),
            book,
            news: world.news().clone(),
            log,
            approvers: world.approvers.clone(),
            config_rev: Hash::ZERO,
            artifacts: Artifacts::default(),
            directory: PathBuf::new(),
            on_disk: BTreeSet::new(),
            counting: None,
            shadow: shadow::Stage::default(),
            gates: BTreeMap::new(),
            rehearsals: Rehearsals::default(),
            resident: 0,
            report: None,
            epoch: 0,
            unwritten: Vec::new(),
            planned: None,
            closed: false,
            lost: 0,
            promotions: 0,
            rollbacks: BTreeMap::new(),
            rolled_back_in: None,
        };
        let said = desk.book.runs.last().and_then(|run| run.report.as_deref());
        desk.gates = said.map(report::passed).unwrap_or_default();
        if let Some(run) = desk.book.active().cloned() {
            tracing::info!(model, release = run.created.id, state = %run.state, "a release is taken up again");
            desk.keep_rules(&run);
            desk.begin_counting(world, &run);
            desk.count_crashes(world, &run, now);
        }
        Ok(desk)
    }

    /// The breaker: a release with which the process ended uncleanly too often is taken back.
    fn count_crashes(&mut self, world: &World, run: &Run, now: u64) {
        let found = self
            .log
            .marker()
            .filter(|marker| marker.release == run.created.id);
        let unclean = found.is_some();
        let mut marker = found.unwrap_or_else(|| Marker {
            release: run.created.id.clone(),
            unclean: Vec::new(),
        });
        marker.unclean.extend(unclean.then_some(now));
        marker
            .unclean
            .retain(|at| now.saturating_sub(*at) <= CRASH_WINDOW);
        let crashes = marker.unclean.len();
        self.warn_unless(self.log.mark(&marker));
        if crashes < CRASHES || matches!(run.state, State::RollingBack { .. }) {
            return;
        }
        let why = format!("the process ended uncleanly {crashes} times within ten minutes");
        let failed = Event::Failed {
            reason: Reason::CrashLoop,
        };
        self.advance_or_warn(world, failed, SERVER, Some(why), now);
    }

    /// The counts of a release: as they were at the last look, or none.
    fn begin_counting(&mut self, world: &World, run: &Run) {
        let stage = stage_of(&run.state);
        let kept = self.log.counts(&run.created.id);
        let kept = kept.filter(|ledger| ledger.check_policy(&self.policy).is_ok());
        let ledger = kept.map_or_else(|| Ledger::new(&self.policy), Ok);
        let ledger = ledger.and_then(|mut ledger| {
            // The counts may be those of the stage before: what was seen and shown in it stays.
            if let Some(stage) = stage.filter(|stage| ledger.stage() != *stage) {
                ledger.enter(&self.policy, stage)?;
            }
            Ok(ledger)
        });
        match ledger {
            Ok(ledger) => {
                let counting = Counting::new(ledger);
                world.listen(&run.created.id, &counting.tally);
                self.counting = Some(counting);
            }
            Err(error) => tracing::error!(model = %self.model, %error, "a release cannot be counted"),
        }
    }

    /// Which versions shall be loaded, given what is on disk; a new one may become the candidate.
    ///
    /// Errors: `Conflict` for a call that brings a new version while a release is active.
    pub(super) fn plan(
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
            return Ok(Vec::new());
        };
        if self
            .book
            .candidate()
            .is_some_and(|candidate| !found.on_disk.contains(&candidate))
        {
            let why = Some("its files are gone, or are not those that were released".to_owned());
            self.advance_or_warn(world, failed(Reason::Aborted), SERVER, why, now);
        }
        self.arrivals(world, found, champion, now)?;
        if matches!(self.book.active().map(|run| &run.state), Some(State::Verifying)) {
            self.advance_or_warn(world, Event::Verified, SERVER, None, now);
        }
        self.divide(world);
        self.planned = self.book.active().map(|run| run.created.id.clone());
        Ok(self.wanted(found))
    }

    /// The live version; where it is gone from the disk, or there never was one, another takes its place.
    ///
    /// Errors: `LoadFailed` while nothing may take its place.
    fn champion(&mut self, world: &World, found: &Found<'_>, now: u64) -> Result<Option<u64>, RegistryError> {
        let there = |version: &u64| found.on_disk.contains(version);
        if let Some(champion) = self.book.champion.filter(there) {
            return Ok(Some(champion));
        }
        if self.book.active().is_some() {
            let why = Some("the live version's files are gone".to_owned());
            self.advance_or_warn(world, failed(Reason::Aborted), SERVER, why, now);
        }
        let before = self.book.warm.iter().find(|version| there(version));
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
        let next = before.or_else(|| found.chosen.iter().rev().find(good));
        let Some(&version) = next.or(found.chosen.last()) else {
            return Ok(None);
        };
        let record = Record::Adopted {
            version,
            seen: found.chosen.iter().copied().collect(),
            at: now,
        };
        tracing::info!(model = %self.model, version, "live without a release");
        let written = self.write(&record);
        self.warn_unless(written);
        self.note(&record);
        Ok(Some(version))
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

    /// Starts a release; the registry has to be refreshed to load the candidate.
    #[expect(clippy::too_many_arguments, reason = "they are the record that is written")]
    pub(super) fn create(
        &mut self,
        world: &World,
        version: u64,
        champion: u64,
        digest: String,
        actor: &str,
        why: Option<String>,
        now: u64,
    ) -> Result<(), String> {
        let id = RequestId::new().to_string();
        // Before the candidate is loaded: a process that dies of loading it must know why.
        self.log.mark(&Marker {
            release: id.clone(),
            unclean: Vec::new(),
        })?;
        let record = Record::Created(Created {
            id: id.clone(),
            version,
            champion,
            digest,
            path: self.policy.path(true),
            policy: serde_json::to_value(&self.policy).map_err(|error| error.to_string())?,
            config_rev: Some(self.config_rev),
            actor: actor.to_owned(),
            why,
            at: now,
        });
        self.write(&record)?;
        self.note(&record);
        // What the one before showed is nothing of this one.
        self.report = None;
        tracing::info!(model = %self.model, release = id, version, champion, actor, "a release begins");
        if let Some(run) = self.book.active().cloned() {
            self.begin_counting(world, &run);
        }
        self.advance(world, Event::Verified, SERVER, None, now)
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
        let beside = found.chosen.iter().copied();
        let beside =
            beside.filter(|version| self.book.seen.contains(version) && !self.book.barred.contains(version));
        let wanted: BTreeSet<u64> = self
            .book
            .champion
            .into_iter()
            .chain(candidate)
            .chain(self.book.warm.iter().copied().take(warm))
            .chain(beside)
            .filter(|version| found.on_disk.contains(version))
            .collect();
        // The live version first: after a restart it has to answer before anything else is loaded.
        let mut wanted: Vec<u64> = wanted.into_iter().rev().collect();
        wanted.sort_by_key(|version| Some(*version) != self.book.champion);
        wanted
    }

    /// What was planned is loaded, or is not.
    pub(super) fn settled(&mut self, world: &World, live: &BTreeSet<u64>, now: u64) {
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
                let why = Some("it does not load".to_owned());
                self.advance_or_warn(world, failed(Reason::Load), SERVER, why, now);
            }
            State::Promoting if loaded => self.advance_or_warn(world, Event::Switched, SERVER, None, now),
            state if state.is_armed() && !loaded => {
                let why = Some("it does not load any more".to_owned());
                self.advance_or_warn(world, failed(Reason::HardTrigger), SERVER, why, now);
            }
            _ => self.divide(world),
        }
    }

    /// What is asked of the candidate before any traffic, while it waits for that.
    pub(super) fn gating(&self) -> Option<Gating> {
        let run = self.book.active().filter(|run| run.state == State::Gating)?;
        Some(Gating {
            release: run.created.id.clone(),
            model: self.model.clone(),
            version: run.created.version,
            before: self.book.lineage(),
            directory: self.directory.clone(),
            gates: self.policy.gates.clone(),
            decision: self.policy.decision.clone(),
            resident_before: self.resident,
        })
    }

    /// The gates have said something; nothing follows if the release went another way meanwhile.
    pub(super) fn gated(&mut self, world: &World, gating: &Gating, examined: &Examined, now: u64) {
        let waits = |run: &&Run| run.created.id == gating.release && run.state == State::Gating;
        if self.book.active().filter(waits).is_none() {
            return;
        }
        let said = &examined.report;
        let text = said.canonical();
        self.gates = report::passed(&text);
        let record = Record::Gated {
            id: gating.release.clone(),
            report: text,
            at: now,
        };
        let written = self.write(&record);
        self.warn_unless(written);
        self.note(&record);
        let known: Vec<u64> = gating.before.iter().copied().chain([gating.version]).collect();
        self.rehearsals.keep_only(&known);
        if let Some(diff) = examined.golden_diff {
            self.rehearsals.diffs.insert(gating.version, diff);
        }
        let event = match said.passed() {
            true => Event::GatesPassed,
            false => failed(Reason::Gate),
        };
        self.advance_or_warn(world, event, SERVER, Some(said.gist()), now);
    }

    /// The live version's known answers, where it is time to ask for them again.
    ///
    /// * `free`: there is a thread for it
    pub(super) fn rehearse(&mut self, world: &World, served: Duration, free: bool) -> Option<Rehearsal> {
        let limits = self.policy.gates.golden.clone()?;
        let servable = world.servable(&self.model, self.book.champion?)?;
        let due = self.rehearsals.due(limits.interval, served, free);
        due.then(|| Rehearsal {
            servable,
            limits,
            directory: self.directory.clone(),
        })
    }

    /// A repetition has ended.
    pub(super) fn rehearsed(&mut self, version: u64, found: Option<(bool, Option<f64>, String)>) {
        self.rehearsals.ended();
        let Some((passed, diff, why)) = found else {
            return;
        };
        let model = &self.model;
        self.gates.insert("golden_interval".to_owned(), passed);
        if let Some(diff) = diff {
            self.rehearsals.diffs.insert(version, diff);
        }
        if passed {
            return tracing::debug!(%model, version, why, "known answers of the live version");
        }
        *self.rehearsals.failures.entry(version).or_default() += 1;
        tracing::error!(%model, version, why, "the live version does not give its known answers");
    }

    /// Looks: takes in what has ended, and moves the release on if that shows enough.
    ///
    /// * `served`: serving time since the last look
    pub(super) fn look(&mut self, world: &World, served: Duration, now: u64) {
        let Some(run) = self.book.active().cloned().filter(|_| !self.closed) else {
            return;
        };
        let flushed = self.flush();
        self.warn_unless(flushed);
        if run.state.is_armed() && world.series(&self.model, run.created.version).is_none() {
            // The model was unloaded, or is not loaded yet: the release waits for it.
            return;
        }
        let epoch = self.epoch;
        if let Some(counting) = &mut self.counting {
            counting.collect(&self.policy, epoch);
            counting.watch(served);
            self.lost += counting.tally.lost();
            let triggers = self.shadow.collect(&mut counting.ledger);
            counting.triggers.extend(triggers);
        } else if run.state.is_armed() {
            let why = Some("its requests cannot be counted".to_owned());
            return self.advance_or_warn(world, failed(Reason::HardTrigger), SERVER, why, now);
        }
        match &run.state {
            State::Shadow | State::Canary { .. } | State::Baking => self.judge(world, served, &run, now),
            State::AwaitingApproval { .. } => self.wait_for_approval(world, now),
            State::Paused { .. } => self.guard(world, &run, now),
            State::Promoting => self.advance_or_warn(world, Event::Switched, SERVER, None, now),
            State::RollingBack { .. } if self.is_drained() => {
                self.advance_or_warn(world, Event::Drained, SERVER, None, now);
            }
            _ => {}
        }
    }

    /// Looks at a release that is held: only hard triggers move it.
    fn guard(&mut self, world: &World, run: &Run, now: u64) {
        let Some(counting) = &mut self.counting else {
            return;
        };
        let triggers = std::mem::take(&mut counting.triggers);
        let look = Look {
            latency: counting.latency(),
            triggers: &triggers,
            ..Look::default()
        };
        match counting.ledger.triggered(&self.policy, &look) {
            Some(trigger) => {
                let why = Some(format!("{trigger:?}"));
                self.advance_or_warn(world, failed(Reason::HardTrigger), SERVER, why, now);
            }
            None => self.keep_counts(&run.created.id),
        }
    }

    fn judge(&mut self, world: &World, served: Duration, run: &Run, now: u64) {
        let Some(counting) = &mut self.counting else {
            return;
        };
        let enough = counting.control.requests() >= self.policy.warmup.max(1);
        if enough && counting.ledger.threshold().is_none() {
            counting.ledger.freeze(counting.control.quantile(0.99));
        }
        let triggers = std::mem::take(&mut counting.triggers);
        let look = Look {
            served,
            latency: counting.latency(),
            triggers: &triggers,
            acknowledged: false,
        };
        let report = match counting.ledger.look(&self.policy, &look) {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(model = %self.model, %error, "a look at a release decides nothing");
                return;
            }
        };
        let event = report.event();
        let why = event.as_ref().map(|_| explain(&report));
        self.report = Some(report);
        match event {
            Some(event) => self.advance_or_warn(world, event, SERVER, why, now),
            None => self.keep_counts(&run.created.id),
        }
    }

    /// Keeps the counts of this look; those with many keys less often, one look is left out per MiB.
    fn keep_counts(&mut self, release: &str) {
        let Some(counting) = &mut self.counting else {
            return;
        };
        if let Some(left) = counting.unkept.checked_sub(1) {
            counting.unkept = left;
            return;
        }
        let counts = Counts {
            release: release.to_owned(),
            ledger: counting.ledger.clone(),
        };
        let kept = self.log.keep_counts(&counts);
        let kept = kept.map(|bytes| counting.unkept = bytes >> 20);
        self.warn_unless(kept);
    }

    /// Whether the candidate's last request is answered.
    fn is_drained(&self) -> bool {
        let series = self
            .counting
            .as_ref()
            .and_then(|counting| counting.series.as_ref());
        self.shadow.is_over() && series.is_none_or(|series| series.in_flight() == 0)
    }

    /// Moves the release on.
    ///
    /// Errors: the state has no such way out; the record cannot be written.
    pub(super) fn advance(
        &mut self,
        world: &World,
        event: Event,
        actor: &str,
        why: Option<String>,
        now: u64,
    ) -> Result<(), String> {
        let began = Instant::now();
        let Some(run) = self.book.runs.last().cloned() else {
            return Err("the model has no release".to_owned());
        };
        let next = run.created.path.next(&run.state, &event);
        let state = next.map_err(|error| error.to_string())?;
        let away = takes_away(&state);
        let record = Record::Moved {
            id: run.created.id.clone(),
            event: event.clone(),
            state: state.clone(),
            actor: actor.to_owned(),
            why: why.clone(),
            at: now,
        };
        if away {
            // No disk holds up what takes requests away from a version.
            self.note(&record);
            self.divide(world);
            if matches!(state, State::RollingBack { .. }) {
                self.rolled_back_in = Some(began.elapsed());
            }
            self.write_later(record);
        } else {
            self.write(&record)?;
            self.note(&record);
        }
        tracing::info!(
            model = %self.model,
            release = run.created.id,
            version = run.created.version,
            from = %run.state,
            to = %state,
            %event,
            actor,
            why,
            "release"
        );
        self.enter(world, &run.state, &state, now)
    }

    pub(super) fn advance_or_warn(
        &mut self,
        world: &World,
        event: Event,
        actor: &str,
        why: Option<String>,
        now: u64,
    ) {
        let moved = self.advance(world, event, actor, why, now);
        self.warn_unless(moved);
    }

    /// What a state means, once it is written down.
    fn enter(&mut self, world: &World, before: &State, state: &State, now: u64) -> Result<(), String> {
        match state {
            State::Shadow | State::Canary { .. } | State::Baking => {
                if matches!(before, State::Paused { .. }) && stage_of(before) == stage_of(state) {
                    if let Some(counting) = &mut self.counting {
                        counting.ledger.resume();
                    }
                } else {
                    self.enter_stage(state);
                }
                self.divide(world);
            }
            State::Promoting => {
                self.divide(world);
                return self.advance(world, Event::Switched, SERVER, None, now);
            }
            State::Live => {
                self.promotions += 1;
                self.finish(world);
            }
            State::RollingBack { reason, .. } => {
                self.count_rollback(*reason);
                self.divide(world);
                world.refresh(&self.model);
            }
            State::Failed { .. } | State::RolledBack { .. } => self.finish(world),
            // The live version answers alone while people think.
            State::AwaitingApproval { .. } => self.divide(world),
            _ => {}
        }
        Ok(())
    }

    fn enter_stage(&mut self, state: &State) {
        let (Some(counting), Some(stage)) = (&mut self.counting, stage_of(state)) else {
            return;
        };
        counting.restart();
        if let Err(error) = counting.ledger.enter(&self.policy, stage) {
            tracing::error!(model = %self.model, %error, "a stage cannot be counted");
        }
        counting.unkept = 0;
        if let Some(release) = self.book.active().map(|run| run.created.id.clone()) {
            self.keep_counts(&release);
        }
    }

    /// The release is over: one version answers, and others may come.
    fn finish(&mut self, world: &World) {
        self.divide(world);
        self.counting = None;
        if let Some(run) = self.book.runs.last() {
            world.silence(&run.created.id);
        }
        if self.unwritten.is_empty() {
            self.warn_unless(self.log.unmark());
        }
        world.refresh(&self.model);
    }

    /// Goes back to an earlier version while no release is active.
    pub(super) fn restore(
        &mut self,
        world: &World,
        version: u64,
        actor: &str,
        why: &str,
        now: u64,
    ) -> Result<(), String> {
        let record = Record::Restored {
            version,
            actor: actor.to_owned(),
            why: why.to_owned(),
            at: now,
        };
        self.note(&record);
        self.divide(world);
        self.write_later(record);
        tracing::info!(model = %self.model, version, actor, why, "an earlier version is live again");
        self.count_rollback(Reason::Manual);
        world.refresh(&self.model);
        Ok(())
    }

    /// Writes a record, after those that could not be written before it.
    pub(super) fn write(&mut self, record: &Record) -> Result<(), String> {
        self.flush()?;
        self.log.append(record)
    }

    /// Writes a record that has taken effect; if that fails, at a later look.
    fn write_later(&mut self, record: Record) {
        self.unwritten.push(record);
        if let Err(error) = self.flush() {
            tracing::error!(model = %self.model, %error, "requests go back although that cannot be written down yet");
        }
    }

    /// Writes what has taken effect and could not be written.
    fn flush(&mut self) -> Result<(), String> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        while let Some(record) = self.unwritten.first() {
            self.log.append(record)?;
            self.unwritten.remove(0);
        }
        // The breaker was left armed for as long as the log said that the release goes on.
        if self.book.active().is_none() {
            self.warn_unless(self.log.unmark());
        }
        Ok(())
    }

    /// Writes what has taken effect and is not in the log, or not in the audit, yet. Returns whether something was missing.
    pub(super) fn catch_up(&mut self) -> bool {
        let unwritten = !self.unwritten.is_empty();
        match self.flush().and_then(|()| self.log.catch_up()) {
            Ok(recorded) => recorded || unwritten,
            Err(error) => {
                self.warn_unless(Err(error));
                false
            }
        }
    }

    /// Has requests divided as the book says.
    fn divide(&mut self, world: &World) {
        self.epoch += 1;
        let division = self.division();
        self.watch_outputs(division.as_ref());
        self.keep_shadow(world);
        world.divide(&self.model, division);
    }

    /// Has answers read while two versions are compared by them.
    fn watch_outputs(&self, division: Option<&Division>) {
        let Some(counting) = &self.counting else {
            return;
        };
        let mut checks = self.policy.checks.iter();
        let asked = checks.any(|check| check.metric == Metric::Output);
        let reader = || Reader::new(self.policy.decision.clone());
        let watch = division
            .filter(|_| asked)
            .and_then(|division| Watch::new(reader(), division, self.percent()));
        counting.tally.read(watch);
    }

    /// Has copies made while the release is in shadow, and only then.
    fn keep_shadow(&mut self, world: &World) {
        let shadows = |run: &&Run| is_shadow(&run.state) && !self.closed && !world.ends();
        let candidate = self.book.active().filter(shadows).and_then(|run| {
            Some(shadow::Candidate {
                release: run.created.id.clone(),
                model: self.model.clone(),
                champion: self.book.champion?,
                servable: world.servable(&self.model, run.created.version)?,
                registry: world.weak_registry(),
            })
        });
        let tally = self.counting.as_ref().map(|counting| &*counting.tally);
        self.shadow.keep(candidate, &self.policy, tally);
    }

    fn division(&self) -> Option<Division> {
        let champion = self.book.champion?;
        let run = self.book.active();
        let (traffic, shared) = match run.map(|run| (&run.state, &run.created)) {
            Some((State::Canary { step } | State::Paused { step: Some(step) }, created)) => {
                let percent = self.policy.steps.get(*step).map_or(0.0, |step| step.percent);
                let canary = Traffic::Canary {
                    champion,
                    candidate: created.version,
                    portion: Portion::percent(percent),
                    salt: Salt::of(&created.id),
                };
                (canary, true)
            }
            Some((State::Promoting | State::Baking, created)) => (Traffic::Only(created.version), true),
            _ => (Traffic::Only(champion), false),
        };
        let headers = self.policy.route_key.iter().filter_map(|source| match source {
            KeySource::Header(name) => Some(name.clone()),
            KeySource::Input(_) => None,
        });
        Some(Division {
            release: run.filter(|_| shared).map(|run| run.created.id.as_str().into()),
            epoch: self.epoch,
            traffic,
            shadow: run
                .filter(|run| is_shadow(&run.state))
                .map(|run| run.created.id.as_str().into()),
            key_headers: headers.collect(),
            rules: self.route_rules(),
        })
    }

    /// The share of the candidate, percent.
    pub(super) fn percent(&self) -> f64 {
        match self.book.active().map(|run| &run.state) {
            Some(State::Canary { step } | State::Paused { step: Some(step) }) => {
                self.policy.steps.get(*step).map_or(0.0, |step| step.percent)
            }
            Some(State::Promoting | State::Baking) => 100.0,
            _ => 0.0,
        }
    }

    fn count_rollback(&mut self, reason: Reason) {
        let name = serde_json::to_value(reason).ok();
        let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
        *self.rollbacks.entry(name.to_owned()).or_default() += 1;
    }

    /// What a scrape shows.
    pub(super) fn values(&self) -> Released {
        let report = self.report.as_ref();
        let checks = report.iter().flat_map(|report| &report.checks);
        let units = report.map(|report| report.requests).unwrap_or_default();
        Released {
            model: self.model.clone(),
            state: self.book.runs.last().map(|run| run.state.name()),
            percent: self.percent(),
            units: [units.canary, units.control],
            checks: checks
                .map(|check| CheckValues {
                    name: check.metric.name(),
                    log_e: check.log_e,
                    events: [check.events.canary, check.events.control],
                })
                .collect(),
            gates: self.gates.clone(),
            golden_diffs: self.rehearsals.diffs.clone(),
            golden_failures: self.rehearsals.failures.clone(),
            lost: self.lost,
            promotions: self.promotions,
            rollbacks: self.rollbacks.clone(),
            rolled_back_in: self.rolled_back_in,
            shadow: [self.shadow.pairs, self.shadow.flips, self.shadow.dropped],
            warm: self.book.warm.len().min(self.policy.keep_warm),
        }
    }

    /// The process ends as it should: what was counted is kept, and no crash is suspected at the next start.
    pub(super) fn close(&mut self, world: &World) {
        self.closed = true;
        self.shadow.close();
        self.catch_up();
        let epoch = self.epoch;
        if let (Some(counting), Some(run)) = (&mut self.counting, self.book.active()) {
            counting.collect(&self.policy, epoch);
            let counts = Counts {
                release: run.created.id.clone(),
                ledger: counting.ledger.clone(),
            };
            world.silence(&run.created.id);
            self.warn_unless(self.log.keep_counts(&counts).map(|_| ()));
            self.warn_unless(self.log.unmark());
        }
    }

    pub(super) fn note(&mut self, record: &Record) {
        if let Some(news) = News::of(&self.model, None, &self.book, record) {
            self.news.tell(news);
        }
        let noted = self.book.apply(record);
        self.warn_unless(noted);
    }

    pub(super) fn warn_unless(&self, done: Result<(), String>) {
        if let Err(error) = done {
            tracing::error!(model = %self.model, %error, "the state of a release");
        }
    }
}

fn failed(reason: Reason) -> Event {
    Event::Failed { reason }
}

/// Whether copies of requests go to the candidate.
fn is_shadow(state: &State) -> bool {
    matches!(state, State::Shadow | State::Paused { step: None })
}

/// What is counted in a state, where something is.
fn stage_of(state: &State) -> Option<Stage> {
    match state {
        State::Canary { step } | State::Paused { step: Some(step) } => Some(Stage::Canary { step: *step }),
        State::Baking => Some(Stage::Baking),
        State::Shadow | State::Paused { step: None } => Some(Stage::Shadow),
        _ => None,
    }
}

/// What a report's verdict rests on, in a line.
fn explain(report: &Report) -> String {
    let checks = report.checks.iter().map(|check| {
        format!(
            "{}: {:?}, {}/{} events, ln E {:.2}",
            check.metric.name(),
            check.outcome,
            check.events.canary,
            check.events.control,
            check.log_e.unwrap_or_default()
        )
    });
    let checks: Vec<String> = checks.collect();
    format!(
        "{:?} after {} units; {}",
        report.verdict,
        report.units,
        checks.join("; ")
    )
}
