//! A server of the demo's own: started, asked, stopped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::binary;
use crate::process::{self, command};
use crate::say;

/// A running server and where it listens.
pub(super) struct Server {
    pub(super) child: Child,
    /// Its data folder, of this run alone.
    pub(super) data: PathBuf,
    pub(super) http: String,
    pub(super) grpc: String,
    pub(super) metrics: String,
    pub(super) admin: String,
}

impl Server {
    /// Starts the release binary and reads the line that says where it listens.
    ///
    /// * `port_base`: the first of four ports; 0: free ones
    /// * `log`: a file for what it logs, instead of the terminal
    pub(super) fn start(
        repository: &Path,
        flags: &[&str],
        port_base: u16,
        log: Option<&Path>,
    ) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("crossfade-demo-{}", std::process::id()));
        let mut started = command(binary());
        started.arg("serve").arg("--model-repository").arg(repository);
        started.arg("--data-dir").arg(&data).args(flags);
        for (offset, flag) in ["--http-port", "--grpc-port", "--metrics-port", "--admin-port"]
            .into_iter()
            .enumerate()
        {
            let port = if port_base == 0 {
                0
            } else {
                usize::from(port_base) + offset
            };
            started.args([flag, &port.to_string()]);
        }
        let mut child = started
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let mut lines = BufReader::new(child.stderr.take().context("the server's log was piped")?);
        let mut sink: Box<dyn Write + Send> = match log {
            Some(path) => Box::new(File::create(path)?),
            None => Box::new(std::io::stderr()),
        };
        let mut seen = String::new();
        let [http, grpc, metrics, admin] = loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                bail!("the server ended before it listened:\n{seen}");
            }
            seen.push_str(&line);
            sink.write_all(line.as_bytes())?;
            if let Some(addresses) = addresses(&line) {
                break addresses;
            }
        };
        // The log goes on for as long as the server lives.
        std::thread::spawn(move || {
            let _copied = std::io::copy(&mut lines, &mut sink);
        });
        Ok(Self {
            child,
            data,
            http,
            grpc,
            metrics,
            admin,
        })
    }

    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status} before it was ready");
            }
            if get(&self.http, "/v2/health/ready").is_ok() {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        // Without ONNX Runtime some models of the zoo cannot load, so the server is not ready, but digits serves.
        if get(&self.http, "/v2/models/digits/ready").is_ok() {
            say("Not every model could be loaded (see the log above); going on with those that could.");
            return Ok(());
        }
        bail!("the server was not ready within a minute; its log is above")
    }

    pub(super) fn post(&self, path: &str, body: &str) -> Result<String> {
        post(&self.http, path, body)
    }

    /// What the admin listener answers.
    pub(super) fn admin(&self, path: &str) -> Result<String> {
        get(&self.admin, path)
    }

    /// Tells the admin listener to do something.
    pub(super) fn tell(&self, path: &str, body: &str) -> Result<String> {
        post(&self.admin, path, body)
    }

    /// SIGTERM, then its exit code.
    pub(super) fn stop(mut self) -> Result<()> {
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
            let _reaped = self.child.wait();
        }
        let _removed = std::fs::remove_dir_all(&self.data);
    }
}

/// HTTP, gRPC, metrics and admin, out of the line that names them.
fn addresses(line: &str) -> Option<[String; 4]> {
    let find = |key: &str| {
        let rest = line.split_once(&format!(" {key}="))?.1;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    if !line.contains("listening") {
        return None;
    }
    Some([find("http")?, find("grpc")?, find("metrics")?, find("admin")?])
}

fn post(address: &str, path: &str, body: &str) -> Result<String> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    ask(address, path, &format!("{head}{body}"))
}

fn get(address: &str, path: &str) -> Result<String> {
    ask(
        address,
        path,
        &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"),
    )
}

/// One exchange on a connection of its own; the answer's body. Anything but 200 and 201 is an error.
fn ask(address: &str, path: &str, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") && !status.contains(" 201 ") {
        bail!("{path} answered {status}: {body}");
    }
    Ok(body.to_owned())
}
