//! `cargo xtask demo`: the whole path in one command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::{binary, root, target};
use crate::process::{self, cargo, command};
use crate::{onnxruntime, say};

/// The request that is sent: a handwritten digit out of the zoo's golden pairs.
const REQUEST: &str = "models/zoo/digits/golden/demo.request.json";

/// Builds, serves the zoo, asks once through each protocol.
fn serve_and_ask(once: bool, port_base: u16) -> Result<()> {
    match onnxruntime::fetch() {
        Ok(library) => onnxruntime::place(&library, &target().join("release"))?,
        Err(error) => say(&format!(
            "ONNX Runtime could not be fetched ({error:#}).\nServing with tract instead; models that need ONNX Runtime \
             (string outputs, tree ensembles) will say so and stay unavailable."
        )),
    }
    build_release()?;
    let mut server = Server::start(port_base)?;
    server.wait_ready()?;
    let body =
        std::fs::read_to_string(root().join(REQUEST)).with_context(|| format!("cannot read {REQUEST}"))?;
    say("\n--- HTTP: POST /v2/models/digits/infer");
    say(&server.post("/v2/models/digits/infer", &body)?);
    say("\n--- gRPC: inference.GRPCInferenceService/ModelInfer");
    process::run(
        command(target().join("release/examples/ask"))
            .args([&format!("http://{}", server.grpc), "digits"])
            .arg(REQUEST),
    )?;
    say(&format!(
        "\nBoth answers come from the same batcher. What to try next:\n\
         \n  curl {http}/v2/models/digits\n  curl -X POST {http}/v2/repository/index\n  \
         curl {http}/v2/models/digits/infer -d @{REQUEST}\n  \
         curl {http}/v2/models/digits/versions/2/infer -d @{REQUEST}\n  curl {metrics}/metrics",
        http = server.http,
        metrics = server.metrics,
    ));
    if once {
        return server.stop();
    }
    say("\nServing until Ctrl-C.");
    let status = server.child.wait()?;
    if status.success() {
        Ok(())
    } else {
        bail!("the server ended with {status}")
    }
}

/// Parses the flags of `demo`.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let mut once = false;
    let mut port_base = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match *arg {
            "--once" => once = true,
            "--port-base" => {
                let value = args.next().context("--port-base needs a number")?;
                port_base = Some(value.parse().with_context(|| format!("`{value}` is no port"))?);
            }
            other => bail!("unknown flag `{other}`; demo takes --once and --port-base N"),
        }
    }
    let default = if once { 0 } else { 8000 };
    serve_and_ask(once, port_base.unwrap_or(default))
}

/// The release build that the demo and the client tests share.
pub(crate) fn build_release() -> Result<()> {
    let packages = ["-p", "crossfade-server", "-p", "crossfade-proto"];
    process::run(cargo(&["build", "--release", "--bins", "--example", "ask"]).args(packages))
}

/// A running server and where it listens.
struct Server {
    child: Child,
    /// Its data folder, of this run alone.
    data: PathBuf,
    http: String,
    grpc: String,
    metrics: String,
}

impl Server {
    /// Starts the release binary over the zoo and reads the line that says where it listens.
    fn start(port_base: u16) -> Result<Self> {
        let port = |offset: u16| {
            if port_base == 0 {
                "0".to_owned()
            } else {
                (port_base + offset).to_string()
            }
        };
        let data = std::env::temp_dir().join(format!("crossfade-demo-{}", std::process::id()));
        let mut child = command(binary())
            .args(["serve", "--model-repository", "models/zoo"])
            .args([
                "--http-port",
                &port(0),
                "--grpc-port",
                &port(1),
                "--metrics-port",
                &port(2),
                "--admin-port",
                &port(3),
            ])
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let mut log = BufReader::new(child.stderr.take().context("the server's log was piped")?);
        let mut seen = String::new();
        let addresses = loop {
            let mut line = String::new();
            if log.read_line(&mut line)? == 0 {
                bail!("the server ended before it listened:\n{seen}");
            }
            seen.push_str(&line);
            say(line.trim_end());
            let find = |key: &str| {
                let rest = line.split_once(&format!("{key}="))?.1;
                Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
            };
            if line.contains("listening")
                && let (Some(http), Some(grpc), Some(metrics)) =
                    (find(" http"), find(" grpc"), find(" metrics"))
            {
                break (http, grpc, metrics);
            }
        };
        // The log goes on to the terminal for as long as the server lives.
        std::thread::spawn(move || {
            let mut log = log;
            let mut stderr = std::io::stderr();
            let _copied = std::io::copy(&mut log, &mut stderr);
        });
        let (http, grpc, metrics) = addresses;
        Ok(Self {
            child,
            data,
            http,
            grpc,
            metrics,
        })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status} before it was ready");
            }
            if self.get_ok("/v2/health/ready") {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        // Without ONNX Runtime some models of the zoo cannot load, so the server is not ready, but digits serves.
        if self.get_ok("/v2/models/digits/ready") {
            say("Not every model could be loaded (see the log above); going on with those that could.");
            return Ok(());
        }
        bail!("the server was not ready within a minute; its log is above")
    }

    fn get_ok(&self, path: &str) -> bool {
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        self.exchange(&request)
            .is_ok_and(|answer| answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"))
    }

    fn post(&self, path: &str, body: &str) -> Result<String> {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let answer = self.exchange(&format!("{head}{body}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
        let status = head.lines().next().unwrap_or_default();
        if !status.contains(" 200 ") {
            bail!("{path} answered {status}: {body}");
        }
        Ok(body.to_owned())
    }

    fn exchange(&self, request: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// SIGTERM, then its exit code.
    fn stop(mut self) -> Result<()> {
        process::run(command("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            bail!("the server ended with {status} after SIGTERM")
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only reached with the server still running when an error ended the demo early.
        if let Ok(None) = self.child.try_wait() {
            let _killed = self.child.kill();
        }
        let _removed = std::fs::remove_dir_all(&self.data);
    }
}
