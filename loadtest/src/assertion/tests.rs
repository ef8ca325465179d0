use super::Assertion;
use crate::result::{RunResult, Summary, fixtures};

fn check(text: &str, result: &RunResult) -> (String, bool) {
    let assertions = Assertion::parse_list(text).unwrap();
    let checked = assertions[0].check(result);
    (checked.measured, checked.held)
}

fn summary(p99_us: u64) -> Summary {
    let mut latencies = crate::result::Latencies::default();
    latencies.record(p99_us);
    Summary {
        sent: 1,
        ok: 1,
        throughput_per_s: 1.0,
        latency: latencies.summary(),
        ..Summary::default()
    }
}

#[test]
fn figures_are_compared_with_bounds_in_their_units() {
    let mut result = fixtures::run(100.0, &[5_000; 100]);
    result.total.errors.insert("429".to_owned(), 1);
    result.tester.late_sends = 3;
    for (text, held) in [
        ("errors=1", true),
        ("errors<1", false),
        ("errors<=1", true),
        ("error_rate<2%", true),
        ("error_rate<0.5%", false),
        ("p99<5.1ms", true),
        ("p99<4900us", false),
        ("p99.9>1ms", true),
        ("max<1s", true),
        ("throughput>1", true),
        ("late_sends<4", true),
        ("late_sends<=2", false),
    ] {
        assert_eq!(check(text, &result).1, held, "{text}");
    }
}

#[test]
fn a_multiple_is_of_the_part_before_the_first_event() {
    let mut result = fixtures::run(100.0, &[1; 10]);
    assert!(!check("p99<1.2x", &result).1, "without parts it does not hold");
    result.steady = Some(summary(1000));
    result.during = Some(summary(1100));
    assert!(check("p99<1.2x", &result).1);
    result.during = Some(summary(1300));
    assert_eq!(
        check("p99<1.2x", &result),
        ("1.300 ms after 1.000 ms".to_owned(), false)
    );
    result.during = Some(Summary::default());
    assert!(!check("p99<1.2x", &result).1, "no answer is not a fast one");
}

#[test]
fn no_answers_hold_no_latency() {
    let mut result = fixtures::run(100.0, &[1; 10]);
    result.total = Summary {
        sent: 1,
        ..Summary::default()
    };
    assert_eq!(check("p99<1s", &result), ("no answers".to_owned(), false));
}

#[test]
fn what_is_no_assertion_is_refused_with_examples() {
    for text in [
        "p99",
        "p99<20",
        "p98<1ms",
        "errors<1.2x",
        "errors=-1",
        "speed>1",
        "p99<x",
    ] {
        let message = format!("{:#}", Assertion::parse_list(text).unwrap_err());
        assert!(message.contains("expected such as errors=0"), "{text}: {message}");
    }
}
