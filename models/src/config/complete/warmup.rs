//! Warm-up samples: `model_warmup`, or one made by `[warmup]`.

use std::collections::BTreeMap;

use crossfade_runtimes_core::Datatype;
use serde::Deserialize;

use super::{ConfigTensor, Given};
use crate::config::raw::OwnKeys;
use crate::config::{Warmup, WarmupData, WarmupInput};
use crate::error::ConfigError;
use crate::layout;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GivenWarmup {
    name: String,
    batch_size: u32,
    count: u32,
    inputs: BTreeMap<String, GivenInput>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GivenInput {
    data_type: Option<String>,
    dims: Vec<i64>,
    zero_data: bool,
    random_data: bool,
    input_data_file: Option<String>,
}

/// `[warmup]` of our own stands in front of `model_warmup`.
pub(super) fn warmup(
    given: &Given,
    own: &OwnKeys,
    inputs: &[ConfigTensor],
    max_batch_size: u32,
) -> Result<Vec<Warmup>, ConfigError> {
    if let Some(data) = &own.warmup_data {
        return Ok(vec![made(
            data,
            own.warmup_rows.unwrap_or(1).max(1),
            inputs,
            max_batch_size,
        )?]);
    }
    given
        .model_warmup
        .iter()
        .map(|sample| listed(sample, inputs, max_batch_size))
        .collect()
}

fn made(
    data: &WarmupData,
    rows: u32,
    inputs: &[ConfigTensor],
    max_batch_size: u32,
) -> Result<Warmup, ConfigError> {
    if let WarmupData::File(file) = data {
        safe_file(file)?;
        if inputs.len() != 1 {
            return Err(ConfigError::invalid(
                "warmup.data",
                format!(
                    "a file fills one input and the model has {}; name them in model_warmup",
                    inputs.len()
                ),
            ));
        }
    }
    check_rows("warmup.rows", rows, max_batch_size)?;
    let inputs = inputs.iter().map(|input| WarmupInput {
        name: input.name.clone(),
        datatype: input.datatype,
        dims: input.dims.iter().map(|dim| dim.fixed().unwrap_or(1)).collect(),
        data: data.clone(),
    });
    Ok(Warmup {
        name: "warmup".to_owned(),
        rows,
        count: 1,
        inputs: inputs.collect(),
    })
}

fn check_rows(field: &str, rows: u32, max_batch_size: u32) -> Result<(), ConfigError> {
    if max_batch_size > 0 && !(1..=max_batch_size).contains(&rows) {
        return Err(ConfigError::invalid(
            field,
            format!("must be from 1 to max_batch_size ({max_batch_size}), got {rows}"),
        ));
    }
    Ok(())
}

fn listed(sample: &GivenWarmup, inputs: &[ConfigTensor], max_batch_size: u32) -> Result<Warmup, ConfigError> {
    let field = format!("model_warmup `{}`", sample.name);
    check_rows(&format!("{field}: batch_size"), sample.batch_size, max_batch_size)?;
    let mut warm = Vec::with_capacity(sample.inputs.len());
    for (name, input) in &sample.inputs {
        let field = format!("{field}: input `{name}`");
        let Some(known) = inputs.iter().find(|known| *known.name == **name) else {
            return Err(ConfigError::invalid(field, "the model has no such input"));
        };
        let datatype = input
            .data_type
            .as_deref()
            .and_then(Datatype::from_config_name)
            .unwrap_or(known.datatype);
        if datatype != known.datatype {
            return Err(ConfigError::invalid(
                field,
                format!(
                    "data_type is {}, the model's is {}",
                    datatype.config_name(),
                    known.datatype.config_name()
                ),
            ));
        }
        let dims: Option<Vec<usize>> = input.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let dims = dims.ok_or_else(|| ConfigError::invalid(&field, "dims must not be negative"))?;
        if !known.dims.accepts(&dims) {
            return Err(ConfigError::invalid(
                field,
                format!("dims {dims:?} do not fit {}", known.dims),
            ));
        }
        warm.push(WarmupInput {
            name: known.name.clone(),
            datatype,
            dims,
            data: data(input, &field)?,
        });
    }
    if let Some(missing) = inputs
        .iter()
        .find(|input| !input.optional && !warm.iter().any(|given| given.name == input.name))
    {
        return Err(ConfigError::invalid(
            field,
            format!("input `{}` is missing", missing.name),
        ));
    }
    Ok(Warmup {
        name: sample.name.clone(),
        rows: sample.batch_size,
        count: sample.count.max(1),
        inputs: warm,
    })
}

fn data(input: &GivenInput, field: &str) -> Result<WarmupData, ConfigError> {
    match (&input.input_data_file, input.random_data, input.zero_data) {
        (Some(file), _, _) => {
            safe_file(file)?;
            Ok(WarmupData::File(file.clone()))
        }
        (None, true, _) => Ok(WarmupData::Random),
        (None, _, true) => Ok(WarmupData::Zero),
        (None, false, false) => Err(ConfigError::invalid(
            field,
            "needs one of zero_data, random_data, input_data_file",
        )),
    }
}

fn safe_file(file: &str) -> Result<(), ConfigError> {
    if layout::is_safe_relative(file) {
        return Ok(());
    }
    Err(ConfigError::invalid(
        "warm-up file",
        format!("`{file}` is not a relative path below `warmup/`"),
    ))
}
