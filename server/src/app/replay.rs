//! `crossfade replay`: a request of the log, asked again of the files that answered it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use crossfade_inference_log::{Log, LogError, Selection};
use crossfade_models::layout;
use crossfade_runtimes::{Runtimes, RuntimesOptions};
use crossfade_runtimes_core::{Datatype, Tensor};
use crossfade_text::Cut;
use half::{bf16, f16};
use uuid::Uuid;

use super::asking::{Question, ask};
use super::log::{exists, keys};
use super::logged::{Logged, part, together};
use super::{loading, say};
use crate::config::file::RawConfig;
use crate::config::{ReplayArgs, VersionsArgs};
use crate::release::digest;
use crate::servable::{Servable, ServableLoader};

/// Microseconds of a day: a request is filed under the day on which its head was read, or beside it.
const DAY: i64 = 86_400_000_000;

/// Asks again, and prints how the answers differ: exit code 1 if one does, 2 if one could not be asked.
///
/// Errors: a log that cannot be read.
pub(super) fn run(args: &ReplayArgs) -> Result<ExitCode> {
    exists(&args.log.data_dir)?;
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: args.versions.ort_library.clone(),
        cuda_lib_dirs: args.versions.cuda_lib_dir.clone(),
        intra_threads: std::thread::available_parallelism().map_or(1, usize::from),
    });
    let mut asker = Asker::new(args, Arc::new(runtimes))?;
    let (mut same, mut other, mut unasked) = (0_usize, 0_usize, 0_usize);
    for id in &args.request_ids {
        match asker.replay(*id) {
            Ok(Replayed { about, differences }) if differences.is_empty() => {
                same += 1;
                let how = match args.ulp {
                    0 => "bit for bit".to_owned(),
                    ulp => format!("within {ulp} representable numbers"),
                };
                say(&format!("{id}: the same answer, {how} ({about})"));
            }
            Ok(Replayed { about, differences }) => {
                other += 1;
                say(&format!("{id}: another answer ({about})"));
                differences
                    .iter()
                    .for_each(|difference| say(&format!("  {difference}")));
            }
            Err(why) => {
                unasked += 1;
                say(&format!("{id} cannot be replayed: {why:#}"));
            }
        }
    }
    if args.request_ids.len() > 1 {
        say(&format!(
            "{same} the same, {other} others, {unasked} that cannot be replayed"
        ));
    }
    Ok(ExitCode::from(match (other, unasked) {
        (1.., _) => 1,
        (0, 1..) => 2,
        (0, 0) => 0,
    }))
}

/// What came of asking again.
#[derive(Debug)]
pub(super) struct Replayed {
    /// What was asked, of what.
    pub(super) about: String,
    /// A line per output that is another one now.
    pub(super) differences: Vec<String>,
}

/// What asks, and what it has loaded.
pub(super) struct Asker<'a> {
    args: &'a ReplayArgs,
    log: Log,
    server: RawConfig,
    loader: ServableLoader,
    loaded: BTreeMap<(PathBuf, u64), Servable>,
}

impl<'a> Asker<'a> {
    /// Errors: a log or a configuration that cannot be read.
    pub(super) fn new(args: &'a ReplayArgs, runtimes: Arc<Runtimes>) -> Result<Self> {
        Ok(Self {
            log: Log::open(&args.log.data_dir, &keys(&args.log)?)?,
            server: RawConfig::read_named(args.versions.config.as_deref())?,
            loader: loading::loader(runtimes),
            loaded: BTreeMap::new(),
            args,
        })
    }

    /// Asks again.
    ///
    /// Errors: why it cannot be asked.
    pub(super) fn replay(&mut self, id: Uuid) -> Result<Replayed> {
        let around = around(id);
        let found = with_id(&self.log, &around, id)?;
        let request = found.first().map(|table| Logged { table, row: 0 });
        let request = request.ok_or_else(|| anyhow!("it is not in this log, or retention has removed it"))?;
        let (model, version) = (
            request.text("model").unwrap_or_default(),
            request.text("version").unwrap_or_default(),
        );
        let outcome = request.text("outcome").unwrap_or_default();
        if outcome != "ok" {
            let error = request.text("error").unwrap_or("no error was noted");
            return Err(anyhow!("it was not answered: {outcome}: {error}"));
        }
        let sha256 = request.bytes("artifact_sha256").map(hexadecimal);
        let sha256 = sha256.ok_or_else(|| anyhow!("the log does not say which files answered it"))?;
        let (directory, number) = folder(&self.args.versions, model, version, &sha256)?;
        let key = (directory, number);
        if !self.loaded.contains_key(&key) {
            let servable =
                loaded(&self.loader, &self.server, model, number, &key.0).map_err(|why| anyhow!("{why}"))?;
            self.loaded.insert(key.clone(), servable);
        }
        let servable = &self.loaded[&key];
        let about = format!("{model} {version}, files {sha256}");
        compared(&self.log, &around, &request, servable, about, self.args.ulp)
    }
}

/// Asks a version what a request asked, and holds its answer against what was answered.
fn compared(
    log: &Log,
    around: &Selection,
    request: &Logged<'_>,
    servable: &Servable,
    about: String,
    ulp: u64,
) -> Result<Replayed> {
    let signature = servable.signature();
    let own = request.inputs(signature).map_err(|why| anyhow!("{why}"))?;
    let logged = request.outputs(signature).map_err(|why| anyhow!("{why}"))?;
    if logged.is_empty() {
        return Err(anyhow!(
            "its answer is not in the log: it was larger than log.payload.max_bytes, or is kept no more"
        ));
    }
    let batch = Batch::of(log, around, request, &own, servable)?;
    let outputs: Vec<usize> = logged.iter().map(|(place, _)| *place).collect();
    let question = Question {
        inputs: batch.inputs,
        outputs,
        rows: batch.rows,
        cut: batch.cut,
    };
    let answer = ask(servable, question)?;
    let (answer, parts) = answer.map_err(|error| anyhow!("the version fails now: {error}"))?;
    let mut differences = Vec::new();
    for ((place, then), now) in logged.iter().zip(&answer.outputs) {
        let now = match batch.from {
            Some(from) => part(now, from, request.rows()),
            None => Some(now.clone()),
        };
        let name = &signature.outputs[*place].name;
        if let Some(how) = differs(then, now.as_ref(), ulp) {
            differences.push(format!("{name}: {how}"));
        }
    }
    let how = match parts {
        1 => batch.how,
        parts => format!("in {parts} parts, each without what it may have run with"),
    };
    Ok(Replayed {
        about: format!("{about}, {how}"),
        differences,
    })
}

/// What is run, so that it is what ran.
struct Batch {
    inputs: Vec<Option<Tensor>>,
    rows: usize,
    /// What becomes of texts that are too long.
    cut: Option<Cut>,
    /// Where the request's rows begin; `None`: the batch is the request.
    from: Option<usize>,
    /// In words.
    how: String,
}

impl Batch {
    /// The batch of a request, of the records of all its members if they are there.
    fn of(
        log: &Log,
        around: &Selection,
        request: &Logged<'_>,
        own: &[Option<Tensor>],
        servable: &Servable,
    ) -> Result<Self> {
        let (rows, batched) = (request.rows(), servable.signature().batched);
        let alone = |how: &str| Self {
            inputs: own.to_vec(),
            rows,
            cut: request.cut(),
            from: None,
            how: how.to_owned(),
        };
        let Some((id, size, place)) = request.batch().filter(|(_, size, _)| batched && *size > rows) else {
            return Ok(alone("alone, as it ran"));
        };
        let is_member = move |table: &RecordBatch, row: usize| {
            let ids = table
                .column_by_name("batch_id")
                .and_then(|column| column.as_primitive_opt::<UInt64Type>());
            ids.is_some_and(|ids| arrow_array::Array::is_valid(ids, row) && ids.value(row) == id)
        };
        let tables = log.whole(log.find(around, &["batch_id"], is_member)?)?;
        let same = |other: &Logged<'_>, name: &str| other.text(name) == request.text(name);
        let members: BTreeMap<u16, Logged<'_>> = tables
            .iter()
            .flat_map(Logged::all)
            .filter(|other| same(other, "model") && same(other, "version") && same(other, "replica"))
            .filter_map(|other| Some((other.batch()?.2, other)))
            .collect();
        let there: usize = members.values().map(Logged::rows).sum();
        let short =
            format!("alone, although it ran in a batch of {size} rows of which {there} are in the log");
        // Where nothing was left out it does not matter what would have been.
        let cuts: Vec<Cut> = members.values().filter_map(Logged::cut).collect();
        let is_one = cuts.windows(2).all(|pair| pair[0] == pair[1]);
        if there != size || !is_one {
            return Ok(alone(&short));
        }
        let inputs: Result<Vec<_>, String> = members
            .values()
            .map(|member| member.inputs(servable.signature()))
            .collect();
        let Some(inputs) = inputs.ok().and_then(|inputs| together(&inputs)) else {
            return Ok(alone(&short));
        };
        Ok(Self {
            inputs,
            rows: size,
            cut: cuts.first().copied(),
            from: Some(members.range(..place).map(|(_, member)| member.rows()).sum()),
            how: format!("in its batch of {} requests, {size} rows", members.len()),
        })
    }
}

/// The days on which a request of this id may be filed.
fn around(id: Uuid) -> Selection {
    let at = id.get_timestamp().map_or(0, |time| time.to_unix().0);
    let at = i64::try_from(at).unwrap_or_default().saturating_mul(1_000_000);
    Selection {
        since_us: Some(at - DAY),
        until_us: Some(at + DAY),
        ..Selection::default()
    }
}

fn with_id(log: &Log, around: &Selection, id: Uuid) -> Result<Vec<RecordBatch>, LogError> {
    let is = move |table: &RecordBatch, row: usize| {
        let ids = table
            .column_by_name("request_id")
            .and_then(|column| column.as_fixed_size_binary_opt());
        ids.is_some_and(|ids| ids.value(row) == id.as_bytes())
    };
    log.whole(log.find(around, &["request_id"], is)?)
}

/// The model's folder, and the version whose files have this digest: the one that answered, or another one.
fn folder(versions: &VersionsArgs, model: &str, version: &str, sha256: &str) -> Result<(PathBuf, u64)> {
    let folders = versions.model_repository.iter().map(|root| root.join(model));
    let directory = folders
        .filter(|_| !model.is_empty())
        .find(|folder| folder.is_dir());
    let directory = directory.ok_or_else(|| anyhow!("model `{model}` is in no --model-repository"))?;
    let found = layout::versions(&directory)?.found;
    let digest = |number: &u64| digest::of(&directory.join(number.to_string())).ok();
    // The one that answered first: it mostly is what it was.
    let asked = found.iter().filter(|number| number.to_string() == version);
    let others = found.iter().filter(|number| number.to_string() != version);
    match asked
        .chain(others)
        .find(|number| digest(number).as_deref() == Some(sha256))
    {
        Some(number) => Ok((directory, *number)),
        None => {
            let now = version.parse().ok().and_then(|number| digest(&number));
            Err(anyhow!(
                "version {version} of `{model}` was made of files {sha256}, and {}; put those files back",
                match now {
                    Some(now) => format!("is made of {now} now"),
                    None => "is not there any more".to_owned(),
                }
            ))
        }
    }
}

/// Loads a version.
///
/// Errors: why it cannot be.
fn loaded(
    loader: &ServableLoader,
    server: &RawConfig,
    model: &str,
    version: u64,
    directory: &Path,
) -> Result<Servable, String> {
    let (config, _) = loading::configuration(model, directory, server, None)?;
    loading::load(loader, model, version, directory, &config)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How two answers differ; `None` where they do not.
///
/// * `ulp`: representable numbers that may lie between two that are the same
fn differs(then: &Tensor, now: Option<&Tensor>, ulp: u64) -> Option<String> {
    let Some(now) = now else {
        return Some("has other rows now".to_owned());
    };
    if (then.datatype, &then.shape) != (now.datatype, &now.shape) {
        return Some(format!(
            "was {} {}, and is {} {}",
            then.datatype, then.shape, now.datatype, now.shape
        ));
    }
    if then.data == now.data {
        return None;
    }
    let Some((then, now)) = numbers(then).zip(numbers(now)) else {
        return Some("has other bytes".to_owned());
    };
    let apart: Vec<(usize, u64)> = then
        .iter()
        .zip(&now)
        .map(|(then, now)| then.0.abs_diff(now.0))
        .enumerate()
        .filter(|(_, apart)| *apart > ulp)
        .collect();
    let (first, _) = *apart.first()?;
    let most = apart.iter().map(|(_, apart)| *apart).max().unwrap_or_default();
    Some(format!(
        "{} of {} numbers differ, by at most {most} representable numbers; number {first} was {}, and is {}",
        apart.len(),
        then.len(),
        then[first].1,
        now[first].1
    ))
}

/// The numbers of a tensor: their places among all that the datatype can represent, and their values; `None` for texts.
fn numbers(tensor: &Tensor) -> Option<Vec<(i64, f64)>> {
    macro_rules! floats {
        ($type:ty, $signed:ty, $wide:expr) => {{
            let wide = $wide;
            tensor
                .data
                .chunks_exact(size_of::<$type>())
                .filter_map(|bytes| {
                    let bits = <$signed>::from_le_bytes(bytes.try_into().ok()?);
                    // Negative numbers count down from zero.
                    let place = if bits < 0 {
                        <$signed>::MIN.wrapping_sub(bits)
                    } else {
                        bits
                    };
                    let value: f64 = wide(<$type>::from_le_bytes(bytes.try_into().ok()?));
                    Some((i64::from(place), value))
                })
                .collect()
        }};
    }
    macro_rules! integers {
        ($type:ty) => {
            tensor
                .data
                .chunks_exact(size_of::<$type>())
                .filter_map(|bytes| {
                    let value = <$type>::from_le_bytes(bytes.try_into().ok()?);
                    #[expect(clippy::allow_attributes, reason = "some of these casts lose nothing")]
                    #[allow(
                        clippy::cast_precision_loss,
                        clippy::cast_possible_wrap,
                        clippy::cast_lossless,
                        reason = "shown to people; the distance of two wraps alike"
                    )]
                    Some((value as i64, value as f64))
                })
                .collect()
        };
    }
    Some(match tensor.datatype {
        Datatype::Fp16 => floats!(f16, i16, |value: f16| value.to_f64()),
        Datatype::Bf16 => floats!(bf16, i16, |value: bf16| value.to_f64()),
        Datatype::Fp32 => floats!(f32, i32, f64::from),
        Datatype::Fp64 => floats!(f64, i64, |value: f64| value),
        Datatype::Bool | Datatype::Uint8 => integers!(u8),
        Datatype::Uint16 => integers!(u16),
        Datatype::Uint32 => integers!(u32),
        Datatype::Uint64 => integers!(u64),
        Datatype::Int8 => integers!(i8),
        Datatype::Int16 => integers!(i16),
        Datatype::Int32 => integers!(i32),
        Datatype::Int64 => integers!(i64),
        Datatype::Bytes => return None,
    })
}

#[cfg(test)]
mod tests;
