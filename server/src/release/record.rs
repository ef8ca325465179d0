//! What is written down of a model's releases, and the state that follows from it. Pure: the same records give the
//! same book, whether they have just been made or were read back.

use std::collections::{BTreeMap, BTreeSet};

use crossfade_journal::Hash;
use crossfade_journal::keys::{PublicKey, Signature};
use crossfade_rollout::State;
use crossfade_rollout::approval::Given;
use crossfade_rollout::state::{Approvable, Event, Path, Reason};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of a model's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record", deny_unknown_fields)]
pub(super) enum Record {
    /// A version is live without a release: the first one, or what serves since the live one is gone from the disk.
    Adopted {
        /// The version.
        version: u64,
        /// The versions that were there; none of them is new.
        seen: BTreeSet<u64>,
        /// Seconds since 1970.
        at: u64,
    },
    /// What the files of a version are: seen first, or loaded again after they had changed.
    Seen {
        /// The version.
        version: u64,
        /// sha256 of its files, hexadecimal.
        digest: String,
        /// Seconds since 1970.
        at: u64,
    },
    /// A release began.
    Created(Created),
    /// It went on.
    Moved {
        /// Which.
        id: String,
        /// By what.
        event: Event,
        /// Where it stands now.
        state: State,
        /// Who did it: a name, or `crossfade`.
        actor: String,
        /// Why, where someone or something said so.
        why: Option<String>,
        /// Seconds since 1970.
        at: u64,
    },
    /// The gates have said something of the candidate.
    Gated {
        /// Of which release.
        id: String,
        /// The report, in its canonical spelling.
        report: String,
        /// Seconds since 1970.
        at: u64,
    },
    /// Someone agreed to a step of it.
    Approved {
        /// Which release.
        id: String,
        /// To which step.
        before: Approvable,
        /// Who, and to what exactly.
        given: Given,
        /// What was signed with, where keys are known.
        key: Option<PublicKey>,
        /// Over the canonical JSON of what was agreed to.
        signature: Option<Signature>,
        /// Seconds since 1970.
        at: u64,
    },
    /// An operator went back to an earlier version while no release was active.
    Restored {
        /// The version that is live again.
        version: u64,
        /// Who did it.
        actor: String,
        /// Why.
        why: String,
        /// Seconds since 1970.
        at: u64,
    },
    /// The record before this one has not taken effect: whoever reads the log passes over both.
    Withdrawn {
        /// Its number.
        seq: u64,
        /// Why.
        why: String,
    },
}

impl Record {
    /// Whether a release goes on by it: then nothing comes of it before it is written everywhere it has to be. What takes
    /// requests away from a version, and what is only noted, does not wait.
    pub(super) fn leads_on(&self) -> bool {
        match self {
            Record::Created(_) | Record::Approved { .. } => true,
            Record::Moved { state, .. } => !takes_away(state),
            Record::Adopted { .. }
            | Record::Seen { .. }
            | Record::Gated { .. }
            | Record::Restored { .. }
            | Record::Withdrawn { .. } => false,
        }
    }
}

/// Whether a version that comes to this state has no requests, or loses them.
pub(super) fn takes_away(state: &State) -> bool {
    matches!(
        state,
        State::RollingBack { .. } | State::RolledBack { .. } | State::Failed { .. }
    )
}

/// The beginning of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Created {
    /// Its id.
    pub(super) id: String,
    /// The candidate.
    pub(super) version: u64,
    /// The version that is live.
    pub(super) champion: u64,
    /// sha256 of the candidate's files, hexadecimal.
    pub(super) digest: String,
    /// Its way through the states.
    pub(super) path: Path,
    /// The rules that it began with, as JSON; it ends by them, whatever the configuration says later.
    #[serde(default)]
    pub(super) policy: Value,
    /// The configuration that it began with.
    #[serde(default)]
    pub(super) config_rev: Option<Hash>,
    /// Who started it.
    pub(super) actor: String,
    /// Why, where someone said so.
    pub(super) why: Option<String>,
    /// Seconds since 1970.
    pub(super) at: u64,
}

/// A release as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Run {
    pub(super) created: Created,
    pub(super) state: State,
    /// Why it stands there, where something said so.
    pub(super) why: Option<String>,
    /// Seconds since 1970 of the last move.
    pub(super) since: u64,
    /// What the gates said, in its canonical spelling.
    pub(super) report: Option<String>,
    /// What its gates found, once it has passed them.
    pub(super) findings: Option<String>,
    /// Who agreed, to which step.
    pub(super) approvals: Vec<(Approvable, Given)>,
}

/// What is known of a model's versions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Book {
    /// The live version.
    pub(super) champion: Option<u64>,
    /// Earlier live versions, the latest first.
    pub(super) warm: Vec<u64>,
    /// Versions that are not new any more.
    pub(super) seen: BTreeSet<u64>,
    /// Versions that failed, or were taken back.
    pub(super) barred: BTreeSet<u64>,
    /// What the files of versions are.
    pub(super) digests: BTreeMap<u64, String>,
    /// Digests that were taken back.
    pub(super) quarantine: BTreeSet<String>,
    /// Every release, oldest first.
    pub(super) runs: Vec<Run>,
}

impl Book {
    /// The release that holds the model's place.
    pub(super) fn active(&self) -> Option<&Run> {
        self.runs.last().filter(|run| run.state.is_active())
    }

    /// The version that is being released.
    pub(super) fn candidate(&self) -> Option<u64> {
        self.active().map(|run| run.created.version)
    }

    /// The last release of a version, if that failed before it had any request: it may be tried again.
    pub(super) fn failed(&self, version: u64) -> Option<&Created> {
        let last = self
            .runs
            .iter()
            .rev()
            .find(|run| run.created.version == version)?;
        matches!(last.state, State::Failed { .. }).then_some(&last.created)
    }

    /// The versions that were live, oldest first; the last one is.
    pub(super) fn lineage(&self) -> Vec<u64> {
        self.warm.iter().rev().copied().chain(self.champion).collect()
    }

    /// Notes one record.
    ///
    /// Errors: a move of a release that is not the last one.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Adopted { version, seen, .. } => {
                self.seen.extend(seen);
                self.barred.remove(version);
                self.enthrone(*version);
            }
            Record::Seen { version, digest, .. } => {
                self.digests.insert(*version, digest.clone());
                let run = self.runs.last_mut().filter(|run| run.state.is_active());
                if let Some(run) = run.filter(|run| run.created.version == *version) {
                    run.created.digest.clone_from(digest);
                }
            }
            Record::Created(created) => {
                self.digests.insert(created.version, created.digest.clone());
                self.seen.insert(created.version);
                self.barred.remove(&created.version);
                self.runs.push(Run {
                    created: created.clone(),
                    state: State::Verifying,
                    why: created.why.clone(),
                    since: created.at,
                    report: None,
                    findings: None,
                    approvals: Vec::new(),
                });
            }
            Record::Moved {
                id,
                event,
                state,
                why,
                at,
                ..
            } => {
                let run = self.last(id)?;
                if *event == Event::GatesPassed {
                    run.findings = Some(why.clone().unwrap_or_default());
                }
                run.state = state.clone();
                // What a move says nothing of is still so: a version that went back went back for the reason given before.
                if why.is_some() || !matches!(event, Event::Drained) {
                    run.why.clone_from(why);
                }
                run.since = *at;
                let created = run.created.clone();
                self.follow(&created, event, state);
            }
            Record::Gated { id, report, .. } => self.last(id)?.report = Some(report.clone()),
            Record::Approved {
                id, before, given, ..
            } => self.last(id)?.approvals.push((*before, given.clone())),
            Record::Restored { version, .. } => {
                if let Some(champion) = self.champion {
                    self.barred.insert(champion);
                    let released = self.runs.iter().rev().find(|run| run.created.version == champion);
                    self.quarantine
                        .extend(released.map(|run| run.created.digest.clone()));
                }
                self.warm.retain(|warm| warm != version);
                self.champion = Some(*version);
            }
            Record::Withdrawn { .. } => {}
        }
        Ok(())
    }

    /// The last release, which has to be this one.
    fn last(&mut self, id: &str) -> Result<&mut Run, String> {
        let run = self.runs.last_mut().filter(|run| run.created.id == *id);
        run.ok_or_else(|| format!("release {id} is not the last one"))
    }

    /// What a move means for the versions.
    fn follow(&mut self, created: &Created, event: &Event, state: &State) {
        if *event == Event::Switched {
            self.enthrone(created.version);
        }
        match state {
            State::Failed { .. } => {
                self.barred.insert(created.version);
            }
            State::RollingBack { reason, restore } => {
                self.barred.insert(created.version);
                // What another release displaced is not bad by itself.
                if !matches!(reason, Reason::Superseded) {
                    self.quarantine.insert(created.digest.clone());
                }
                if *restore {
                    self.champion = Some(created.champion);
                    self.warm.retain(|warm| *warm != created.champion);
                }
            }
            _ => {}
        }
    }

    /// Makes a version the live one; the one before it stays at hand.
    fn enthrone(&mut self, version: u64) {
        if let Some(before) = self.champion.replace(version).filter(|before| *before != version) {
            self.warm.insert(0, before);
        }
        let mut kept = BTreeSet::from([version]);
        self.warm.retain(|warm| kept.insert(*warm));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(version: u64, champion: u64) -> Record {
        Record::Created(Created {
            id: format!("r{version}"),
            version,
            champion,
            digest: format!("d{version}"),
            path: Path {
                champion: true,
                steps: 1,
                ..Path::default()
            },
            policy: Value::Null,
            config_rev: None,
            actor: "crossfade".into(),
            why: None,
            at: 1,
        })
    }

    /// Follows `events` from the book's active release on.
    fn follow(book: &mut Book, events: &[Event]) {
        for event in events {
            let run = book.runs.last().unwrap();
            let record = Record::Moved {
                id: run.created.id.clone(),
                event: event.clone(),
                state: run.created.path.next(&run.state, event).unwrap(),
                actor: "crossfade".into(),
                why: matches!(event, Event::Failed { .. }).then(|| "slow".into()),
                at: 2,
            };
            let line = serde_json::to_vec(&record).unwrap();
            assert_eq!(serde_json::from_slice::<Record>(&line).unwrap(), record);
            book.apply(&record).unwrap();
        }
    }

    const TO_CANARY: [Event; 3] = [Event::Verified, Event::Loaded, Event::GatesPassed];

    fn adopted() -> Book {
        let mut book = Book::default();
        let first = Record::Adopted {
            version: 1,
            seen: BTreeSet::from([1]),
            at: 0,
        };
        book.apply(&first).unwrap();
        book.apply(&created(2, 1)).unwrap();
        follow(&mut book, &TO_CANARY);
        book
    }

    #[test]
    fn a_good_release_takes_the_place_of_the_live_version() {
        let mut book = adopted();
        assert_eq!((book.champion, book.candidate()), (Some(1), Some(2)));
        follow(&mut book, &[Event::StagePassed, Event::Switched]);
        assert_eq!((book.champion, book.candidate()), (Some(2), None));
        assert_eq!(book.warm, [1]);
        let back = Record::Restored {
            version: 1,
            actor: "ann".into(),
            why: "worse".into(),
            at: 3,
        };
        book.apply(&back).unwrap();
        assert_eq!((book.champion, &book.warm[..]), (Some(1), &[][..]));
        assert!(book.barred.contains(&2));
    }

    #[test]
    fn a_bad_release_leaves_the_live_version_and_a_quarantined_digest() {
        let mut book = adopted();
        let failed = Event::Failed {
            reason: Reason::Check,
        };
        follow(&mut book, &[failed, Event::Drained]);
        assert_eq!((book.champion, book.candidate()), (Some(1), None));
        assert!(book.quarantine.contains("d2") && book.barred.contains(&2));
        assert_eq!(book.runs[0].why.as_deref(), Some("slow"), "it still says why");
    }

    #[test]
    fn what_the_gates_said_stays_with_the_release() {
        let mut book = adopted();
        let gated = |id: &str| Record::Gated {
            id: id.into(),
            report: r#"{"gates":[]}"#.into(),
            at: 2,
        };
        let line = serde_json::to_vec(&gated("r2")).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&line).unwrap(), gated("r2"));
        book.apply(&gated("r2")).unwrap();
        assert_eq!(book.runs[0].report.as_deref(), Some(r#"{"gates":[]}"#));
        assert!(book.apply(&gated("r9")).is_err());
    }

    #[test]
    fn a_move_of_another_release_is_refused() {
        let mut book = adopted();
        let strange = Record::Moved {
            id: "r9".into(),
            event: Event::Paused,
            state: State::Paused { step: Some(0) },
            actor: "ann".into(),
            why: None,
            at: 2,
        };
        assert!(book.apply(&strange).is_err());
    }
}
