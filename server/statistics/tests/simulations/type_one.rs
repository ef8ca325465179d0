//! Versions that are equal: the canary is stopped with probability at most α, however often one looks.
//!
//! 2 000 paths each; a rate is accepted up to three standard errors above α.

use crossfade_statistics::random::SplitMix64;
use crossfade_statistics::{Arm, Counts, Evidence, Exceedance, Look, SeenKeys};

use super::{ALPHA, Boundary, geometric, row, share};

const PATHS: usize = 2000;

/// Runs `path` with a seed of its own 2 000 times; the share that rejected.
fn share_rejected(seed: u64, mut path: impl FnMut(&mut SplitMix64) -> bool) -> f64 {
    let rejected = (0..PATHS as u64).filter(|run| path(&mut SplitMix64::new(seed << 32 | run)));
    rejected.count() as f64 / PATHS as f64
}

fn assert_level(rejected: f64, what: &str) {
    row("type_one", &[what.to_owned(), format!("{rejected:.4}")]);
    let limit = ALPHA + 3.0 * (ALPHA * (1.0 - ALPHA) / PATHS as f64).sqrt();
    assert!(
        rejected <= limit,
        "{what}: {rejected} of the paths rejected, more than {limit}"
    );
}

fn rejects(log_e: f64) -> bool {
    log_e >= -ALPHA.ln()
}

/// 200 000 requests, a look after every event. Only the events matter: each falls in the canary with probability w.
#[test]
fn independent_events() {
    for (case, (p, w)) in [0.001, 0.01, 0.05]
        .iter()
        .flat_map(|p| [0.01, 0.05, 0.5].map(|w| (*p, w)))
        .enumerate()
    {
        let mut boundary = Boundary::new(w, ALPHA);
        let rejected = share_rejected(case as u64, |random| {
            let mut events = Counts::default();
            let mut request = geometric(random, p);
            while request <= 200_000 {
                let arm = if random.unit() < w {
                    Arm::Canary
                } else {
                    Arm::Control
                };
                events.add(arm, 1);
                if arm == Arm::Canary && boundary.reached(events.canary, events.control) {
                    return true;
                }
                request += geometric(random, p);
            }
            false
        });
        assert_level(rejected, &format!("independent, p {p}, w {w}"));
    }
}

/// rollout.md §5.1: 60 users who always fail, in bursts of ten on average, 20 windows, w = 5 %.
///
/// Counted per request this rejects in about 42 % of the paths, which shows that the simulation is a hard one.
#[test]
fn sticky_bursts() {
    let run = |random: &mut SplitMix64, once: bool, boundary: &mut Boundary| {
        let in_canary: Vec<bool> = (0..60).map(|_| random.unit() < 0.05).collect();
        let mut seen = SeenKeys::new();
        let mut events = Counts::default();
        for _ in 0..20 {
            for (user, &in_canary) in in_canary.iter().enumerate() {
                for _ in 0..geometric(random, 0.1) {
                    if once && !seen.insert(user as u64) {
                        continue;
                    }
                    events.add(if in_canary { Arm::Canary } else { Arm::Control }, 1);
                    if boundary.reached(events.canary, events.control) {
                        return true;
                    }
                }
            }
        }
        false
    };
    let mut boundary = Boundary::new(0.05, ALPHA);
    assert_level(
        share_rejected(20, |random| run(random, true, &mut boundary)),
        "sticky bursts",
    );
    let per_request = share_rejected(21, |random| run(random, false, &mut boundary));
    row(
        "naive",
        &[
            "sticky bursts, counted per request".to_owned(),
            format!("{per_request:.4}"),
        ],
    );
    assert!(
        per_request > 0.3,
        "counted per request only {per_request} rejected: the bursts are too tame"
    );
}

/// Four stages of growing share; 2 000 users who fail now and then, in the same arm while the share allows.
#[test]
fn stages_of_one_release() {
    let stages = [(0.01, 300), (0.05, 500), (0.25, 500), (0.5, 500)];
    let rejected = share_rejected(30, |random| {
        let places: Vec<f64> = (0..2000).map(|_| random.unit()).collect();
        let mut seen = SeenKeys::new();
        let mut evidence = Evidence::new(share(stages[0].0), 1.0, 2.0).expect("the ratios are in order");
        for (stage, (w, failures)) in stages.into_iter().enumerate() {
            if stage > 0 {
                evidence.advance(share(w));
            }
            for _ in 0..failures {
                let user = random.below(places.len());
                if !seen.insert(user as u64) {
                    continue;
                }
                let arm = if places[user] < w {
                    Arm::Canary
                } else {
                    Arm::Control
                };
                evidence.record(arm);
                if arm == Arm::Canary && rejects(evidence.worse()) {
                    return true;
                }
            }
        }
        false
    });
    assert_level(rejected, "stages");
}

/// Failures come in bursts: a look has none or hundreds, and the canary's share of the requests swings around w.
#[test]
fn bursts_of_traffic() {
    let mut boundary = Boundary::new(0.05, ALPHA);
    let rejected = share_rejected(40, |random| {
        let mut events = Counts::default();
        for _ in 0..300 {
            let failures = if random.below(20) == 0 {
                geometric(random, 0.01)
            } else {
                random.below(3)
            };
            for _ in 0..failures {
                events.add(
                    if random.unit() < 0.05 {
                        Arm::Canary
                    } else {
                        Arm::Control
                    },
                    1,
                );
                if boundary.reached(events.canary, events.control) {
                    return true;
                }
            }
        }
        false
    });
    assert_level(rejected, "bursts of traffic");
}

/// 1 500 looks; each has its own number of batches and its own rate of slow ones, so that batches of one look are
/// slow together in both arms. The canary's share of the batches is not its share of the requests.
#[test]
fn latency_of_correlated_batches() {
    for (case, rate) in [0.002_f64, 0.01, 0.1].into_iter().enumerate() {
        let rejected = share_rejected(50 + case as u64, |random| {
            let mut latency = Exceedance::new(1.0, 2.0).expect("the ratios are in order");
            for _ in 0..1500 {
                let busy = geometric(random, 0.1) as u64;
                let slow = if random.below(10) == 0 {
                    (5.0 * rate).min(0.9)
                } else {
                    rate * 5.0 / 9.0
                };
                let batches = Counts {
                    canary: 1 + busy / 4,
                    control: 2 * busy,
                };
                let mut count = |batches| (0..batches).filter(|_| random.unit() < slow).count() as u64;
                let events = Counts {
                    canary: count(batches.canary),
                    control: count(batches.control),
                };
                latency.observe(&Look { batches, events }, None);
                if rejects(latency.worse()) {
                    return true;
                }
            }
            false
        });
        assert_level(rejected, &format!("batches, rate {rate}"));
    }
}

/// 400 users stay in their arm; forty of them send ten times as much and are slow in every third request.
///
/// Counted without the rule for sticky routing this rejects far too often, so the simulation is a hard one.
#[test]
fn latency_of_heavy_users() {
    const W: f64 = 0.1;
    let run = |random: &mut SplitMix64, sticky: bool| {
        let in_canary: Vec<bool> = (0..400).map(|_| random.unit() < W).collect();
        let mut seen = SeenKeys::new();
        let mut latency = Exceedance::new(1.0, 2.0).expect("the ratios are in order");
        // Batches of three, as requests come; what is not full waits for the next look.
        let mut open = [(0, false); 2];
        for _ in 0..300 {
            let mut look = Look::default();
            for _ in 0..120 {
                let place = random.below(360 + 400);
                let user = if place < 360 {
                    40 + place
                } else {
                    (place - 360) / 10
                };
                let slow = random.unit() < if user < 40 { 0.33 } else { 0.005 };
                let arm = if in_canary[user] {
                    Arm::Canary
                } else {
                    Arm::Control
                };
                let (filled, event) = &mut open[usize::from(in_canary[user])];
                *event |= slow && (!sticky || seen.insert(user as u64));
                *filled += 1;
                if *filled == 3 {
                    look.batches.add(arm, 1);
                    look.events.add(arm, u64::from(*event));
                    (*filled, *event) = (0, false);
                }
            }
            latency.observe(&look, sticky.then(|| share(W)));
            if rejects(latency.worse()) {
                return true;
            }
        }
        false
    };
    assert_level(share_rejected(60, |random| run(random, true)), "heavy users");
    let naive = share_rejected(61, |random| run(random, false));
    row(
        "naive",
        &[
            "heavy users, every slow batch counted".to_owned(),
            format!("{naive:.4}"),
        ],
    );
    assert!(
        naive > 0.05,
        "counting every slow batch only {naive} rejected: the users are too light"
    );
}
