use std::fs;

use crossfade_runtimes_fake::FakeRuntime;
use serde_json::json;

use super::*;

/// A repository of the model `m`, `y = x + number`, one version per number.
fn repository(numbers: &[f64], more: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("m");
    for (version, number) in (1..).zip(numbers) {
        let version = model.join(version.to_string());
        fs::create_dir_all(&version).unwrap();
        let file = format!("input x FP32 -1,1\noutput y FP32 -1,1\nbatched\nop add {number}\n");
        fs::write(version.join("model.fake"), file).unwrap();
    }
    let toml = format!("[model]\nruntime = 'fake'\nfile = 'model.fake'\n{more}");
    fs::write(model.join("model.toml"), toml).unwrap();
    root
}

/// Labelled rows, `y = x + 1`, in pairs of files.
fn labelled(root: &Path) {
    let folder = root.join("m/validation");
    fs::create_dir_all(&folder).unwrap();
    let tensor =
        |data: &[f32]| json!({ "name": "x", "datatype": "FP32", "shape": [data.len(), 1], "data": data });
    for (name, data) in [("a", &[1.0_f32, 2.0, 3.0][..]), ("b", &[7.0])] {
        let labels: Vec<f32> = data.iter().map(|x| x + 1.0).collect();
        let request = json!({ "inputs": [tensor(data)] });
        fs::write(folder.join(format!("{name}.request.json")), request.to_string()).unwrap();
        fs::write(
            folder.join(format!("{name}.labels.json")),
            json!(labels).to_string(),
        )
        .unwrap();
    }
}

fn tested(root: &Path, change: impl FnOnce(&mut TestArgs)) -> Result<Vec<Tested>> {
    let mut args = TestArgs {
        repository: root.to_owned(),
        ..TestArgs::default()
    };
    change(&mut args);
    let mut runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: Some("/nonexistent/libonnxruntime.so".into()),
        intra_threads: 1,
        cuda_lib_dirs: Vec::new(),
    });
    runtimes.register(Arc::new(FakeRuntime::new()));
    test(&args, Arc::new(runtimes))
}

/// The gates of `m` and what they said.
fn outcomes(tested: &[Tested]) -> Vec<(&str, Outcome)> {
    let gates = tested.iter().flat_map(|tested| &tested.report.gates);
    gates.map(|gate| (gate.name, gate.outcome)).collect()
}

const QUALITY: &str = "[gates.quality]\ndata = 'validation'\nmetric = 'rmse'\nmax_drop = 0.1\n";

use Outcome::{Failed, Passed, Skipped};

#[test]
fn the_newest_version_is_compared_with_the_one_before() {
    let root = repository(&[1.0, 1.5], QUALITY);
    labelled(root.path());
    let tested_ = tested(root.path(), |_| {}).unwrap();
    let expected = [("load", Passed), ("quality", Failed), ("golden", Skipped)];
    assert_eq!(outcomes(&tested_), expected, "{}", table(&tested_));
    let report = &tested_[0].report;
    assert_eq!((&*report.version, report.champion.as_deref()), ("2", Some("1")));
    let text = table(&tested_);
    assert!(
        text.contains("m      2        1        quality  failed"),
        "{text}"
    );
    assert!(
        text.ends_with("3 gates of 1 models: 1 failed, 0 inconclusive, 1 skipped"),
        "{text}"
    );
    // The other way round there is nothing to complain of.
    let back = tested(root.path(), |args| {
        (args.version, args.against) = (Some(1), Some(2))
    })
    .unwrap();
    assert_eq!(outcomes(&back)[1], ("quality", Passed), "{}", table(&back));
    let first = tested(root.path(), |args| args.version = Some(1)).unwrap();
    assert_eq!(outcomes(&first)[1], ("quality", Skipped), "{}", table(&first));
}

#[test]
fn a_trend_is_made_of_the_versions_on_disk() {
    let slow = [1.0, 1.02, 1.04, 1.06, 1.08];
    let more = format!("{QUALITY}[gates.trend]\nbest_minus = 0.07\nmin_slope = -1.0\n");
    let root = repository(&slow, &more);
    labelled(root.path());
    let of = |version| tested(root.path(), |args| args.version = Some(version)).unwrap();
    let (fourth, fifth) = (of(4), of(5));
    assert_eq!(outcomes(&fourth)[2], ("trend", Passed), "{}", table(&fourth));
    assert_eq!(outcomes(&fifth)[2], ("trend", Failed), "{}", table(&fifth));
    let points = fifth[0].report.gates[2].evidence["report"]["points"]
        .as_array()
        .unwrap();
    assert_eq!(points.len(), 5);
}

#[test]
fn what_cannot_be_tested_is_a_failed_gate() {
    let root = repository(&[1.0], "");
    fs::write(root.path().join("m/1/model.fake"), "fail load\n").unwrap();
    assert_eq!(
        outcomes(&tested(root.path(), |_| {}).unwrap()),
        [("load", Failed)]
    );
    let root = repository(&[1.0], "risk = 'low'\n[gates]\nslices = true\n");
    assert_eq!(
        outcomes(&tested(root.path(), |_| {}).unwrap()),
        [("policy", Failed)]
    );
    // Versions that are released have to give known answers.
    let low = "risk = 'low'\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n";
    let root = repository(&[1.0], low);
    assert_eq!(
        outcomes(&tested(root.path(), |_| {}).unwrap()),
        [("load", Passed), ("golden", Failed)]
    );
    let error = |change: fn(&mut TestArgs)| tested(root.path(), change).err().unwrap().to_string();
    assert!(error(|args| args.model = vec!["n".into()]).contains("no model `n`"));
    let empty = tempfile::tempdir().unwrap();
    assert!(tested(empty.path(), |_| {}).is_err());
}

#[test]
fn a_load_has_its_limits() {
    let root = repository(&[1.0], "[gates.performance]\nmax_p99 = '50s'\n");
    let good = tested(root.path(), |_| {}).unwrap();
    assert_eq!(outcomes(&good)[1], ("performance", Passed), "{}", table(&good));
    assert_eq!(good[0].report.gates[1].evidence["inputs"], "made up");
    let root = repository(&[1.0], "[gates.performance]\nmax_p99 = '1us'\n");
    let bad = tested(root.path(), |_| {}).unwrap();
    assert_eq!(outcomes(&bad)[1], ("performance", Failed), "{}", table(&bad));
}

#[test]
fn build_servers_read_the_results() {
    let root = repository(&[1.0, 1.5], QUALITY);
    labelled(root.path());
    let text = junit::report(&tested(root.path(), |_| {}).unwrap())
        .to_string()
        .unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let suite = document
        .descendants()
        .find(|node| node.has_tag_name("testsuite"))
        .unwrap();
    assert_eq!(suite.attribute("name"), Some("m/2"));
    assert_eq!(
        (suite.attribute("tests"), suite.attribute("failures")),
        (Some("3"), Some("1"))
    );
    let cases = suite.children().filter(|node| node.has_tag_name("testcase"));
    let failed: Vec<_> = cases
        .filter(|case| case.children().any(|node| node.has_tag_name("failure")))
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].attribute("name"), Some("quality"));
}
