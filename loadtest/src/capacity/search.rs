//! The search for the highest rate that holds an objective: what to try next, and when to stop.
//!
//! Never sends a request and never reads a clock: it is told whether a run held and names the next rate. It doubles (or
//! halves) the rate until it has one that held and one that failed, halves the gap between them on a logarithmic scale,
//! and then repeats at the border, where one run proves little. A rate is decided by its repeats alone: the runs that
//! led to it were chosen by their outcome, and counting them would flatter it.

use crate::interval::clopper_pearson;
use serde::{Deserialize, Serialize};

/// How a search goes about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchOptions {
    /// The first rate tried, requests per second.
    pub first_rate: f64,
    /// The lowest rate tried: if it fails too, there is no capacity; requests per second.
    pub lowest_rate: f64,
    /// The highest rate tried, requests per second.
    pub highest_rate: f64,
    /// The step between neighbouring rates at the border: 0.05 is five percent.
    pub resolution: f64,
    /// How many runs decide a rate at the border.
    pub repeats: u32,
    /// The most runs in all; past it the search ends with what it knows.
    pub most_runs: u32,
}

impl Default for SearchOptions {
    /// Five repeats can tell a rate that nearly always holds from one that rarely does, and no more than that; 5 % is
    /// about what two runs of ten seconds differ by on a shared machine.
    fn default() -> Self {
        Self {
            first_rate: 100.0,
            lowest_rate: 1.0,
            highest_rate: 10_000_000.0,
            resolution: 0.05,
            repeats: 5,
            most_runs: 60,
        }
    }
}

/// What part of the search a run belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Doubling or halving, to find two rates that the capacity lies between.
    Bracket,
    /// Halving the gap between them.
    Bisect,
    /// Repeating at the border.
    Border,
}

/// What a search wants next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A run at `rate` requests per second, then [`Search::record`].
    Run {
        /// Requests per second.
        rate: f64,
        /// The part of the search that the run belongs to.
        phase: Phase,
    },
    /// Nothing: this is the answer.
    Done(Finding),
}

/// A rate at the border and what its repeats said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Requests per second.
    pub rate: f64,
    /// Repeats that held the objective.
    pub held: u32,
    /// Repeats made.
    pub runs: u32,
    /// Repeats that failed because the tester itself fell behind.
    pub tester_limited: u32,
}

impl Rung {
    /// The 95 % Clopper–Pearson interval of the probability that a run at this rate holds.
    pub fn interval(&self) -> (f64, f64) {
        clopper_pearson(self.held, self.runs, 0.95)
    }
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A rate held and the next one failed, both decided by repeats.
    Bracketed,
    /// The lowest rate of the search failed.
    BelowLowest,
    /// The highest rate of the search held.
    AboveHighest,
    /// A rate held and the next one failed because the tester fell behind: the server's capacity is at least what held.
    TesterLimited,
    /// The runs were used up.
    OutOfRuns,
}

/// The answer of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Why it ended.
    pub ending: Ending,
    /// The highest rate that held, by its repeats; absent if none did.
    pub holds: Option<Rung>,
    /// The lowest rate above it that failed, by its repeats; absent if none did.
    pub fails: Option<Rung>,
}

/// What one run at a rate said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The objective held.
    Held,
    /// It did not.
    Failed,
    /// The tester fell behind: the run says nothing about the server.
    TesterLimited,
}

/// A search under way.
#[derive(Debug, Clone)]
pub struct Search {
    options: SearchOptions,
    runs: u32,
    state: State,
    /// Border rates, by their distance in steps from the rate where the border phase began.
    rungs: Vec<(i32, Rung)>,
    pending: Option<f64>,
}

#[derive(Debug, Clone)]
enum State {
    Bracket {
        held: Option<f64>,
        failed: Option<f64>,
    },
    Bisect {
        held: f64,
        failed: f64,
    },
    /// `base` is rung 0; `at` is the rung being decided.
    Border {
        base: f64,
        at: i32,
    },
    Done(Ending),
}

impl Search {
    /// A search that has tried nothing yet.
    pub fn new(options: SearchOptions) -> Self {
        Self {
            options,
            runs: 0,
            state: State::Bracket {
                held: None,
                failed: None,
            },
            rungs: Vec::new(),
            pending: None,
        }
    }

    /// What to do next; the same answer until [`Search::record`] is called.
    pub fn step(&mut self) -> Step {
        if !matches!(self.state, State::Done(_)) && self.runs >= self.options.most_runs {
            self.state = State::Done(Ending::OutOfRuns);
        }
        let (rate, phase) = match self.state {
            State::Done(ending) => return Step::Done(self.finding(ending)),
            State::Bracket { held, failed } => (self.bracket_rate(held, failed), Phase::Bracket),
            State::Bisect { held, failed } => ((held * failed).sqrt(), Phase::Bisect),
            State::Border { base, at } => (self.rung_rate(base, at), Phase::Border),
        };
        self.pending = Some(rate);
        Step::Run { rate, phase }
    }

    /// Takes the outcome of the run that [`Search::step`] asked for last; ignored when it asked for none.
    pub fn record(&mut self, outcome: Outcome) {
        let Some(rate) = self.pending.take() else { return };
        self.runs += 1;
        // A rate that the tester cannot reach bounds the search like one that the server cannot; only the answer differs.
        let held = outcome == Outcome::Held;
        self.state = match self.state {
            State::Bracket {
                held: below,
                failed: above,
            } => self.after_bracket(if held {
                (Some(rate), above)
            } else {
                (below, Some(rate))
            }),
            State::Bisect { failed, .. } if held => self.after_bisect(rate, failed),
            State::Bisect { held: below, .. } => self.after_bisect(below, rate),
            State::Border { base, at } => {
                self.count(at, rate, outcome);
                self.after_border(base, at)
            }
            State::Done(ending) => State::Done(ending),
        };
    }

    fn bracket_rate(&self, held: Option<f64>, failed: Option<f64>) -> f64 {
        let rate = match (held, failed) {
            (Some(held), _) => held * 2.0,
            (None, Some(failed)) => failed / 2.0,
            (None, None) => self.options.first_rate,
        };
        rate.clamp(self.options.lowest_rate, self.options.highest_rate)
    }

    fn after_bracket(&self, (held, failed): (Option<f64>, Option<f64>)) -> State {
        match (held, failed) {
            (Some(held), Some(failed)) => self.after_bisect(held, failed),
            // The ends of the search are borders too: they are repeated before they are believed.
            (Some(held), None) if held >= self.options.highest_rate => State::Border { base: held, at: 0 },
            (None, Some(failed)) if failed <= self.options.lowest_rate => {
                State::Border { base: failed, at: 0 }
            }
            (held, failed) => State::Bracket { held, failed },
        }
    }

    fn after_bisect(&self, held: f64, failed: f64) -> State {
        if failed / held <= 1.0 + self.options.resolution {
            State::Border { base: held, at: 0 }
        } else {
            State::Bisect { held, failed }
        }
    }

    fn after_border(&self, base: f64, at: i32) -> State {
        let rate = self.rung_rate(base, at);
        match self.verdict(at) {
            None => State::Border { base, at },
            Some(true) if rate >= self.options.highest_rate => State::Done(Ending::AboveHighest),
            Some(true) if self.verdict(at + 1) == Some(false) => State::Done(Ending::Bracketed),
            Some(true) => State::Border { base, at: at + 1 },
            Some(false) if rate <= self.options.lowest_rate => State::Done(Ending::BelowLowest),
            Some(false) if self.verdict(at - 1) == Some(true) => State::Done(Ending::Bracketed),
            Some(false) => State::Border { base, at: at - 1 },
        }
    }

    fn rung_rate(&self, base: f64, at: i32) -> f64 {
        let rate = base * (1.0 + self.options.resolution).powi(at);
        rate.clamp(self.options.lowest_rate, self.options.highest_rate)
    }

    fn count(&mut self, at: i32, rate: f64, outcome: Outcome) {
        let index = self
            .rungs
            .iter()
            .position(|(rung, _)| *rung == at)
            .unwrap_or_else(|| {
                self.rungs.push((
                    at,
                    Rung {
                        rate,
                        held: 0,
                        runs: 0,
                        tester_limited: 0,
                    },
                ));
                self.rungs.len() - 1
            });
        let rung = &mut self.rungs[index].1;
        rung.runs += 1;
        rung.held += u32::from(outcome == Outcome::Held);
        rung.tester_limited += u32::from(outcome == Outcome::TesterLimited);
    }

    /// Whether rung `at` holds, once its repeats are made: at least four in five of them must have held.
    fn verdict(&self, at: i32) -> Option<bool> {
        let (_, rung) = self.rungs.iter().find(|(rung, _)| *rung == at)?;
        (rung.runs >= self.options.repeats).then(|| self.holds(rung))
    }

    fn holds(&self, rung: &Rung) -> bool {
        rung.held >= self.options.repeats - self.options.repeats / 5
    }

    fn finding(&self, ending: Ending) -> Finding {
        let decided = |wanted: bool| {
            let decided = self
                .rungs
                .iter()
                .filter(move |(at, rung)| self.verdict(*at) == Some(wanted) && rung.runs > 0);
            decided.map(|(_, rung)| rung.clone())
        };
        let holds = decided(true).max_by(|a, b| a.rate.total_cmp(&b.rate));
        let fails = decided(false).min_by(|a, b| a.rate.total_cmp(&b.rate));
        let limited = fails
            .as_ref()
            .is_some_and(|rung| 2 * rung.tester_limited >= rung.runs);
        let ending = if limited { Ending::TesterLimited } else { ending };
        Finding { ending, holds, fails }
    }
}

#[cfg(test)]
mod tests;
