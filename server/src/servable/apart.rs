//! An instance of a version that its requests do not use.

use std::sync::Arc;

use crossfade_batcher::{Batcher, BatcherOptions};

use super::Servable;
use super::loader::factory;

/// Requests that may wait for it.
const WAITING: usize = 64;

impl Servable {
    /// A batcher with one instance of its own, which nothing counts. Its thread inherits the priority of this one.
    ///
    /// Errors: why there is none. Takes as long as making an instance does.
    pub(crate) fn apart(&self) -> Result<Batcher, String> {
        let config = &self.config;
        let model = self.running.load().model.clone();
        let factory = factory(model, self.signature.clone(), &config.instances.devices);
        let instance = factory().map_err(|error| error.to_string())?;
        let rows = usize::try_from(config.batching.max_rows.max(1)).unwrap_or(usize::MAX);
        let options = BatcherOptions {
            merge: config.batching.enabled && self.unmerged.is_none(),
            max_queue_requests: WAITING,
            ..BatcherOptions::new(format!("{}/{} apart", self.name, self.version), rows)
        };
        let (signature, observer) = (self.signature.clone(), Arc::new(()));
        Batcher::start(signature, vec![instance], factory, options, observer)
            .map_err(|error| error.to_string())
    }
}
