//! Reads `model.toml`, and the `[model.NAME]` tables of the server's file, into a [`RawConfig`] (protocols.md §10.4).
//!
//! A key is known if the reader asks for it; whatever is left in a table afterwards is refused with the nearest
//! known name. Keys of later milestones are known and refused: never ignored.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use toml::{Table, Value as Toml};

use super::raw::{DeviceChoice, OwnKeys, RawConfig, RuntimeChoice};
use super::{Optimise, WarmupData, policy};
use crate::error::ConfigError;
use crossfade_rollout::duration;
use crossfade_runtimes_core::Datatype;

/// Reads the text of a `model.toml`.
///
/// Errors: broken TOML with its place; an unknown key with the nearest known one; a value of the wrong kind.
pub fn read(text: &str) -> Result<RawConfig, ConfigError> {
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| broken(text, &error))?;
    let mut root = Section::root(table);
    let mut raw = RawConfig::default();
    if let Some(mut model) = root.section("model")? {
        model_keys(&mut model, &mut raw)?;
        model.finish()?;
    }
    sections(&mut root, &mut raw)?;
    root.finish()?;
    Ok(raw)
}

/// Reads one `[model.NAME]` table of the server's file: the keys of `[model]` stand in it directly.
///
/// Errors: as [`read`].
pub fn from_table(table: Table) -> Result<RawConfig, ConfigError> {
    let mut root = Section::root(table);
    let mut raw = RawConfig::default();
    model_keys(&mut root, &mut raw)?;
    sections(&mut root, &mut raw)?;
    root.finish()?;
    Ok(raw)
}

fn broken(text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = String::from_utf8_lossy(&text.as_bytes()[..start]).into_owned();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    ConfigError::text(format!("line {line}, column {column}"), error.message())
}

fn model_keys(section: &mut Section, raw: &mut RawConfig) -> Result<(), ConfigError> {
    if let Some(name) = section.text("runtime")? {
        let names = RuntimeChoice::ALL.map(RuntimeChoice::name);
        raw.own.runtime =
            Some(RuntimeChoice::from_name(&name).ok_or_else(|| section.choice("runtime", &name, &names))?);
    }
    if let Some(file) = section.text("file")? {
        raw.fields
            .insert("default_model_filename".to_owned(), file.into());
    }
    section.later("source")?;
    if let Some(risk) = section.take("risk") {
        raw.own.release.insert("risk".to_owned(), risk);
    }
    if let Some(mut parameters) = section.section("parameters")? {
        let entries = parameters.entries()?;
        let entries = entries
            .into_iter()
            .map(|(key, value)| (key, json!({ "string_value": value })));
        raw.fields
            .insert("parameters".to_owned(), Value::Object(entries.collect()));
    }
    Ok(())
}

fn sections(root: &mut Section, raw: &mut RawConfig) -> Result<(), ConfigError> {
    for (ours, theirs) in [("input", "input"), ("output", "output")] {
        if let Some(tables) = root.tables(ours)? {
            let tensors = tables
                .into_iter()
                .map(|table| tensor(table, ours))
                .collect::<Result<Vec<_>, _>>()?;
            raw.fields.insert(theirs.to_owned(), Value::Array(tensors));
        }
    }
    if let Some(section) = root.section("batching")? {
        batching(section, &mut raw.fields, &mut raw.own)?;
    }
    if let Some(section) = root.section("instances")? {
        instances(section, &mut raw.own)?;
    }
    if let Some(section) = root.section("versions")? {
        raw.fields.insert("version_policy".to_owned(), versions(section)?);
    }
    if let Some(section) = root.section("labels")? {
        raw.own.labels = Some(labels(section)?);
    }
    if let Some(mut section) = root.section("warmup")? {
        raw.own.warmup_data = section.text("data")?.map(|data| match data.as_str() {
            "zero" => WarmupData::Zero,
            "random" => WarmupData::Random,
            _ => WarmupData::File(data),
        });
        raw.own.warmup_rows = section
            .integer("rows")?
            .map(|rows| section.fit("rows", rows))
            .transpose()?;
        section.finish()?;
        raw.own.warmup_data.get_or_insert(WarmupData::Zero);
    }
    for table in policy::TABLES {
        if let Some(value) = root.take(table) {
            raw.own.release.insert(table.to_owned(), value);
        }
    }
    policy::read(&raw.own.release)?;
    root.later("log")?;
    Ok(())
}

fn tensor(mut section: Section, kind: &str) -> Result<Value, ConfigError> {
    let mut tensor = Map::new();
    match section.text("name")? {
        Some(name) => tensor.insert("name".to_owned(), name.into()),
        None => return Err(section.missing("name")),
    };
    if let Some(name) = section.text("datatype")? {
        let datatype: Datatype = name
            .parse()
            .map_err(|_| section.choice("datatype", &name, &Datatype::ALL.map(Datatype::wire_name)))?;
        tensor.insert("data_type".to_owned(), datatype.config_name().into());
    }
    if let Some(shape) = section.integers("shape")? {
        tensor.insert("dims".to_owned(), shape.into());
    }
    if kind == "output"
        && let Some(file) = section.text("labels")?
    {
        tensor.insert("label_filename".to_owned(), file.into());
    }
    section.finish()?;
    Ok(Value::Object(tensor))
}

fn batching(
    mut section: Section,
    fields: &mut Map<String, Value>,
    own: &mut OwnKeys,
) -> Result<(), ConfigError> {
    own.learn_rows = section.boolean("learn")?;
    let mut batching = Map::new();
    let mut policy = Map::new();
    if let Some(rows) = section.integer("max_rows")? {
        let rows: u32 = section.fit("max_rows", rows)?;
        fields.insert("max_batch_size".to_owned(), rows.into());
    }
    if let Some(delay) = section.micros("max_delay")? {
        batching.insert("max_queue_delay_microseconds".to_owned(), delay.into());
    }
    if let Some(most) = section.integer("max_queue")? {
        let most: u32 = section.fit("max_queue", most)?;
        policy.insert("max_queue_size".to_owned(), most.into());
    }
    if let Some(timeout) = section.micros("timeout")? {
        policy.insert("default_timeout_microseconds".to_owned(), timeout.into());
    }
    if let Some(action) = section.text("timeout_action")? {
        let action = match action.as_str() {
            "reject" => "REJECT",
            "delay" => "DELAY",
            _ => return Err(section.choice("timeout_action", &action, &["reject", "delay"])),
        };
        policy.insert("timeout_action".to_owned(), action.into());
    }
    section.finish()?;
    if !policy.is_empty() {
        batching.insert("default_queue_policy".to_owned(), Value::Object(policy));
    }
    fields.insert("dynamic_batching".to_owned(), Value::Object(batching));
    Ok(())
}

fn instances(mut section: Section, own: &mut OwnKeys) -> Result<(), ConfigError> {
    own.instance_count = section
        .integer("count")?
        .map(|count| section.fit("count", count))
        .transpose()?;
    if let Some(device) = section.text("device")? {
        own.device = Some(match device.as_str() {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda(None),
            other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
                Some(index) => DeviceChoice::Cuda(Some(index)),
                None => return Err(section.choice("device", other, &["auto", "cpu", "cuda", "cuda:0"])),
            },
        });
    }
    if let Some(fallback) = section.text("fallback")? {
        if fallback != "cpu" {
            return Err(section.choice("fallback", &fallback, &["cpu"]));
        }
        own.fallback_cpu = Some(true);
    }
    if let Some(aim) = section.text("optimise")? {
        own.optimise = Some(match aim.as_str() {
            "throughput" => Optimise::Throughput,
            "latency" => Optimise::Latency,
            _ => return Err(section.choice("optimise", &aim, &["throughput", "latency"])),
        });
    }
    section.finish()
}

fn versions(mut section: Section) -> Result<Value, ConfigError> {
    let latest = section.integer("latest")?;
    let all = section.boolean("all")?;
    let specific = section.integers("specific")?;
    let place = section.place();
    section.finish()?;
    match (latest, all, specific) {
        (Some(count), None, None) if count > 0 => Ok(json!({ "latest": { "num_versions": count } })),
        (None, Some(true), None) => Ok(json!({ "all": {} })),
        (None, None, Some(versions)) => Ok(json!({ "specific": { "versions": versions } })),
        _ => Err(ConfigError::text(
            place,
            "expected exactly one of `latest = 1` (at least 1), `all = true`, `specific = [1, 3]`",
        )),
    }
}

fn labels(mut section: Section) -> Result<BTreeMap<String, u64>, ConfigError> {
    let place = section.place();
    std::mem::take(&mut section.table)
        .into_iter()
        .map(|(label, version)| {
            let wrong = |problem: &str| ConfigError::text(&place, format!("`{label}`: {problem}"));
            if !crate::traffic::is_label(&label) {
                return Err(wrong("a label is not empty and not a number"));
            }
            let version = version
                .as_integer()
                .and_then(|version| u64::try_from(version).ok());
            match version.filter(|version| *version > 0) {
                Some(version) => Ok((label, version)),
                None => Err(wrong("expected a positive version number")),
            }
        })
        .collect()
}

/// A table that is being read: keys leave it as they are asked for.
struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    fn root(table: Table) -> Self {
        Section {
            path: String::new(),
            table,
            known: Vec::new(),
        }
    }

    fn place(&self) -> String {
        if self.path.is_empty() {
            "top level".to_owned()
        } else {
            format!("[{}]", self.path)
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Toml> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn wrong(&self, key: &str, expected: &str, got: &Toml) -> ConfigError {
        let got = match got {
            Toml::Integer(value) => value.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        ConfigError::text(self.place(), format!("`{key}`: expected {expected}, got {got}"))
    }

    fn choice(&self, key: &str, got: &str, known: &[&str]) -> ConfigError {
        let hint = super::nearest(got, known.iter().copied());
        let hint = hint
            .map(|near| format!("; did you mean \"{near}\"?"))
            .unwrap_or_default();
        ConfigError::text(
            self.place(),
            format!(
                "`{key}`: expected one of {}, got \"{got}\"{hint}",
                known.join(", ")
            ),
        )
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::text(self.place(), format!("`{key}` is missing"))
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Toml::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", &other)),
        }
    }

    fn integer(&mut self, key: &'static str) -> Result<Option<i64>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Toml::Integer(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, "an integer", &other)),
        }
    }

    fn fit<T: TryFrom<i64>>(&self, key: &str, value: i64) -> Result<T, ConfigError> {
        T::try_from(value).map_err(|_| {
            self.wrong(
                key,
                "a non-negative number that fits 32 bits",
                &Toml::Integer(value),
            )
        })
    }

    fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Toml::Boolean(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, "true or false", &other)),
        }
    }

    fn integers(&mut self, key: &'static str) -> Result<Option<Vec<i64>>, ConfigError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let items = value
            .as_array()
            .and_then(|items| items.iter().map(Toml::as_integer).collect());
        items
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a list of integers", &value))
    }

    fn micros(&mut self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let wrong = |problem: String| ConfigError::text(self.place(), format!("`{key}`: {problem}"));
        let duration = duration::parse(&text).map_err(wrong)?;
        let micros = u64::try_from(duration.as_micros());
        micros
            .map(Some)
            .map_err(|_| wrong("the duration is too long".to_owned()))
    }

    fn section(&mut self, key: &'static str) -> Result<Option<Section>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Toml::Table(table)) => Ok(Some(self.child(key, table))),
            Some(other) => Err(self.wrong(key, "a table", &other)),
        }
    }

    fn tables(&mut self, key: &'static str) -> Result<Option<Vec<Section>>, ConfigError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let Toml::Array(items) = value else {
            return Err(self.wrong(key, "an array of tables", &value));
        };
        let sections = items.into_iter().enumerate().map(|(k, item)| match item {
            Toml::Table(table) => Ok(self.child(&format!("{key}[{k}]"), table)),
            other => Err(self.wrong(key, "an array of tables", &other)),
        });
        sections.collect::<Result<Vec<_>, _>>().map(Some)
    }

    fn child(&self, key: &str, table: Table) -> Section {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Section {
            path,
            table,
            known: Vec::new(),
        }
    }

    /// Whatever is there, as text: keys are the user's own.
    fn entries(&mut self) -> Result<BTreeMap<String, String>, ConfigError> {
        let place = self.place();
        std::mem::take(&mut self.table)
            .into_iter()
            .map(|(key, value)| match value {
                Toml::String(text) => Ok((key, text)),
                Toml::Integer(value) => Ok((key, value.to_string())),
                Toml::Boolean(value) => Ok((key, value.to_string())),
                Toml::Float(value) => Ok((key, value.to_string())),
                _ => Err(ConfigError::text(&place, format!("`{key}`: expected a string"))),
            })
            .collect()
    }

    /// Refuses a key whose milestone has not come.
    fn later(&mut self, key: &'static str) -> Result<(), ConfigError> {
        match self.take(key) {
            None => Ok(()),
            Some(_) if self.path.is_empty() => Err(ConfigError::unsupported(
                key,
                "not supported yet; remove it from the file",
            )),
            Some(_) => Err(ConfigError::unsupported(
                format!("{}.{key}", self.path),
                "not supported yet; remove it from the file",
            )),
        }
    }

    fn finish(self) -> Result<(), ConfigError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(ConfigError::UnknownField {
                place: self.place(),
                nearest: super::nearest(key, self.known.iter().copied()).map(str::to_owned),
                name: key.chars().take(80).collect(),
                owner: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
