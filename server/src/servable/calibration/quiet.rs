//! Both ways on made-up inputs, in short slices in turn, at the lowest priority; and whether a slice was disturbed.
//!
//! At the lowest priority a thread waits for a core as soon as anything else wants one: requests of this server, other
//! programs. The system counts that wait for each thread (`/proc/thread-self/schedstat`, proc_pid_schedstat: time on a
//! core, time waiting for one, turns).

use std::time::{Duration, Instant};

use crossfade_runtimes_core::{Instance, ModelSignature, Outputs, Tensor, TensorView};

use super::choice::{Judgement, Slice, Way, compare};
use crate::servable::sample::{self, Fill};

/// How long each way runs each size in each round, at most, and how many runs of an instance are enough: a thousand
/// small models take seconds together, not minutes.
const SLICE: Duration = Duration::from_millis(40);
const ENOUGH_RUNS: u32 = 100;
/// Rows per run that are tried.
const ROWS: [usize; 2] = [1, 8];
/// Sizes tried for variable dimensions, until the model accepts one.
const VARIABLE_SIZES: [usize; 5] = [16, 4, 1, 2, 64];
/// The share of a slice that a thread of it may wait for a core, before the slice counts as disturbed.
const WAITING: f64 = 0.1;

/// How long cores are tried before they are measured on.
const PROBE: Duration = Duration::from_millis(4);

/// Whether so many threads have a core each, at this moment. Costs [`PROBE`], however busy the cores are, where a run of
/// the model at the lowest priority may take seconds.
pub(super) fn is_quiet(cores: usize) -> bool {
    std::thread::scope(|scope| {
        let spin = || {
            let (begun, before) = (Instant::now(), waited());
            while begun.elapsed() < PROBE {
                std::hint::spin_loop();
            }
            undisturbed(before, waited(), begun.elapsed())
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(spin)).collect();
        // All are joined, whatever the first of them says.
        let quiet: Vec<bool> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(false))
            .collect();
        quiet.into_iter().all(|quiet| quiet)
    })
}

/// Measures until rounds suffice for a judgement.
///
/// * `current`: how the version runs, which another way has to beat clearly
///
/// Errors: the model does not run made-up inputs; it was unloaded (`wanted` says no).
pub(super) fn measure(
    current: Way,
    signature: &ModelSignature,
    shared: &mut [Box<dyn Instance>],
    single: &mut [Box<dyn Instance>],
    max_rows: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<Judgement, String> {
    let sizes: Vec<usize> = ROWS.into_iter().filter(|&rows| rows <= max_rows.max(1)).collect();
    let samples: Vec<(usize, Vec<Option<Tensor>>)> = sizes
        .into_iter()
        .map(|rows| Ok((rows, inputs(signature, rows, &mut *shared[0])?)))
        .collect::<Result<_, String>>()?;
    // First runs allocate.
    for instance in shared.iter_mut().chain(single.iter_mut()) {
        for (_, inputs) in &samples {
            once(signature, &mut **instance, inputs)?;
        }
    }
    let cores = single.len();
    compare(current, |way| match way {
        Way::Shared => best(signature, shared, &samples, cores, wanted),
        Way::Single => best(signature, single, &samples, cores, wanted),
    })
}

/// The rate at the best of the sizes; sound if the slices of all were.
fn best(
    signature: &ModelSignature,
    instances: &mut [Box<dyn Instance>],
    samples: &[(usize, Vec<Option<Tensor>>)],
    cores: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<Slice, String> {
    let mut best = Slice {
        rows_per_s: 0.0,
        sound: true,
    };
    for (rows, inputs) in samples {
        if !wanted() {
            return Err("it was unloaded".to_owned());
        }
        if !is_quiet(cores) {
            best.sound = false;
            break;
        }
        let slice = run(signature, instances, inputs, *rows)?;
        best.rows_per_s = best.rows_per_s.max(slice.rows_per_s);
        best.sound &= slice.sound;
    }
    Ok(best)
}

/// Inputs that the model accepts.
fn inputs(
    signature: &ModelSignature,
    rows: usize,
    instance: &mut dyn Instance,
) -> Result<Vec<Option<Tensor>>, String> {
    let mut refused = String::new();
    for variable in VARIABLE_SIZES {
        let made = sample::inputs(signature, rows, variable, |_| Fill::Random(1));
        match once(signature, instance, &made) {
            Ok(()) => return Ok(made),
            Err(reason) => refused = reason,
        }
    }
    Err(refused)
}

fn once(
    signature: &ModelSignature,
    instance: &mut dyn Instance,
    inputs: &[Option<Tensor>],
) -> Result<(), String> {
    let views: Vec<Option<TensorView<'_>>> = inputs
        .iter()
        .map(|tensor| tensor.as_ref().map(Tensor::view))
        .collect();
    let mut outputs = Outputs::all(signature.outputs.len());
    instance
        .run(&views, &mut outputs)
        .map_err(|error| error.to_string())
}

/// Runs all instances side by side for a slice of time.
fn run(
    signature: &ModelSignature,
    instances: &mut [Box<dyn Instance>],
    inputs: &[Option<Tensor>],
    rows: usize,
) -> Result<Slice, String> {
    let start = Instant::now();
    let (runs, sound) = std::thread::scope(|scope| {
        // Threads of a lowered one are as low.
        let threads: Vec<_> = instances
            .iter_mut()
            .map(|instance| {
                scope.spawn(move || {
                    let (begun, waited) = (Instant::now(), waited());
                    let mut runs = 0u32;
                    while runs == 0 || (runs < ENOUGH_RUNS && start.elapsed() < SLICE) {
                        once(signature, &mut **instance, inputs)?;
                        runs += 1;
                    }
                    Ok((runs, undisturbed(waited, self::waited(), begun.elapsed())))
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let panicked = |_| Err("the model panicked".to_owned());
            thread.join().unwrap_or_else(panicked)
        });
        // All are joined, whatever the first of them says.
        let joined: Vec<Result<(u32, bool), String>> = joined.collect();
        joined.into_iter().try_fold((0u32, true), |(runs, sound), one| {
            one.map(|(more, undisturbed)| (runs.saturating_add(more), sound && undisturbed))
        })
    })?;
    let rows = f64::from(u32::try_from(rows).unwrap_or(u32::MAX));
    Ok(Slice {
        rows_per_s: f64::from(runs) * rows / start.elapsed().as_secs_f64(),
        sound,
    })
}

/// Whether a thread that had waited so long for a core, before and after, had one nearly all of the time between.
/// Systems that do not tell are believed to be quiet.
fn undisturbed(before: Option<Duration>, after: Option<Duration>, elapsed: Duration) -> bool {
    let (Some(before), Some(after)) = (before, after) else {
        return true;
    };
    after.saturating_sub(before).as_secs_f64() <= WAITING * elapsed.as_secs_f64()
}

/// How long this thread has waited for a core, ready to run, since it began.
fn waited() -> Option<Duration> {
    parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

fn parse(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests;
