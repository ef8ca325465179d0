//! The control plane of a server: metadata, statistics and repository, over HTTP or gRPC.
//!
//! Each call has a connection of its own: they are rare, and must not wait behind requests.

mod over_grpc;
mod over_http;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::payload::Signature;
use crate::target::Target;

/// How long any call may take: loading a large model takes minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A server's control plane.
#[derive(Debug, Clone)]
pub struct Control(Target);

/// Statistics of one version of a model, counted since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The model.
    pub model: String,
    /// The version.
    pub version: String,
    /// Batches run.
    pub executions: u64,
    /// Requests answered.
    pub success: Spell,
    /// Time in the queue.
    pub queue: Spell,
    /// Preparing inputs.
    pub compute_input: Spell,
    /// In the model.
    pub compute_infer: Spell,
    /// Preparing outputs.
    pub compute_output: Spell,
    /// Batches run, by rows.
    pub batches: BTreeMap<u64, u64>,
}

/// How often something was done, and the nanoseconds it took together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Spell {
    /// How often.
    #[serde(default)]
    pub count: u64,
    /// Nanoseconds.
    #[serde(default)]
    pub ns: u64,
}

/// Parameters of a load call, by name; values are text.
pub type Parameters = BTreeMap<String, String>;

impl Control {
    /// The control plane at `target`, in the protocol family of `target`.
    pub fn new(target: Target) -> Self {
        Self(target)
    }

    /// Name and version of the server.
    ///
    /// Errors: if it does not answer or does not say.
    pub async fn server(&self) -> Result<(String, String)> {
        match self.grpc() {
            true => self.within(over_grpc::server(&self.0)).await,
            false => self.within(over_http::server(&self.0)).await,
        }
    }

    /// What `model` takes.
    ///
    /// Errors: if the server does not have it, or has no metadata of it.
    pub async fn signature(&self, model: &str, version: Option<&str>) -> Result<Signature> {
        let asked = async {
            match self.grpc() {
                true => over_grpc::signature(&self.0, model, version).await,
                false => over_http::signature(&self.0, model, version).await,
            }
        };
        self.within(asked)
            .await
            .with_context(|| format!("model `{model}`: no metadata from {}", self.0.url))
    }

    /// Statistics of all versions of `model`.
    ///
    /// Errors: if the server has none.
    pub async fn statistics(&self, model: &str) -> Result<Vec<Statistics>> {
        match self.grpc() {
            true => self.within(over_grpc::statistics(&self.0, model)).await,
            false => self.within(over_http::statistics(&self.0, model)).await,
        }
    }

    /// The effective configuration of `model`, a ModelConfig in JSON.
    ///
    /// Errors: if the server has no such call.
    pub async fn config(&self, model: &str) -> Result<Value> {
        match self.grpc() {
            true => self.within(over_grpc::config(&self.0, model)).await,
            false => self.within(over_http::config(&self.0, model)).await,
        }
    }

    /// Loads `model`, and returns when it is loaded.
    ///
    /// Errors: if the server refuses, with its reason.
    pub async fn load(&self, model: &str, parameters: &Parameters) -> Result<()> {
        match self.grpc() {
            true => self.within(over_grpc::load(&self.0, model, parameters)).await,
            false => self.within(over_http::load(&self.0, model, parameters)).await,
        }
    }

    /// Unloads `model`.
    ///
    /// Errors: if the server refuses, with its reason.
    pub async fn unload(&self, model: &str) -> Result<()> {
        match self.grpc() {
            true => self.within(over_grpc::unload(&self.0, model)).await,
            false => self.within(over_http::unload(&self.0, model)).await,
        }
    }

    fn grpc(&self) -> bool {
        self.0.protocol.is_grpc()
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limited = tokio::time::timeout(TIMEOUT, call).await;
        limited.with_context(|| format!("{} did not answer for {} s", self.0.url, TIMEOUT.as_secs()))?
    }
}
