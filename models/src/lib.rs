//! Which versions of which models exist, and which one answers.
//!
//! In reading order: [`config`] reads what a model's files say; [`layout`] finds them; [`scan`] notices changes;
//! [`version`] chooses; [`lifecycle`] and [`traffic`] are the pure rules; [`registry`] holds the loaded versions and
//! routes requests to them; [`check`] explains what is wrong with a repository.
//!
//! Absent: no transport, no batching, no runtime, no executor. Loading is the [`registry::Loader`]'s.

pub mod config;
pub mod layout;
pub mod scan;
mod watch;

pub mod version;

pub mod lifecycle;
pub mod traffic;

pub mod registry;

pub mod check;

mod error;

pub use config::{Completion, ModelConfig, RawConfig, RuntimeChoice};
pub use error::{ConfigError, LayoutError, LoadError, RegistryError, RouteError};
pub use lifecycle::State;
pub use registry::{
    AtStart, Choice, Conductor, ControlMode, Directed, Found, IndexEntry, LoadParameters, LoadRequest,
    Loaded, Loader, PreparedLoad, Registry, RegistryOptions, Routed,
};
pub use traffic::{Division, Wish};
pub use version::VersionPolicy;
