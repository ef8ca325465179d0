//! HTTP over real sockets: framing, connections, encodings, the binary extension, what is refused and how.

use std::io::Write;
use std::time::Duration;

use crossfade_runtimes_fake::Gate;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tower::Service;

use crate::harness::{ADD_ONE, Answer, Repository, Server, parse};

const PATH: &str = "/v2/models/m/infer";

/// A request whose id comes back.
fn infer(id: &str) -> String {
    format!(r#"{{"id":"{id}","inputs":[{{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}}]}}"#)
}

async fn server() -> Server {
    let repository = Repository::new();
    // The explicit batch size: no merge probe runs at load, where a closed gate would hold it.
    repository.add("m", 1, ADD_ONE, "[batching]\nmax_rows = 8\n");
    Server::start(repository).await
}

/// A server of the model `m` whose limits are changed.
async fn limited(change: impl FnOnce(&mut crossfade_server::service::Limits)) -> Server {
    let repository = Repository::new();
    repository.add("m", 1, ADD_ONE, "");
    let server = Server::start_with(repository, |config| change(&mut config.limits)).await;
    server.wait_ready().await;
    server
}

/// A connection that stays open.
struct Wire(TcpStream);

impl Wire {
    async fn open(server: &Server) -> Self {
        Self(TcpStream::connect(server.app.http).await.unwrap())
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads one answer and not a byte more.
    async fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        let mut answer = parse(&head);
        let length = answer
            .headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
        answer.body = vec![0; length];
        self.0.read_exact(&mut answer.body).await.unwrap();
        answer
    }

    /// Waits until the server closes.
    async fn closed(mut self) -> bool {
        self.0.read(&mut [0]).await.is_ok_and(|read| read == 0)
    }
}

fn post(body: &str, headers: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: t\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn assert_id(answer: &Answer) {
    let id = &answer.headers["x-request-id"];
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let server = server().await;
    let mut wire = Wire::open(&server).await;
    let get = "GET /v2/health/live HTTP/1.1\r\nhost: t\r\n\r\n";
    wire.send(
        [
            &post(&infer("a"), ""),
            get,
            &post("{", ""),
            &post(&infer("b"), ""),
        ]
        .concat(),
    )
    .await;
    assert_eq!(wire.answer().await.json()["id"], "a");
    assert_eq!(wire.answer().await.json()["live"], true);
    assert_eq!(wire.answer().await.status, 400);
    assert_eq!(wire.answer().await.json()["id"], "b");
    drop(wire);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_any_size_make_one_body() {
    let server = server().await;
    let mut wire = Wire::open(&server).await;
    wire.send(format!(
        "POST {PATH} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    ))
    .await;
    for byte in infer("c").chars() {
        wire.send(format!("1\r\n{byte}\r\n")).await;
    }
    wire.send("0\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!([2.0, 3.0]));
    assert_eq!(answer.headers["x-model-version"], "1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_are_refused_and_end_the_connection() {
    let server = server().await;
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    for broken in [
        "xyz\r\n",
        "5\r\nhelloXX",
        "2\r\n{}\r\n-1\r\n",
        "fffffffffffffffff\r\n",
    ] {
        for path in [&head, &head.replace("/infer", "/config")] {
            let mut wire = Wire::open(&server).await;
            wire.send([path, broken].concat()).await;
            let answer = wire.answer().await;
            if path == &head {
                assert_eq!(answer.status, 400, "{broken:?}");
                assert!(answer.error().contains("malformed request body"), "{answer:?}");
            } else {
                assert_eq!(answer.status, 405, "{broken:?}");
            }
            assert_id(&answer);
            assert!(wire.closed().await, "{broken:?}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continue_is_sent_only_to_those_who_may() {
    let server = limited(|limits| limits.max_request_bytes = 1000).await;
    let mut wire = Wire::open(&server).await;
    let (head, body) = (post("", ""), infer("e"));
    let expecting = |length: usize| {
        head.replace(
            "content-length: 0",
            &format!("content-length: {length}\r\nexpect: 100-continue"),
        )
    };
    wire.send(expecting(body.len())).await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(&body).await;
    assert_eq!(wire.answer().await.json()["id"], "e");
    wire.send(expecting(1001)).await;
    assert_eq!(wire.answer().await.status, 413);
    // Who does not ask has sent it all before reading, and still reads the answer.
    let large = vec![b' '; 8 << 20];
    assert_eq!(server.post(PATH, &large).await.status, 413);
    assert_eq!(server.post("/nowhere", &large).await.status, 404);
    drop(wire);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_served_and_closes_unless_asked() {
    let server = server().await;
    for keep in [true, false] {
        let mut wire = Wire::open(&server).await;
        let connection = if keep { "connection: keep-alive\r\n" } else { "" };
        for _ in 0..if keep { 2 } else { 1 } {
            wire.send(post(&infer("o"), connection).replace("HTTP/1.1", "HTTP/1.0"))
                .await;
            assert_eq!(wire.answer().await.json()["id"], "o");
        }
        assert!(keep || wire.closed().await);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h2c_is_served_by_prior_knowledge() {
    let server = server().await;
    let endpoint = Channel::from_shared(format!("http://{}", server.app.http)).unwrap();
    let mut channel = endpoint.connect().await.unwrap();
    for (method, path, body, status) in [
        ("POST", PATH, infer("h2"), 200),
        ("GET", "/v2/health/ready", String::new(), 200),
        ("HEAD", "/v2", String::new(), 200),
        ("GET", "/nowhere", String::new(), 404),
    ] {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let request = http::Request::builder().method(method).uri(path);
        let body = tonic::body::Body::new(http_body_util::Full::from(body));
        let response = channel.call(request.body(body).unwrap()).await.unwrap();
        assert_eq!(
            (response.status(), response.version()),
            (status.try_into().unwrap(), http::Version::HTTP_2)
        );
        assert!(response.headers().contains_key("x-request-id"));
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.is_empty(), method == "HEAD", "{path}");
    }
    drop(channel);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_both_ways() {
    let server = limited(|limits| limits.max_request_bytes = 10_000).await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let whole = gzip(infer("z").as_bytes());
    let headers = [("content-encoding", "gzip"), ("accept-encoding", "deflate")];
    let answer = server.post_with(PATH, &headers, &whole).await;
    assert_eq!(
        (answer.status, answer.headers["content-encoding"].as_str()),
        (200, "deflate")
    );
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::ZlibDecoder::new(&answer.body[..]), &mut text).unwrap();
    assert!(text.contains(r#""id":"z""#), "{text}");

    let cut = server.post_with(PATH, &headers, &whole[..whole.len() - 1]).await;
    assert_eq!(cut.status, 400, "{cut:?}");
    let bomb = server.post_with(PATH, &headers, &gzip(&[b' '; 1 << 20])).await;
    assert_eq!(bomb.status, 413, "{bomb:?}");
    let unknown = server
        .post_with(PATH, &[("content-encoding", "br")], &whole)
        .await;
    assert_eq!(
        (unknown.status, unknown.headers["accept-encoding"].as_str()),
        (415, "gzip, deflate")
    );
    let plain = server
        .post_with(PATH, &[("accept-encoding", "gzip;q=0")], infer("p").as_bytes())
        .await;
    assert!(!plain.headers.contains_key("content-encoding"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_counts_for_as_much_as_it_is_once_decompressed() {
    let repository = Repository::new();
    repository.add("m", 1, ADD_ONE, "[batching]\nmax_rows = 8\n");
    let bytes = infer("large").len() + 100;
    let server = Server::start_with(repository, |config| config.limits.max_in_flight_bytes = bytes).await;
    server.wait_ready().await;
    server.post("/v2/repository/models/m/unload", "").await;
    let gate = Gate::closed();
    server.fake.hold_runs(gate.clone());
    assert_eq!(server.post("/v2/repository/models/m/load", "").await.status, 200);
    let mut first = Wire::open(&server).await;
    first.send(post(&infer("first"), "")).await;
    gate.wait_for_arrivals(1);
    let large = format!("{}{}", " ".repeat(10 * bytes), infer("large"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(large.as_bytes()).unwrap();
    let compressed = encoder.finish().unwrap();
    assert!(compressed.len() < infer("first").len() + 100);
    let refused = server
        .post_with(PATH, &[("content-encoding", "gzip")], &compressed)
        .await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(
        refused.error().contains("requests in flight would hold"),
        "{refused:?}"
    );
    gate.open();
    assert_eq!(first.answer().await.json()["id"], "first");
    assert_eq!(server.app.service.permits().bytes(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_tensors_in_and_out() {
    let server = server().await;
    let input = r#"{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}"#;
    let json = format!(r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{input}]}}"#);
    let raw: Vec<u8> = [1f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let expected: Vec<u8> = [2f32, 3.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let body = [json.as_bytes(), &raw].concat();
    let length = json.len().to_string();
    let with = async |length: &str, body: &[u8]| {
        server
            .post_with(PATH, &[("inference-header-content-length", length)], body)
            .await
    };
    for (length, body) in [(&*length, &body), ("0", &raw)] {
        let answer = with(length, body).await;
        assert_eq!(
            (answer.status, &*answer.headers["content-type"]),
            (200, "application/octet-stream")
        );
        let split: usize = answer.headers["inference-header-content-length"].parse().unwrap();
        let (head, tensor) = answer.body.split_at(split);
        let head: serde_json::Value = serde_json::from_slice(head).unwrap();
        assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 8);
        assert_eq!(tensor, expected);
    }
    let plain = server.post(PATH, infer("p")).await;
    assert_eq!(plain.headers["content-type"], "application/json");
    assert!(!plain.headers.contains_key("inference-header-content-length"));

    let beyond = (body.len() + 1).to_string();
    for (length, body, message) in [
        (
            &*length,
            &body[..body.len() - 3],
            "unexpected size for input 'x', expecting 3 additional bytes for model 'm'",
        ),
        (
            &*length,
            &[&body[..], b"!"].concat(),
            "unexpected additional input data for model 'm'",
        ),
        (
            &*beyond,
            &body,
            &format!(
                "inference header size should be in range (0, {}), got: {beyond}",
                body.len()
            ),
        ),
        (
            "-1",
            &body,
            &format!(
                "inference header size should be in range (0, {}), got: -1",
                body.len()
            ),
        ),
    ] {
        let answer = with(length, body).await;
        assert_eq!((answer.status, answer.error()), (400, message.to_owned()));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_code_and_an_id() {
    let server = server().await;
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    for (path, headers, body, status) in [
        (PATH, &[][..], "{", 400),
        (PATH, &[], &*deep, 400),
        (PATH, &[("x-request-timeout-ms", "0")], &infer("d"), 504),
        (PATH, &[("x-envoy-expected-rq-timeout-ms", "0")], &infer("d"), 504),
        (PATH, &[("x-request-timeout-ms", "soon")], &infer("d"), 400),
        ("/v2/models/n/infer", &[], &infer("d"), 404),
        ("/v2/models/m/versions/2/infer", &[], &infer("d"), 404),
        ("/v2/models/m/versions/0/infer", &[], &infer("d"), 400),
        ("/v2/models/..%2fm/infer", &[], &infer("d"), 400),
        ("/v2/models/m/generate", &[], "{}", 404),
        ("/v2/health/live", &[], "", 405),
        ("/v2/repository/models/n/load", &[], "{\"parameters\":[]}", 400),
        ("/v2/repository/index", &[], "{\"ready\":1}", 400),
        ("/v2/logging", &[], &deep, 400),
    ] {
        let answer = server.post_with(path, headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
        assert!(!answer.error().is_empty());
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_id(&answer);
    }
    let wrong = server.get(PATH).await;
    assert_eq!((wrong.status, &*wrong.headers["allow"]), (405, "POST"));
    assert_id(&server.get("/v2").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_no_http_are_refused_with_a_reason() {
    let server = server().await;
    let many = "a: b\r\n".repeat(200);
    let long = "x".repeat(100_000);
    for (head, status) in [
        ("GET / HTP/1.1\r\n\r\n".to_owned(), 400),
        ("G\u{e9}T / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /v2 HTTP/1.1\r\nhost t\r\n\r\n".to_owned(), 400),
        (
            format!("POST {PATH} HTTP/1.1\r\ncontent-length: lots\r\n\r\n"),
            400,
        ),
        (
            format!("POST {PATH} HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
            400,
        ),
        (format!("GET /v2 HTTP/1.1\r\n{many}\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 414),
    ] {
        let mut wire = Wire::open(&server).await;
        wire.send(&head).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{head:.60}");
        assert!(!answer.error().is_empty());
        assert_id(&answer);
        assert!(wire.closed().await);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_get_without_the_body() {
    let server = server().await;
    for path in [
        "/v2",
        "/v2/health/ready",
        "/v2/models/m",
        "/v2/models/n/ready",
        "/nowhere",
    ] {
        let get = server.get(path).await;
        let mut wire = Wire::open(&server).await;
        wire.send(format!(
            "HEAD {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
        ))
        .await;
        let mut answer = Vec::new();
        wire.0.read_to_end(&mut answer).await.unwrap();
        let head = parse(&answer);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(
            head.headers["content-length"],
            get.body.len().to_string(),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_request_holds_no_permit() {
    let server = limited(|limits| limits.max_in_flight = 1).await;
    let whole = post(&infer("h"), "expect: 100-continue\r\n");
    let mut halves = Vec::new();
    for sent in [0, 10, whole.len() - 1] {
        let mut wire = Wire::open(&server).await;
        wire.send(&whole[..sent]).await;
        halves.push(wire);
    }
    let mut last = halves.pop().unwrap();
    // Its head is read: one that comes while another holds the permit is refused without its body.
    assert_eq!(last.answer().await.status, 100);
    assert_eq!(server.post(PATH, infer("a")).await.status, 200);
    // Its permit comes back when its answer is sent, which the client may see first.
    while server.app.service.permits().requests() > 0 {
        tokio::task::yield_now().await;
    }
    last.send(&whole[whole.len() - 1..]).await;
    let answer = last.answer().await;
    assert_eq!(answer.json()["id"], "h", "{answer:?}");
    drop((last, halves));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_is_given_up() {
    let server = limited(|limits| limits.body_idle_timeout = Duration::from_millis(1)).await;
    let mut wire = Wire::open(&server).await;
    wire.send(post(&infer("s"), "").trim_end_matches('}')).await;
    assert_eq!(wire.answer().await.status, 408);
    assert!(wire.closed().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed() {
    let server = limited(|limits| limits.header_timeout = Duration::from_millis(1)).await;
    for said in ["", "P", "PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\nhost: t\r\nx-"] {
        let mut wire = Wire::open(&server).await;
        wire.send(said).await;
        assert!(wire.0.read_to_end(&mut Vec::new()).await.is_ok(), "{said}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_limit_is_told_so_and_closed() {
    let server = limited(|limits| limits.max_connections = 1).await;
    let mut first = Wire::open(&server).await;
    first.send(post(&infer("1"), "")).await;
    assert_eq!(first.answer().await.json()["id"], "1");
    let mut second = Wire::open(&server).await;
    second.send(post(&infer("2"), "")).await;
    let answer = second.answer().await;
    assert_eq!((answer.status, &*answer.headers["retry-after"]), (429, "1"));
    assert!(answer.error().contains("too many connections"), "{answer:?}");
    assert!(second.closed().await);
    first.send(post(&infer("3"), "")).await;
    assert_eq!(first.answer().await.json()["id"], "3");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_is_not_offered() {
    let server = server().await;
    for kind in ["systemsharedmemory", "cudasharedmemory"] {
        for region in ["", "/region/r"] {
            let path = |what| format!("/v2/{kind}{region}/{what}");
            let answer = server.get(&path("status")).await;
            assert_eq!((answer.status, answer.json()), (200, json!([])));
            let answer = server
                .post(&path("register"), r#"{"key":"/k","byte_size":4}"#)
                .await;
            assert_eq!(answer.status, 501);
            assert!(
                answer.error().contains("shared memory is not offered"),
                "{answer:?}"
            );
            assert_eq!(server.post(&path("unregister"), "").await.status, 200);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_request() {
    let server = server().await;
    let gate = Gate::closed();
    server.fake.hold_runs(gate.clone());
    // The gate holds models loaded from now on.
    for call in ["unload", "load"] {
        assert_eq!(
            server
                .post(&format!("/v2/repository/models/m/{call}"), "")
                .await
                .status,
            200
        );
    }
    let mut running = Wire::open(&server).await;
    running.send(post(&infer("r"), "")).await;
    let waiter = gate.clone();
    tokio::task::spawn_blocking(move || waiter.wait_for_arrivals(1))
        .await
        .unwrap();
    let cancelled = "status=\"cancelled\"";
    for gone in 1..=2 {
        let mut wire = Wire::open(&server).await;
        // The second leaves inside its body.
        let whole = post(&infer("g"), "");
        wire.send(&whole[..whole.len() + 1 - gone]).await;
        drop(wire);
        let counted = async {
            loop {
                let text = server.scrape().await;
                let counts = text
                    .lines()
                    .filter(|line| line.starts_with("crossfade_requests_total"));
                let counts = counts.filter(|line| line.contains(cancelled));
                let sum: usize = counts
                    .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
                    .sum();
                if sum == gone {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), counted).await;
        if waited.is_err() {
            gate.open();
            panic!(
                "{gone} cancelled requests are not counted:\n{}",
                server.scrape().await
            );
        }
    }
    gate.open();
    assert_eq!(running.answer().await.json()["id"], "r");
    drop(running);
    server.stop().await;
}
