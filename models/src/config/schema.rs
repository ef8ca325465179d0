//! The fields of Triton's ModelConfig (protocols.md §10.2): the one table that the text and JSON readers follow.

use serde_json::{Map, Number, Value};

/// A message of the configuration language.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) label: Label,
    /// Members of one group exclude each other.
    pub(crate) group: Option<&'static str>,
}

/// How often a field may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    One,
    Many,
    /// Entries `{ key, value }`, keys as text.
    Map,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Bool,
    /// An integer of this width.
    Integer(Width),
    Text,
    Enum(&'static [(&'static str, i64)]),
    Message(&'static Message),
    /// Kept as it stands: refused or ignored later, as a whole.
    Free,
}

/// Width and sign of an integer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Width {
    I32,
    I64,
    U32,
    U64,
}

impl Kind {
    /// What to call it in an error.
    pub(crate) fn describe(self) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer(Width::I32) => "an integer (int32)".to_owned(),
            Kind::Integer(Width::I64) => "an integer (int64)".to_owned(),
            Kind::Integer(Width::U32) => "a non-negative integer (uint32)".to_owned(),
            Kind::Integer(Width::U64) => "a non-negative integer (uint64)".to_owned(),
            Kind::Text => "a string".to_owned(),
            Kind::Enum(values) => format!(
                "one of {}",
                values
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Kind::Message(message) => format!("a {} in braces", message.name),
            Kind::Free => "a value".to_owned(),
        }
    }

    /// The canonical value of an integer literal, if this kind takes it.
    pub(crate) fn integer(self, value: i128) -> Option<Value> {
        let number = match self {
            Kind::Integer(Width::I32) => Number::from(i32::try_from(value).ok()?),
            Kind::Integer(Width::I64) => Number::from(i64::try_from(value).ok()?),
            Kind::Integer(Width::U32) => Number::from(u32::try_from(value).ok()?),
            Kind::Integer(Width::U64) => Number::from(u64::try_from(value).ok()?),
            Kind::Enum(values) => {
                return values
                    .iter()
                    .find(|(_, number)| i128::from(*number) == value)
                    .map(|(name, _)| Value::from(*name));
            }
            _ => return None,
        };
        Some(Value::Number(number))
    }

    fn default_value(self) -> Option<Value> {
        match self {
            Kind::Bool => Some(Value::Bool(false)),
            Kind::Integer(_) => Some(Value::from(0)),
            Kind::Text => Some(Value::from("")),
            Kind::Enum(values) => values.first().map(|(name, _)| Value::from(*name)),
            Kind::Message(_) | Kind::Free => None,
        }
    }
}

impl Message {
    /// The field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The known name nearest to a wrong one.
    pub(crate) fn nearest(&self, name: &str) -> Option<&'static str> {
        super::nearest(name, self.fields.iter().map(|field| field.name))
    }

    /// Adds scalar defaults, empty lists and empty maps, as Triton prints them; absent messages stay absent.
    pub(crate) fn fill_defaults(&self, values: &mut Map<String, Value>) {
        for field in self.fields {
            match values.get_mut(field.name) {
                Some(value) => field.fill_inner(value),
                None => {
                    let default = match field.label {
                        _ if field.group.is_some() => None,
                        Label::One => field.kind.default_value(),
                        Label::Many => Some(Value::Array(Vec::new())),
                        Label::Map => Some(Value::Object(Map::new())),
                    };
                    if let Some(default) = default {
                        values.insert(field.name.to_owned(), default);
                    }
                }
            }
        }
    }
}

impl Field {
    fn fill_inner(&self, value: &mut Value) {
        let Kind::Message(message) = self.kind else { return };
        let fill = |value: &mut Value| {
            if let Value::Object(values) = value {
                message.fill_defaults(values);
            }
        };
        match (self.label, value) {
            (Label::Many, Value::Array(items)) => items.iter_mut().for_each(fill),
            (Label::Map, Value::Object(entries)) => entries.values_mut().for_each(fill),
            (_, value) => fill(value),
        }
    }
}

const I32: Kind = Kind::Integer(Width::I32);
const I64: Kind = Kind::Integer(Width::I64);
const U32: Kind = Kind::Integer(Width::U32);
const U64: Kind = Kind::Integer(Width::U64);

const fn one(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        label: Label::One,
        group: None,
    }
}

const fn many(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        label: Label::Many,
        group: None,
    }
}

const fn map(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        label: Label::Map,
        group: None,
    }
}

const fn either(group: &'static str, name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        label: Label::One,
        group: Some(group),
    }
}

/// The whole configuration.
pub(crate) static MODEL_CONFIG: Message = Message {
    name: "ModelConfig",
    fields: &[
        one("name", Kind::Text),
        one("platform", Kind::Text),
        one("backend", Kind::Text),
        one("runtime", Kind::Text),
        one("version_policy", Kind::Message(&VERSION_POLICY)),
        one("max_batch_size", I32),
        many("input", Kind::Message(&INPUT)),
        many("output", Kind::Message(&OUTPUT)),
        many("batch_input", Kind::Free),
        many("batch_output", Kind::Free),
        one("optimization", Kind::Message(&OPTIMIZATION)),
        either(
            "scheduling_choice",
            "dynamic_batching",
            Kind::Message(&DYNAMIC_BATCHING),
        ),
        either("scheduling_choice", "sequence_batching", Kind::Free),
        either("scheduling_choice", "ensemble_scheduling", Kind::Free),
        many("instance_group", Kind::Message(&INSTANCE_GROUP)),
        one("default_model_filename", Kind::Text),
        map("cc_model_filenames", Kind::Text),
        map("metric_tags", Kind::Text),
        map("parameters", Kind::Message(&PARAMETER)),
        many("model_warmup", Kind::Message(&WARMUP)),
        one("model_operations", Kind::Message(&OPERATIONS)),
        one("model_transaction_policy", Kind::Message(&TRANSACTION_POLICY)),
        one("model_repository_agents", Kind::Free),
        one("response_cache", Kind::Message(&RESPONSE_CACHE)),
        one("model_metrics", Kind::Free),
    ],
};

static VERSION_POLICY: Message = Message {
    name: "ModelVersionPolicy",
    fields: &[
        either("policy_choice", "latest", Kind::Message(&LATEST)),
        either("policy_choice", "all", Kind::Message(&ALL)),
        either("policy_choice", "specific", Kind::Message(&SPECIFIC)),
    ],
};
static LATEST: Message = Message {
    name: "Latest",
    fields: &[one("num_versions", U32)],
};
static ALL: Message = Message {
    name: "All",
    fields: &[],
};
static SPECIFIC: Message = Message {
    name: "Specific",
    fields: &[many("versions", I64)],
};

static INPUT: Message = Message {
    name: "ModelInput",
    fields: &[
        one("name", Kind::Text),
        one("data_type", Kind::Enum(DATA_TYPES)),
        one(
            "format",
            Kind::Enum(&[("FORMAT_NONE", 0), ("FORMAT_NHWC", 1), ("FORMAT_NCHW", 2)]),
        ),
        many("dims", I64),
        one("reshape", Kind::Message(&RESHAPE)),
        one("is_shape_tensor", Kind::Bool),
        one("allow_ragged_batch", Kind::Bool),
        one("optional", Kind::Bool),
        one("is_non_linear_format_io", Kind::Bool),
    ],
};
static OUTPUT: Message = Message {
    name: "ModelOutput",
    fields: &[
        one("name", Kind::Text),
        one("data_type", Kind::Enum(DATA_TYPES)),
        many("dims", I64),
        one("reshape", Kind::Message(&RESHAPE)),
        one("label_filename", Kind::Text),
        one("is_shape_tensor", Kind::Bool),
        one("is_non_linear_format_io", Kind::Bool),
    ],
};
static RESHAPE: Message = Message {
    name: "ModelTensorReshape",
    fields: &[many("shape", I64)],
};
const DATA_TYPES: &[(&str, i64)] = &[
    ("TYPE_INVALID", 0),
    ("TYPE_BOOL", 1),
    ("TYPE_UINT8", 2),
    ("TYPE_UINT16", 3),
    ("TYPE_UINT32", 4),
    ("TYPE_UINT64", 5),
    ("TYPE_INT8", 6),
    ("TYPE_INT16", 7),
    ("TYPE_INT32", 8),
    ("TYPE_INT64", 9),
    ("TYPE_FP16", 10),
    ("TYPE_FP32", 11),
    ("TYPE_FP64", 12),
    ("TYPE_STRING", 13),
    ("TYPE_BF16", 14),
];

static INSTANCE_GROUP: Message = Message {
    name: "ModelInstanceGroup",
    fields: &[
        one("name", Kind::Text),
        one(
            "kind",
            Kind::Enum(&[
                ("KIND_AUTO", 0),
                ("KIND_GPU", 1),
                ("KIND_CPU", 2),
                ("KIND_MODEL", 3),
            ]),
        ),
        one("count", I32),
        one("rate_limiter", Kind::Free),
        many("gpus", I32),
        many("secondary_devices", Kind::Free),
        many("profile", Kind::Text),
        one("passive", Kind::Bool),
        one("host_policy", Kind::Text),
    ],
};

static DYNAMIC_BATCHING: Message = Message {
    name: "ModelDynamicBatching",
    fields: &[
        many("preferred_batch_size", I32),
        one("max_queue_delay_microseconds", U64),
        one("preserve_ordering", Kind::Bool),
        one("priority_levels", U64),
        one("default_priority_level", U64),
        one("default_queue_policy", Kind::Message(&QUEUE_POLICY)),
        map("priority_queue_policy", Kind::Message(&QUEUE_POLICY)),
    ],
};
static QUEUE_POLICY: Message = Message {
    name: "ModelQueuePolicy",
    fields: &[
        one("timeout_action", Kind::Enum(&[("REJECT", 0), ("DELAY", 1)])),
        one("default_timeout_microseconds", U64),
        one("allow_timeout_override", Kind::Bool),
        one("max_queue_size", U32),
    ],
};

static PARAMETER: Message = Message {
    name: "ModelParameter",
    fields: &[one("string_value", Kind::Text)],
};

static WARMUP: Message = Message {
    name: "ModelWarmup",
    fields: &[
        one("name", Kind::Text),
        one("batch_size", U32),
        map("inputs", Kind::Message(&WARMUP_INPUT)),
        one("count", U32),
    ],
};
static WARMUP_INPUT: Message = Message {
    name: "ModelWarmup.Input",
    fields: &[
        one("data_type", Kind::Enum(DATA_TYPES)),
        many("dims", I64),
        either("input_data_type", "zero_data", Kind::Bool),
        either("input_data_type", "random_data", Kind::Bool),
        either("input_data_type", "input_data_file", Kind::Text),
    ],
};

static OPERATIONS: Message = Message {
    name: "ModelOperations",
    fields: &[many("op_library_filename", Kind::Text)],
};
static TRANSACTION_POLICY: Message = Message {
    name: "ModelTransactionPolicy",
    fields: &[one("decoupled", Kind::Bool)],
};
static RESPONSE_CACHE: Message = Message {
    name: "ModelResponseCache",
    fields: &[one("enable", Kind::Bool)],
};

static OPTIMIZATION: Message = Message {
    name: "ModelOptimizationPolicy",
    fields: &[
        one("graph", Kind::Message(&GRAPH)),
        one(
            "priority",
            Kind::Enum(&[("PRIORITY_DEFAULT", 0), ("PRIORITY_MAX", 1), ("PRIORITY_MIN", 2)]),
        ),
        one("cuda", Kind::Free),
        one("execution_accelerators", Kind::Message(&ACCELERATORS)),
        one("input_pinned_memory", Kind::Message(&ENABLE)),
        one("output_pinned_memory", Kind::Message(&ENABLE)),
        one("gather_kernel_buffer_threshold", U32),
        one("eager_batching", Kind::Bool),
    ],
};
static GRAPH: Message = Message {
    name: "Graph",
    fields: &[one("level", I32)],
};
static ENABLE: Message = Message {
    name: "PinnedMemoryBuffer",
    fields: &[one("enable", Kind::Bool)],
};
static ACCELERATORS: Message = Message {
    name: "ExecutionAccelerators",
    fields: &[
        many("gpu_execution_accelerator", Kind::Message(&ACCELERATOR)),
        many("cpu_execution_accelerator", Kind::Message(&ACCELERATOR)),
    ],
};
static ACCELERATOR: Message = Message {
    name: "Accelerator",
    fields: &[one("name", Kind::Text), map("parameters", Kind::Text)],
};
