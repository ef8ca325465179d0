//! NVIDIA's GPUs as candle has them, and what it says when one fails.

use candle_core::Device as Computing;
use crossfade_runtimes_core::{Device, RuntimeError};

use crate::error::{first_line, unsupported};

/// Parts of what is said where a device, its memory or its libraries are at fault, not the model.
const OF_DEVICES: [&str; 4] = ["DriverError(", "CUDA_ERROR_", "CublasError(", "CurandError("];

/// Names of the driver's errors after which nothing runs on a device any more.
const LOST: [&str; 15] = [
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
];

/// How many there are.
///
/// Errors: `Unsupported` in a build without CUDA; `Device` where the driver is missing or shows none.
pub(crate) fn count() -> Result<u32, RuntimeError> {
    #[cfg(feature = "cuda")]
    {
        use candle_core::cuda_backend::cudarc::driver::CudaContext;

        // A library that is missing is a panic there.
        let reason = match std::panic::catch_unwind(CudaContext::device_count) {
            Ok(Ok(count)) => match u32::try_from(count) {
                Ok(count) if count > 0 => return Ok(count),
                _ => "the driver shows no GPU".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => MISSING.to_owned(),
        };
        Err(unusable(Device::Cuda(0), &reason))
    }
    #[cfg(not(feature = "cuda"))]
    Err(not_built(Device::Cuda(0)))
}

/// The GPU of this index, opened.
///
/// Errors: `Unsupported` in a build without CUDA; `Device` where the driver, a library or the device is missing.
pub(crate) fn open(index: u32) -> Result<Computing, RuntimeError> {
    if !candle_core::utils::cuda_is_available() {
        return Err(not_built(Device::Cuda(index)));
    }
    let open = || Computing::new_cuda(usize::try_from(index).unwrap_or(usize::MAX));
    let reason = match std::panic::catch_unwind(open) {
        Ok(Ok(device)) => return Ok(device),
        Ok(Err(error)) => first_line(&error),
        Err(_) => MISSING.to_owned(),
    };
    Err(unusable(Device::Cuda(index), &reason))
}

const MISSING: &str = "a library of CUDA is missing";

fn not_built(device: Device) -> RuntimeError {
    unsupported(format!(
        "device `{device}`: this build has no CUDA; `cargo xtask build --cuda` makes one that has, and runtime `ort` needs no other build"
    ))
}

fn unusable(device: Device, reason: &str) -> RuntimeError {
    RuntimeError::Device {
        device: device.to_string(),
        reason: format!(
            "{reason}; install NVIDIA's driver and the CUDA libraries, or set `device = \"cpu\"` (docs/gpu.md)"
        ),
    }
}

/// A failure while `device` was loaded or computed on, with the device in it where that is at fault.
pub(crate) fn blamed(error: RuntimeError, device: Device) -> RuntimeError {
    let (RuntimeError::Load { reason } | RuntimeError::Run { reason }) = &error else {
        return error;
    };
    if device == Device::Cpu || !OF_DEVICES.iter().any(|part| reason.contains(part)) {
        return error;
    }
    let (device, reason) = (device.to_string(), reason.clone());
    if LOST.iter().any(|name| reason.contains(name)) {
        return RuntimeError::DeviceLost { device, reason };
    }
    match error {
        RuntimeError::Load { .. } => RuntimeError::Device { device, reason },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_blamed_for_what_it_did() {
        let said = |reason: &str| reason.to_owned();
        let memory = said("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        let illegal =
            said("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")");
        let gpu = Device::Cuda(1);
        let load = |reason: &str| RuntimeError::Load { reason: said(reason) };
        let run = |reason: &str| RuntimeError::Run { reason: said(reason) };
        assert!(
            matches!(blamed(load(&memory), gpu), RuntimeError::Device { device, .. } if device == "cuda:1")
        );
        assert!(matches!(blamed(run(&memory), gpu), RuntimeError::Run { .. }));
        assert!(
            matches!(blamed(run(&illegal), gpu), RuntimeError::DeviceLost { device, .. } if device == "cuda:1")
        );
        assert!(matches!(
            blamed(load("no tensor `x`"), gpu),
            RuntimeError::Load { .. }
        ));
        assert!(matches!(
            blamed(run(&illegal), Device::Cpu),
            RuntimeError::Run { .. }
        ));
    }
}
