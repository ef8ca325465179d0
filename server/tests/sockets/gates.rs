//! Gates before traffic, seen from outside: a version that is worse never answers a client.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::harness::{Repository, Server};

/// `y = x + number`, one number per row.
pub(crate) fn adds(number: f64) -> String {
    format!("input x FP32 -1,1\noutput y FP32 -1,1\nbatched\nop add {number}\n")
}

/// A Parquet file of these columns.
fn table(path: &Path, columns: &[(&str, Vec<f64>)]) {
    let columns = columns
        .iter()
        .map(|(name, values)| (*name, Arc::new(Float64Array::from(values.clone())) as ArrayRef));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Two hundred rows whose labels are one above their input.
pub(crate) fn labelled(path: &Path) {
    let inputs: Vec<f64> = (0..200).map(f64::from).collect();
    let labels = inputs.iter().map(|x| x + 1.0).collect();
    table(path, &[("in.x", inputs), ("label", labels)]);
}

/// One step of 50 %, errors watched, and these gates.
fn rules(gates: &str) -> String {
    format!(
        "risk = 'low'\n{gates}[[rollout.step]]\npercent = 50\nmin = '0s'\nmin_units = 50\n\
         [[rollout.check]]\nmetric = 'latency'\nenabled = false\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n"
    )
}

const QUALITY: &str = "[gates.golden]\nenabled = false\n[gates.quality]\ndata = 'validation.parquet'\nmetric = 'rmse'\n\
                       max_drop = 0.1\n";

/// A server whose releases nobody looks at but the test; `data` is its data folder.
async fn serving(repository: Repository, data: &Path) -> Server {
    let data = data.to_owned();
    let server = Server::start_with(repository, |config| {
        config.data_dir = data;
        config.release_looks = None;
    })
    .await;
    server.wait_ready().await;
    server
}

async fn stopped(server: Arc<Server>) -> Repository {
    let server = Arc::into_inner(server).expect("the clients are gone");
    assert!(
        server
            .app
            .stop(Duration::from_secs(60), std::future::pending())
            .await
    );
    server.repository
}

fn release(server: &Server) -> Value {
    let all = server.app.service.releases().list(Some("m")).unwrap();
    all.as_array().unwrap().last().cloned().unwrap_or_default()
}

/// The outcome of each gate of the last release.
fn outcomes(release: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let gates = release["gates"].as_array().unwrap();
    gates
        .iter()
        .map(|gate| (text(&gate["name"]), text(&gate["outcome"])))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned()))
        .collect()
}

async fn arrive(server: &Server, version: u64, number: f64, rules: &str) {
    server.repository.add("m", version, &adds(number), rules);
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_worse_on_labelled_rows_never_gets_a_request() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(&format!(
        "{QUALITY}[gates.trend]\nlast = 5\n[gates.performance]\nmax_p99 = '50s'\n"
    ));
    repository.add("m", 1, &adds(1.0), &rules);
    labelled(&repository.path().join("m/validation.parquet"));
    let server = Arc::new(serving(repository, data.path()).await);
    let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let client = {
        let (server, stop, asked) = (server.clone(), stop.clone(), asked.clone());
        tokio::spawn(async move {
            let body =
                json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1] }] });
            while !stop.load(SeqCst) {
                let answer = server.post("/v2/models/m/infer", body.to_string()).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.headers["x-model-version"], "1");
                assert_eq!(answer.json()["outputs"][0]["data"], json!([2.0]));
                asked.fetch_add(1, SeqCst);
            }
        })
    };
    // Two in place of one more: an error of one.
    arrive(&server, 2, 2.0, &rules).await;
    let refused = release(&server);
    assert_eq!(refused["state"]["reason"], "gate", "{refused}");
    let expected = [
        ("load", "passed"),
        ("quality", "failed"),
        ("trend", "failed"),
        ("performance", "passed"),
    ];
    assert_eq!(outcomes(&refused), pairs(&expected), "{refused}");
    let evidence = &refused["gates"][1]["evidence"];
    assert_eq!(
        (&evidence["rows"], &evidence["report"]["drop"]),
        (&json!(200), &json!(1)),
        "{refused}"
    );
    assert_eq!(refused["report_sha256"].as_str().unwrap().len(), 64);
    for _ in 0..50 {
        let before = asked.load(SeqCst);
        while asked.load(SeqCst) == before {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, SeqCst);
    client.await.unwrap();
    let text = server.scrape().await;
    let lines = [
        "gate=\"quality\"} 0",
        "gate=\"trend\"} 0",
        "gate=\"performance\"} 1",
        "gate=\"load\"} 1",
    ];
    for line in lines {
        let line = format!("crossfade_gate_result{{model=\"m\",{line}");
        assert!(
            text.lines().any(|got| got == line),
            "{line} is missing in\n{text}"
        );
    }
    // A restart knows what the gates said, to the digest.
    let repository = stopped(server).await;
    let server = Arc::new(serving(repository, data.path()).await);
    assert_eq!(release(&server)["gates"], refused["gates"]);
    assert_eq!(release(&server)["report_sha256"], refused["report_sha256"]);
    // Its history outlives it, and the failed version is no part of the trend.
    arrive(&server, 3, 1.0, &rules).await;
    let passed = release(&server);
    assert_eq!(passed["state"]["state"], "canary", "{passed}");
    assert_eq!(
        passed["gates"][2]["evidence"]["report"]["points"],
        json!([0, 0]),
        "{passed}"
    );
    stopped(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labelled_rows_that_cannot_be_used_fail_the_gate_and_say_where() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules(QUALITY);
    repository.add("m", 1, &adds(1.0), &rules);
    labelled(&repository.path().join("m/validation.parquet"));
    let server = Arc::new(serving(repository, data.path()).await);
    table(
        &server.repository.path().join("m/validation.parquet"),
        &[("in.z", vec![1.0]), ("label", vec![1.0])],
    );
    arrive(&server, 2, 1.0, &rules).await;
    let refused = release(&server);
    assert_eq!(refused["state"]["reason"], "gate", "{refused}");
    let why = refused["gates"][1]["why"].as_str().unwrap();
    assert!(
        why.contains("validation.parquet") && why.contains("`in.z`"),
        "{why}"
    );
    // Put right, it may be tried again.
    labelled(&server.repository.path().join("m/validation.parquet"));
    arrive(&server, 2, 1.0, &rules).await;
    assert_eq!(
        release(&server)["state"]["state"],
        "canary",
        "{}",
        release(&server)
    );
    stopped(server).await;
}

/// A server whose model `m` has no live version yet, because its first one has failed.
async fn refusing(repository: Repository, data: &Path) -> (Arc<Server>, String) {
    let data = data.to_owned();
    let server = Server::start_with(repository, |config| {
        config.data_dir = data;
        config.release_looks = None;
    })
    .await;
    loop {
        let index = server.post("/v2/repository/index", "").await.json();
        let row = &index[0];
        if row["state"] == "UNAVAILABLE" {
            let reason = row["reason"].as_str().unwrap().to_owned();
            return (Arc::new(server), reason);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_version_serves_once_it_has_passed_its_gates() {
    let data = tempfile::tempdir().unwrap();
    let rules = rules(&format!(
        "[gates.golden]\nfile = 'golden.parquet'\n[gates.quality]\ndata = 'validation.parquet'\nmetric = 'rmse'\n\
         max_drop = 0.1\n{}",
        "[gates.performance]\nmax_p99 = '50s'\n"
    ));
    let repository = Repository::new();
    repository.add("m", 1, &adds(1.0), &rules);
    labelled(&repository.path().join("m/validation.parquet"));
    let golden = repository.path().join("m/golden.parquet");
    let known = |y: f64| table(&golden, &[("in.x", vec![1.0]), ("out.y", vec![y])]);
    known(3.0);
    let (server, reason) = refusing(repository, data.path()).await;
    for part in ["first version", "golden: ", "`[gates]`"] {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
    let body =
        json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1] }] }).to_string();
    assert_ne!(server.get("/v2/health/ready").await.status, 200);
    assert_ne!(server.get("/v2/models/m/ready").await.status, 200);
    let refused = server.post("/v2/models/m/infer", &body).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    let again = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(again.status, 500, "it is asked again: {again:?}");
    assert!(again.error().contains("golden: "), "{again:?}");
    assert!(
        server
            .scrape()
            .await
            .contains("crossfade_gate_result{model=\"m\",gate=\"golden\"} 0")
    );
    let deploy = crossfade_server::admin::CreateRelease {
        version: 1,
        supersede: false,
        reason: None,
    };
    let ann = crossfade_server::admin::Caller {
        actor: "ann".into(),
        roles: vec![crossfade_server::admin::Role::Deploy],
    };
    let releases = server.app.service.releases().clone();
    let refused = releases.create(&ann, "m", deploy, &|| Ok(())).unwrap_err();
    assert!(
        refused.to_string().contains("no version of `m` is live"),
        "{refused}"
    );
    drop(releases);

    // Put right, it goes live without a release; another version is a release then.
    known(2.0);
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    assert_eq!(server.get("/v2/health/ready").await.status, 200);
    assert_eq!(server.post("/v2/models/m/infer", &body).await.status, 200);
    assert_eq!(release(&server), Value::Null);
    let text = server.scrape().await;
    for gate in ["load", "golden", "quality", "performance"] {
        let line = format!("crossfade_gate_result{{model=\"m\",gate=\"{gate}\"}} 1");
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }

    // What was live is not examined again.
    known(3.0);
    let repository = stopped(server).await;
    let server = Arc::new(serving(repository, data.path()).await);
    assert_eq!(server.post("/v2/models/m/infer", &body).await.status, 200);
    known(2.0);
    arrive(&server, 2, 1.0, &rules).await;
    assert_eq!(release(&server)["champion"], 1, "{}", release(&server));
    stopped(server).await;
}

/// Rules that come to a model while it serves do not take its version away.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_serves_already_needs_no_gates() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &adds(1.0), "");
    let server = Arc::new(serving(repository, data.path()).await);
    let body =
        json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1] }] }).to_string();
    server
        .repository
        .configure("m", &rules("[gates.golden]\nfile = 'nowhere'\n"));
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    assert_eq!(server.post("/v2/models/m/infer", &body).await.status, 200);
    server
        .repository
        .add("m", 2, &adds(1.0), &rules("[gates.golden]\nfile = 'nowhere'\n"));
    let loaded = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(loaded.status, 200, "{loaded:?}");
    assert_eq!(
        release(&server)["state"]["reason"],
        "gate",
        "{}",
        release(&server)
    );
    stopped(server).await;
}

/// The known answers of the live version, in Parquet, asked for again every hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_version_that_forgets_its_known_answers_is_counted() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let rules = rules("[gates.golden]\nfile = 'golden.parquet'\ninterval = '1h'\n");
    repository.add("m", 1, &adds(1.0), &rules);
    let golden = repository.path().join("m/golden.parquet");
    table(&golden, &[("in.x", vec![1.0, 2.0]), ("out.y", vec![2.0, 3.0])]);
    let server = Arc::new(serving(repository, data.path()).await);
    arrive(&server, 2, 1.0, &rules).await;
    let passed = release(&server);
    assert_eq!(
        outcomes(&passed),
        pairs(&[("load", "passed"), ("golden", "passed")]),
        "{passed}"
    );
    let seen = async |line: &str| {
        for _ in 0..10_000 {
            if server.scrape().await.lines().any(|got| got == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{line} is missing in\n{}", server.scrape().await);
    };
    seen("crossfade_golden_max_abs_diff{model=\"m\",version=\"2\"} 0").await;
    let releases = server.app.service.releases().clone();
    releases.look(Duration::from_secs(3000));
    assert!(
        !server.scrape().await.contains("gate=\"golden_interval\""),
        "it is not time yet"
    );
    releases.look(Duration::from_secs(600));
    seen("crossfade_gate_result{model=\"m\",gate=\"golden_interval\"} 1").await;
    seen("crossfade_golden_max_abs_diff{model=\"m\",version=\"1\"} 0").await;
    // What is known has changed, as a model whose library behaves otherwise would show.
    table(&golden, &[("in.x", vec![1.0, 2.0]), ("out.y", vec![2.0, 3.5])]);
    releases.look(Duration::from_secs(3600));
    seen("crossfade_golden_failures_total{model=\"m\",version=\"1\"} 1").await;
    seen("crossfade_golden_max_abs_diff{model=\"m\",version=\"1\"} 0.5").await;
    seen("crossfade_gate_result{model=\"m\",gate=\"golden_interval\"} 0").await;
    assert_eq!(release(&server)["live"], 1, "it goes on serving");
    drop(releases);
    stopped(server).await;
}
