//! What the server found out about a model, in the `parameters` of the configuration that it shows.
//!
//! Clients fetch a configuration, change a key and hand the whole back with a load call. What was found is no wish
//! then: it is taken out again. What the server had completed is completed anew, so that requests are merged only after
//! it was shown again that merging changes no answer, and instances are still counted by measuring.

use serde_json::{Map, Value, json};

use super::complete::instances;

/// Why requests are not merged.
pub const UNMERGED: &str = "crossfade.unmerged";
/// How many rows are merged at most, where that is less than is allowed.
pub const BATCH_CAP_ROWS: &str = "crossfade.batch_cap_rows";
/// How many elements are merged at most, of a model whose requests have lengths, where that is less than is allowed.
pub const BATCH_CAP_ELEMENTS: &str = "crossfade.batch_cap_elements";
/// Why there are as many instances as there are.
pub const INSTANCES: &str = "crossfade.instances";
/// Why that is not known yet.
pub const CALIBRATION: &str = "crossfade.calibration";
/// On which devices instances compute, and what of the model runs there.
pub const DEVICES: &str = "crossfade.devices";
/// The `max_batch_size` that nobody gave and the server chose.
pub(super) const COMPLETED_BATCH: &str = "crossfade.completed.max_batch_size";
/// The number of instances that nobody gave.
pub(super) const COMPLETED_INSTANCES: &str = "crossfade.completed.instances";

/// All of them begin so; no runtime has a parameter that does.
const PREFIX: &str = "crossfade.";

/// Shows a finding in a configuration.
pub fn show(config: &mut Value, name: &str, text: &str) {
    config["parameters"][name] = json!({ "string_value": text });
}

/// Takes the findings out of a configuration that comes back, and what was completed where nobody changed it.
pub(super) fn take_out(fields: &mut Map<String, Value>) {
    let Some(Value::Object(parameters)) = fields.get_mut("parameters") else {
        return;
    };
    let number = |name: &str| -> Option<u64> {
        let text = parameters.get(name)?.get("string_value")?.as_str()?;
        text.parse().ok()
    };
    let (batch, instances) = (number(COMPLETED_BATCH), number(COMPLETED_INSTANCES));
    parameters.retain(|name, _| !name.starts_with(PREFIX));
    if parameters.is_empty() {
        fields.remove("parameters");
    }
    if batch.is_some() && batch == fields.get("max_batch_size").and_then(Value::as_u64) {
        fields.remove("max_batch_size");
    }
    if instances.is_some() && instances == fields.get("instance_group").and_then(on_cpu) {
        fields.remove("instance_group");
    }
}

/// How many instances a list of groups asks for, if all are on the CPU.
fn on_cpu(groups: &Value) -> Option<u64> {
    let groups = groups.as_array()?;
    let cpu = groups
        .iter()
        .all(|group| group.get("kind").and_then(Value::as_str) == Some("KIND_CPU"));
    cpu.then(|| instances::total(groups))
}
