//! Versions that differ: how often and how soon it is found, against the tables of rollout.md §5.6 and §5.9.

use crossfade_statistics::random::SplitMix64;
use crossfade_statistics::{Arm, Counts, Exceedance, Look, Share, power::Plan};

use super::{ALPHA, Boundary, median, row, share};

/// How many times each case is simulated.
const RUNS: u64 = 1000;

/// Requests come one by one, a look every 50 of them: the canary's requests when `reached` says so, if it does.
fn canary_requests(
    random: &mut SplitMix64,
    (control_rate, canary_rate): (f64, f64),
    w: f64,
    horizon: usize,
    mut reached: impl FnMut(Counts) -> bool,
) -> Option<f64> {
    let mut events = Counts::default();
    let mut requests = 0_u32;
    for request in 1..=horizon {
        if random.unit() < w {
            requests += 1;
            events.canary += u64::from(random.unit() < canary_rate);
        } else {
            events.control += u64::from(random.unit() < control_rate);
        }
        if request % 50 == 0 && reached(events) {
            return Some(f64::from(requests));
        }
    }
    None
}

fn within(got: f64, expected: f64, what: &str) {
    assert!(
        (got / expected - 1.0).abs() <= 0.15,
        "{what}: {got}, not {expected} ± 15 %"
    );
}

/// rollout.md §5.9: α = .01, horizon 60 000 requests.
#[test]
fn detection_as_in_the_design() {
    let check = |rates: (f64, f64), w, horizon, share_found: f64, median_found: f64| {
        let mut boundary = Boundary::new(w, ALPHA);
        let found: Vec<f64> = (0..RUNS)
            .filter_map(|run| {
                let mut random = SplitMix64::new(run << 8 | 1);
                canary_requests(&mut random, rates, w, horizon, |events| {
                    boundary.reached(events.canary, events.control)
                })
            })
            .collect();
        let share = found.len() as f64 / RUNS as f64;
        let what = format!("{rates:?} at w {w}");
        let median = median(found);
        row(
            "power",
            &[
                format!("{} → {}", rates.0, rates.1),
                format!("{w}"),
                format!("{share:.3}"),
                format!("{share_found}"),
                format!("{median:.0}"),
                format!("{median_found:.0}"),
            ],
        );
        within(share, share_found, &format!("share found, {what}"));
        within(median, median_found, &format!("median, {what}"));
    };
    check((0.001, 0.5), 0.05, 60_000, 1.0, 5.0);
    check((0.001, 0.5), 0.5, 60_000, 1.0, 26.0);
    check((0.001, 0.05), 0.05, 60_000, 1.0, 42.0);
    check((0.001, 0.05), 0.5, 60_000, 1.0, 195.0);
    check((0.001, 0.01), 0.05, 60_000, 1.0, 405.0);
    check((0.001, 0.01), 0.5, 60_000, 1.0, 1175.0);
    check((0.001, 0.005), 0.05, 60_000, 0.87, 1314.0);
    check((0.001, 0.005), 0.5, 60_000, 1.0, 3461.0);
    check((0.01, 0.1), 0.05, 60_000, 1.0, 46.0);
    check((0.01, 0.1), 0.5, 60_000, 1.0, 133.0);
    check((0.01, 0.03), 0.05, 60_000, 1.0, 519.0);
    check((0.01, 0.03), 0.5, 60_000, 1.0, 928.0);
    check((0.01, 0.02), 0.05, 60_000, 0.8, 1602.0);
    check((0.01, 0.02), 0.5, 60_000, 1.0, 2956.0);
    check((0.01, 0.015), 0.05, 100_000, 0.3, 3151.0);
    check((0.01, 0.015), 0.5, 100_000, 1.0, 11_079.0);
}

/// The versions are equal, α_pass = .05: the cases of rollout.md §5.6, whose simulated medians are up to a quarter
/// off. Expected here are exact medians of the number of events, by summing over all paths: 695 at margin 1.5 and
/// 173 at w = .5, 208 and 54 at margin 2.
#[test]
fn non_inferiority_is_shown_after_so_many_units() {
    let check = |rate: f64, margin, w: f64, events: f64| {
        // The arms change places; so does what the boundary counts.
        let swapped = share(w).at_ratio(margin).other();
        let mut boundary = Boundary::new(swapped.get(), 0.05);
        let shown: Vec<f64> = (0..RUNS)
            .filter_map(|run| {
                let mut random = SplitMix64::new(run << 8 | 2);
                canary_requests(&mut random, (rate, rate), w, 400_000, |events| {
                    boundary.reached(events.control, events.canary)
                })
            })
            .collect();
        let what = format!("rate {rate}, margin {margin}, w {w}");
        assert!(
            shown.len() as u64 * 100 >= 99 * RUNS,
            "{what}: shown in {} of {RUNS}",
            shown.len()
        );
        let median = median(shown);
        row(
            "passing",
            &[
                format!("{rate}"),
                format!("{margin}"),
                format!("{w}"),
                format!("{median:.0}"),
                format!("{:.0}", events / rate * w),
            ],
        );
        within(median, events / rate * w, &what);
    };
    check(0.01, 1.5, 0.05, 695.0);
    check(0.01, 1.5, 0.5, 173.0);
    check(0.01, 2.0, 0.05, 208.0);
    check(0.01, 2.0, 0.5, 54.0);
    check(0.05, 1.5, 0.05, 695.0);
    check(0.05, 1.5, 0.5, 173.0);
    check(0.05, 2.0, 0.05, 208.0);
    check(0.05, 2.0, 0.5, 54.0);
}

/// rollout.md §5.4: three times as many slow batches at 1 % are found after a median of 85 looks of 6.5 canary
/// batches each. The share is not given there; this is one in ten.
#[test]
fn slow_batches_are_found() {
    let looks: Vec<f64> = (0..RUNS).map(|run| look_of_detection(run, 0.1, 65)).collect();
    within(median(looks), 85.0, "median look");
}

/// The first look at which three times as many slow batches are found.
fn look_of_detection(run: u64, w: f64, batches: u32) -> f64 {
    let mut random = SplitMix64::new(run << 8 | 3);
    let mut latency = Exceedance::new(1.0, 2.0).expect("the ratios are in order");
    for look in 1..=1500 {
        let mut now = Look::default();
        for _ in 0..batches {
            let (arm, rate) = if random.unit() < w {
                (Arm::Canary, 0.03)
            } else {
                (Arm::Control, 0.01)
            };
            now.batches.add(arm, 1);
            now.events.add(arm, u64::from(random.unit() < rate));
        }
        latency.observe(&now, None);
        if latency.worse() >= -ALPHA.ln() {
            return f64::from(look);
        }
    }
    f64::INFINITY
}

/// The rate that a plan calls detectable is found in at least the share it promises, and not much more often.
#[test]
fn plans_promise_what_simulations_find() {
    for (w, units, control_rate) in [(0.05, 60_000, 0.01), (0.5, 20_000, 0.01), (0.05, 20_000, 0.001)] {
        let plan = Plan {
            share: Share::new(w).expect("a share"),
            units,
            control_rate,
            tolerance: 1.0,
            alpha: ALPHA,
        };
        let rate = plan
            .smallest_rate(0.8)
            .expect("in order")
            .expect("it sees something");
        let mut boundary = Boundary::new(w, ALPHA);
        let found = (0..RUNS)
            .filter(|run| {
                let mut random = SplitMix64::new(run << 8 | 4);
                let horizon = usize::try_from(units).expect("small");
                canary_requests(&mut random, (control_rate, rate), w, horizon, |events| {
                    boundary.reached(events.canary, events.control)
                })
                .is_some()
            })
            .count() as f64
            / RUNS as f64;
        assert!(
            (0.78..=0.92).contains(&found),
            "{plan:?}: {rate} found in {found}"
        );
    }
}
