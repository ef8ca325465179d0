//! A model as sessions: one that its instances share, or one for each instance, with execution providers.

mod making;

use std::sync::{Arc, Mutex, PoisonError};

use crossfade_runtimes_core::{
    Device, DeviceUse, Instance, InstanceOptions, Model, ModelSignature, ModelSource, Outputs, RuntimeError,
    TensorView,
};

use crate::convert::{DeviceExecutable, DeviceOptions, Executable, GiveMemoryBack, Names};
use crate::error::{self, unsupported};
use crate::ledger::{Account, Ledger};
use crate::library::Library;
use crate::outlet::{self, c_names};
use crate::turns::{InTurn, TURNS};
use making::{Made, Recipe};

/// An instance on a device notes what it holds after so many runs, and whenever its buffers grow.
const RUNS_PER_LOOK: u32 = 256;

/// Signature, and what instances are made of.
pub(crate) struct OrtModel {
    signature: Arc<ModelSignature>,
    recipe: Recipe,
    /// The session that all instances on the CPU run, where no execution provider is asked for.
    shared: Option<Arc<Executable>>,
    /// The session that the signature was read from, for the first instance of its own.
    first: Mutex<Option<(Device, InTurn<Made>)>>,
    ledger: Ledger,
    file_bytes: u64,
}

impl OrtModel {
    /// Makes a first session of `source`, on the first of its devices.
    pub(crate) fn load(library: &Library, source: &ModelSource) -> Result<Self, RuntimeError> {
        // Reading a model takes several times its size for a moment.
        let _give_back = GiveMemoryBack;
        let recipe = Recipe::read(library, source)?;
        let device = source.devices.first().copied().unwrap_or_default();
        let made = recipe.make(device)?;
        let signature = Arc::new(outlet::signature(made.session())?);
        let mut model = Self {
            signature,
            recipe,
            shared: None,
            first: Mutex::new(None),
            ledger: Ledger::default(),
            file_bytes: source.bytes_on_disk(),
        };
        if made.is_plain() {
            model.shared = Some(Arc::new(model.on_host(made)?));
        } else {
            model.first = Mutex::new(Some((device, InTurn::new(made))));
        }
        Ok(model)
    }

    fn names(&self) -> Names {
        Names {
            inputs: c_names(&self.signature.inputs),
            outputs: c_names(&self.signature.outputs),
        }
    }

    /// An executable whose inputs and outputs lie in the host's memory.
    fn on_host(&self, made: Made) -> Result<Executable, RuntimeError> {
        let Names { inputs, outputs } = self.names();
        let run_options = self.recipe.run_options()?;
        Executable::new(made.into_session(), inputs, outputs, run_options)
            .map_err(|error| error::load(&error, self.recipe.file()))
    }

    /// An instance with a session of its own.
    fn own(&self, device: Device) -> Result<Box<dyn Instance>, RuntimeError> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = first.take_if(|(made_for, _)| *made_for == device);
        drop(first);
        let mut made = match kept {
            Some((_, made)) => made.into_inner(),
            None => self.recipe.make(device)?,
        };
        let served_by = made.served_by();
        let account = self.ledger.open(device, served_by.clone());
        tracing::info!(%device, served_by, "an instance has a session of its own");
        let Some(lane) = made.take_lane() else {
            return Ok(Box::new(HostInstance {
                signature: self.signature.clone(),
                executable: Arc::new(self.on_host(made)?),
                _account: Some(account),
            }));
        };
        let options = DeviceOptions {
            device,
            graphs: made.graphs(),
            run_options: &|| self.recipe.new_run_options(device),
        };
        let turn = TURNS.load();
        let executable = DeviceExecutable::new(made.into_session(), self.names(), lane, &options)
            .map_err(|error| error::device(device, error::text(&error, self.recipe.file())))?;
        account.set(executable.device_bytes());
        drop(turn);
        Ok(Box::new(DeviceInstance {
            signature: self.signature.clone(),
            executable: InTurn::new(executable),
            account,
            runs: 0,
        }))
    }
}

impl Model for OrtModel {
    fn signature(&self) -> &ModelSignature {
        &self.signature
    }

    fn instantiate(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        match (&self.shared, options.device) {
            (Some(shared), Device::Cpu) => Ok(Box::new(HostInstance {
                signature: self.signature.clone(),
                executable: shared.clone(),
                _account: None,
            })),
            (Some(_), device) => Err(unsupported(format!(
                "device `{device}`: the model was loaded for the CPU"
            ))),
            (None, device) => self.own(device),
        }
    }

    /// The model's files: ONNX Runtime does not say what it holds, and weights are nearly all of it. Those of instances on
    /// other devices lie there.
    fn memory_bytes(&self) -> u64 {
        match self.recipe.on_device() {
            true => 0,
            false => self.file_bytes,
        }
    }

    fn devices(&self) -> Vec<DeviceUse> {
        self.ledger.uses()
    }
}

/// Runs a session on the host's memory; several threads may run a shared one at the same time.
struct HostInstance {
    signature: Arc<ModelSignature>,
    executable: Arc<Executable>,
    _account: Option<Arc<Account>>,
}

impl Instance for HostInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        self.executable.run(&self.signature, inputs, outputs)
    }
}

/// Runs a session of its own on a device.
struct DeviceInstance {
    signature: Arc<ModelSignature>,
    executable: InTurn<DeviceExecutable>,
    account: Arc<Account>,
    runs: u32,
}

impl Instance for DeviceInstance {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let grew = self.executable.run(&self.signature, inputs, outputs)?;
        if grew || self.runs.is_multiple_of(RUNS_PER_LOOK) {
            self.account.set(self.executable.device_bytes());
        }
        self.runs = self.runs.wrapping_add(1);
        Ok(())
    }
}

impl Drop for DeviceInstance {
    fn drop(&mut self) {
        if self.executable.is_lost() {
            // All that it held went with the device. ONNX Runtime's destructors would give it back by calls that fail, and end the
            // process by that.
            self.executable.forget();
        }
    }
}
