//! The gates at their limits, and the design's example of slow degradation.

use std::path::PathBuf;

use crossfade_statistics::StatisticsError;

use super::*;

fn row(row: usize, max_abs: f64, max_rel: f64) -> RowDiff {
    RowDiff {
        row,
        max_abs,
        max_rel,
        mismatch: false,
    }
}

#[test]
fn every_golden_row_is_within_every_limit() {
    let check = |abs, rel, rows: &[RowDiff], outcome, worst: Option<usize>| {
        let limits = Golden {
            file: PathBuf::from("golden"),
            max_abs_diff: abs,
            max_rel_diff: rel,
            interval: None,
        };
        let got = golden(&limits, rows.iter().copied());
        assert_eq!(
            (got.outcome, got.worst.map(|row| row.row)),
            (outcome, worst),
            "{got:?}"
        );
        assert_eq!(got.rows, rows.len());
    };
    let (passed, failed) = (GateOutcome::Passed, GateOutcome::Failed);
    check(
        Some(1e-4),
        None,
        &[row(0, 1e-5, 9.0), row(1, 1e-4, 0.0)],
        passed,
        Some(1),
    );
    check(
        Some(1e-4),
        None,
        &[row(0, 1e-3, 0.0), row(1, 1e-4, 0.0)],
        failed,
        Some(0),
    );
    check(Some(1.0), Some(1e-3), &[row(0, 0.5, 1e-2)], failed, Some(0));
    check(None, Some(1e-3), &[row(0, 5.0, 1e-4)], passed, Some(0));
    check(Some(1.0), None, &[row(0, f64::NAN, 0.0)], failed, Some(0));
    let mismatch = RowDiff {
        mismatch: true,
        ..row(1, 0.0, 0.0)
    };
    check(Some(1.0), None, &[row(0, 0.5, 0.0), mismatch], failed, Some(1));
    check(Some(1.0), None, &[], failed, None);
}

fn limits(max_drop: f64, inconclusive_fails: bool) -> Quality {
    Quality {
        data: PathBuf::from("val.parquet"),
        output: None,
        metric: QualityMetric::Accuracy,
        max_drop,
        alpha: 0.05,
        inconclusive_fails,
    }
}

/// Rows on which the champion is right in all but `wrong_old`, the candidate in all but the first `wrong_new`.
fn answers(rows: usize, wrong: usize) -> Vec<u64> {
    (0..rows).map(|row| u64::from(row < wrong)).collect()
}

#[test]
fn drop_fails_passes_or_is_inconclusive() {
    let labels = vec![0; 2000];
    let check = |wrong_old, wrong_new, max_drop, fails, outcome| {
        let (old, new) = (answers(2000, wrong_old), answers(2000, wrong_new));
        let rows = LabelledRows::Classes(&labels, &old, &new);
        let got = sudden_drop(&limits(max_drop, fails), rows).expect("the rows match");
        assert_eq!(got.outcome, outcome, "{got:?}");
        assert!(got.upper >= got.drop, "{got:?}");
    };
    check(100, 100, 0.005, true, GateOutcome::Passed);
    check(100, 140, 0.005, false, GateOutcome::Failed);
    check(100, 108, 0.005, false, GateOutcome::Inconclusive);
    check(100, 108, 0.005, true, GateOutcome::Failed);
    check(140, 100, 0.005, true, GateOutcome::Passed);
}

#[test]
fn scores_and_values_drop_too() {
    let labels: Vec<bool> = (0..300).map(|row| row >= 150).collect();
    let good: Vec<f64> = (0..300).map(f64::from).collect();
    let bad: Vec<f64> = (0..300).map(|row| f64::from(row * 77 % 300)).collect();
    let got =
        sudden_drop(&limits(0.01, false), LabelledRows::Scores(&labels, &good, &bad)).expect("they match");
    assert_eq!(
        (got.outcome, got.metric),
        (GateOutcome::Failed, QualityMetric::Auc)
    );
    assert!(got.p < 1e-3 && got.champion == 1.0);
    let got =
        sudden_drop(&limits(0.01, true), LabelledRows::Scores(&labels, &bad, &good)).expect("they match");
    assert_eq!(got.outcome, GateOutcome::Passed, "{got:?}");
    let far: Vec<f64> = good.iter().map(|value| value + 2.0).collect();
    let got = sudden_drop(&limits(1.0, false), LabelledRows::Values(&good, &good, &far)).expect("they match");
    assert_eq!((got.outcome, got.drop), (GateOutcome::Failed, 2.0));
    let refused = sudden_drop(&limits(1.0, false), LabelledRows::Values(&good, &good, &far[1..]));
    assert!(matches!(
        refused,
        Err(RolloutError::Statistics(StatisticsError::Lengths { .. }))
    ));
}

const TREND: Trend = Trend {
    last: 10,
    best_minus: 0.01,
    min_slope: -0.0005,
};

/// rollout.md §6: versions 0.3 points worse each. Every step passes a `max_drop` of half a point; the fifth is stopped.
#[test]
fn fifth_version_of_a_slow_decline_is_stopped() {
    let versions = [0.9, 0.897, 0.894, 0.891, 0.888];
    for (index, &candidate) in versions.iter().enumerate() {
        let got =
            slow_degradation(&TREND, QualityMetric::Accuracy, &versions[..index], candidate).expect("finite");
        let expected = if index < 4 {
            GateOutcome::Passed
        } else {
            GateOutcome::Failed
        };
        assert_eq!(got.outcome, expected, "{got:?}");
    }
}

#[test]
fn slope_alone_stops_and_old_versions_are_forgotten() {
    let check = |metric, history: &[f64], candidate, outcome| {
        let got = slow_degradation(&TREND, metric, history, candidate).expect("finite");
        assert_eq!(got.outcome, outcome, "{got:?}");
        assert!(got.points.len() <= 10);
    };
    // Within a point of the best, but falling by .1 point each time.
    check(
        QualityMetric::Auc,
        &[0.904, 0.903, 0.902, 0.901],
        0.900,
        GateOutcome::Failed,
    );
    // An error that falls is a metric that rises.
    check(
        QualityMetric::Rmse,
        &[0.904, 0.903, 0.902, 0.901],
        0.900,
        GateOutcome::Passed,
    );
    check(
        QualityMetric::Rmse,
        &[0.900, 0.901, 0.902, 0.903],
        0.904,
        GateOutcome::Failed,
    );
    let mut history = vec![0.99];
    history.extend([0.9; 9]);
    check(QualityMetric::Auc, &history, 0.9, GateOutcome::Passed);
    check(QualityMetric::Auc, &[], 0.1, GateOutcome::Passed);
    assert!(slow_degradation(&TREND, QualityMetric::Auc, &[0.9], f64::NAN).is_err());
}

#[test]
fn performance_has_limits() {
    let limits = Performance {
        max_p99: Some(Duration::from_millis(20)),
        max_rss_bytes: None,
        max_vram_bytes: Some(1 << 30),
    };
    let check = |millis, rss_bytes, vram_bytes, outcome| {
        let measured = Measured {
            p99: Duration::from_millis(millis),
            rss_bytes,
            vram_bytes,
        };
        assert_eq!(performance(&limits, &measured), outcome, "{measured:?}");
    };
    check(20, u64::MAX, 1 << 30, GateOutcome::Passed);
    check(21, 0, 0, GateOutcome::Failed);
    check(1, 0, (1 << 30) + 1, GateOutcome::Failed);
}
