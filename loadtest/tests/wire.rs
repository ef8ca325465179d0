//! The engine against scripted servers on real sockets: every protocol, stalls, errors, versions, TLS, deeds.

mod wire {
    pub(crate) mod grpc;
    pub(crate) mod http;
    pub(crate) mod tls;
}

use std::time::Duration;

use crossfade_loadtest::assertion::Assertion;
use crossfade_loadtest::during::Deed;
use crossfade_loadtest::engine::{self, Phase};
use crossfade_loadtest::plan::{Arrivals, Load, MixEntry, Plan};
use crossfade_loadtest::result::{LoadKind, RunResult};
use crossfade_loadtest::target::{Protocol, Target};

const PROTOCOLS: [Protocol; 4] = [
    Protocol::Grpc,
    Protocol::GrpcStream,
    Protocol::HttpJson,
    Protocol::HttpBinary,
];

async fn plan(url: &str, protocol: Protocol, models: &[&str]) -> Plan {
    let target = Target::resolve(url, protocol, None)
        .await
        .expect("a url of a test is right");
    let mut plan = Plan::new(target, models.iter().map(|model| MixEntry::of(model)).collect());
    plan.warm_up = Duration::from_millis(100);
    plan.duration = Duration::from_millis(500);
    plan.load = Load::Open(Arrivals::Constant(200.0));
    plan
}

async fn run(plan: &Plan) -> RunResult {
    engine::run(plan, &mut |_| {}).await.expect("the run can be made")
}

/// A scripted server that speaks `protocol`.
async fn serve(protocol: Protocol) -> String {
    if protocol.is_grpc() {
        grpc::serve().await
    } else {
        http::serve().await.url()
    }
}

use wire::{grpc, http, tls};

#[tokio::test]
async fn every_protocol_counts_each_request_once_and_names_the_version_that_answered() {
    for protocol in PROTOCOLS {
        let result = run(&plan(&serve(protocol).await, protocol, &["even", "odd"]).await).await;
        let name = protocol.name();
        assert_eq!((result.total.sent, result.total.ok), (100, 100), "{name}");
        assert_eq!(result.load.warm_up_requests, 20, "{name}");
        let versions: Vec<(&str, &str)> = result
            .by_version
            .iter()
            .map(|part| (part.model.as_str(), part.version.as_str()))
            .collect();
        assert_eq!(versions, [("even", "2"), ("odd", "1")], "{name}");
        let by_model: u64 = result.by_model.iter().map(|part| part.summary.ok).sum();
        let by_second: u64 = result.series.iter().map(|second| second.ok).sum();
        assert_eq!(
            (by_model, by_second, result.total.latency.count),
            (100, 100, 100),
            "{name}"
        );
        assert_eq!(
            result.series.iter().map(|second| second.sent).sum::<u64>(),
            100,
            "{name}"
        );
        assert_eq!(
            (result.load.kind, result.target.server_name.as_str()),
            (LoadKind::Open, "scripted")
        );
        assert!(result.mix[0].request_bytes > 0, "{name}");
    }
}

#[tokio::test]
async fn the_mix_is_kept() {
    let mut plan = plan(
        &serve(Protocol::HttpBinary).await,
        Protocol::HttpBinary,
        &["even", "odd"],
    )
    .await;
    plan.mix[0].weight = 3.0;
    plan.load = Load::Open(Arrivals::Constant(2000.0));
    let result = run(&plan).await;
    // 750 of 1000 expected; six standard deviations are 82.
    assert!(
        result.by_model[0].summary.sent.abs_diff(750) < 82,
        "{:?}",
        result.by_model[0].summary.sent
    );
}

#[tokio::test]
async fn a_stall_is_in_the_latency_of_every_request_that_was_due_meanwhile() {
    // The server answers nothing from its 40th request on until 300 ms later: of the 200 requests a second, those due in
    // that time wait for the rest of it. A tester that waits for answers would see one slow request per connection.
    for protocol in [Protocol::HttpBinary, Protocol::Grpc] {
        let url = match protocol {
            Protocol::Grpc => grpc::serve_with_stall(40, Duration::from_millis(300)).await,
            _ => http::serve_with_stall(40, Duration::from_millis(300)).await.url(),
        };
        let mut plan = plan(&url, protocol, &["even"]).await;
        plan.connections = 1;
        let result = run(&plan).await;
        assert_eq!(result.total.ok, 100);
        let late = result
            .total
            .latency
            .distribution()
            .expect("it was just written")
            .above(100_000);
        // Due in the first 200 ms of the stall: 40, less what the last of them lose to rounding.
        assert!(late >= 38, "{}: {late}", protocol.name());
    }
}

#[tokio::test]
async fn a_closed_loop_is_labelled_and_waits() {
    for protocol in PROTOCOLS {
        let mut plan = plan(&serve(protocol).await, protocol, &["odd"]).await;
        plan.load = Load::Closed { concurrency: 3 };
        plan.threads = 2;
        let result = run(&plan).await;
        assert_eq!(
            (result.load.kind, result.load.concurrency, result.load.rate),
            (LoadKind::Closed, Some(3), None)
        );
        assert!(
            result.total.ok > 0 && result.total.ok == result.total.sent,
            "{}",
            protocol.name()
        );
        assert!(result.series.iter().all(|second| second.in_flight <= 3));
    }
}

#[tokio::test]
async fn failures_are_counted_by_kind() {
    for (protocol, kind) in [
        (Protocol::HttpBinary, "429"),
        (Protocol::HttpJson, "429"),
        (Protocol::Grpc, "RESOURCE_EXHAUSTED"),
        (Protocol::GrpcStream, "stream_message"),
    ] {
        let result = run(&plan(&serve(protocol).await, protocol, &["full"]).await).await;
        assert_eq!(result.total.ok, 0);
        assert_eq!(
            result.total.errors.iter().collect::<Vec<_>>(),
            [(&kind.to_owned(), &100)]
        );
    }
}

#[tokio::test]
async fn connections_that_break_are_counted_and_replaced() {
    let mut plan = plan(
        &serve(Protocol::HttpBinary).await,
        Protocol::HttpBinary,
        &["breaks", "even"],
    )
    .await;
    plan.connections = 1;
    let result = run(&plan).await;
    assert_eq!(
        result.by_model[0].summary.errors.keys().collect::<Vec<_>>(),
        ["transport"]
    );
    assert_eq!(result.by_model[1].summary.errors.len(), 0);
    assert_eq!(result.total.sent, 100);
}

#[tokio::test]
async fn what_is_never_answered_times_out_and_what_exceeds_the_cap_is_not_sent() {
    let mut plan = plan(
        &serve(Protocol::HttpBinary).await,
        Protocol::HttpBinary,
        &["silent"],
    )
    .await;
    plan.timeout = Duration::from_secs(2);
    plan.warm_up = Duration::ZERO;
    plan.max_in_flight = 10;
    let result = run(&plan).await;
    let errors: Vec<(&str, u64)> = result
        .total
        .errors
        .iter()
        .map(|(kind, count)| (kind.as_str(), *count))
        .collect();
    assert_eq!(errors, [("tester_overflow", 90), ("timeout", 10)]);
}

#[tokio::test]
async fn deeds_are_done_at_their_time_and_the_versions_seen() {
    for protocol in [Protocol::HttpJson, Protocol::Grpc] {
        let server = http::serve().await;
        let mut plan = plan(&server.url(), Protocol::HttpJson, &["swapped"]).await;
        if protocol.is_grpc() {
            // The control plane need not be where the requests go.
            plan.target = Target::resolve(&grpc::serve().await, protocol, None)
                .await
                .expect("right");
            plan.control = Some(
                Target::resolve(&server.url(), Protocol::HttpJson, None)
                    .await
                    .expect("right"),
            );
            plan.mix = vec![MixEntry::of("even")];
        }
        plan.during = vec![Deed::parse("swap swapped 1->2 every 200ms", plan.duration).expect("right")];
        plan.assertions = Assertion::parse_list("errors=0,throughput>1,p99<0x").expect("right");
        let result = run(&plan).await;
        let actions: Vec<(&str, &str)> = result
            .events
            .iter()
            .map(|event| (event.action.as_str(), event.outcome.as_str()))
            .collect();
        assert_eq!(
            actions,
            [("swap swapped to 2", "ok"), ("swap swapped to 1", "ok")]
        );
        assert_eq!(
            server.loads(),
            ["1", "2", "1"],
            "the first is loaded before the run"
        );
        if !protocol.is_grpc() {
            let versions: Vec<&str> = result
                .by_version
                .iter()
                .map(|part| part.version.as_str())
                .collect();
            assert_eq!(versions, ["1", "2"]);
        }
        let parts = (
            result.steady.expect("there was an event"),
            result.during.expect("there was an event"),
        );
        assert_eq!((parts.0.sent, parts.1.sent), (40, 60));
        let held: Vec<bool> = result.assertions.iter().map(|assertion| assertion.held).collect();
        assert_eq!(held, [true, true, false]);
    }
}

#[tokio::test]
async fn the_servers_own_figures_are_those_of_the_measured_time() {
    let server = http::serve().await;
    let mut plan = plan(&server.url(), Protocol::HttpBinary, &["even"]).await;
    plan.server_pid = Some(std::process::id());
    let stats = run(&plan)
        .await
        .server
        .expect("the scripted server has statistics");
    // The script: 2 µs of queue and 5 µs of compute a request, two requests a batch.
    assert!((stats.queue_us_mean - 2.0).abs() < 1e-9 && (stats.compute_us_mean - 5.0).abs() < 1e-9);
    // A hundred are sent in the measured time and twenty before it. How many the server answers between two readings is a
    // matter of time; those that it answered before the first are none of them.
    assert!((1..120).contains(&stats.requests), "{}", stats.requests);
    assert_eq!(stats.batches[0].rows, 2);
    assert!(stats.memory_bytes.is_some() && stats.cpu_s.is_some());
}

#[tokio::test]
async fn a_raw_server_needs_to_know_nothing_of_the_protocol() {
    let mut plan = plan(&serve(Protocol::HttpRaw).await, Protocol::HttpRaw, &["/raw"]).await;
    plan.payload.raw_body = b"any bytes".to_vec();
    let result = run(&plan).await;
    assert_eq!((result.total.ok, result.mix[0].request_bytes), (100, 9));
}

#[tokio::test]
async fn texts_of_many_lengths_go_to_any_server_of_embeddings_and_their_tokens_are_counted() {
    let mut plan = plan(&serve(Protocol::OpenAi).await, Protocol::OpenAi, &["even"]).await;
    plan.payload.lengths = Some((3, 9));
    plan.mix[0].rows = 2;
    let result = run(&plan).await;
    assert_eq!(
        (result.total.ok, &result.total.errors),
        (100, &Default::default())
    );
    assert_eq!(result.by_version[0].version, "2");
    // Two rows of 5.5 words on average, of which 100 requests are four standard deviations at 136.
    assert!(
        result.total.tokens.abs_diff(1100) <= 137,
        "{}",
        result.total.tokens
    );
    let per_s = result.total.throughput_per_s * 0.01 * f64::from(u32::try_from(result.total.tokens).unwrap());
    assert!((result.total.tokens_per_s - per_s).abs() < 1e-6 * per_s);

    plan.payload.lengths = Some((9, 10));
    let refused = run(&plan).await;
    assert_eq!((refused.total.errors["400"], refused.total.tokens), (100, 0));
}

#[tokio::test]
async fn tls_is_spoken_and_an_unknown_certificate_refused() {
    for protocol in PROTOCOLS {
        let proxy = tls::in_front_of(&serve(protocol).await, protocol).await;
        let mut trusted = plan("http://127.0.0.1:1", protocol, &["even"]).await;
        trusted.target = Target::resolve(&proxy.url, protocol, Some(proxy.ca_file.path()))
            .await
            .expect("right");
        assert_eq!(run(&trusted).await.total.ok, 100, "{}", protocol.name());

        let other = tls::in_front_of(&proxy.url, protocol).await;
        trusted.target = Target::resolve(&proxy.url, protocol, Some(other.ca_file.path()))
            .await
            .expect("right");
        let error = engine::run(&trusted, &mut |_| {})
            .await
            .expect_err("the certificate is not trusted");
        assert!(format!("{error:#}").contains("cannot connect"), "{error:#}");
    }
}

#[tokio::test]
async fn the_observer_sees_every_phase_in_order() {
    let mut plan = plan(&serve(Protocol::HttpJson).await, Protocol::HttpJson, &["even"]).await;
    plan.warm_up = Duration::from_secs(1);
    plan.duration = Duration::from_secs(2);
    let mut seen = Vec::new();
    let result = engine::run(&plan, &mut |tick| seen.push((tick.phase, tick.second.sent)))
        .await
        .expect("it runs");
    let phases: Vec<Phase> = seen.iter().take(2).map(|(phase, _)| *phase).collect();
    assert_eq!(phases, [Phase::WarmUp, Phase::Measuring]);
    assert!(seen.iter().all(|(_, sent)| *sent <= 200));
    assert_eq!(result.total.sent, 400);
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let target = "http://127.0.0.1:1";
    for protocol in PROTOCOLS {
        let error = engine::run(&plan(target, protocol, &["m"]).await, &mut |_| {})
            .await
            .expect_err("nobody listens");
        assert!(
            format!("{error:#}").contains("cannot connect to http://127.0.0.1:1"),
            "{error:#}"
        );
    }
}
