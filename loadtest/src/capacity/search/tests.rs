//! The search against servers that exist only on paper.

use super::*;
use proptest::prelude::*;

/// Runs a search to its end, asking `server` what a run at a rate says, with the run's number.
fn search(
    options: SearchOptions,
    mut server: impl FnMut(f64, u32) -> Outcome,
) -> (Finding, Vec<(f64, Phase)>) {
    let mut search = Search::new(options);
    let mut tried = Vec::new();
    loop {
        match search.step() {
            Step::Done(finding) => return (finding, tried),
            Step::Run { rate, phase } => {
                let number = u32::try_from(tried.len()).expect("a search of few runs");
                tried.push((rate, phase));
                search.record(server(rate, number));
            }
        }
    }
}

/// A server that holds up to `capacity` exactly.
fn sharp(capacity: f64) -> impl FnMut(f64, u32) -> Outcome {
    move |rate, _| {
        if rate <= capacity {
            Outcome::Held
        } else {
            Outcome::Failed
        }
    }
}

/// A server whose capacity is another one in every run, `spread` around `capacity`: the chance of holding falls from
/// one to zero as the rate passes it.
fn noisy(capacity: f64, spread: f64, seed: u64) -> impl FnMut(f64, u32) -> Outcome {
    move |rate, number| {
        let mixed = (seed ^ u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let uniform = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        let today = capacity * (1.0 + spread * (2.0 * uniform - 1.0));
        if rate <= today {
            Outcome::Held
        } else {
            Outcome::Failed
        }
    }
}

#[test]
fn border_rates_are_decided_by_their_repeats_alone() {
    let (finding, tried) = search(SearchOptions::default(), sharp(1_900.0));
    let border = tried.iter().filter(|(_, phase)| *phase == Phase::Border).count();
    let (holds, fails) = (finding.holds.unwrap(), finding.fails.unwrap());
    assert_eq!((holds.held, holds.runs), (5, 5));
    assert_eq!((fails.held, fails.runs), (0, 5));
    assert_eq!(border, 10, "{tried:?}");
    assert_eq!(finding.ending, Ending::Bracketed);
}

#[test]
fn interval_of_five_of_five_starts_below_a_half() {
    let (low, high) = Rung {
        rate: 1.0,
        held: 5,
        runs: 5,
        tester_limited: 0,
    }
    .interval();
    assert!((0.47..0.48).contains(&low), "{low}");
    assert_eq!(high, 1.0);
}

#[test]
fn server_that_holds_nothing_has_no_capacity() {
    let (finding, _) = search(SearchOptions::default(), |_, _| Outcome::Failed);
    assert_eq!((finding.ending, finding.holds), (Ending::BelowLowest, None));
}

#[test]
fn server_that_holds_everything_ends_at_the_highest_rate() {
    let options = SearchOptions {
        highest_rate: 10_000.0,
        ..SearchOptions::default()
    };
    let (finding, _) = search(options, |_, _| Outcome::Held);
    assert_eq!(
        (finding.ending, finding.holds.unwrap().rate),
        (Ending::AboveHighest, 10_000.0)
    );
}

#[test]
fn tester_that_falls_behind_gives_a_lower_bound() {
    let (finding, _) = search(SearchOptions::default(), |rate, _| match rate {
        rate if rate <= 5_000.0 => Outcome::Held,
        _ => Outcome::TesterLimited,
    });
    assert_eq!(finding.ending, Ending::TesterLimited);
    let rate = finding.holds.unwrap().rate;
    assert!((4_750.0..=5_000.0).contains(&rate), "{rate}");
}

#[test]
fn used_up_runs_end_the_search() {
    let options = SearchOptions {
        most_runs: 7,
        ..SearchOptions::default()
    };
    let (finding, tried) = search(options, sharp(1_900.0));
    assert_eq!((finding.ending, tried.len()), (Ending::OutOfRuns, 7));
}

proptest! {
    #[test]
    fn sharp_capacity_is_found_within_the_resolution(capacity in 2.0_f64..1e6, first in 1.0_f64..1e5) {
        let options = SearchOptions { first_rate: first, ..SearchOptions::default() };
        let (finding, _) = search(options, sharp(capacity));
        prop_assert_eq!(finding.ending, Ending::Bracketed);
        let (holds, fails) = (finding.holds.unwrap().rate, finding.fails.unwrap().rate);
        prop_assert!(holds <= capacity && capacity < fails, "{} {} {}", holds, capacity, fails);
        prop_assert!(fails / holds <= 1.0 + options.resolution + 1e-9);
    }

    #[test]
    fn noisy_capacity_is_found_within_its_noise(capacity in 50.0_f64..1e5, spread in 0.0_f64..0.1, seed in any::<u64>()) {
        let options = SearchOptions { most_runs: 200, ..SearchOptions::default() };
        let (finding, _) = search(options, noisy(capacity, spread, seed));
        prop_assert_eq!(finding.ending, Ending::Bracketed);
        let rate = finding.holds.unwrap().rate;
        // Above capacity × (1 + spread) nothing ever holds; below capacity × (1 − spread) everything does.
        let (low, high) = (capacity * (1.0 - spread) / (1.0 + options.resolution), capacity * (1.0 + spread));
        prop_assert!(low * 0.999 <= rate && rate <= high, "{} not in {}..{}", rate, low, high);
    }

    #[test]
    fn every_search_ends(seed in any::<u64>(), most_runs in 1_u32..80) {
        let options = SearchOptions { most_runs, ..SearchOptions::default() };
        let (_, tried) = search(options, noisy(1_000.0, 0.9, seed));
        prop_assert!(tried.len() <= most_runs as usize);
    }
}
