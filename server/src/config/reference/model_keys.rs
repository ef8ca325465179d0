//! The keys of `model.toml`: what they set in Triton's words, and what they mean.

use super::{code, row};

/// A key of `model.toml`.
struct ModelKey {
    /// Its table, as the file writes it.
    table: &'static str,
    /// Its name; empty where the names are the user's own.
    key: &'static str,
    /// A value, as the file writes it.
    example: &'static str,
    /// The field of `config.pbtxt` that means the same; in brackets where it has another form.
    field: &'static str,
    /// What it does, and what holds without it.
    meaning: &'static str,
}

const fn key(
    table: &'static str,
    key: &'static str,
    example: &'static str,
    field: &'static str,
    meaning: &'static str,
) -> ModelKey {
    ModelKey {
        table,
        key,
        example,
        field,
        meaning,
    }
}

/// Every key that is read today.
#[rustfmt::skip]
const KEYS: &[ModelKey] = &[
    key("[model]", "runtime", "\"auto\"", "(backend, platform)", "`auto`, `ort`, `tract` or `candle`; `auto` takes ONNX Runtime if it was found, else tract, and candle for a folder without `model.onnx`"),
    key("[model]", "file", "\"model.onnx\"", "default_model_filename", "The model's file in its version's folder; by default `model.onnx`"),
    key("[model]", "parameters", "{ enable_mem_arena = \"0\" }", "(parameters)", "For the [runtime](serve-your-own-model.md#runtimes) and, with `cuda.`, `tensorrt.` or `openvino.` before their names, its [execution providers](gpu.md#options); by default none"),
    key("[[input]]", "name", "\"text\"", "input.name", "Which input of the model; needed in each `[[input]]`. Without any, they come from the model file"),
    key("[[input]]", "datatype", "\"BYTES\"", "(input.data_type)", "Its datatype, by the name on the wire; compared with the model file"),
    key("[[input]]", "shape", "[1]", "input.dims", "Its shape without the batch dimension, −1 where it varies; compared with the model file"),
    key("[[output]]", "name", "\"scores\"", "output.name", "As for inputs; an output that is left out of the list is not offered"),
    key("[[output]]", "datatype", "\"FP32\"", "(output.data_type)", "As for inputs"),
    key("[[output]]", "shape", "[3]", "output.dims", "As for inputs"),
    key("[[output]]", "labels", "\"labels.txt\"", "output.label_filename", "A file in the model's folder with one class name per line, for classification answers"),
    key("[batching]", "max_rows", "32", "max_batch_size", "Most rows of a request and of a batch; 0: no batch dimension, shapes are taken as they are. Absent: completed from the model file"),
    key("[batching]", "learn", "true", "", "Keep batches smaller than `max_rows` where larger ones turn out to cost more per row; `false` always merges as many as fit"),
    key("[batching]", "max_delay", "\"5ms\"", "(max_queue_delay_microseconds)", "How long an idle instance waits for a fuller batch; by default not at all"),
    key("[batching]", "max_queue", "256", "max_queue_size", "Requests that may wait; by default only `limits.max_queue` of the server bounds them"),
    key("[batching]", "timeout", "\"200ms\"", "(default_timeout_microseconds)", "How long a request may wait; by default as long as its own deadline allows"),
    key("[batching]", "timeout_action", "\"reject\"", "(timeout_action)", "What happens after `timeout`: `reject` (default), or `delay` behind the others"),
    key("[instances]", "count", "2", "instance_group.count", "Copies of the model that run side by side, on each GPU if they are on GPUs; by default one, or one per core where calibration finds that better"),
    key("[instances]", "device", "\"cpu\"", "(instance_group.kind)", "`auto` (default): every GPU that ONNX Runtime can use, else the CPU; `cpu`; `cuda`: every GPU; `cuda:0`: this one. See [GPUs](gpu.md)"),
    key("[instances]", "fallback", "\"cpu\"", "", "Allows a model to run on the CPU if the GPU that it asks for cannot be used; without it, that fails the load"),
    key("[instances]", "optimise", "\"throughput\"", "", "`throughput` (default): calibration may choose an instance per core; `latency`: one instance on all cores"),
    key("[versions]", "latest", "2", "version_policy.latest", "Serve the highest N versions; 1 by default"),
    key("[versions]", "all", "true", "version_policy.all", "Serve every version; instead of `latest`"),
    key("[versions]", "specific", "[1, 3]", "version_policy.specific", "Serve exactly these; instead of `latest`"),
    key("[labels]", "", "stable = 1", "", "Names for versions, which requests may use in place of a number"),
    key("[warmup]", "data", "\"zero\"", "(model_warmup)", "What runs on every instance before the version answers: `zero`, `random`, or a file under `warmup/`; without this table nothing"),
    key("[warmup]", "rows", "1", "model_warmup.batch_size", "Rows of the warm-up"),
    key("[model]", "risk", "\"low\"", "", "The tier whose preset the rules of [releases](releases.md) begin with; without it a new version is put in at once. `high` asks for parts that are not built yet"),
    key("[rollout]", "on_new_version", "\"canary\"", "", "`immediate`: put in at once; `canary`: released; `hold`: waits for someone. By default `canary` with a `risk`, else `immediate`"),
    key("[rollout]", "route_key", "[\"header:x-user-id\"]", "", "Headers whose value keeps a client on one version, the first that a request has; by default each request is divided by itself"),
    key("[[rollout.match]]", "header", "\"x-beta\"", "", "Requests with this header go to one version of a release without being drawn, and are not counted; tried in order"),
    key("[[rollout.match]]", "value", "\"1\"", "", "Only with this value; by default any"),
    key("[[rollout.match]]", "to", "\"candidate\"", "", "`candidate` or `stable`"),
    key("[rollout]", "alpha", "0.01", "", "Probability of sending a good version back, per release"),
    key("[rollout]", "alpha_pass", "0.05", "", "Probability of taking a check for passed that is not"),
    key("[rollout]", "keep_warm", "1", "", "Earlier versions that stay loaded"),
    key("[rollout]", "bake", "\"0s\"", "", "How long hard triggers still send back a version that already has all requests"),
    key("[rollout]", "on_inconclusive", "\"hold\"", "", "After a step's `max` with nothing shown: `hold`, `promote` or `rollback`"),
    key("[rollout]", "invalid_output", "\"fail\"", "", "A number in an answer of the new version that is NaN or infinite, where its request had none: `fail` sends the version back, `allow` does not"),
    key("[rollout]", "strict", "false", "", "Whether warnings keep a step from passing"),
    key("[rollout]", "hard_limit_ms", "500", "", "A 99th percentile of compute time above this sends the version back; by default none"),
    key("[rollout]", "warmup", "1000", "", "Requests of the live version before a step has a latency threshold; of its baseline a hundred batches at most, the first twenty not counted"),
    key("[[rollout.step]]", "percent", "10", "", "Share of the requests; steps grow, and all of them replace the preset's"),
    key("[[rollout.step]]", "min", "\"1m\"", "", "The least time of the step"),
    key("[[rollout.step]]", "max", "\"30m\"", "", "When `on_inconclusive` holds; by default 12 × `min`, at least 30m"),
    key("[[rollout.step]]", "min_units", "100", "", "The fewest requests, or keys, of the new version"),
    key("[[rollout.check]]", "metric", "\"errors\"", "", "`errors`, `latency`, `output` or `flips`; changes the preset's check of that name"),
    key("[[rollout.check]]", "enabled", "true", "", "Whether it is watched at all"),
    key("[[rollout.check]]", "critical", "true", "", "Whether it sends back and has to pass, or only warns"),
    key("[[rollout.check]]", "tolerance", "1.5", "", "So many times as many events are acceptable; 1 for errors, 1.5 for latency"),
    key("[[rollout.check]]", "margin", "2", "", "It passes when fewer than so many times as many events are shown"),
    key("[[rollout.check]]", "abs_ok", "0.005", "", "It passes when the rate is shown to be at most this; .005 for errors, .03 for latency"),
    key("[[rollout.check]]", "slack", "\"100us\"", "", "Of `latency`: so much longer than the live version is no difference"),
    key("[[rollout.check]]", "warn_distance", "0.05", "", "Of `output`: the distance of two distributions from which on it warns, if it is significant"),
    key("[[rollout.check]]", "max_psi", "0.25", "", "Of `output`: a stability index beyond which it fails; by default none up to `low`"),
    key("[[rollout.check]]", "test", "\"ks\"", "", "Of `output`: `ks` for numbers, `chi2` for classes; by default `chi2` with a `[decision]`"),
    key("[rollout.shadow]", "percent", "20", "", "Copies of these requests go to the new version before any real one; the table makes the stage"),
    key("[rollout.shadow]", "min", "\"1m\"", "", "The least time of the stage"),
    key("[rollout.shadow]", "max", "\"30m\"", "", "When `on_inconclusive` holds; by default 12 × `min`, at least 30m"),
    key("[rollout.shadow]", "min_units", "500", "", "The fewest pairs; of a key, the first one counts"),
    key("[rollout.shadow]", "max_flip_rate", "0.05", "", "The highest acceptable rate of decisions that differ"),
    key("[rollout.shadow]", "tol", "0.01", "", "Without a `[decision]`: numbers further apart than this are a flip"),
    key("[rollout.approval]", "before", "[\"promoting\"]", "", "What people have to agree to: `canary`, `promoting`; `promoting` where a `quorum` is set"),
    key("[rollout.approval]", "quorum", "1", "", "How many have to agree; 0 by default in tier `low`"),
    key("[rollout.approval]", "not_author", "true", "", "Whether the approval of whoever started the release does not count"),
    key("[rollout.approval]", "independent", "true", "", "Whether approvers have to be in a group, and in none of the author's"),
    key("[rollout.approval]", "groups", "[\"risk\"]", "", "Only members of these count; by default everyone"),
    key("[rollout.approval]", "timeout", "\"2d\"", "", "After this the release fails; by default never"),
    key("[gates]", "signature", "\"recorded\"", "", "`recorded`: the digest of a version's files is written down; `pinned`: files that change under the same number are refused. `required` is not built yet"),
    key("[gates.golden]", "enabled", "true", "", "Whether a new version has to give known answers before it has any traffic; without any pair it fails"),
    key("[gates.golden]", "file", "\"golden\"", "", "Folder of the pairs `NAME.request.json` and `NAME.response.json`, or a Parquet file with the columns `in.NAME` and `out.NAME`; in the model's folder"),
    key("[gates.golden]", "max_abs_diff", "0.0001", "", "The largest acceptable difference of a number; the default where no limit is set"),
    key("[gates.golden]", "max_rel_diff", "0.001", "", "The same, relative to the expected number"),
    key("[decision]", "output", "\"score\"", "", "The output that decides"),
    key("[decision]", "kind", "\"threshold\"", "", "`argmax` over its last axis, `threshold` for each element, or `none`: it is a number"),
    key("[decision]", "threshold", "0.5", "", "From here on an element is the second class"),
    key("[decision]", "labels", "[\"ok\", \"fraud\"]", "", "Names of the classes, in order"),
    key("[gates.golden]", "interval", "\"1h\"", "", "How often the live version has to give them again; by default never"),
    key("[gates.quality]", "data", "\"validation.parquet\"", "", "Labelled rows, in the model's folder: a Parquet file with the columns `in.NAME` and `label`, or a folder of `NAME.request.json` and `NAME.labels.json`. The table asks for the [quality gate](gates.md)"),
    key("[gates.quality]", "enabled", "true", "", "Whether a new version is compared with the live one on labelled rows"),
    key("[gates.quality]", "output", "\"score\"", "", "The output that holds predictions; by default the only one"),
    key("[gates.quality]", "metric", "\"accuracy\"", "", "`accuracy`, `auc` or `rmse`"),
    key("[gates.quality]", "max_drop", "0.005", "", "How much worse it may be, in the metric's unit"),
    key("[gates.quality]", "alpha", "0.05", "", "Level of the drop's one-sided upper bound; above `max_drop` it is inconclusive"),
    key("[gates.trend]", "enabled", "true", "", "Whether a new version is compared with the best of the last ones, on the rows of `[gates.quality]`"),
    key("[gates.trend]", "last", "10", "", "How many versions count, the new one included; at least 5"),
    key("[gates.trend]", "best_minus", "0.01", "", "How far below the best of them it may be"),
    key("[gates.trend]", "min_slope", "-0.0005", "", "The least slope per version (Theil–Sen), from five versions on"),
    key("[gates.performance]", "enabled", "true", "", "Whether a new version is put under a closed local load"),
    key("[gates.performance]", "max_p99", "\"20ms\"", "", "The highest 99th percentile of its latency"),
    key("[gates.performance]", "max_rss_bytes", "500000000", "", "The most resident memory of the process beyond what it had before the version was loaded"),
];

/// Appends the table.
pub(super) fn write(out: &mut String) {
    out.push_str("| table | key and example | `config.pbtxt` | meaning |\n|---|---|---|---|\n");
    for ModelKey {
        table,
        key,
        example,
        field,
        meaning,
    } in KEYS
    {
        let field = match field.strip_prefix('(').and_then(|field| field.strip_suffix(')')) {
            Some(other) => format!("({})", other.split(", ").map(code).collect::<Vec<_>>().join(", ")),
            None => code(field),
        };
        row(
            out,
            &[
                code(table),
                code(&assignment(key, example)),
                field,
                (*meaning).to_owned(),
            ],
        );
    }
    out.push_str(
        "\nThe table `[log]`, the key `source`, and what else the tables `[rollout]`, `[gates]` and `[decision]` will hold \
         belong to later milestones: a file that asks for them is refused rather than half obeyed. \
         `crossfade config effective MODEL` prints the rules of releases with all that the tier adds.\n",
    );
}

fn assignment(key: &str, example: &str) -> String {
    if key.is_empty() {
        example.to_owned()
    } else {
        format!("{key} = {example}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_read() {
        for ModelKey {
            table, key, example, ..
        } in KEYS
        {
            let others = match *table {
                "[[input]]" | "[[output]]" if *key != "name" => "name = \"x\"\n",
                "[[rollout.step]]" if *key == "percent" => "min = \"1m\"\n",
                "[[rollout.step]]" if *key == "min" => "percent = 10\n",
                "[[rollout.step]]" => "percent = 10\nmin = \"1m\"\n",
                "[[rollout.match]]" if *key == "to" => "header = \"x-beta\"\n",
                "[[rollout.match]]" if *key == "header" => "to = \"candidate\"\n",
                "[[rollout.match]]" => "header = \"x-beta\"\nto = \"candidate\"\n",
                "[[rollout.check]]" if *key != "metric" => "metric = \"errors\"\n",
                "[decision]" if *key == "output" => "kind = \"none\"\n",
                "[decision]" if *key == "kind" => "output = \"y\"\n",
                "[decision]" => "output = \"y\"\nkind = \"threshold\"\n",
                "[gates.quality]" if *key != "data" => "data = \"a\"\n",
                _ => "",
            };
            let text = format!("{table}\n{others}{}\n", assignment(key, example));
            if let Err(error) = crossfade_models::config::toml::read(&text) {
                panic!("{text}is refused: {error}");
            }
        }
    }
}
