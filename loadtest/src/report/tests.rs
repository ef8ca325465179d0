//! The page as a reader that knows only XML sees it.

use super::*;
use crate::result::{AssertionResult, Event, fixtures};
use crate::sweep::Sweep;
use proptest::prelude::*;

fn parsed(page: &str, check: impl FnOnce(&roxmltree::Document<'_>)) {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..roxmltree::ParsingOptions::default()
    };
    check(&roxmltree::Document::parse_with_options(page, options).unwrap());
}

fn titles(document: &roxmltree::Document<'_>) -> Vec<String> {
    let drawings = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
    drawings
        .map(|svg| svg.attribute("aria-label").unwrap().to_owned())
        .collect()
}

fn of_runs(runs: Vec<RunResult>) -> String {
    page(&[(
        "r.json".to_owned(),
        Sweep {
            schema: 1,
            capacity: None,
            runs,
        },
    )])
    .unwrap()
}

/// A run in which everything happened that a report has a place for, named by `text` wherever text comes from outside.
fn eventful(text: &str) -> RunResult {
    let mut run = fixtures::run(100.0, &(1..=1_000).collect::<Vec<_>>());
    run.command.push(text.to_owned());
    run.target.url = text.to_owned();
    run.target.server_name = text.to_owned();
    run.machine.cpu = text.to_owned();
    run.mix[0].name = text.to_owned();
    run.by_version[0].version = text.to_owned();
    run.total.errors.insert(text.to_owned(), 3);
    run.events = vec![Event {
        at_s: 4.5,
        took_s: 0.2,
        action: text.to_owned(),
        outcome: text.to_owned(),
    }];
    run.assertions = vec![AssertionResult {
        text: text.to_owned(),
        measured: text.to_owned(),
        held: false,
    }];
    run.tester.is_bottleneck = true;
    run.tester.why = text.to_owned();
    run.steady = Some(fixtures::summary(&[1_000]));
    run
}

#[test]
fn one_run_is_drawn_whole() {
    parsed(&of_runs(vec![eventful("swap digits to 2")]), |document| {
        assert_eq!(
            titles(document),
            [
                "Latency distribution",
                "Throughput over time",
                "Latency over time",
                "Batch sizes"
            ]
        );
        let events = document
            .descendants()
            .filter(|node| node.attribute("class") == Some("event"));
        assert_eq!(events.count(), 2, "one event in both plots over time");
        let text: String = document.descendants().filter_map(|node| node.text()).collect();
        for part in [
            "swap digits to 2",
            "FAILED",
            "was the bottleneck",
            "before the first event",
        ] {
            assert!(text.contains(part), "{part}");
        }
    });
}

#[test]
fn several_runs_are_set_against_their_load() {
    let runs = [100.0, 200.0, 400.0].map(|rate| fixtures::run(rate, &[1_000, 2_000, 3_000]));
    parsed(&of_runs(runs.into()), |document| {
        assert_eq!(
            titles(document)[..2],
            ["Latency against offered load", "Latency distribution"]
        );
        let dots = document
            .descendants()
            .filter(|node| node.tag_name().name() == "circle");
        assert_eq!(dots.count(), 9, "a dot per run for p50, p99 and p99.9");
        let legend = document
            .descendants()
            .find(|node| node.has_tag_name("figcaption"))
            .unwrap();
        let names: String = legend.children().filter_map(|node| node.text()).collect();
        assert_eq!(
            names.split_whitespace().collect::<Vec<_>>(),
            ["■", "p50", "■", "p99", "■", "p99.9"]
        );
    });
}

#[test]
fn nothing_is_fetched_and_nothing_runs() {
    parsed(&of_runs(vec![eventful("http://elsewhere")]), |document| {
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            assert!(!["script", "link", "img", "iframe", "object"].contains(&node.tag_name().name()));
            for attribute in node.attributes() {
                assert!(
                    !["src", "href", "srcset", "data", "style"].contains(&attribute.name()),
                    "{node:?}"
                );
                assert!(!attribute.name().starts_with("on"), "{node:?}");
            }
        }
    });
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
}

#[test]
fn a_phone_is_told_its_width() {
    assert!(of_runs(vec![eventful("x")]).contains("name=\"viewport\" content=\"width=device-width"));
}

#[test]
fn a_run_without_answers_is_still_a_page() {
    let mut run = fixtures::run(100.0, &[]);
    run.server = None;
    run.total.errors.insert("connect".to_owned(), 10);
    parsed(&of_runs(vec![run]), |document| {
        assert_eq!(titles(document), Vec::<String>::new())
    });
    assert!(page(&[]).is_err());
}

#[test]
fn moments_are_dates() {
    assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
    assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00 UTC");
    assert_eq!(moment(1_795_329_989_999), "2026-11-22 06:46:29 UTC");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn text_from_outside_stays_text(text in any::<String>()) {
        let page = of_runs(vec![eventful(&text), eventful("</td></table><script>alert(1)</script>")]);
        parsed(&page, |document| {
            assert!(document.descendants().all(|node| node.tag_name().name() != "script"));
        });
    }

    #[test]
    fn every_distribution_can_be_drawn(latencies in prop::collection::vec(0_u64..10_000_000_000, 0..200)) {
        let page = of_runs(vec![fixtures::run(50.0, &latencies)]);
        prop_assert!(!page.contains("NaN") && !page.contains("inf"), "a coordinate is not a number");
        parsed(&page, |_| ());
    }
}
