//! On which devices a version is put: what its configuration asks for, held against what the runtime has here.

use crossfade_models::LoadError;
use crossfade_models::config::{On, Placement};
use crossfade_runtimes_core::{Device, Runtime, RuntimeError};

/// Where the instances of a version compute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// One for each instance; on the CPU one for all.
    pub(super) devices: Vec<Device>,
    /// Why the CPU stands in for the GPUs that were asked for.
    pub(super) instead: Option<String>,
}

impl Placed {
    /// The devices that `placement` means here.
    ///
    /// Errors: GPUs that are asked for and cannot be used, where the CPU may not stand in.
    pub(super) fn find(placement: &Placement, runtime: &dyn Runtime) -> Result<Self, RuntimeError> {
        if placement.on == On::Cpu {
            return Ok(Self::on_cpu(None));
        }
        let gpus = match (runtime.gpus(), &placement.on) {
            (Ok(gpus), _) => gpus,
            (Err(error), On::Auto) => {
                tracing::debug!(%error, "no GPU is used");
                0
            }
            (Err(error), _) => return Self::instead(placement, error),
        };
        match placement.resolve(gpus) {
            Ok(devices) => Ok(Self {
                devices,
                instead: None,
            }),
            Err(reason) => {
                let device = "cuda".to_owned();
                Self::instead(placement, RuntimeError::Device { device, reason })
            }
        }
    }

    /// The CPU, where it may stand in after `error`.
    fn instead(placement: &Placement, error: RuntimeError) -> Result<Self, RuntimeError> {
        match placement.fallback_cpu {
            true => Ok(Self::on_cpu(Some(error.to_string()))),
            false => Err(with_advice(error)),
        }
    }

    fn on_cpu(instead: Option<String>) -> Self {
        Self {
            devices: vec![Device::Cpu],
            instead,
        }
    }

    /// What `prepare` makes on these devices, or, where that may be, on the CPU in their stead once a device has failed.
    pub(super) fn attempt<T>(
        self,
        placement: &Placement,
        prepare: impl Fn(&Self) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        match prepare(&self) {
            Err(LoadError::Runtime(error @ RuntimeError::Device { .. })) if self.on_gpus() => {
                prepare(&Self::instead(placement, error)?)
            }
            // Nobody asked for a GPU, and the runtime has no use for one.
            Err(LoadError::Runtime(error @ RuntimeError::Unsupported { .. })) if self.on_gpus() => {
                let placed = match placement.on {
                    On::Auto => Self::on_cpu(Some(error.to_string())),
                    _ => Self::instead(placement, error)?,
                };
                prepare(&placed)
            }
            prepared => prepared,
        }
    }

    /// Whether instances compute elsewhere than on the CPU.
    pub(super) fn on_gpus(&self) -> bool {
        self.devices != [Device::Cpu]
    }
}

/// What to do where nobody said that the CPU may stand in.
fn with_advice(error: RuntimeError) -> RuntimeError {
    const ADVICE: &str = "to serve it on the CPU, ask for KIND_CPU (device = \"cpu\"), or allow the change with \
                          fallback = \"cpu\" under [instances] in model.toml";
    match error {
        RuntimeError::Device { device, reason } => RuntimeError::Device {
            device,
            reason: format!("{reason}; {ADVICE}"),
        },
        RuntimeError::Unsupported { runtime, what } => RuntimeError::Unsupported {
            runtime,
            what: format!("a GPU is asked for, and {what}; {ADVICE}"),
        },
        other => other,
    }
}

/// The device for the next instance: of those asked for, one that has the fewest instances for its share.
///
/// * `wanted`: one for each instance
/// * `there`: what instances that live now are on
pub(super) fn next(wanted: &[Device], there: &[(Device, usize)]) -> Device {
    let share = |device: &Device| wanted.iter().filter(|other| *other == device).count();
    let has = |device: &Device| {
        let found = there.iter().find(|(other, _)| other == device);
        found.map_or(0, |(_, count)| *count)
    };
    let missing = wanted.iter().find(|device| has(device) < share(device));
    missing.or(wanted.first()).copied().unwrap_or_default()
}

/// Devices as one word, such as `cuda:0,cuda:1`.
pub(super) fn named(devices: &[Device]) -> String {
    let mut names: Vec<String> = Vec::new();
    for device in devices {
        let name = device.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(",")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use crossfade_runtimes_core::{Model, ModelSource};

    use super::*;

    /// A runtime with some GPUs, or a reason for none.
    struct Machine(Result<u32, &'static str>);

    impl Runtime for Machine {
        fn name(&self) -> &'static str {
            "machine"
        }

        fn platform(&self) -> &'static str {
            "machine"
        }

        fn version(&self) -> String {
            "1".to_owned()
        }

        fn load(&self, _: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
            Err(broken("nothing is loaded here"))
        }

        fn gpus(&self) -> Result<u32, RuntimeError> {
            self.0.map_err(broken)
        }
    }

    fn broken(reason: &str) -> RuntimeError {
        RuntimeError::Device {
            device: "cuda".to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn placement(on: On, fallback_cpu: bool) -> Placement {
        Placement {
            on,
            per_device: 1,
            fallback_cpu,
        }
    }

    fn find(on: On, fallback_cpu: bool, gpus: Result<u32, &'static str>) -> Result<Placed, String> {
        Placed::find(&placement(on, fallback_cpu), &Machine(gpus)).map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_falls_back_who_does_not_ask_for_it() {
        let every = || On::Gpus(Vec::new());
        let error = find(every(), false, Err("no driver")).unwrap_err();
        assert!(
            error.contains("no driver") && error.contains("fallback = \"cpu\""),
            "{error}"
        );
        assert!(
            find(On::Gpus(vec![3]), false, Ok(2))
                .unwrap_err()
                .contains("no GPU 3")
        );
        let placed = find(every(), true, Err("no driver")).unwrap();
        assert_eq!(placed.devices, [Device::Cpu]);
        assert!(placed.instead.unwrap().contains("no driver"));
    }

    #[test]
    fn auto_takes_gpus_where_there_are_some() {
        assert_eq!(
            find(On::Auto, false, Ok(2)).unwrap().devices,
            [Device::Cuda(0), Device::Cuda(1)]
        );
        for none in [Err("no driver"), Ok(0)] {
            let placed = find(On::Auto, false, none).unwrap();
            assert_eq!((&*placed.devices, placed.instead), (&[Device::Cpu][..], None));
        }
        assert!(!find(On::Cpu, false, Ok(2)).unwrap().on_gpus());
    }

    #[test]
    fn a_load_that_fails_on_its_device_is_tried_on_the_cpu_only_where_that_may_be() {
        let attempt = |fallback_cpu| {
            let placement = placement(On::Auto, fallback_cpu);
            let placed = Placed::find(&placement, &Machine(Ok(1))).unwrap();
            let tried = RefCell::new(Vec::new());
            let result = placed.attempt(&placement, |placed| {
                tried.borrow_mut().extend(placed.devices.clone());
                match placed.on_gpus() {
                    true => Err(broken("out of memory").into()),
                    false => Ok(placed.instead.clone()),
                }
            });
            (result.map_err(|error| error.to_string()), tried.into_inner())
        };
        let (result, tried) = attempt(false);
        let error = result.unwrap_err();
        assert!(
            error.contains("out of memory") && error.contains("fallback = \"cpu\""),
            "{error}"
        );
        assert_eq!(tried, [Device::Cuda(0)]);
        let (result, tried) = attempt(true);
        assert!(result.unwrap().unwrap().contains("out of memory"));
        assert_eq!(tried, [Device::Cuda(0), Device::Cpu]);
    }

    #[test]
    fn a_model_that_no_gpu_runs_is_on_the_cpu_unless_a_gpu_was_asked_for() {
        let attempt = |on| {
            let placement = placement(on, false);
            let placed = Placed::find(&placement, &Machine(Ok(1))).unwrap();
            let result = placed.attempt(&placement, |placed| match placed.on_gpus() {
                true => Err(RuntimeError::Unsupported {
                    runtime: "machine",
                    what: "none of its nodes runs with cuda".to_owned(),
                }
                .into()),
                false => Ok(placed.instead.clone()),
            });
            result.map_err(|error| error.to_string())
        };
        assert!(attempt(On::Auto).unwrap().unwrap().contains("none of its nodes"));
        let error = attempt(On::Gpus(Vec::new())).unwrap_err();
        assert!(
            error.contains("none of its nodes") && error.contains("KIND_CPU"),
            "{error}"
        );
    }

    #[test]
    fn a_new_instance_goes_where_one_is_missing() {
        use Device::Cuda;
        let wanted = [Cuda(0), Cuda(1), Cuda(0)];
        assert_eq!(next(&wanted, &[]), Cuda(0));
        assert_eq!(next(&wanted, &[(Cuda(0), 1)]), Cuda(0));
        assert_eq!(next(&wanted, &[(Cuda(0), 2)]), Cuda(1));
        assert_eq!(next(&wanted, &[(Cuda(0), 1), (Cuda(1), 1)]), Cuda(0));
        assert_eq!(next(&wanted, &[(Cuda(0), 2), (Cuda(1), 1)]), Cuda(0));
        assert_eq!(next(&[], &[]), Device::Cpu);
        assert_eq!(named(&wanted), "cuda:0,cuda:1");
    }
}
