//! Which of two ways of running a model gives more rows per second, from rounds in which both were measured.
//!
//! Pure: no clock, no threads. Rounds in which something else disturbed the measurement count for nothing, and a way
//! that serves gives way only to one that is clearly better, so that the choice does not flap.

use serde::{Deserialize, Serialize};

/// How many instances of how many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// One instance on the threads that models share.
    Shared,
    /// One instance of one thread per core.
    Single,
}

impl Way {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Shared => Self::Single,
            Self::Single => Self::Shared,
        }
    }
}

/// One way, measured for a short while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice {
    pub(super) rows_per_s: f64,
    /// Whether nothing disturbed it.
    pub(super) sound: bool,
}

/// Both ways, one right after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Round {
    pub(super) shared: Slice,
    pub(super) single: Slice,
}

impl Round {
    /// From the slice of `way` and that of the other.
    pub(super) fn of(way: Way, slice: Slice, other: Slice) -> Self {
        match way {
            Way::Shared => Self {
                shared: slice,
                single: other,
            },
            Way::Single => Self {
                shared: other,
                single: slice,
            },
        }
    }

    fn is_sound(&self) -> bool {
        self.shared.sound && self.single.sound && self.shared.rows_per_s > 0.0 && self.single.rows_per_s > 0.0
    }
}

/// What was chosen, and by which figures: the medians of the sound rounds, in rows per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) way: Way,
    pub(super) shared: f64,
    pub(super) single: f64,
    /// Sound rounds that it stands on.
    pub(super) rounds: usize,
}

/// What rounds so far say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Judgement {
    /// Too few yet.
    More,
    /// Enough of them were sound.
    Chosen(Choice),
    /// Too many were not: nothing is known.
    Disturbed,
}

/// How much better the other way must be: answers, caches and memory change with it.
const BETTER: f64 = 1.05;
/// Sound rounds that are enough for a choice.
const ENOUGH: usize = 5;
/// Unsound ones at the beginning, after which it is not worth going on.
const HOPELESS: usize = 3;
/// Rounds at most.
const MOST: usize = 15;

/// Measures rounds with `slice` until they suffice. Which way comes first changes: the second may find warmer or hotter
/// cores.
///
/// Errors: those of `slice`.
pub(super) fn compare<E>(
    current: Way,
    mut slice: impl FnMut(Way) -> Result<Slice, E>,
) -> Result<Judgement, E> {
    let (mut rounds, mut first) = (Vec::new(), current);
    loop {
        let one = slice(first)?;
        rounds.push(Round::of(first, one, slice(first.other())?));
        first = first.other();
        match judge(&rounds, current) {
            Judgement::More => {}
            done => return Ok(done),
        }
    }
}

/// Judges rounds of a version that now runs in the way `current`.
pub(super) fn judge(rounds: &[Round], current: Way) -> Judgement {
    let sound: Vec<&Round> = rounds.iter().filter(|round| round.is_sound()).collect();
    if sound.len() < ENOUGH {
        let hopeless = sound.is_empty() && rounds.len() >= HOPELESS;
        return if hopeless || rounds.len() >= MOST {
            Judgement::Disturbed
        } else {
            Judgement::More
        };
    }
    let gains: Vec<f64> = sound
        .iter()
        .map(|round| match current {
            Way::Shared => round.single.rows_per_s / round.shared.rows_per_s,
            Way::Single => round.shared.rows_per_s / round.single.rows_per_s,
        })
        .collect();
    // Of each four rounds, three must say the same: a median alone is moved by one lucky round among five.
    let ahead = gains.iter().filter(|&&gain| gain > 1.0).count();
    let change = 4 * ahead >= 3 * gains.len() && median(gains) > BETTER;
    Judgement::Chosen(Choice {
        way: if change { current.other() } else { current },
        shared: median(sound.iter().map(|round| round.shared.rows_per_s).collect()),
        single: median(sound.iter().map(|round| round.single.rows_per_s).collect()),
        rounds: sound.len(),
    })
}

/// Of a list that is not empty.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests;
