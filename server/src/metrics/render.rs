//! The per-version series as Prometheus' text exposition format.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossfade_runtimes_core::DeviceUse;

use super::names::{self, Name};
use super::series::{Series, Stage};
use super::{Loaded, Released};
use crate::gpu::GpuSample;
use crate::recorder::{Loss, Recorder};
use crate::scope::Protocol;
use crate::status::Status;

/// Nanoseconds per second.
const NS: f64 = 1e9;

/// Triton's reasons for failures.
const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];

/// Appends every series of the `loaded` versions, and the counters of requests for unknown models.
pub(super) fn versions(out: &mut String, loaded: &[Loaded], unknown: &Arc<Series>) {
    let mut text = Text { out };
    let used: Vec<&Series> = loaded
        .iter()
        .map(|version| &*version.series)
        .chain([&**unknown])
        .filter(|series| series.used())
        .collect();

    text.head(&names::STAGE_SECONDS);
    for series in used.iter().filter(|series| series.version.is_some()) {
        for stage in Stage::ALL {
            let histogram = &series.stages[stage as usize];
            let labels = format!("{},stage=\"{}\"", labels(series), stage.name());
            let buckets = histogram
                .cumulative()
                .map(|(bound, count)| (bound as f64 / NS, count));
            text.histogram(
                &names::STAGE_SECONDS,
                &labels,
                buckets,
                histogram.count(),
                histogram.sum() as f64 / NS,
            );
        }
    }
    text.head(&names::REQUESTS);
    for series in &used {
        for protocol in Protocol::ALL {
            for (index, count) in series.requests[protocol as usize].iter().enumerate() {
                let count = count.load(Relaxed);
                let status = index.checked_sub(1).map_or("ok", |row| Status::ALL[row].name());
                let protocol = protocol.name();
                let labels = format!("{},protocol=\"{protocol}\",status=\"{status}\"", labels(series));
                if count > 0 {
                    text.sample(names::REQUESTS.name, &labels, count as f64);
                }
            }
        }
    }
    text.head(&names::BATCH_ROWS);
    for series in used.iter().filter(|series| series.version.is_some()) {
        let histogram = &series.batch_rows;
        let buckets = histogram.cumulative().map(|(bound, count)| (bound as f64, count));
        text.histogram(
            &names::BATCH_ROWS,
            &labels(series),
            buckets,
            histogram.count(),
            histogram.sum() as f64,
        );
    }
    text.each(&names::INSTANCES_REPLACED, loaded, |v| {
        v.series.instances_replaced.load(Relaxed) as f64
    });
    text.each(&names::TOKENS, loaded, |v| v.series.tokens.load(Relaxed) as f64);
    text.each(&names::BATCH_CAP, loaded, |v| v.batch_cap as f64);
    text.each(&names::QUEUE_DEPTH, loaded, |v| v.queue_depth as f64);
    text.each(&names::IN_FLIGHT, loaded, |v| {
        v.series.in_flight.load(Relaxed) as f64
    });
    text.head(&names::MODEL_MEMORY);
    text.by_device(&names::MODEL_MEMORY, loaded, |there| there.bytes as f64);
    text.head(&names::MODEL_INSTANCES);
    text.by_device(&names::MODEL_INSTANCES, loaded, |there| there.instances as f64);
    triton(&mut text, loaded, &used);
}

/// Appends the series of releases; nothing where no model is released.
pub(super) fn releases(out: &mut String, released: &[Released]) {
    if released.is_empty() {
        return;
    }
    let mut text = Text { out };
    for name in names::RELEASES {
        text.head(name);
        for release in released {
            let model = format!("model=\"{}\"", escape(&release.model));
            let mut sample = |label: &str, value: f64| {
                let comma = if label.is_empty() { "" } else { "," };
                text.sample(name.name, &format!("{model}{comma}{label}"), value);
            };
            release.samples(name, &mut sample);
        }
    }
}

/// Appends the series of the machine's GPUs; nothing where nobody looks at them.
pub(super) fn gpus(out: &mut String, samples: &[GpuSample]) {
    if samples.is_empty() {
        return;
    }
    let mut text = Text { out };
    for (name, value) in names::GPUS.iter().zip(GpuSample::VALUES) {
        text.head(name);
        for sample in samples {
            let labels = format!("gpu_uuid=\"{}\"", escape(&sample.uuid));
            if let Some(value) = value(sample) {
                text.sample(name.name, &labels, value);
            }
        }
    }
}

/// Appends the series of the inference log.
pub(super) fn log(out: &mut String, recorder: &Recorder) {
    let mut text = Text { out };
    let counts = recorder.counts();
    let of = |count: &AtomicU64| count.load(Relaxed) as f64;
    let lost = Loss::ALL.map(|loss| (loss.name(), recorder.lost(loss) as f64));
    let plain = |value| vec![(String::new(), value)];
    let values = [
        plain(of(&counts.recorded)),
        lost.map(|(reason, count)| (format!("reason=\"{reason}\""), count))
            .into(),
        plain(of(&counts.sampled_out)),
        plain(of(&counts.bytes)),
        plain(of(&counts.sealed)),
        plain(recorder.unsealed_bytes() as f64),
        plain(recorder.lag().as_secs_f64()),
        plain(recorder.disk_free() as f64),
        plain(of(&counts.failures)),
        plain(of(&counts.blobs)),
        plain(of(&counts.blobs_lost)),
    ];
    for (name, values) in names::LOG.into_iter().zip(values) {
        text.head(name);
        for (labels, value) in values {
            text.sample(name.name, &labels, value);
        }
    }
}

impl Released {
    /// The values of one series, with the labels besides the model's.
    fn samples(&self, name: &Name, sample: &mut dyn FnMut(&str, f64)) {
        let arms = |units: [u64; 2]| [("canary", units[0]), ("control", units[1])];
        match name.name {
            n if n == names::ROLLOUT_STATE.name => {
                if let Some(state) = self.state {
                    sample(&format!("state=\"{state}\""), 1.0);
                }
            }
            n if n == names::ROLLOUT_PERCENT.name => sample("", self.percent),
            n if n == names::ROLLOUT_LOG_E.name => {
                for check in &self.checks {
                    let label = format!("check=\"{}\"", check.name);
                    check.log_e.into_iter().for_each(|value| sample(&label, value));
                }
            }
            n if n == names::ROLLOUT_UNITS.name => {
                for (arm, units) in arms(self.units) {
                    sample(&format!("arm=\"{arm}\""), units as f64);
                }
            }
            n if n == names::ROLLOUT_EVENTS.name => {
                for check in &self.checks {
                    for (arm, events) in arms(check.events) {
                        sample(&format!("arm=\"{arm}\",check=\"{}\"", check.name), events as f64);
                    }
                }
            }
            n if n == names::ROLLOUT_LOST.name => sample("", self.lost as f64),
            n if n == names::GATE_RESULT.name => {
                for (gate, passed) in &self.gates {
                    sample(&format!("gate=\"{gate}\""), f64::from(u8::from(*passed)));
                }
            }
            n if n == names::GOLDEN_DIFF.name => {
                for (version, diff) in &self.golden_diffs {
                    sample(&format!("version=\"{version}\""), *diff);
                }
            }
            n if n == names::GOLDEN_FAILURES.name => {
                for (version, count) in &self.golden_failures {
                    sample(&format!("version=\"{version}\""), *count as f64);
                }
            }
            n if n == names::ROLLBACKS.name => {
                for (reason, count) in &self.rollbacks {
                    sample(&format!("reason=\"{reason}\""), *count as f64);
                }
            }
            n if n == names::ROLLBACK_SECONDS.name => {
                let taken = self.rolled_back_in.map(|taken| taken.as_secs_f64());
                taken.into_iter().for_each(|seconds| sample("", seconds));
            }
            n if n == names::CRASH_LOOP_TRIPS.name => {
                let trips = self.rollbacks.get("crash_loop");
                sample("", trips.copied().unwrap_or_default() as f64);
            }
            n if n == names::PROMOTIONS.name => sample("", self.promotions as f64),
            n if n == names::SHADOW_PAIRS.name => sample("", self.shadow[0] as f64),
            n if n == names::SHADOW_FLIPS.name => sample("", self.shadow[1] as f64),
            n if n == names::SHADOW_DROPPED.name => sample("", self.shadow[2] as f64),
            _ => sample("", self.warm as f64),
        }
    }
}

/// Triton's series, so that its dashboards work.
fn triton(text: &mut Text<'_>, loaded: &[Loaded], used: &[&Series]) {
    text.head(&names::NV_SUCCESS);
    for series in used {
        text.sample(
            names::NV_SUCCESS.name,
            &labels(series),
            series.requests(None) as f64,
        );
    }
    text.head(&names::NV_FAILURE);
    for series in used {
        let mut counts = [0; 4];
        for status in Status::ALL {
            counts[reason(status)] += series.requests(Some(status));
        }
        for (name, count) in REASONS.iter().zip(counts) {
            let labels = format!("{},reason=\"{name}\"", labels(series));
            text.sample(names::NV_FAILURE.name, &labels, count as f64);
        }
    }
    text.head(&names::NV_COUNT);
    for series in used {
        text.sample(
            names::NV_COUNT.name,
            &labels(series),
            series.snapshot().rows as f64,
        );
    }
    text.head(&names::NV_EXEC);
    for series in used {
        text.sample(
            names::NV_EXEC.name,
            &labels(series),
            series.batch_rows.count() as f64,
        );
    }
    text.each(&names::NV_PENDING, loaded, |v| v.queue_depth as f64);
    let stages = [
        Stage::Total,
        Stage::Queue,
        Stage::Gather,
        Stage::Compute,
        Stage::Scatter,
    ];
    for (name, stage) in names::NV_DURATIONS.iter().zip(stages) {
        text.head(name);
        for series in used {
            let micros = series.stages[stage as usize].sum() / 1000;
            text.sample(name.name, &labels(series), micros as f64);
        }
    }
}

/// Index into [`REASONS`].
fn reason(status: Status) -> usize {
    match status {
        Status::Overloaded | Status::DeadlineExceeded | Status::NotReady => 0,
        Status::Cancelled => 1,
        Status::Internal => 2,
        Status::InvalidInput
        | Status::Unauthenticated
        | Status::Forbidden
        | Status::NotFound
        | Status::Conflict
        | Status::HumanReview
        | Status::Stale
        | Status::Unsupported => 3,
    }
}

/// A label's value as the format wants it.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn labels(series: &Series) -> String {
    let model = escape(&series.model);
    match series.version {
        Some(version) => format!("model=\"{model}\",version=\"{version}\""),
        None => format!("model=\"{model}\",version=\"\""),
    }
}

/// Writes samples; writing to a `String` cannot fail.
struct Text<'a> {
    out: &'a mut String,
}

impl Text<'_> {
    fn head(&mut self, name: &Name) {
        let Name { name, kind, help } = name;
        writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes any text");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let written = match labels {
            "" => writeln!(self.out, "{name} {value}"),
            _ => writeln!(self.out, "{name}{{{labels}}} {value}"),
        };
        written.expect("a String takes any text");
    }

    fn each(&mut self, name: &Name, loaded: &[Loaded], value: impl Fn(&Loaded) -> f64) {
        self.head(name);
        for version in loaded {
            self.sample(name.name, &labels(&version.series), value(version));
        }
    }

    /// Samples of each version on each of its devices; the head is written before.
    fn by_device(&mut self, name: &Name, loaded: &[Loaded], value: impl Fn(&DeviceUse) -> f64) {
        for version in loaded {
            for there in &version.devices {
                let labels = format!("{},device=\"{}\"", labels(&version.series), there.device);
                self.sample(name.name, &labels, value(there));
            }
        }
    }

    fn histogram(
        &mut self,
        name: &Name,
        labels: &str,
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let bucket = format!("{}_bucket", name.name);
        for (bound, below) in buckets {
            self.sample(&bucket, &format!("{labels},le=\"{bound}\""), below as f64);
        }
        self.sample(&bucket, &format!("{labels},le=\"+Inf\""), count as f64);
        self.sample(&format!("{}_sum", name.name), labels, sum);
        self.sample(&format!("{}_count", name.name), labels, count as f64);
    }
}

/// The table of docs/metrics.md.
pub(super) fn markdown() -> String {
    let mut out = String::from("| series | kind | meaning |\n|---|---|---|\n");
    for Name { name, kind, help } in names::versioned() {
        writeln!(out, "| `{name}` | {kind} | {help} |").expect("a String takes any text");
    }
    for Name { name, kind, help } in names::RELEASES.into_iter().chain(names::LOG) {
        writeln!(out, "| `{name}` | {kind} | {help} |").expect("a String takes any text");
    }
    for Name { name, kind, help } in names::LABELLED.iter().chain(&names::GPUS) {
        writeln!(out, "| `{name}` | {kind} | {help} |").expect("a String takes any text");
    }
    for (name, help) in names::PROCESS {
        writeln!(out, "| `{name}` | gauge | {help} |").expect("a String takes any text");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::Device;
    use std::time::Duration;

    #[test]
    fn gpus_show_what_their_driver_tells_and_nothing_is_said_without_any() {
        let mut out = String::new();
        gpus(&mut out, &[]);
        assert_eq!(out, "");
        let sample = GpuSample {
            uuid: "GPU-1".to_owned(),
            utilization: Some(0.5),
            memory: Some((80, 20)),
            ..GpuSample::default()
        };
        gpus(&mut out, &[sample]);
        for line in [
            "nv_gpu_utilization{gpu_uuid=\"GPU-1\"} 0.5",
            "nv_gpu_memory_total_bytes{gpu_uuid=\"GPU-1\"} 80",
            "nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-1\"} 20",
        ] {
            assert!(out.lines().any(|got| got == line), "{line} is missing in\n{out}");
        }
        assert!(!out.contains("nv_gpu_power_usage{"), "{out}");
    }

    #[test]
    fn a_version_shows_its_series_and_only_with_its_first_request() {
        let series = Arc::new(Series::new("di\"gits".into(), Some(2)));
        let loaded = [Loaded {
            series: series.clone(),
            batch_cap: 8,
            queue_depth: 3,
            devices: vec![DeviceUse {
                device: Device::Cuda(1),
                instances: 2,
                bytes: 7,
                served_by: "cuda".to_owned(),
            }],
        }];
        let unknown = Arc::new(Series::new("".into(), None));
        let render = || {
            let mut out = String::new();
            versions(&mut out, &loaded, &unknown);
            out
        };
        assert!(!render().contains("crossfade_stage_duration_seconds_count"));
        assert!(render().contains("crossfade_queue_depth{model=\"di\\\"gits\",version=\"2\"} 3\n"));
        series.success(Protocol::Http, 4, &[Duration::from_micros(60); 7]);
        series.failure(Protocol::Grpc, Status::Overloaded, Duration::from_micros(5));
        series.batch(4, Duration::ZERO, Duration::ZERO, Duration::ZERO);
        unknown.failure(Protocol::Http, Status::NotFound, Duration::ZERO);
        let text = render();
        for line in [
            "crossfade_stage_duration_seconds_bucket{model=\"di\\\"gits\",version=\"2\",stage=\"total\",le=\"0.00005\"} 0",
            "crossfade_stage_duration_seconds_bucket{model=\"di\\\"gits\",version=\"2\",stage=\"total\",le=\"0.0001\"} 1",
            "crossfade_requests_total{model=\"di\\\"gits\",version=\"2\",protocol=\"http\",status=\"ok\"} 1",
            "crossfade_requests_total{model=\"\",version=\"\",protocol=\"http\",status=\"not_found\"} 1",
            "nv_inference_request_failure{model=\"di\\\"gits\",version=\"2\",reason=\"REJECTED\"} 1",
            "nv_inference_count{model=\"di\\\"gits\",version=\"2\"} 4",
            "crossfade_model_memory_bytes{model=\"di\\\"gits\",version=\"2\",device=\"cuda:1\"} 7",
            "crossfade_model_instances{model=\"di\\\"gits\",version=\"2\",device=\"cuda:1\"} 2",
            "crossfade_batch_rows_bucket{model=\"di\\\"gits\",version=\"2\",le=\"4\"} 1",
        ] {
            assert!(
                text.lines().any(|got| got == line),
                "{line} is missing in\n{text}"
            );
        }
    }
}
