//! `crossfade diff`: what two versions say to what was asked before.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use crossfade_inference_log::{Log, Selection};
use crossfade_runtimes::{Runtimes, RuntimesOptions};
use crossfade_runtimes_core::Tensor;
use crossfade_text::Cut;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use super::asking::{Question, ask};
use super::log::{Duck, exists, keys, quoted};
use super::logged::Logged;
use super::{loading, say};
use crate::config::DiffArgs;
use crate::config::file::RawConfig;
use crate::recorder::restricted_in;
use crate::release::{Difference, Reader, Rule};
use crate::servable::Servable;

/// How the answers of two versions differ.
#[derive(Debug, Default, Serialize)]
pub(super) struct Differences {
    /// Requests that both were asked.
    requests: usize,
    /// Requests whose inputs are not in the log, or do not fit.
    left_out: usize,
    /// Requests that a version failed.
    failed: [usize; 2],
    /// Requests that are decided otherwise: by the rule of the model's releases, or, without one, if any number is another.
    flips: usize,
    /// Requests with an output of another shape or datatype.
    forms: usize,
    max_abs_diff: f64,
    mean_abs_diff: f64,
    /// The request whose answers are furthest apart.
    worst_request: Option<String>,
    /// Of the models alone, one request at a time: the median and the 99th percentile, seconds.
    compute_p50_seconds: [f64; 2],
    compute_p99_seconds: [f64; 2],
}

/// Asks both versions, and prints how they differ.
///
/// Errors: a log that cannot be read, a version that cannot be loaded.
pub(super) fn run(args: &DiffArgs) -> Result<ExitCode> {
    exists(&args.log.data_dir)?;
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: args.versions.ort_library.clone(),
        cuda_lib_dirs: args.versions.cuda_lib_dir.clone(),
        intra_threads: std::thread::available_parallelism().map_or(1, usize::from),
    });
    let found = diff(args, Arc::new(runtimes))?;
    if args.json {
        say(&serde_json::to_string_pretty(&found)?);
        return Ok(ExitCode::SUCCESS);
    }
    let Differences {
        requests,
        left_out,
        failed: [one_failed, other_failed],
        flips,
        forms,
        max_abs_diff,
        mean_abs_diff,
        worst_request,
        compute_p50_seconds: p50,
        compute_p99_seconds: p99,
    } = found;
    let worst = worst_request.map_or(String::new(), |id| format!(", request {id}"));
    let ms = |seconds: f64| format!("{:.3} ms", seconds * 1000.0);
    say(&format!(
        "requests    {requests}, {left_out} more are not wholly in the log"
    ));
    say(&format!(
        "failed      {one_failed} of version {}, {other_failed} of version {}",
        args.one, args.other
    ));
    say(&format!("flips       {flips}"));
    say(&format!("other form  {forms}"));
    say(&format!("max |Δ|     {max_abs_diff}{worst}"));
    say(&format!("mean |Δ|    {mean_abs_diff}"));
    say(&format!("compute p50 {} and {}", ms(p50[0]), ms(p50[1])));
    say(&format!("compute p99 {} and {}", ms(p99[0]), ms(p99[1])));
    Ok(ExitCode::SUCCESS)
}

/// Asks both.
///
/// Errors: as [`run`].
pub(super) fn diff(args: &DiffArgs, runtimes: Arc<Runtimes>) -> Result<Differences> {
    let tables = asked(args)?;
    let server = RawConfig::read_named(args.versions.config.as_deref())?;
    let folders = args
        .versions
        .model_repository
        .iter()
        .map(|root| root.join(&args.model));
    let directory = folders.into_iter().find(|folder| folder.is_dir());
    let directory = directory.ok_or_else(|| anyhow!("model `{}` is in no --model-repository", args.model))?;
    let loader = loading::loader(runtimes);
    let (config, policy) =
        loading::configuration(&args.model, &directory, &server, None).map_err(|why| anyhow!("{why}"))?;
    let load = |version: u64| {
        let loaded = loading::load(&loader, &args.model, version, &directory, &config);
        loaded.map_err(|why| anyhow!("version {version} of `{}`: {why}", args.model))
    };
    let versions = [load(args.one)?, load(args.other)?];
    let tolerance = policy.shadow.as_ref().and_then(|shadow| shadow.tolerance);
    let rule = Rule::new(
        Reader::new(policy.decision.clone()),
        Some(tolerance.unwrap_or(0.0)),
    );
    let mut found = Differences::default();
    let (mut sum, mut numbers) = (0.0, 0);
    let mut times: [Vec<f64>; 2] = Default::default();
    let requests = tables
        .iter()
        .flat_map(Logged::all)
        .filter(|request| request.text("outcome") == Some("ok") && request.text("stage") != Some("shadow"));
    for (turn, request) in requests.take(args.limit).enumerate() {
        let Ok(inputs) = request.inputs(versions[0].signature()) else {
            found.left_out += 1;
            continue;
        };
        // Which is asked first changes: what the first leaves in caches helps the second.
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut answers = [None, None];
        for which in order {
            let given = (&inputs[..], request.rows(), request.cut());
            answers[which] = match put(&versions[which], &versions[0], given)? {
                Ok((outputs, took)) => {
                    times[which].push(took.as_secs_f64());
                    Some(outputs)
                }
                Err(_) => {
                    found.failed[which] += 1;
                    None
                }
            };
        }
        found.requests += 1;
        let [Some(one), Some(other)] = answers else {
            continue;
        };
        let Difference {
            form,
            flipped,
            max_abs,
            sum_abs,
            numbers: compared,
            ..
        } = rule.compare(&one, &other);
        found.flips += usize::from(flipped);
        found.forms += usize::from(form);
        sum += sum_abs;
        numbers += compared;
        if max_abs > found.max_abs_diff || found.worst_request.is_none() {
            let id = request
                .bytes("request_id")
                .and_then(|id| uuid::Uuid::from_slice(id).ok());
            found.worst_request = id.map(|id| id.to_string());
            found.max_abs_diff = max_abs;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    if numbers > 0 {
        found.mean_abs_diff = sum / numbers as f64;
    }
    for (which, times) in times.iter_mut().enumerate() {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
        found.compute_p50_seconds[which] = at(50).copied().unwrap_or_default();
        found.compute_p99_seconds[which] = at(99).copied().unwrap_or_default();
    }
    if found.requests == 0 {
        bail!(
            "no request of `{}` is meant whose inputs are in the log ({} are there without them)",
            args.model,
            found.left_out
        );
    }
    Ok(found)
}

type Outputs = Vec<(Arc<str>, Tensor)>;

/// Asks a version for the outputs of the first one.
///
/// Errors: the outer: a version that takes no requests; the inner: it failed this one.
fn put(
    version: &Servable,
    first: &Servable,
    (inputs, rows, cut): (&[Option<Tensor>], usize, Option<Cut>),
) -> Result<Result<(Outputs, Duration), String>> {
    let signature = version.signature();
    let given = first.signature().inputs.iter().zip(inputs);
    let given = given.filter_map(|(spec, tensor)| Some((spec.name.clone(), tensor.clone()?)));
    let checked = signature
        .check(given)
        .map_err(|error| anyhow!("version {}: {error}", version.version()))?;
    let names: Vec<&str> = first.signature().outputs.iter().map(|spec| &*spec.name).collect();
    let outputs = signature
        .resolve_outputs(Some(names.iter().copied()))
        .map_err(|error| anyhow!("version {}: {error}", version.version()))?;
    let question = Question {
        inputs: checked.0,
        outputs,
        rows: checked.1.max(rows.min(1)),
        cut,
    };
    Ok(ask(version, question)?.map(|(answer, _)| {
        let outputs = first.signature().outputs.iter().map(|spec| spec.name.clone());
        (outputs.zip(answer.outputs).collect(), answer.timings.compute)
    }))
}

/// The records whose requests are asked again, newest last.
fn asked(args: &DiffArgs) -> Result<Vec<RecordBatch>> {
    let log = || -> Result<Log> { Ok(Log::open(&args.log.data_dir, &keys(&args.log)?)?) };
    // What a person has asked for not to be used is not.
    let without = restricted_in(&args.log.data_dir)?;
    if args.data.is_empty() {
        let wanted = Selection {
            model: Some(args.model.clone()),
            without,
            ..Selection::default()
        };
        let log = log()?;
        return Ok(log.whole(log.newest(&wanted, args.limit)?)?);
    }
    let duck = Duck::over(&args.log, &args.duckdb)?;
    let out = tempfile::NamedTempFile::new()?;
    // Only who they are: nothing of an encrypted log lies on a disk as it is.
    let sql = format!(
        "COPY (SELECT CAST(request_id AS BLOB) AS request_id FROM log WHERE model = {} AND outcome = 'ok' AND stage <> 'shadow' AND ({}) ORDER BY ts DESC LIMIT {}) TO {} (FORMAT parquet);",
        quoted(&args.model),
        args.data,
        args.limit,
        quoted(&out.path().display().to_string())
    );
    if !duck.run(&[], &sql)? {
        bail!("DuckDB does not take the condition `{}`", args.data);
    }
    // DuckDB puts another file in its place.
    let file = std::fs::File::open(out.path())?;
    let mut meant: BTreeSet<[u8; 16]> = BTreeSet::new();
    for table in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let table = table?;
        let ids = table
            .column(0)
            .as_binary_opt::<i32>()
            .into_iter()
            .flatten()
            .flatten();
        meant.extend(ids.filter_map(|id| <[u8; 16]>::try_from(id).ok()));
    }
    let is_meant = move |table: &RecordBatch, row: usize| {
        let ids = table
            .column_by_name("request_id")
            .and_then(|column| column.as_fixed_size_binary_opt());
        ids.is_some_and(|ids| <[u8; 16]>::try_from(ids.value(row)).is_ok_and(|id| meant.contains(&id)))
    };
    let others = Selection {
        without,
        ..Selection::default()
    };
    let log = log()?;
    let found = log.find(&others, &["request_id"], is_meant)?;
    Ok(log
        .whole(found)?
        .iter()
        .map(|table| others.of(table))
        .collect::<Result<_, _>>()?)
}
