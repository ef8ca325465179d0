use std::time::Duration;

use proptest::prelude::*;

use super::Arrivals;

const TEN: Duration = Duration::from_secs(10);

fn any_arrivals() -> impl Strategy<Value = Arrivals> {
    let rate = 1.0..2000.0_f64;
    prop_oneof![
        rate.clone().prop_map(Arrivals::Constant),
        rate.clone().prop_map(Arrivals::Poisson),
        prop::collection::vec(0.0..1000.0_f64, 1..6).prop_map(Arrivals::Steps),
        (0.0..1000.0_f64, 0.0..1000.0_f64).prop_map(|(from, to)| Arrivals::Ramp(from, to)),
        (0.0..200.0_f64, rate, 1..999_u64).prop_map(|(base, peak, on)| Arrivals::Burst {
            base,
            peak,
            on: Duration::from_millis(on),
            period: Duration::from_secs(1),
        }),
        prop::collection::vec(0.0..20.0_f64, 0..50).prop_map(|mut times| {
            times.sort_by(f64::total_cmp);
            Arrivals::Times(times.into())
        }),
    ]
}

proptest! {
    #[test]
    fn times_ascend_stay_inside_and_come_again(arrivals in any_arrivals(), seed in any::<u64>()) {
        let times: Vec<Duration> = arrivals.times(TEN, seed).collect();
        prop_assert!(times.is_sorted());
        prop_assert!(times.iter().all(|time| *time < TEN));
        prop_assert!(arrivals.times(TEN, seed).eq(times));
    }

    #[test]
    fn as_many_come_as_the_mean_rate_says(arrivals in any_arrivals(), seed in any::<u64>()) {
        let expected = arrivals.mean_rate(TEN) * 10.0;
        let count = arrivals.times(TEN, seed).count() as f64;
        // Six standard deviations of a Poisson count, and one for the ends.
        prop_assert!((count - expected).abs() <= 6.0 * expected.sqrt() + 1.0, "{count} of {expected}");
    }

    #[test]
    fn constant_arrivals_do_not_drift(rate in 1.0..50_000.0_f64) {
        let last = Arrivals::Constant(rate).times(TEN, 0).enumerate().last().expect("there is one");
        prop_assert!((last.1.as_secs_f64() - last.0 as f64 / rate).abs() < 1e-6);
    }
}

#[test]
fn a_burst_is_where_it_should_be() {
    let arrivals = Arrivals::Burst {
        base: 0.0,
        peak: 1000.0,
        on: Duration::from_millis(100),
        period: Duration::from_secs(1),
    };
    let times: Vec<Duration> = arrivals.times(TEN, 7).collect();
    assert!(times.len() > 700);
    assert!(times.iter().all(|time| time.as_secs_f64().fract() <= 0.1 + 1e-9));
}

#[test]
fn a_ramp_gets_denser() {
    let times: Vec<Duration> = Arrivals::Ramp(0.0, 1000.0).times(TEN, 7).collect();
    let half = times.iter().filter(|time| time.as_secs() < 5).count();
    // A quarter of 5000 in the first half; six standard deviations are 213.
    assert!(half.abs_diff(1250) < 213, "{half}");
}

#[test]
fn a_step_down_is_seen_at_its_time() {
    let times: Vec<Duration> = Arrivals::Steps(vec![500.0, 0.0]).times(TEN, 7).collect();
    assert!(!times.is_empty() && times.iter().all(|time| time.as_secs_f64() <= 5.0));
}
