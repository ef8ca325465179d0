//! The `parameters` of a model's configuration that ONNX Runtime understands (protocols.md §10.2).

use crossfade_runtimes_core::{ModelSource, RuntimeError};
use ort::session::builder::GraphOptimizationLevel;

use crate::providers;

const KNOWN: &str = "intra_op_thread_count, inter_op_thread_count, execution_mode, enable_mem_arena, \
                     enable_mem_pattern, memory.enable_memory_arena_shrinkage, session.*, gpu_mem_limit, \
                     arena_extend_strategy, cudnn_conv_algo_search, cuda.*, tensorrt.* and openvino.*";

/// What a session is made with.
#[derive(Debug, PartialEq)]
pub(crate) struct SessionParameters {
    /// Threads of a pool of the session's own; `None`: the pool all models share.
    pub(crate) intra_threads: Option<usize>,
    /// As above, for running nodes side by side.
    pub(crate) inter_threads: Option<usize>,
    /// Whether nodes may run side by side.
    pub(crate) parallel: bool,
    /// Whether scratch memory is kept between runs.
    pub(crate) memory_arena: bool,
    /// Whether scratch memory is planned from the shapes of earlier runs; `None`: the library's own default.
    pub(crate) memory_pattern: Option<bool>,
    /// Devices whose arena is given back after each run, such as `cpu:0`.
    pub(crate) arena_shrinkage: Option<String>,
    /// Optimisations at load.
    pub(crate) graph: GraphOptimizationLevel,
    /// `session.*` entries, passed on.
    pub(crate) entries: Vec<(String, String)>,
}

impl Default for SessionParameters {
    fn default() -> Self {
        Self {
            intra_threads: None,
            inter_threads: None,
            parallel: false,
            memory_arena: true,
            memory_pattern: None,
            arena_shrinkage: None,
            graph: GraphOptimizationLevel::All,
            entries: Vec::new(),
        }
    }
}

impl SessionParameters {
    /// Reads a source's parameters and graph level.
    ///
    /// Errors: `Parameter` for an unknown key or a value out of range, naming what is accepted.
    pub(crate) fn read(source: &ModelSource) -> Result<Self, RuntimeError> {
        let mut read = Self::default();
        for (key, value) in &source.parameters {
            let value = value.trim();
            match key.as_str() {
                "intra_op_thread_count" => read.intra_threads = threads(key, value)?,
                "inter_op_thread_count" => read.inter_threads = threads(key, value)?,
                "execution_mode" => read.parallel = switch(key, value, "0 (sequential) or 1 (parallel)")?,
                "enable_mem_arena" => read.memory_arena = switch(key, value, "0 or 1")?,
                "enable_mem_pattern" => read.memory_pattern = Some(switch(key, value, "0 or 1")?),
                "memory.enable_memory_arena_shrinkage" => read.arena_shrinkage = devices(key, value)?,
                // Read where it is decided what a session is made with.
                _ if providers::is_option(key) => {}
                _ if key.starts_with("session.") => read.entries.push((key.clone(), value.to_owned())),
                _ => return Err(wrong(key, format!("unknown to runtime `ort`, which has {KNOWN}"))),
            }
        }
        if read.arena_shrinkage.is_some() && !read.memory_arena {
            return Err(wrong(
                "memory.enable_memory_arena_shrinkage",
                "there is no arena to shrink while enable_mem_arena is 0".to_owned(),
            ));
        }
        read.graph = match source.graph_level {
            None | Some(0) => GraphOptimizationLevel::All,
            Some(-1) => GraphOptimizationLevel::Level1,
            Some(1) => GraphOptimizationLevel::Level2,
            Some(2) => GraphOptimizationLevel::Disable,
            Some(other) => {
                let reason = format!("{other} is none of -1 (basic), 0 (all), 1 (extended) and 2 (none)");
                return Err(wrong("optimization.graph.level", reason));
            }
        };
        Ok(read)
    }
}

/// A parameter error.
pub(crate) fn wrong(key: &str, reason: String) -> RuntimeError {
    RuntimeError::Parameter {
        key: key.to_owned(),
        reason,
    }
}

fn threads(key: &str, value: &str) -> Result<Option<usize>, RuntimeError> {
    match value.parse::<u16>() {
        Ok(0) => Ok(None),
        Ok(count) if count <= 1024 => Ok(Some(usize::from(count))),
        _ => Err(wrong(
            key,
            format!("`{value}` is no number of threads from 0 (the server's) to 1024"),
        )),
    }
}

fn switch(key: &str, value: &str, accepted: &str) -> Result<bool, RuntimeError> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(wrong(key, format!("`{value}` is not {accepted}"))),
    }
}

/// `cpu:0`, or several devices separated by semicolons, as the library's run option wants it; empty turns it off.
fn devices(key: &str, value: &str) -> Result<Option<String>, RuntimeError> {
    let is_device = |device: &str| {
        device
            .split_once(':')
            .is_some_and(|(kind, index)| matches!(kind, "cpu" | "gpu") && index.parse::<u16>().is_ok())
    };
    match value {
        "" => Ok(None),
        value if value.split(';').all(is_device) => Ok(Some(value.to_owned())),
        _ => Err(wrong(
            key,
            format!("`{value}` is not a list of devices such as `cpu:0`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<SessionParameters, RuntimeError> {
        SessionParameters::read(&ModelSource {
            parameters: parameters
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..ModelSource::default()
        })
    }

    #[test]
    fn every_documented_parameter_is_read() {
        let parameters = read(&[
            ("intra_op_thread_count", "3"),
            ("inter_op_thread_count", "0"),
            ("execution_mode", "1"),
            ("enable_mem_arena", "1"),
            ("enable_mem_pattern", "0"),
            ("memory.enable_memory_arena_shrinkage", "cpu:0;gpu:1"),
            ("session.set_denormal_as_zero", "1"),
            ("gpu_mem_limit", "1073741824"),
            ("cuda.use_tf32", "1"),
        ])
        .unwrap();
        let expected = SessionParameters {
            intra_threads: Some(3),
            parallel: true,
            memory_pattern: Some(false),
            arena_shrinkage: Some("cpu:0;gpu:1".to_owned()),
            entries: vec![("session.set_denormal_as_zero".to_owned(), "1".to_owned())],
            ..SessionParameters::default()
        };
        assert_eq!(parameters, expected);
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (key, value) in [
            ("intra_op_threads", "1"),
            ("intra_op_thread_count", "-1"),
            ("intra_op_thread_count", "many"),
            ("execution_mode", "2"),
            ("enable_mem_arena", "true"),
            ("memory.enable_memory_arena_shrinkage", "everything"),
        ] {
            match read(&[(key, value)]) {
                Err(RuntimeError::Parameter { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{key} = {value} gave {other:?}"),
            }
        }
    }
}
