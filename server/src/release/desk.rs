//! One model's releases while the server runs: its book, its log, the counts of the active release, and the one place
//! where a release moves on.
//!
//! The order of a move never changes: it is written down, then noted, then it takes effect. Only a move that takes
//! requests away from a candidate takes effect even if it cannot be written.
//!
//! `plan` is which versions shall be loaded, `gates` what is asked of a candidate before any traffic, `division` how
//! requests are divided, `counting` what they show, `look` what follows from that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_journal::Hash;
use crossfade_rollout::ledger::Report;
use crossfade_rollout::state::{Event, Reason};
use crossfade_rollout::{Policy, State};

use super::log::{Counts, Log, Marker};
use super::news::{News, Teller};
use super::pinning::Artifacts;
use super::record::{Book, Created, Record, Run, takes_away};
use super::rehearsal::Rehearsals;
use super::report;
use super::shadow;
use super::world::World;
use crate::admin::Approvers;
use crate::metrics::{CheckValues, Released};
use crate::scope::RequestId;

mod counting;
mod division;
mod gates;
mod look;
mod plan;

use counting::{Counting, stage_of};

/// Who acts where no person does.
pub(super) const SERVER: &str = "crossfade";
/// Unclean ends with the same release, within [`CRASH_WINDOW`], after which it is taken back (rollout.md §10).
const CRASHES: usize = 2;
/// Seconds.
const CRASH_WINDOW: u64 = 600;

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
    /// The version that goes live once it has passed its gates, where none is.
    first: Option<First>,
    counting: Option<Counting>,
    /// Copies of requests, and what they have shown.
    pub(super) shadow: shadow::Stage,
    /// Whether each gate let the last candidate pass.
    gates: BTreeMap<String, bool>,
    /// Repetitions of known answers.
    pub(super) rehearsals: Rehearsals,
    /// Resident memory before the candidate was loaded, bytes.
    resident: u64,
    /// The live version that keeps a baseline.
    baseline: Option<u64>,
    /// Why it has none nevertheless, at the last look.
    pub(super) baseline_failure: Option<String>,
    /// Of the last look.
    pub(super) report: Option<Report>,
    epoch: u64,
    /// Moves that took effect and are not on disk yet, oldest first.
    unwritten: Vec<Record>,
    /// A move of the server's own that could not be written down; made again at the next look.
    unmade: Option<Unmade>,
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

/// A move that was not made.
struct Unmade {
    from: State,
    event: Event,
    why: Option<String>,
}

/// A version beside which none is live.
struct First {
    version: u64,
    /// The versions that are there; none of them is new.
    seen: BTreeSet<u64>,
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
            first: None,
            counting: None,
            shadow: shadow::Stage::default(),
            gates: BTreeMap::new(),
            rehearsals: Rehearsals::default(),
            resident: 0,
            baseline: None,
            baseline_failure: None,
            report: None,
            epoch: 0,
            unwritten: Vec::new(),
            unmade: None,
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
        let from = self.book.active().map(|run| run.state.clone());
        let moved = self.advance(world, event.clone(), actor, why.clone(), now);
        // Nothing else comes back to these states once the disk takes records again.
        if let (Err(_), Some(from @ (State::Verifying | State::Loading | State::Gating))) = (&moved, from) {
            self.unmade = Some(Unmade { from, event, why });
        }
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
    pub(super) fn write_later(&mut self, record: Record) {
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
        self.shadow.end();
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
