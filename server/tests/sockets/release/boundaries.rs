//! A process that ends at any moment of a release: whatever its log holds by then, the next one stands where that one
//! stood, divides requests so, answers them, and brings the release to its end (rollout.md §11.7).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crossfade_journal::Reader;
use crossfade_models::Wish;
use crossfade_server::admin::ApproveRelease;

use super::*;

/// Every stage that there is, each with little to show.
const RULES: &str = "risk = 'low'\n[gates.golden]\nenabled = false\n[rollout]\nbake = '2s'\n\
    [rollout.approval]\nbefore = ['promoting']\nquorum = 1\n\
    [rollout.shadow]\npercent = 100\nmin = '0s'\nmin_units = 5\ntol = 5\n\
    [[rollout.step]]\npercent = 30\nmin = '0s'\nmin_units = 5\n\
    [[rollout.step]]\npercent = 60\nmin = '0s'\nmin_units = 5\n\
    [[rollout.check]]\nmetric = 'errors'\nabs_ok = 0.5\n\
    [[rollout.check]]\nmetric = 'latency'\nenabled = false\n[[rollout.check]]\nmetric = 'output'\nenabled = false\n";

/// Requests that are drawn to see a share, and how far it may be off: more than six standard deviations of that many.
const DRAWN: u32 = 3000;
const OFF: f64 = 6.0;

/// How a release goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Story {
    /// It is live in the end.
    Good,
    /// Its requests fail in the canary.
    Fails,
    /// Someone sends it back while it bakes.
    Withdrawn,
}

impl Story {
    fn version(self) -> String {
        let fails = if self == Story::Fails { "fail_on 13\n" } else { "" };
        format!("{}{fails}", version_file(2))
    }

    fn end(self) -> &'static str {
        match self {
            Story::Good => "live",
            Story::Fails | Story::Withdrawn => "rolled_back",
        }
    }
}

/// Where a log leaves a release.
#[derive(Debug, Clone, Default)]
struct Stand {
    release: Option<String>,
    state: Value,
    /// Someone has agreed, and nothing followed yet.
    agreed: bool,
}

impl Stand {
    fn note(&mut self, record: &Value) {
        match record["record"].as_str().unwrap() {
            "created" => {
                self.release = Some(record["id"].as_str().unwrap().to_owned());
                self.state = json!({ "state": "verifying" });
            }
            "moved" => {
                self.state = record["state"].clone();
                self.agreed = false;
            }
            "approved" => self.agreed = true,
            _ => {}
        }
    }

    /// The states that a start comes through without any request, the last one where it stays.
    fn follows(&self) -> Vec<Value> {
        let states = |names: &[&str]| names.iter().map(|name| json!({ "state": name })).collect();
        let before_traffic = ["verifying", "loading", "gating", "shadow"];
        let name = self.state["state"].as_str().unwrap();
        match before_traffic.iter().position(|state| *state == name) {
            Some(at) => states(&before_traffic[at..]),
            None if name == "promoting" => states(&["promoting", "baking"]),
            None if self.agreed => {
                let mut all = vec![self.state.clone()];
                all.extend::<Vec<Value>>(states(&["promoting", "baking"]));
                all
            }
            None => vec![self.state.clone()],
        }
    }
}

/// The share of version 2 in a state, percent.
fn percent(state: &Value) -> f64 {
    match (state["state"].as_str().unwrap(), state["step"].as_u64()) {
        ("canary" | "paused", Some(0)) => 30.0,
        ("canary" | "paused", Some(1)) => 60.0,
        ("promoting" | "baking" | "live", _) => 100.0,
        _ => 0.0,
    }
}

/// The state of a data folder as it lay on disk at one moment.
struct Moment {
    /// How long its log was.
    log: u64,
    /// What lay beside it.
    beside: BTreeMap<PathBuf, Vec<u8>>,
}

const LOG: &str = "m.log";

fn moment(data: &Path) -> Moment {
    let folder = data.join("state/rollout");
    let mut beside = BTreeMap::new();
    // First what is beside it: a log that is longer than its counts is what a crash leaves, the other way round it is not.
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if name != Path::new(LOG) {
            beside.insert(name, std::fs::read(&path).unwrap());
        }
    }
    let log = std::fs::metadata(folder.join(LOG)).unwrap().len();
    Moment { log, beside }
}

/// Makes a data folder what it was for a process that ended when its log was this long, with these bytes behind its last
/// whole record. Where it lies stays the same, and so does the configuration, which approvals are given to.
///
/// * `marked`: the release that the breaker's marker names; set before the first record of a release is written
fn cut(told: &Told, at: u64, torn: &[u8], marked: Option<&str>) {
    let folder = told.data.path().join("state/rollout");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    let known = told.moments.iter().rev().find(|moment| moment.log <= at);
    for (name, content) in known.iter().flat_map(|moment| &moment.beside) {
        std::fs::write(folder.join(name), content).unwrap();
    }
    if let Some(release) = marked {
        let marker = json!({ "release": release, "unclean": [] }).to_string();
        crossfade_journal::snapshot::replace(&folder.join("m.marker"), marker.as_bytes()).unwrap();
    }
    std::fs::write(folder.join(LOG), [part(&told.log, 0, at), torn].concat()).unwrap();
}

fn ann() -> Caller {
    Caller {
        actor: "ann".into(),
        roles: vec![Role::Deploy, Role::Promote, Role::Rollback, Role::Approve],
    }
}

/// Does what the state of the release asks for, and looks.
async fn go_on(server: &Server, story: Story) {
    let release = server.release();
    let id = release["id"].as_str().unwrap();
    let releases = server.app.service.releases();
    let state = server.state();
    match state.as_str() {
        "paused" => {
            let resumed = releases.act(&ann(), "m", id, ReleaseAction::Resume, None, &|| Ok(()));
            resumed.unwrap();
        }
        "awaiting_approval" => {
            let subject = json!({ "subject": release["approval"]["subject"] });
            let request: ApproveRelease = serde_json::from_value(subject).unwrap();
            releases.approve(&ann(), "m", id, request, &|| Ok(())).unwrap();
        }
        "baking" if story == Story::Withdrawn => {
            releases.rollback(&ann(), "m", None, "worse", &|| Ok(())).unwrap();
        }
        "shadow" | "canary" => {
            let bad = story == Story::Fails && state == "canary";
            let value = if bad { 13.0 } else { 1.0 };
            let body = json!({ "inputs": [{
                "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value],
            }] });
            for _ in 0..10 {
                let answer = server.post("/v2/models/m/infer", body.to_string()).await;
                let injected = bad && answer.headers["x-model-version"] == "2";
                assert_eq!(answer.status, if injected { 500 } else { 200 }, "{answer:?}");
            }
        }
        _ => {}
    }
    server.look();
}

/// Brings the release to its end.
async fn ends(server: &Server, story: Story) {
    for _ in 0..400 {
        if server.state() == story.end() {
            return stands(server, &server.release()["state"]).await;
        }
        go_on(server, story).await;
    }
    panic!("{story:?} does not end: {}", server.release());
}

/// Requests are divided as the state says, both protocols answer, and each answer is that of the version it names.
async fn stands(server: &Server, state: &Value) {
    let expected = percent(state);
    let release = server.release();
    if !release.is_null() {
        // Of a release that has ended nothing is shared any more.
        let shared = if state["state"] == "live" { 0.0 } else { expected };
        assert_eq!(release["percent"], shared, "{release}");
        let live = if expected == 100.0 { 2 } else { 1 };
        assert_eq!(release["live"], live, "{release}");
    }
    let registry = server.app.service.registry();
    let mut drawn = BTreeMap::<u64, u32>::new();
    for id in 0..DRAWN {
        let (id, header) = (id.to_le_bytes(), |_: &str| None);
        let wish = Wish {
            selector: "",
            header: &header,
            id: &id,
        };
        let choice = registry.choose("m", &wish).expect("every request has a version");
        *drawn.entry(choice.routed.version()).or_default() += 1;
    }
    let of = |version| 100.0 * f64::from(drawn.get(&version).copied().unwrap_or_default()) / f64::from(DRAWN);
    assert_eq!(of(1) + of(2), 100.0, "{drawn:?}");
    let off = if expected == 0.0 || expected == 100.0 {
        0.0
    } else {
        OFF
    };
    assert!((of(2) - expected).abs() <= off, "{state}: {drawn:?}");

    let answer = server.post("/v2/models/m/infer", INFER).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let version: f64 = answer.headers["x-model-version"].parse().unwrap();
    assert_eq!(
        answer.json()["outputs"][0]["data"],
        json!([1.0 + version, 2.0 + version])
    );
    let answer = server
        .grpc()
        .await
        .model_infer(message())
        .await
        .unwrap()
        .into_inner();
    let version: f32 = answer.model_version.parse().unwrap();
    let data: Vec<u8> = [version.to_le_bytes(), version.to_le_bytes()].concat();
    assert_eq!(answer.raw_output_contents[0], data);
}

/// What a release has left behind.
struct Told {
    data: tempfile::TempDir,
    log: Vec<u8>,
    moments: Vec<Moment>,
    /// Where each record of the log ends, and where that leaves the release.
    boundaries: Vec<(u64, Stand)>,
}

/// Runs a release.
async fn told(story: Story) -> (Told, Repository) {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &version_file(1), RULES);
    let server = serving(repository, data.path()).await;
    let mut moments = vec![moment(data.path())];
    server.arrive(2, &story.version(), RULES).await;
    moments.push(moment(data.path()));
    let (releases, pause) = (server.app.service.releases().clone(), ReleaseAction::Pause);
    let mut paused = Vec::new();
    while server.state() != story.end() {
        assert!(moments.len() < 400, "it does not end: {}", server.release());
        let release = server.release();
        let state = release["state"].clone();
        if ["shadow", "canary"].contains(&server.state().as_str()) && !paused.contains(&state) {
            let id = release["id"].as_str().unwrap();
            releases.act(&ann(), "m", id, pause, None, &|| Ok(())).unwrap();
            moments.push(moment(data.path()));
            paused.push(state);
        }
        go_on(&server, story).await;
        moments.push(moment(data.path()));
    }
    drop(releases);
    let repository = server.stopped().await;

    let path = data.path().join("state/rollout").join(LOG);
    let mut reader = Reader::open(&path).unwrap();
    let mut stand = Stand::default();
    let mut boundaries = vec![(reader.offset(), stand.clone())];
    while let Some(record) = reader.next() {
        stand.note(&serde_json::from_slice(&record.unwrap().payload).unwrap());
        boundaries.push((reader.offset(), stand.clone()));
    }
    let log = std::fs::read(&path).unwrap();
    let told = Told {
        data,
        log,
        moments,
        boundaries,
    };
    (told, repository)
}

/// A process starts on a folder that another one has left behind, and stands where that one stood.
async fn starts(story: Story, stand: &Stand, data: &Path, repository: Repository) -> Server {
    let candidate = repository.path().join("m/2");
    if stand.release.is_some() {
        repository.add("m", 2, &story.version(), RULES);
    } else if candidate.exists() {
        std::fs::remove_dir_all(candidate).unwrap();
    }
    let server = serving(repository, data).await;
    let Some(id) = &stand.release else {
        assert_eq!(server.state(), "none");
        stands(&server, &json!({ "state": "none" })).await;
        return server;
    };
    assert_eq!(server.release()["id"], *id, "the same release");
    let follows = stand.follows();
    let stays = follows.last().unwrap();
    let arrives = async {
        loop {
            let state = server.release()["state"].clone();
            assert!(follows.contains(&state), "{state} does not follow {stand:?}");
            if state == *stays {
                return;
            }
            let answer = server.post("/v2/models/m/infer", INFER).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrives).await;
    assert!(arrived.is_ok(), "{stand:?} does not settle: {}", server.release());
    stands(&server, stays).await;
    server
}

async fn survives_everywhere(story: Story) {
    let (told, mut repository) = told(story).await;
    let Told { log, boundaries, .. } = &told;
    let states: Vec<&str> = boundaries
        .iter()
        .filter_map(|(_, stand)| stand.state["state"].as_str())
        .collect();
    let mut expected = vec!["verifying", "loading", "gating", "shadow", "paused", "canary"];
    expected.extend(match story {
        Story::Good => &["awaiting_approval", "promoting", "baking", "live"][..],
        Story::Fails => &["rolling_back", "rolled_back"],
        Story::Withdrawn => &[
            "awaiting_approval",
            "promoting",
            "baking",
            "rolling_back",
            "rolled_back",
        ],
    });
    for state in expected {
        assert!(states.contains(&state), "{state} is not in {states:?}");
    }
    assert_eq!(boundaries.last().unwrap().0, log.len() as u64);
    let records: Vec<&[u8]> = boundaries
        .windows(2)
        .map(|two| part(log, two[0].0, two[1].0))
        .collect();
    for (index, (at, stand)) in boundaries.iter().enumerate() {
        let next = boundaries.get(index + 1);
        let marked = next.map_or(stand, |(_, next)| next).release.as_deref();
        cut(&told, *at, &[], marked);
        let server = starts(story, stand, told.data.path(), repository).await;
        if stand.release.is_some() {
            ends(&server, story).await;
        }
        repository = server.stopped().await;

        // Of the next record only a part has come to the disk; behind the last one, of one that looks like it.
        let record = records.get(index).or(records.last()).unwrap();
        cut(&told, *at, &record[..record.len() / 2], marked);
        let server = starts(story, stand, told.data.path(), repository).await;
        repository = server.stopped().await;
        let path = told.data.path().join("state/rollout").join(LOG);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(part(&whole, 0, *at), part(log, 0, *at), "what was whole is kept");
        crossfade_journal::verify(&path).unwrap();
    }
}

fn part(log: &[u8], from: u64, to: u64) -> &[u8] {
    &log[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_is_taken_up_behind_each_of_its_records() {
    survives_everywhere(Story::Good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_is_taken_up_behind_each_of_its_records() {
    survives_everywhere(Story::Fails).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_withdrawn_is_taken_up_behind_each_of_its_records() {
    survives_everywhere(Story::Withdrawn).await;
}
