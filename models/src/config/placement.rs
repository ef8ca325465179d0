//! Where the instances of a model shall compute: what a configuration asks for, and which devices that is on a machine.

use crossfade_runtimes_core::Device;

/// What a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// On which devices.
    pub on: On,
    /// Instances on each of them; on the CPU the server may choose another number.
    pub per_device: u32,
    /// Whether the CPU may stand in for GPUs that cannot be used.
    pub fallback_cpu: bool,
}

/// Which devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// Every GPU that the runtime can use, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// GPUs by their index, once for each `per_device` instances; none named: every one.
    Gpus(Vec<u32>),
}

impl Placement {
    /// One device for each instance, where the runtime can use `gpus` GPUs; on the CPU one for all instances.
    ///
    /// Errors: a GPU that is not there.
    pub fn resolve(&self, gpus: u32) -> Result<Vec<Device>, String> {
        let named = match &self.on {
            On::Cpu => return Ok(vec![Device::Cpu]),
            On::Auto if gpus == 0 => return Ok(vec![Device::Cpu]),
            On::Gpus(_) if gpus == 0 => return Err("there is no GPU".to_owned()),
            On::Auto => (0..gpus).collect(),
            On::Gpus(named) if named.is_empty() => (0..gpus).collect(),
            On::Gpus(named) => named.clone(),
        };
        if let Some(missing) = named.iter().find(|index| **index >= gpus) {
            return Err(format!(
                "there is no GPU {missing}; those that can be used are 0 to {}",
                gpus - 1
            ));
        }
        // Round by round, so that the first instances are on different devices.
        let rounds = (0..self.per_device.max(1)).flat_map(|_| named.iter().copied());
        Ok(rounds.map(Device::Cuda).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(on: On, per_device: u32, gpus: u32) -> Result<Vec<Device>, String> {
        let placement = Placement {
            on,
            per_device,
            fallback_cpu: false,
        };
        placement.resolve(gpus)
    }

    #[test]
    fn instances_are_spread_over_the_devices_asked_for() {
        use Device::{Cpu, Cuda};
        let check = |on, per_device, gpus, expected: &[Device]| {
            assert_eq!(resolve(on, per_device, gpus).unwrap(), expected);
        };
        check(On::Cpu, 3, 2, &[Cpu]);
        check(On::Auto, 3, 0, &[Cpu]);
        check(On::Auto, 1, 2, &[Cuda(0), Cuda(1)]);
        check(On::Gpus(vec![]), 2, 2, &[Cuda(0), Cuda(1), Cuda(0), Cuda(1)]);
        check(On::Gpus(vec![1]), 2, 2, &[Cuda(1), Cuda(1)]);
        check(On::Gpus(vec![0, 0, 1]), 1, 2, &[Cuda(0), Cuda(0), Cuda(1)]);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_named() {
        let error = |on, gpus| resolve(on, 1, gpus).unwrap_err();
        assert_eq!(error(On::Gpus(vec![]), 0), "there is no GPU");
        assert!(error(On::Gpus(vec![0, 7]), 2).contains("no GPU 7"));
    }
}
