//! `cargo xtask demo`: the whole path in one command.

use anyhow::{Context, Result, bail};

use crate::paths::{root, target};
use crate::process::{self, cargo, command};
use crate::{onnxruntime, say};

mod clients;
mod embeddings;
mod rollout;
mod server;

use server::Server;

/// The request that is sent: a handwritten digit out of the zoo's golden pairs.
const REQUEST: &str = "models/zoo/digits/golden/demo.request.json";

/// Builds, serves the zoo, asks once through each protocol.
fn serve_and_ask(once: bool, port_base: u16) -> Result<()> {
    prepare()?;
    let mut server = Server::start(&root().join("models/zoo"), &[], port_base, None)?;
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

/// ONNX Runtime beside a release build.
fn prepare() -> Result<()> {
    match onnxruntime::fetch() {
        Ok(library) => onnxruntime::place(&library, &target().join("release"))?,
        Err(error) => say(&format!(
            "ONNX Runtime could not be fetched ({error:#}).\nServing with tract instead; models that need ONNX Runtime \
             (string outputs, tree ensembles) will say so and stay unavailable."
        )),
    }
    build_release()
}

/// Parses the flags of `demo`.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    if let Some((&"rollout", rest)) = args.split_first() {
        if let Some(unknown) = rest.first() {
            bail!("unknown flag `{unknown}`; demo rollout takes none");
        }
        return rollout::show();
    }
    if let Some((&"embeddings", questions)) = args.split_first() {
        return embeddings::show(questions);
    }
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
