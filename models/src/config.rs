//! A model's configuration: what the files say ([`RawConfig`]), and what the server relies on ([`ModelConfig`]).
//!
//! Every source (`config.pbtxt`, `model.toml`, the server's own file, the JSON of a load call) is read into a
//! [`RawConfig`]; these are merged per key, and completed once, against the model file, into a [`ModelConfig`].

mod complete;
mod effective;
pub mod finding;
pub mod json;
pub mod pbtxt;
mod placement;
mod policy;
mod raw;
mod schema;
pub mod toml;

pub use complete::Completion;
pub use effective::{
    Batching, ConfigTensor, Instances, ModelConfig, Optimise, QueuePolicy, TimeoutAction, Warmup, WarmupData,
    WarmupInput,
};
pub use placement::{On, Placement};
pub use policy::built;
pub use raw::{DeviceChoice, RawConfig, RuntimeChoice};

/// The name nearest to a wrong one, if any is near enough to be what was meant.
///
/// A name that only lacks its prefix counts as near: `FP32` for `TYPE_FP32`.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.chars().take(64).collect::<String>().to_lowercase();
    let likeness = |name: &str| {
        let name = name.to_lowercase();
        match name.strip_suffix(&wrong) {
            Some(prefix) if prefix.ends_with('_') => 1.0,
            _ => strsim::jaro_winkler(&wrong, &name),
        }
    };
    known
        .into_iter()
        .map(|name| (likeness(name), name))
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
