//! The counts of one check over a release.

use serde::{Deserialize, Serialize};

use crossfade_statistics::distribution::{chi_squared, kolmogorov_smirnov, stability_index};
use crossfade_statistics::{Arm, Counts, Evidence, Exceedance, Look, SeenKeys, Share};

use crate::RolloutError;
use crate::policy::Method;

/// Counts and evidence, by the check's method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Tally {
    Events(Events),
    Exceed(Exceed),
    Distribution(Distribution),
    Flips(Flips),
}

/// Events of units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    pub(super) evidence: Evidence,
    seen: SeenKeys,
}

/// Batches above a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exceed {
    pub(super) evidence: Exceedance,
    seen: SeenKeys,
    /// Seconds; of this stage. Its bits, so that no reader rounds it.
    threshold_bits: Option<u64>,
    /// The canary's share of the keys whose batches are compared.
    share: Share,
    /// Since the last look.
    now: Look,
    /// Over all stages.
    pub(super) batches: Counts,
    pub(super) events: Counts,
    /// Consecutive looks at which the canary's median was beyond the guard.
    pub(super) guard_looks: u32,
    /// Whether its tail was at the last look.
    pub(super) tail_is_slow: bool,
}

/// The last window of outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Distribution {
    classes: bool,
    last: Option<Window>,
}

/// The cells of one window. What follows from them is worked out at every look, so that nothing is rounded on the way
/// through a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    control: Vec<u64>,
    canary: Vec<u64>,
}

/// What a window says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Compared {
    /// How many outputs there were.
    pub(super) outputs: Counts,
    pub(super) psi: f64,
    pub(super) distance: f64,
    pub(super) p: f64,
}

/// Pairs with different decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flips {
    pub(super) pairs: u64,
    pub(super) flips: u64,
}

impl Tally {
    pub(super) fn new(method: &Method, share: Share) -> Result<Self, RolloutError> {
        Ok(match method {
            Method::Events(margins) => Tally::Events(Events {
                evidence: Evidence::new(share, margins.tolerance, margins.margin)?,
                seen: SeenKeys::new(),
            }),
            Method::Exceed { margins, .. } => Tally::Exceed(Exceed {
                evidence: Exceedance::new(margins.tolerance, margins.margin)?,
                seen: SeenKeys::new(),
                threshold_bits: None,
                share: compared(share),
                now: Look::default(),
                batches: Counts::default(),
                events: Counts::default(),
                guard_looks: 0,
                tail_is_slow: false,
            }),
            Method::Distribution { classes, .. } => Tally::Distribution(Distribution {
                classes: *classes,
                last: None,
            }),
            Method::Flips { .. } => Tally::Flips(Flips::default()),
        })
    }

    /// Another stage begins.
    pub(super) fn advance(&mut self, share: Share) {
        match self {
            Tally::Events(events) => events.evidence.advance(share),
            Tally::Exceed(exceed) => {
                exceed.threshold_bits = None;
                exceed.share = compared(share);
                exceed.now = Look::default();
                exceed.guard_looks = 0;
                exceed.tail_is_slow = false;
            }
            Tally::Distribution(distribution) => distribution.last = None,
            Tally::Flips(_) => {}
        }
    }

    pub(super) fn event(&mut self, arm: Arm, unit: u64, sticky: bool) {
        if let Tally::Events(events) = self
            && (!sticky || events.seen.insert(unit))
        {
            events.evidence.record(arm);
        }
    }

    pub(super) fn pair(&mut self, flipped: bool) {
        if let Tally::Flips(flips) = self {
            flips.pairs += 1;
            flips.flips += u64::from(flipped);
        }
    }

    pub(super) fn threshold(&self) -> Option<f64> {
        match self {
            Tally::Exceed(exceed) => exceed.threshold_bits.map(f64::from_bits),
            _ => None,
        }
    }

    pub(super) fn set_threshold(&mut self, threshold: f64) {
        if let Tally::Exceed(exceed) = self {
            exceed.threshold_bits = Some(threshold.to_bits());
        }
    }

    pub(super) fn batch(&mut self, arm: Arm, slow: &[u64], sticky: bool) {
        let Tally::Exceed(exceed) = self else { return };
        if exceed.threshold_bits.is_none() {
            return;
        }
        let mut event = !sticky && !slow.is_empty();
        if sticky {
            for &unit in slow {
                event |= exceed.seen.insert(unit);
            }
        }
        exceed.now.batches.add(arm, 1);
        exceed.now.events.add(arm, u64::from(event));
    }

    pub(super) fn window(&mut self, control: &[u64], canary: &[u64]) -> Result<(), RolloutError> {
        if let Tally::Distribution(distribution) = self {
            let window = Window {
                control: control.to_vec(),
                canary: canary.to_vec(),
            };
            window.compare(distribution.classes)?;
            distribution.last = Some(window);
        }
        Ok(())
    }
}

/// The canary's share of what is compared by its time: of it and of the live version's baseline, which gets as much.
fn compared(share: Share) -> Share {
    if share < Share::HALF { Share::HALF } else { share }
}

impl Distribution {
    /// What the last window says, if there was one.
    pub(super) fn compare(&self) -> Result<Option<Compared>, RolloutError> {
        let last = self.last.as_ref();
        last.map(|window| window.compare(self.classes)).transpose()
    }
}

impl Window {
    fn compare(&self, classes: bool) -> Result<Compared, RolloutError> {
        let test = if classes { chi_squared } else { kolmogorov_smirnov };
        let compared = test(&self.control, &self.canary)?;
        let total = |cells: &[u64]| cells.iter().fold(0, |sum: u64, &cell| sum.saturating_add(cell));
        Ok(Compared {
            outputs: Counts {
                canary: total(&self.canary),
                control: total(&self.control),
            },
            psi: stability_index(&self.control, &self.canary)?,
            distance: compared.effect,
            p: compared.p,
        })
    }
}

impl Exceed {
    /// Whether this stage has its threshold.
    pub(super) fn has_threshold(&self) -> bool {
        self.threshold_bits.is_some()
    }

    /// Closes the look: its batches become evidence.
    pub(super) fn close_look(&mut self, sticky: bool) {
        let now = std::mem::take(&mut self.now);
        self.evidence.observe(&now, sticky.then_some(self.share));
        for (total, now) in [(&mut self.batches, now.batches), (&mut self.events, now.events)] {
            total.add(Arm::Canary, now.canary);
            total.add(Arm::Control, now.control);
        }
    }
}
