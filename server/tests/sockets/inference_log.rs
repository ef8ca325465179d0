//! Every request is one record of the inference log, whatever became of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt16Type, UInt32Type};
use arrow_array::{Array, RecordBatch};
use crossfade_inference_log::{Content, Keys, verify};
use crossfade_server::recorder::{Ack, OnFull, RecorderConfig};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::harness::{Repository, Server, exchange};
use crate::release::{INFER, message, version_file};

fn config(ack: Ack) -> RecorderConfig {
    RecorderConfig {
        ack,
        sync: Duration::from_millis(10),
        seal_after: Duration::from_secs(3600),
        min_free_bytes: 0,
        payload_max_bytes: 1 << 10,
        ..RecorderConfig::default()
    }
}

async fn serving(repository: Repository, data: &Path, ack: Ack) -> Server {
    let data = data.to_owned();
    let server = Server::start_with(repository, |options| {
        options.data_dir = data;
        options.recorder = Some(config(ack));
    });
    let server = server.await;
    server.wait_ready().await;
    server
}

/// Every row of the log.
fn tables(data: &Path) -> Vec<RecordBatch> {
    let content = Content::read(data).unwrap();
    let paths = content.files.keys().filter(|path| path.starts_with("log/"));
    let tables = paths.map(|path| {
        let file = File::open(data.join(path)).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        reader.next().unwrap().unwrap()
    });
    tables.collect()
}

fn text<'a>(table: &'a RecordBatch, column: &str, row: usize) -> Option<&'a str> {
    let column = table.column_by_name(column).unwrap().as_string::<i32>();
    column.is_valid(row).then(|| column.value(row))
}

fn ids(tables: &[RecordBatch]) -> Vec<String> {
    let ids = tables.iter().flat_map(|table| {
        let ids = table.column_by_name("request_id").unwrap().as_fixed_size_binary();
        (0..table.num_rows()).map(|row| {
            let bytes: [u8; 16] = ids.value(row).try_into().unwrap();
            uuid::Uuid::from_bytes(bytes).to_string()
        })
    });
    ids.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_of_both_protocols_is_one_record() {
    for ack in [Ack::Kernel, Ack::Disk] {
        every_outcome(ack).await;
    }
}

async fn every_outcome(ack: Ack) {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &format!("{}fail_on 13\n", version_file(1)), "");
    repository.add("slow", 1, &format!("{}delay_ms 200\n", version_file(1)), "");
    let server = serving(repository, data.path(), ack).await;
    let mut seen = Vec::new();
    let bad = INFER.replace("[1,2]}", "[1]}");
    let broken = "{";
    let failing = INFER.replace("\"data\":[1,2]", "\"data\":[13,2]");
    let posts: [(&str, &str, (&str, &str), u16); 6] = [
        ("/v2/models/m/infer", INFER, ("x-request-id", "mine"), 200),
        ("/v2/models/m/infer", &bad, ("x-nothing", ""), 400),
        ("/v2/models/m/infer", broken, ("x-nothing", ""), 400),
        ("/v2/models/nobody/infer", INFER, ("x-nothing", ""), 404),
        ("/v2/models/m/infer", &failing, ("x-nothing", ""), 500),
        (
            "/v2/models/slow/infer",
            INFER,
            ("x-request-timeout-ms", "20"),
            504,
        ),
    ];
    for (path, body, header, status) in posts {
        let answer = server.post_with(path, &[header], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        seen.push(answer.headers["x-request-id"].clone());
    }
    let mut grpc = server.grpc().await;
    let mut wrong = message();
    wrong.inputs[0].datatype = "INT8".into();
    for (message, code) in [(message(), Code::Ok), (wrong, Code::InvalidArgument)] {
        let (got, metadata) = match grpc.model_infer(Request::new(message)).await {
            Ok(answer) => (Code::Ok, answer.metadata().clone()),
            Err(refusal) => (refusal.code(), refusal.metadata().clone()),
        };
        assert_eq!(got, code);
        seen.push(metadata.get("x-request-id").unwrap().to_str().unwrap().to_owned());
    }
    let streamed = tokio_stream::iter([message(), message()]);
    let mut answers = grpc.model_stream_infer(streamed).await.unwrap().into_inner();
    let mut answered = 0;
    while answers.message().await.unwrap().is_some() {
        answered += 1;
    }
    assert_eq!(answered, 2);
    // One that goes away.
    let mut other = server.grpc().await;
    let mut gone = message();
    gone.model_name = "slow".into();
    let cut = tokio::time::timeout(Duration::from_millis(50), other.model_infer(gone)).await;
    assert!(cut.is_err());
    drop(other);
    while server.app.service.permits().requests() > 0 {
        tokio::task::yield_now().await;
    }
    let scrape = server.scrape().await;
    server.stop().await;

    let tables = tables(data.path());
    let mut outcomes: BTreeMap<(String, String, u16), usize> = BTreeMap::new();
    for table in &tables {
        let codes = table
            .column_by_name("status_code")
            .unwrap()
            .as_primitive::<UInt16Type>();
        for row in 0..table.num_rows() {
            let of = |column| text(table, column, row).unwrap().to_owned();
            *outcomes
                .entry((of("protocol"), of("outcome"), codes.value(row)))
                .or_default() += 1;
        }
    }
    let found: Vec<(&str, &str, u16, usize)> = outcomes
        .iter()
        .map(|((protocol, outcome, code), count)| (protocol.as_str(), outcome.as_str(), *code, *count))
        .collect();
    assert_eq!(
        found,
        [
            ("grpc_v2", "cancelled", 1, 1),
            ("grpc_v2", "invalid_input", 3, 1),
            ("grpc_v2", "ok", 0, 3),
            ("http_v2", "deadline_exceeded", 504, 1),
            ("http_v2", "internal", 500, 1),
            ("http_v2", "invalid_input", 400, 2),
            ("http_v2", "not_found", 404, 1),
            ("http_v2", "ok", 200, 1),
        ]
    );
    let recorded = ids(&tables);
    for id in &seen {
        assert_eq!(recorded.iter().filter(|other| *other == id).count(), 1, "{id}");
    }
    let total = recorded.len();
    assert!(
        scrape.contains(&format!("crossfade_log_records_total {total}\n")),
        "{scrape}"
    );
    assert!(
        scrape.contains("crossfade_log_lost_records_total{reason=\"full\"} 0\n"),
        "{scrape}"
    );
    let verified = verify(data.path(), &Keys::none()).unwrap();
    assert_eq!((verified.records as usize, verified.missing), (total, 0));
    assert_eq!(
        (verified.damaged.len(), verified.gaps.len()),
        (0, 0),
        "{verified:?}"
    );
}

/// What was sent, what was answered, by which files, and how long it took.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_holds_what_was_asked_and_answered() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "");
    let server = serving(repository, data.path(), Ack::Kernel).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [("x-request-id", "mine"), ("traceparent", parent.as_str())];
    let answer = server
        .post_with("/v2/models/m/infer", &headers, INFER.as_bytes())
        .await;
    assert_eq!(answer.status, 200);
    let digest = server.get("/v2/models/m/config").await.json();
    let digest = digest["parameters"]["crossfade.artifact_sha256"]["string_value"]
        .as_str()
        .unwrap()
        .to_owned();
    // Larger than is kept.
    let long: Vec<String> = (0..600).map(|value| value.to_string()).collect();
    let long = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[300,2],"data":[{}]}}]}}"#,
        long.join(",")
    );
    assert_eq!(server.post("/v2/models/m/infer", long).await.status, 200);
    server.stop().await;
    let tables = tables(data.path());
    let [table] = tables.as_slice() else {
        panic!("{} tables", tables.len())
    };
    assert_eq!(text(table, "client_request_id", 0), Some("mine"));
    let traces = table.column_by_name("trace_id").unwrap().as_fixed_size_binary();
    let traced: String = traces.value(0).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((traced.as_str(), traces.is_null(1)), (trace, true));
    assert_eq!(
        (text(table, "model", 0), text(table, "version", 0)),
        (Some("m"), Some("1"))
    );
    assert_eq!(
        (text(table, "route_reason", 0), text(table, "stage", 0)),
        (Some("only"), Some("stable"))
    );
    assert_eq!(
        (text(table, "runtime", 0), text(table, "device", 0)),
        (Some("fake"), Some("cpu"))
    );
    assert_eq!(text(table, "error", 0), None);
    let artifact = table
        .column_by_name("artifact_sha256")
        .unwrap()
        .as_fixed_size_binary();
    let artifact: String = artifact
        .value(0)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(artifact, digest);
    // `x` is [-1, 2]: a column per element of the row.
    for (column, value) in [
        ("in.x.0", 1.0),
        ("in.x.1", 2.0),
        ("out.y.0", 2.0),
        ("out.y.1", 3.0),
    ] {
        let column = table
            .column_by_name(column)
            .unwrap()
            .as_primitive::<Float32Type>();
        assert_eq!((column.value(0), column.is_null(1)), (value, true));
    }
    let rows = table
        .column_by_name("n_rows")
        .unwrap()
        .as_primitive::<UInt32Type>();
    assert_eq!(rows.values(), &[1, 300]);
    let digests = table.column_by_name("in_digest").unwrap().as_fixed_size_binary();
    assert!(
        digests.is_valid(1) && digests.value(0) != digests.value(1),
        "also of what is not kept"
    );
    for stage in [
        "decode", "queue", "gather", "compute", "scatter", "encode", "total",
    ] {
        let took = table.column_by_name(&format!("{stage}_us")).unwrap();
        assert_eq!(took.null_count(), 0, "{stage}");
    }
}

/// What a candidate said to copies is in the log, beside what was answered to the same input.
pub(crate) fn copies_are_records(data: &Path, least: usize) {
    let tables = tables(data);
    let of = |row: usize, table: &RecordBatch, column: &str| -> Option<[u8; 16]> {
        let column = table.column_by_name(column).unwrap().as_fixed_size_binary();
        column
            .is_valid(row)
            .then(|| column.value(row).try_into().unwrap())
    };
    let rows = || {
        tables
            .iter()
            .flat_map(|table| (0..table.num_rows()).map(move |row| (table, row)))
    };
    let answered: BTreeMap<[u8; 16], Option<[u8; 16]>> = rows()
        .filter(|(table, row)| text(table, "stage", *row) == Some("stable"))
        .map(|(table, row)| (of(row, table, "request_id").unwrap(), of(row, table, "in_digest")))
        .collect();
    let mut copies = 0;
    for (table, row) in rows().filter(|(table, row)| text(table, "stage", *row) == Some("shadow")) {
        copies += 1;
        let primary = of(row, table, "shadow_of").unwrap();
        assert_eq!(answered.get(&primary), Some(&of(row, table, "in_digest")));
        assert_eq!(
            (text(table, "version", row), text(table, "outcome", row)),
            (Some("2"), Some("ok"))
        );
        assert!(text(table, "release_id", row).is_some());
        let outputs = table.column_by_name("out.y.0").unwrap();
        assert!(outputs.is_valid(row));
    }
    assert!(copies >= least, "{copies}");
    let verified = verify(data, &Keys::none()).unwrap();
    assert_eq!((verified.damaged.len(), verified.missing), (0, 0), "{verified:?}");
}

/// Where nothing may be answered unrecorded, a request that finds no room is refused, by both protocols.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_unrecorded_where_that_is_wanted() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "");
    let folder = data.path().to_owned();
    let server = Server::start_with(repository, |options| {
        options.data_dir = folder;
        options.recorder = Some(RecorderConfig {
            on_full: OnFull::Block,
            max_wait: Duration::from_millis(20),
            segment_bytes: 20 << 20,
            // No second segment.
            buffer_bytes: 20 << 20,
            payload_max_bytes: 8 << 20,
            ..config(Ack::Kernel)
        });
    });
    let server = server.await;
    server.wait_ready().await;
    // 2 MiB in, 2 MiB out.
    let mut large = message();
    large.inputs[0].shape = vec![1 << 18, 2];
    large.inputs[0].contents = None;
    large.raw_input_contents = vec![vec![0; 2 << 20].into()];
    let mut grpc = server.grpc().await;
    let mut answered = 0;
    let refusal = loop {
        match grpc.model_infer(large.clone()).await {
            Ok(_) => answered += 1,
            Err(refusal) => break refusal,
        }
        assert!(answered < 20);
    };
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.message().contains("log.on_full"), "{refusal}");
    let body = [&[0u8; 0][..], &vec![0; 2 << 20]].concat();
    let head = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[262144,2],"parameters":{"binary_data_size":2097152}}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}"#;
    let length = head.len().to_string();
    let headers = [("inference-header-content-length", length.as_str())];
    let answer = server
        .post_with("/v2/models/m/infer", &headers, &[head.as_bytes(), &body].concat())
        .await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains("log.on_full"));
    // There is room for what is small.
    assert_eq!(server.post("/v2/models/m/infer", INFER).await.status, 200);
    server.stop().await;
    let tables = tables(data.path());
    let outcomes: Vec<&str> = tables
        .iter()
        .flat_map(|table| (0..table.num_rows()).map(|row| text(table, "outcome", row).unwrap()))
        .collect();
    let count = |outcome| outcomes.iter().filter(|other| **other == outcome).count();
    assert_eq!(
        (count("ok"), count("overloaded")),
        (answered + 1, 2),
        "{outcomes:?}"
    );
    let verified = verify(data.path(), &Keys::none()).unwrap();
    assert_eq!((verified.damaged.len(), verified.missing), (0, 0), "{verified:?}");
}

/// Whoever follows the log gets each record once it is written, and holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn records_can_be_followed() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    for model in ["m", "other"] {
        repository.add(model, 1, &version_file(1), "");
    }
    let server = serving(repository, data.path(), Ack::Kernel).await;
    assert_eq!(server.post("/v2/models/m/infer", INFER).await.status, 200);
    let mut stream = TcpStream::connect(server.app.admin).await.unwrap();
    let get = b"GET /crossfade/v1/log/stream?model=m HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(get).await.unwrap();
    let mut reader = BufReader::new(stream).lines();
    let mut head = Vec::new();
    loop {
        match reader.next_line().await.unwrap().unwrap() {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    assert!(
        head.iter()
            .any(|line| line == "content-type: application/x-ndjson"),
        "{head:?}"
    );
    let mut ids = Vec::new();
    for model in ["m", "other", "m"] {
        let answer = server.post(&format!("/v2/models/{model}/infer"), INFER).await;
        ids.push((model, answer.headers["x-request-id"].clone()));
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let line = reader.next_line().await.unwrap().unwrap();
        if line.starts_with('{') {
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(
                (&record["model"], &record["in.x.0"]),
                (&"m".into(), &1.0.into()),
                "{line}"
            );
            seen.push(record["request_id"].as_str().unwrap().to_owned());
        }
    }
    let wanted: Vec<&String> = ids
        .iter()
        .filter(|(model, _)| *model == "m")
        .map(|(_, id)| id)
        .collect();
    assert_eq!(seen.iter().collect::<Vec<_>>(), wanted);
    // A reader does not hold the server up.
    server.stop().await;
    while reader.next_line().await.unwrap().is_some() {}
}

/// What is known of a person goes while the server answers others, whoever asked is in the audit, and nothing else is gone.
#[tokio::test(flavor = "multi_thread")]
async fn records_about_a_person_can_be_erased() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "");
    let server = serving(repository, data.path(), Ack::Kernel).await;
    let mut grpc = server.grpc().await;
    let mut ask = async |subject: &'static str| {
        let path = "/v2/models/m/infer";
        let answer = server
            .post_with(path, &[("x-subject-id", subject)], INFER.as_bytes())
            .await;
        assert_eq!(answer.status, 200);
        let mut request = Request::new(message());
        request
            .metadata_mut()
            .insert("x-subject-id", subject.parse().unwrap());
        grpc.model_infer(request).await.unwrap();
    };
    for subject in ["ann", "bob", "ann"] {
        ask(subject).await;
    }
    assert_eq!(server.post("/v2/models/m/infer", INFER).await.status, 200);
    let erase = async |body: &str| {
        let line = "POST /crossfade/v1/subjects:erase HTTP/1.1";
        exchange(server.app.admin, line, &[], body.as_bytes()).await
    };
    for wrong in [
        "{}",
        r#"{"subject":"ann"}"#,
        r#"{"subject":"","reason":"asked"}"#,
        r#"{"subject":"ann","reason":" "}"#,
    ] {
        let answer = erase(wrong).await;
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
    }
    let certificate = erase(r#"{"subject":"ann","reason":"she asked for it"}"#).await;
    assert_eq!(certificate.status, 200, "{certificate:?}");
    let certificate = certificate.json();
    assert_eq!(certificate["rows"], 4, "{certificate}");
    assert!(
        certificate["files"][0]["sha256_after"].is_string(),
        "{certificate}"
    );
    assert_eq!(
        erase(r#"{"subject":"nobody","reason":"she asked for it"}"#)
            .await
            .json()["rows"],
        0
    );
    ask("bob").await;
    let lines = exchange(server.app.admin, "GET /crossfade/v1/audit HTTP/1.1", &[], b"").await;
    let lines = String::from_utf8(lines.body.to_vec()).unwrap();
    let audit: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<(&str, &str)> = audit
        .iter()
        .filter(|record| record["action"] == "subject.erase")
        .map(|record| {
            (
                record["after"]["outcome"].as_str().unwrap(),
                record["reason"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told[4..6],
        [("accepted", "she asked for it"), ("ok", "she asked for it")],
        "{told:?}"
    );
    let key = certificate["subject_key"].as_str().unwrap();
    let object = format!("subject/{key}");
    assert!(
        audit.iter().any(|record| record["object"] == object.as_str()),
        "{audit:?}"
    );
    assert!(
        !serde_json::to_string(&audit).unwrap().contains("\"ann\""),
        "whose key it is stays unsaid"
    );
    server.stop().await;
    let rows: usize = tables(data.path()).iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 2 + 1 + 2);
    let verified = verify(data.path(), &Keys::none()).unwrap();
    assert_eq!((verified.damaged.len(), verified.missing), (0, 0), "{verified:?}");
}

/// Many clients of both protocols at once, some of whom send nonsense, are in a hurry, go away or come to a full queue: as many rows as
/// requests, and of each kind as many as clients were told.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_rows_as_requests_whatever_becomes_of_them() {
    const REQUESTS: usize = 400;
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    let slow = format!("{}delay_ms 30\n", version_file(1));
    repository.add("m", 1, &version_file(1), "");
    repository.add("slow", 1, &slow, "[batching]\nmax_queue = 4\nmax_rows = 1\n");
    let server = std::sync::Arc::new(serving(repository, data.path(), Ack::Kernel).await);
    let grpc = server.grpc().await;
    let mut clients = tokio::task::JoinSet::new();
    for turn in 0..REQUESTS {
        let (server, mut grpc) = (server.clone(), grpc.clone());
        clients.spawn(async move {
            let infer = |model: &str| format!("/v2/models/{model}/infer");
            let is_http = turn % 2 == 0;
            match turn % 20 {
                // Nonsense, by either protocol.
                0 | 1 if is_http => server.post(&infer("m"), "{").await.status.to_string(),
                0 | 1 => {
                    let mut wrong = message();
                    wrong.inputs[0].datatype = "INT8".into();
                    grpc.model_infer(wrong).await.unwrap_err().code().to_string()
                }
                // In a hurry, and perhaps at a full queue.
                2 | 3 => {
                    let headers = [("x-request-timeout-ms", "5")];
                    let answer = server.post_with(&infer("slow"), &headers, INFER.as_bytes()).await;
                    answer.status.to_string()
                }
                // Gone before the answer; all of the request is on its way by then.
                4 => {
                    let mut gone = TcpStream::connect(server.app.http).await.unwrap();
                    let head = format!("POST {} HTTP/1.1\r\nhost: localhost\r\n", infer("slow"));
                    let request = format!("{head}content-length: {}\r\n\r\n{INFER}", INFER.len());
                    gone.write_all(request.as_bytes()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    "gone".to_owned()
                }
                5 | 6 => server.post(&infer("slow"), INFER).await.status.to_string(),
                _ if is_http => server.post(&infer("m"), INFER).await.status.to_string(),
                _ => match grpc.model_infer(message()).await {
                    Ok(_) => "200".to_owned(),
                    Err(refusal) => refusal.code().to_string(),
                },
            }
        });
    }
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    while let Some(ended) = clients.join_next().await {
        let kind = match ended.unwrap().as_str() {
            "200" => "ok",
            "400" => "invalid_input",
            "429" | "503" => "overloaded",
            "504" => "deadline_exceeded",
            "gone" => "gone",
            text if text == Code::InvalidArgument.to_string() => "invalid_input",
            text if text == Code::ResourceExhausted.to_string() => "overloaded",
            text if text == Code::Unavailable.to_string() => "overloaded",
            other => panic!("{other}"),
        };
        *told.entry(kind).or_default() += 1;
    }
    drop(grpc);
    // Those who have gone are read when their turn comes.
    let all = format!("crossfade_log_records_total {REQUESTS}\n");
    let recorded = async {
        while !server.scrape().await.contains(&all) {
            tokio::task::yield_now().await;
        }
    };
    let _late = tokio::time::timeout(Duration::from_secs(60), recorded)
        .await
        .is_err();
    std::sync::Arc::into_inner(server).unwrap().stop().await;
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for table in &tables(data.path()) {
        for row in 0..table.num_rows() {
            *rows
                .entry(text(table, "outcome", row).unwrap().to_owned())
                .or_default() += 1;
        }
    }
    assert_eq!(
        rows.values().sum::<usize>(),
        REQUESTS,
        "{rows:?}, and clients {told:?}"
    );
    let of = |kind: &str| rows.get(kind).copied().unwrap_or_default();
    for kind in ["invalid_input", "deadline_exceeded"] {
        assert_eq!(
            of(kind),
            told.get(kind).copied().unwrap_or_default(),
            "{kind}: {rows:?} {told:?}"
        );
    }
    // Whoever has gone was answered, refused or cancelled, and does not know which.
    let gone = told.get("gone").copied().unwrap_or_default();
    let known = ["ok", "overloaded"].map(|kind| told.get(kind).copied().unwrap_or_default());
    assert_eq!(
        of("ok") + of("overloaded") + of("cancelled"),
        known[0] + known[1] + gone,
        "{rows:?} {told:?}"
    );
    assert!(
        of("cancelled") <= gone && of("ok") >= known[0] && of("overloaded") >= known[1],
        "{rows:?} {told:?}"
    );
    for kind in ["ok", "invalid_input", "deadline_exceeded"] {
        assert!(of(kind) > 0, "{kind} was not tried: {rows:?}");
    }
    let verified = verify(data.path(), &Keys::none()).unwrap();
    assert_eq!((verified.records as usize, verified.missing), (REQUESTS, 0));
    assert!(verified.damaged.is_empty(), "{verified:?}");
}

/// Who asked is what the gateway says; what the client calls the request is its header, or else the id of its body.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_says_who_asked_and_what_they_call_it() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), "");
    let folder = data.path().to_owned();
    let server = Server::start_with(repository, |options| {
        options.data_dir = folder;
        options.recorder = Some(RecorderConfig {
            caller_header: Some("x-consumer-username".parse().unwrap()),
            ..config(Ack::Kernel)
        });
    });
    let server = server.await;
    server.wait_ready().await;
    let named = INFER.replacen('{', r#"{"id":"body","#, 1);
    let long = "n".repeat(300);
    for headers in [
        &[("x-consumer-username", "shop"), ("x-request-id", "header")][..],
        &[("x-consumer-username", &long)],
        &[("ce-id", "event")],
    ] {
        let answer = server
            .post_with("/v2/models/m/infer", headers, named.as_bytes())
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let event = [("ce-id", "event")];
    let answer = server
        .post_with("/v2/models/m/infer", &event, INFER.as_bytes())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut request = Request::new(message());
    request
        .metadata_mut()
        .insert("x-consumer-username", "batch".parse().unwrap());
    server.grpc().await.model_infer(request).await.unwrap();
    server.stop().await;
    let tables = tables(data.path());
    let rows = tables.iter().flat_map(|table| {
        (0..table.num_rows())
            .map(move |row| (text(table, "caller", row), text(table, "client_request_id", row)))
    });
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            (Some("shop"), Some("header")),
            (Some(&long[..128]), Some("body")),
            (None, Some("body")),
            (None, Some("event")),
            (Some("batch"), None),
        ]
    );
}
