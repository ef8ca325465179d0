//! A server in this process, and plain clients of both protocols.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossfade_journal::audit::AuditRecord;
use crossfade_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use crossfade_runtimes::{Runtimes, RuntimesOptions};
use crossfade_runtimes_fake::FakeRuntime;
use crossfade_server::app::App;
use crossfade_server::config::file::RawConfig;
use crossfade_server::config::{ControlMode, Flags, ServerConfig};
use crossfade_server::telemetry::LogControl;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// Where model.toml says that the fake runtime serves.
pub(crate) const FAKE: &str = "[model]\nruntime = \"fake\"\nfile = \"model.fake\"\n";

/// `y = x + 1` on rows of two floats.
pub(crate) const ADD_ONE: &str = "input x FP32 -1,2\noutput y FP32 -1,2\nop add 1\n";

/// A repository in a temporary folder.
pub(crate) struct Repository {
    dir: TempDir,
}

impl Repository {
    /// An empty repository.
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a version of a model, and the model's configuration: `FAKE` and `more`.
    pub(crate) fn add(&self, model: &str, version: u64, file: &str, more: &str) -> &Self {
        let version = self.path().join(model).join(version.to_string());
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(version.join("model.fake"), file).unwrap();
        self.configure(model, more)
    }

    /// Writes a model's configuration: `FAKE` and `more`.
    pub(crate) fn configure(&self, model: &str, more: &str) -> &Self {
        std::fs::write(
            self.path().join(model).join("model.toml"),
            format!("{FAKE}{more}"),
        )
        .unwrap();
        self
    }
}

/// A server under test.
pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) fake: FakeRuntime,
    pub(crate) repository: Repository,
    pub(crate) data: TempDir,
}

impl Server {
    /// Serves `repository` in explicit mode, all models loaded, and waits until it is ready.
    pub(crate) async fn start(repository: Repository) -> Self {
        let server = Self::start_with(repository, |_| {}).await;
        server.wait_ready().await;
        server
    }

    /// As [`start`](Self::start), with another configuration, and without waiting.
    pub(crate) async fn start_with(repository: Repository, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::try_start(repository, change).await.unwrap()
    }

    /// The same, where it may be refused.
    pub(crate) async fn try_start(
        repository: Repository,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Result<Self, String> {
        let data = tempfile::tempdir().unwrap();
        let flags = Flags {
            data_dir: Some(data.path().to_owned()),
            model_repository: vec![repository.path().to_owned()],
            model_control_mode: Some(ControlMode::Explicit),
            load_model: vec!["*".into()],
            http_port: Some(0),
            grpc_port: Some(0),
            metrics_port: Some(0),
            admin_port: Some(0),
            ..Flags::default()
        };
        let mut config = ServerConfig::resolve(flags, RawConfig::default()).unwrap();
        // A gate that holds a run would hold the thread of the server that was lent its instance.
        config.limits.lend_within = Duration::ZERO;
        change(&mut config);
        let fake = FakeRuntime::new();
        let nowhere = Some("/nonexistent/libonnxruntime.so".into());
        let mut runtimes = Runtimes::open(&RuntimesOptions {
            ort_library: nowhere,
            intra_threads: 1,
            cuda_lib_dirs: Vec::new(),
        });
        runtimes.register(Arc::new(fake.clone()));
        let app = App::start(config, Arc::new(runtimes), LogControl::detached()).await;
        Ok(Self {
            app: app.map_err(|error| format!("{error:#}"))?,
            fake,
            repository,
            data,
        })
    }

    /// Waits until the server says that it is ready.
    pub(crate) async fn wait_ready(&self) {
        let mut ready = self.app.service.watch_ready();
        let waited = tokio::time::timeout(Duration::from_secs(60), ready.wait_for(|ready| *ready)).await;
        waited.expect("ready within a minute").unwrap();
    }

    /// A gRPC client.
    pub(crate) async fn grpc(&self) -> GrpcInferenceServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.app.grpc)).unwrap();
        GrpcInferenceServiceClient::new(channel.connect().await.unwrap())
    }

    /// GET over HTTP.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        exchange(self.app.http, &format!("GET {path} HTTP/1.1"), &[], b"").await
    }

    /// POST over HTTP.
    pub(crate) async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        exchange(
            self.app.http,
            &format!("POST {path} HTTP/1.1"),
            &[],
            body.as_ref(),
        )
        .await
    }

    /// POST over HTTP with headers.
    pub(crate) async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        exchange(self.app.http, &format!("POST {path} HTTP/1.1"), headers, body).await
    }

    /// The metrics' text.
    pub(crate) async fn scrape(&self) -> String {
        let answer = exchange(self.app.metrics, "GET /metrics HTTP/1.1", &[], b"").await;
        String::from_utf8(answer.body).unwrap()
    }

    /// The records of its audit, verified, as an export has them.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let folder = self.data.path().join("audit");
        let records = crossfade_journal::audit::records(&folder, 0).unwrap();
        let line = |record: Result<AuditRecord, _>| record.unwrap().line().unwrap();
        records
            .map(|record| serde_json::from_str(&line(record)).unwrap())
            .collect()
    }

    /// Stops it; everything in flight must end within a minute.
    pub(crate) async fn stop(self) {
        assert!(
            self.app
                .stop(Duration::from_secs(60), std::future::pending())
                .await
        );
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The message of an error body.
    pub(crate) fn error(&self) -> String {
        self.json()["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {self:?}"))
            .to_owned()
    }
}

/// One request on a connection of its own.
pub(crate) async fn exchange(to: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("{line}\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    parse(&answer)
}

/// Reads an answer with a content length.
pub(crate) fn parse(answer: &[u8]) -> Answer {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a whole head");
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: answer[end + 4..].to_vec(),
    }
}
