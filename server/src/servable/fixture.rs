//! A version that serves, for tests.

use std::sync::Arc;

use arc_swap::ArcSwap;
use crossfade_batcher::{Batcher, BatcherOptions, Observer};
use crossfade_runtimes_core::{Device, Model, ModelSignature};

use super::Running;
use super::calibration::Meter;
use super::loader::factory;

/// What the loader makes of a model, without the names.
pub(super) struct Version {
    pub(super) signature: Arc<ModelSignature>,
    pub(super) options: BatcherOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) running: Arc<ArcSwap<Running>>,
}

/// Version 1 of `m`, with so many instances.
pub(super) fn version(model: Arc<dyn Model>, count: usize) -> Version {
    let signature = Arc::new(model.signature().clone());
    let factory = factory(model.clone(), signature.clone(), &[Device::Cpu]);
    let options = BatcherOptions::new("m/1", 8);
    let observer: Arc<dyn Observer> = Arc::new(());
    let meter = Arc::new(Meter::new(observer.clone()));
    let instances = (0..count).map(|_| factory().unwrap()).collect();
    let (same, counted) = (options.clone(), meter.clone());
    let batcher = Batcher::start(signature.clone(), instances, factory, same, counted).unwrap();
    Version {
        signature,
        options,
        observer,
        running: Arc::new(ArcSwap::from_pointee(Running::new(batcher, model, meter, count))),
    }
}
