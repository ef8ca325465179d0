"""What did my model say? From a request id to its row, to the same answer again; from yesterday's traffic to a training set and a load test."""

import concurrent.futures
import json
import random
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

import duckdb
import harness
import numpy as np
import pandas
import pyarrow.parquet
import pytest

DUCKDB = Path(shutil.which("duckdb", path=str(Path(__import__("sys").executable).parent)))
REQUESTS = 1000
CLIENTS = 16


def run(*words, expect=0):
    """A command of the server's program: what it prints."""
    done = subprocess.run([harness.BINARY, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A data folder with the requests of many clients at once, and what each was answered, by its request id."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "crossfade.toml").write_text('[log]\nseal_after = "1s"\n')
    data = folder / "data"
    answers = {}
    with harness.serve(harness.ZOO, "--config", str(folder / "crossfade.toml"), data=data) as server:
        path = "/v2/models/digits/versions/2/infer"

        def ask(seed):
            image = np.random.default_rng(seed).uniform(0, 16, (1, 1, 8, 8)).astype(np.float32)
            body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": image.ravel().tolist()}]}
            status, headers, answer = server.request("POST", path, json.dumps(body))
            assert status == 200, answer
            outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
            return headers["x-request-id"], outputs

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            answers.update(clients.map(ask, range(REQUESTS)))
        refused = server.request("POST", path, "{")[1]["x-request-id"]
    return data, answers, refused


def query(data, sql):
    """`crossfade log query`: the rows."""
    return json.loads(run("log", "query", sql, "--format", "json", "--duckdb", DUCKDB, "--data-dir", data) or "[]")


def test_answers_come_again_bit_for_bit(logged):
    data, answers, refused = logged
    merged = query(data, "SELECT count(*) AS n FROM log WHERE batch_size > n_rows")[0]["n"]
    assert merged > 0, "no two requests ran together, so that nothing was tried"
    said = run("replay", *answers, "--data-dir", data, "--model-repository", harness.ZOO)
    assert said.splitlines()[-1] == f"{len(answers)} the same, 0 others, 0 that cannot be replayed"
    assert said.count("in its batch of") == merged
    assert "invalid_input" in run("replay", refused, "--data-dir", data, "--model-repository", harness.ZOO, expect=2)
    unknown = run("replay", uuid.uuid4(), "--data-dir", data, "--model-repository", harness.ZOO, expect=2)
    assert "not in this log" in unknown


def test_a_row_is_what_its_client_saw(logged):
    data, answers, _ = logged
    rows = query(data, "SELECT request_id, \"out.label\" AS label FROM log WHERE outcome = 'ok'")
    assert len(rows) == len(answers)
    log = duckdb.connect()
    files = f"read_parquet('{data}/log/**/*.parquet', union_by_name = true)"
    for request_id, outputs in random.sample(sorted(answers.items()), 50):
        found = log.execute(f'SELECT "out.label", "out.probabilities.3" FROM {files} WHERE request_id = ?', [uuid.UUID(request_id).bytes]).fetchall()
        assert len(found) == 1
        assert (found[0][0], np.float32(found[0][1])) == (outputs["label"][0], np.float32(outputs["probabilities"][3]))


def test_other_readers_see_the_same_table(logged):
    data, answers, _ = logged
    files = [str(path) for path in data.glob("log/model=digits/**/*.parquet")]
    arrow = sum(pyarrow.parquet.ParquetFile(path).read().num_rows for path in files)
    frame = pandas.concat(pandas.read_parquet(path) for path in files)
    assert arrow == len(frame) == len(answers) + 1
    assert set(frame.outcome) == {"ok", "invalid_input"}
    assert frame[frame.outcome == "ok"]["in.image"].map(len).eq(64).all()


def test_versions_are_compared_on_what_was_asked(logged):
    data, answers, _ = logged
    flags = ["--model", "digits", "--data-dir", data, "--model-repository", harness.ZOO, "--json", "--duckdb", DUCKDB]
    same = json.loads(run("diff", 2, 2, *flags))
    assert (same["requests"], same["left_out"], same["flips"], same["max_abs_diff"]) == (len(answers), 0, 0, 0.0)
    other = json.loads(run("diff", 1, 2, *flags, "--data", "log:ts > now() - INTERVAL 1 DAY", "--limit", 100))
    assert other["requests"] == 100
    assert other["max_abs_diff"] > 0


def test_traffic_becomes_a_training_set_and_an_arrival_process(logged, tmp_path):
    data, answers, _ = logged
    known = {request_id: index % 10 for index, request_id in enumerate(sorted(answers)) if index % 4 == 0}
    feedback = data / "feedback"
    feedback.mkdir()
    table = pyarrow.table(
        {
            "request_id": pyarrow.array([uuid.UUID(request_id).bytes for request_id in known], pyarrow.binary(16)),
            "label": pyarrow.array(list(known.values()), pyarrow.int64()),
        }
    )
    pyarrow.parquet.write_table(table, feedback / "labels.parquet")
    out = tmp_path / "set.parquet"
    run("log", "export", "--joined", "--model", "digits", "--out", out, "--data-dir", data)
    frame = pandas.read_parquet(out)
    assert len(frame) == len(answers), "only what was answered"
    labels = {str(uuid.UUID(bytes=row.request_id)): row.label for row in frame.itertuples() if not pandas.isna(row.label)}
    assert labels == known
    assert {"in.image", "out.label", "label"} <= set(frame.columns) and "error" not in frame.columns

    arrivals = tmp_path / "arrivals.txt"
    run("log", "export", "--arrivals", "--model", "digits", "--out", arrivals, "--data-dir", data)
    times = [float(line) for line in arrivals.read_text().splitlines()]
    assert len(times) == len(answers) + 1
    assert times[0] == 0 and times == sorted(times)


def test_what_is_not_sealed_is_there_too_and_can_be_followed(tmp_path):
    (tmp_path / "crossfade.toml").write_text('[log]\nseal_after = "1h"\n')
    data = tmp_path / "data"
    pair = next(pair for pair in harness.golden_pairs("digits") if pair[1] == "1")
    with harness.serve(harness.ZOO, "--config", str(tmp_path / "crossfade.toml"), data=data) as server:
        server.json("POST", "/v2/models/digits/versions/1/infer", pair[3])
        assert query(data, "SELECT count(*) AS n FROM log") == [{"n": 1}]
        assert query(data, "SELECT count(*) AS n FROM gap") == [{"n": 0}]
        follow = subprocess.Popen(
            [harness.BINARY, "log", "tail", "-n", "1", "--follow", "--data-dir", str(data)], stdout=subprocess.PIPE, text=True
        )
        watchdog = threading.Timer(60, follow.kill)
        watchdog.start()
        try:
            first = json.loads(follow.stdout.readline())
            answer = server.request("POST", "/v2/models/digits/versions/1/infer", json.dumps(pair[3]))
            second = json.loads(follow.stdout.readline())
        finally:
            watchdog.cancel()
            follow.kill()
            follow.wait()
        assert second["request_id"] == answer[1]["x-request-id"] != first["request_id"]
        # Beside the server: what it writes is read, and nothing is locked.
        lines = run("log", "tail", "-n", "1", "--data-dir", data).splitlines()
        assert [json.loads(line)["request_id"] for line in lines] == [second["request_id"]]


def test_without_duckdb_it_is_said_what_to_install(logged):
    data, _, _ = logged
    done = subprocess.run(
        [harness.BINARY, "log", "query", "SELECT 1", "--duckdb", "/nonexistent/duckdb", "--data-dir", str(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install duckdb-cli" in done.stderr
