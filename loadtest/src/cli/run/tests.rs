use std::io::Write as _;
use std::time::Duration;

use clap::Parser as _;

use super::{Arrivals, RunArgs, arrivals};
use crate::cli::{Cli, Command};
use crate::plan::Plan;

fn parse(line: &str) -> Result<Box<RunArgs>, String> {
    let words = ["crossfade-loadtest", "run"]
        .into_iter()
        .chain(line.split_whitespace());
    match Cli::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .command
    {
        Command::Run(args) => Ok(args),
        other => Err(format!("{other:?}")),
    }
}

async fn plan(line: &str) -> Result<Plan, String> {
    parse(line)?
        .plan(Vec::new())
        .await
        .map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn a_plan_says_what_the_flags_say() {
    let plan = plan(
        "--url http://127.0.0.1:8000/base/ --mix digits:3,iris@rows=8 --rows 2 --rate 500 --arrivals constant --duration 500ms \
         --shape x=1,128 --during x --assert p99<20ms",
    )
    .await;
    assert!(plan.unwrap_err().contains("during `x`"));
    let plan = self::plan(
        "--url http://127.0.0.1:8000/base/ --mix digits:3,iris@rows=8 --rows 2 --rate 500 --arrivals constant \
         --duration 500ms --shape x=1,128 --integers -5..5",
    )
    .await
    .unwrap();
    assert_eq!(
        (plan.target.base.as_str(), plan.mix[0].rows, plan.mix[1].rows),
        ("/base", 2, 8)
    );
    assert_eq!(plan.payload.shapes["x"], [1, 128]);
    assert_eq!(plan.payload.integers, (-5, 5));
    assert_eq!(plan.duration, Duration::from_millis(500));
    assert_eq!(plan.load, crate::plan::Load::Open(Arrivals::Constant(500.0)));
}

#[tokio::test]
async fn a_deadline_is_told_in_the_way_of_the_protocol() {
    let told = async |protocol: &str| {
        let line =
            format!("--url http://127.0.0.1:1 --model m --rate 1 --deadline 250ms --protocol {protocol}");
        let plan = plan(&line).await?;
        let head = crate::wire::grpc::head(&plan.target, "/", plan.deadline);
        Ok::<_, String>((plan.payload.headers, head.headers()["grpc-timeout"].clone()))
    };
    let (headers, timeout) = told("grpc").await.unwrap();
    assert_eq!((headers, timeout.to_str().unwrap()), (Vec::new(), "250m"));
    let (headers, _) = told("http-json").await.unwrap();
    assert_eq!(headers, [("x-request-timeout-ms".to_owned(), "250".to_owned())]);
    assert!(told("grpc-stream").await.unwrap_err().contains("--deadline"));
}

#[tokio::test]
async fn mistakes_are_named_with_what_to_do() {
    let url = "--url http://127.0.0.1:1";
    for (line, part) in [
        (format!("{url} --rate 1"), "--model NAME"),
        (format!("{url} --model m"), "--rate 1000"),
        (format!("{url} --model m --rate 0"), "above zero"),
        (format!("{url} --model m --rate 1 --duration 10"), "write 10s"),
        (
            format!("{url} --model m --rate 1 --concurrency 1"),
            "cannot be used with",
        ),
        (
            format!("{url} --model m --rate 1 --arrivals ramp:1..2"),
            "rates of its own",
        ),
        (format!("{url} --model m --rate 1 --assert p99<1.2x"), "--during"),
        (format!("{url} --model m --rate 1 --ca-file x.pem"), "https://"),
        (format!("{url} --model m --rate 1 --threads 0"), "--threads 0"),
        (format!("{url} --protocol http-raw --rate 1"), "--path"),
        ("--url ftp://x --model m --rate 1".to_owned(), "`ftp`"),
        (format!("{url} --model m --rate 1 --lengths 9..9"), "5..257"),
        (format!("{url} --model m --rate 1 --lengths=-1..9"), "5..257"),
        (
            format!("{url} --model m --rate 1 --request r.json --lengths 5..9"),
            "as a whole",
        ),
        (
            format!("{url} --model m --rate 1 --request r.json --only x"),
            "cannot be used with",
        ),
    ] {
        let message = plan(&line).await.unwrap_err();
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn every_kind_of_arrivals_is_read() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"0.5\n0.25\n\n").unwrap();
    let burst = Arrivals::Burst {
        base: 100.0,
        peak: 1000.0,
        on: Duration::from_millis(100),
        period: Duration::from_secs(1),
    };
    for (text, rate, expected) in [
        ("poisson", Some(5.0), Arrivals::Poisson(5.0)),
        ("step:1,2", None, Arrivals::Steps(vec![1.0, 2.0])),
        ("ramp:1..2", None, Arrivals::Ramp(1.0, 2.0)),
        ("burst:100,1000,100ms/1s", None, burst),
        (
            &format!("file:{}", file.path().display()),
            None,
            Arrivals::Times([0.25, 0.5].into()),
        ),
    ] {
        assert_eq!(arrivals(text, rate).unwrap(), expected);
    }
    for text in [
        "waves",
        "step:",
        "step:a",
        "ramp:1",
        "burst:1,2,3",
        "burst:1,2,2s/1s",
        "poisson:3",
        "file:/none",
    ] {
        assert!(arrivals(text, None).is_err(), "{text}");
    }
}
