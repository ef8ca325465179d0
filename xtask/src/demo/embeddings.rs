//! `cargo xtask demo embeddings`: semantic search in the terminal, through OpenAI's and Triton's clients.

use std::fs;

use anyhow::{Context, Result};

use super::server::Server;
use crate::paths::{root, target};
use crate::process::{command, run};
use crate::{minilm, say};

/// Serves MiniLM and searches the guide; `questions`: those of the command line.
pub(super) fn show(questions: &[&str]) -> Result<()> {
    super::prepare()?;
    let weights = minilm::fetch()?;
    let repository = target().join("demo-embeddings");
    let version = repository.join("minilm/1");
    fs::create_dir_all(version.join("1_Pooling"))?;
    // As it is published, without the export that lies beside it: candle reads it.
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
    ] {
        fs::copy(weights.join(file), version.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let mut server = Server::start(&repository, &[], 0, None)?;
    server.wait_ready()?;
    say(&format!(
        "\nall-MiniLM-L6-v2 is served by candle; the same by hand:\n  curl {}/v1/embeddings -d '{{\"model\": \"minilm\", \
         \"input\": \"a sentence\"}}'",
        server.http
    ));
    run(command(minilm::interpreter()?)
        .arg(root().join("xtask/src/demo/search.py"))
        .args([&server.http, &server.grpc])
        .arg(root().join("docs"))
        .args(questions))?;
    server.stop()
}
