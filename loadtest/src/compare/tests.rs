//! Comparisons of runs whose difference is known.

use super::*;
use crate::result::fixtures;
use proptest::prelude::*;

/// A run of `seconds` whose latencies lie around `level_us`, strewn by `seed` with about 3 % from second to second.
fn strewn(level_us: f64, seed: u64) -> RunResult {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    #[expect(clippy::cast_possible_truncation, reason = "microseconds, rounded down")]
    let latencies: Vec<u64> = (0..10)
        .flat_map(|_| {
            let second = level_us * (0.95 + 0.1 * uniform());
            (0..100)
                .map(|_| (second * (0.9 + 0.2 * uniform())) as u64)
                .collect::<Vec<_>>()
        })
        .collect();
    fixtures::run(100.0, &latencies)
}

fn verdict_of(comparison: &Comparison, figure: Figure) -> Verdict {
    comparison
        .rows
        .iter()
        .find(|row| row.figure == figure)
        .unwrap()
        .verdict
}

fn sides(level_a: f64, level_b: f64, runs: u64) -> Comparison {
    let side = |level, offset| {
        (0..runs)
            .map(|run| strewn(level, offset + run))
            .collect::<Vec<_>>()
    };
    compare(&side(level_a, 1), &side(level_b, 100), CompareOptions::default()).unwrap()
}

#[test]
fn a_run_is_the_same_as_itself() {
    let comparison = sides(1_000.0, 1_000.0, 1);
    assert!(!comparison.is_worse());
    for figure in [Figure::Throughput, Figure::P50, Figure::P99, Figure::Errors] {
        assert_eq!(verdict_of(&comparison, figure), Verdict::Same, "{figure:?}");
    }
}

#[test]
fn a_fifth_slower_is_worse_and_a_fifth_faster_is_better() {
    for runs in [1, 3] {
        let slower = sides(1_000.0, 1_200.0, runs);
        assert!(slower.is_worse());
        assert_eq!(
            (verdict_of(&slower, Figure::P50), verdict_of(&slower, Figure::P99)),
            (Verdict::Worse, Verdict::Worse)
        );
        let faster = sides(1_200.0, 1_000.0, runs);
        assert!(!faster.is_worse());
        assert_eq!(verdict_of(&faster, Figure::P50), Verdict::Better);
    }
}

#[test]
fn figures_without_seconds_are_judged_only_by_runs() {
    let one = sides(1_000.0, 1_500.0, 1);
    assert_eq!(verdict_of(&one, Figure::P999), Verdict::Unknown);
    assert!(one.warnings.iter().any(|warning| warning.contains("not judged")));
    let three = sides(1_000.0, 1_500.0, 3);
    assert_eq!(verdict_of(&three, Figure::P999), Verdict::Worse);
    assert!(three.rows.iter().all(|row| row.method == Method::Runs), "{three}");
}

#[test]
fn tolerance_forgives_what_exceeds_the_noise() {
    let (a, b) = ([strewn(1_000.0, 1)], [strewn(1_200.0, 2)]);
    let lenient = CompareOptions {
        tolerance: 0.5,
        ..CompareOptions::default()
    };
    assert!(!compare(&a, &b, lenient).unwrap().is_worse());
}

#[test]
fn errors_that_come_every_second_are_worse() {
    let (a, mut b) = ([strewn(1_000.0, 1)], [strewn(1_000.0, 2)]);
    for second in &mut b[0].series {
        (second.ok, second.errors) = (90, 10);
    }
    b[0].total.errors.insert("503".to_owned(), 100);
    let comparison = compare(&a, &b, CompareOptions::default()).unwrap();
    assert_eq!(verdict_of(&comparison, Figure::Errors), Verdict::Worse);
    let row = comparison
        .rows
        .iter()
        .find(|row| row.figure == Figure::Errors)
        .unwrap();
    assert_eq!((row.a, row.b, row.change), (Some(0.0), Some(0.1), Some(0.1)));
}

#[test]
fn unlike_loads_and_a_tester_in_the_way_are_noted() {
    let (a, mut b) = ([strewn(1_000.0, 1)], [strewn(1_000.0, 2)]);
    b[0].load.rate = Some(5.0);
    b[0].tester.is_bottleneck = true;
    b[0].tester.why = "no core left".to_owned();
    let warnings = compare(&a, &b, CompareOptions::default())
        .unwrap()
        .warnings
        .join("\n");
    assert!(
        warnings.contains("differ in their load") && warnings.contains("no core left"),
        "{warnings}"
    );
}

#[test]
fn table_has_a_line_per_figure_and_its_verdict() {
    let table = sides(1_000.0, 1_200.0, 1).to_string();
    let line = table.lines().find(|line| line.starts_with("p99 (µs)")).unwrap();
    assert!(
        line.ends_with("WORSE") && line.contains("+2") && line.contains("seconds"),
        "{table}"
    );
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("server CPU") && line.ends_with("not judged")),
        "{table}"
    );
}

#[test]
fn a_side_without_runs_is_refused() {
    assert!(compare(&[], &[strewn(1.0, 1)], CompareOptions::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_better_one_way_is_worse_the_other(level in 500.0_f64..2_000.0, seed in 1_u64..1_000) {
        let (a, b) = ([strewn(1_000.0, seed)], [strewn(level, seed + 1)]);
        let there = compare(&a, &b, CompareOptions::default()).unwrap();
        let back = compare(&b, &a, CompareOptions::default()).unwrap();
        for (there, back) in there.rows.iter().zip(&back.rows) {
            if let (Some(change), Some(noise)) = (there.change, there.noise) {
                prop_assert_eq!(there.verdict == Verdict::Same, change.abs() <= noise, "the table contradicts itself");
            }
            let (x, y) = (there.change, back.change);
            if let (Some(x), Some(y)) = (x, y) {
                prop_assert!((x + 1.0).ln() + (y + 1.0).ln() < 1e-9 || there.figure == Figure::Errors);
            }
            // Far from the noise both directions agree; at its edge each has resamples of its own.
            if let (Some(change), Some(noise)) = (there.change, there.noise) && change.abs() > 1.5 * noise {
                prop_assert_ne!(back.verdict, there.verdict);
                prop_assert_ne!(back.verdict, Verdict::Same);
            }
        }
    }
}
