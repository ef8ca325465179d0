"""DuckDB reads the inference log: as many rows as requests, the values that were sent and answered, and nothing lost by a kill."""

import http.client
import json
import random
import subprocess
import threading
import uuid

import duckdb
import harness
import pytest

ROUNDS = 20
CLIENTS = 4
VIEW = """
CREATE VIEW log AS SELECT * FROM read_parquet('{data}/log/**/*.parquet',
  hive_partitioning = true, hive_types = {{'version': 'VARCHAR'}}, union_by_name = true)
"""


@pytest.fixture()
def data(tmp_path):
    (tmp_path / "crossfade.toml").write_text('[log]\nseal_after = "1s"\n')
    return tmp_path / "data"


def flags(data):
    return ["--config", str(data.parent / "crossfade.toml")]


def log(data):
    """A connection with the view that docs/inference-log.md gives."""
    connection = duckdb.connect()
    connection.execute(VIEW.format(data=data))
    return connection


def command(data, *words):
    """`crossfade log …`: its exit code and output."""
    done = subprocess.run([harness.BINARY, "log", *words, "--data-dir", data], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def request_of(model):
    """Path, body and answer of a golden pair of the model's version 1."""
    pairs = (pair for pair in harness.golden_pairs(model) if pair[1] == "1")
    name, version, _, request, response = next(pairs)
    return f"/v2/models/{name}/versions/{version}/infer", request, response


def test_every_request_is_a_row_with_its_values(data):
    sent = {"ok": 0, "invalid_input": 0, "not_found": 0}
    with harness.serve(harness.ZOO, *flags(data), data=data) as server:
        for name, version, _, request, response in harness.golden_pairs():
            answer = server.json("POST", f"/v2/models/{name}/versions/{version}/infer", request)
            harness.assert_same_outputs(answer["outputs"], response["outputs"])
            sent["ok"] += 1
        path, request, _ = request_of("digits")
        for broken in ("{", "[]", json.dumps({"inputs": []})):
            assert server.request("POST", path, broken)[0] == 400
            sent["invalid_input"] += 1
        server.json("POST", "/v2/models/nobody/infer", request, expect=404)
        sent["not_found"] += 1
        connection = http.client.HTTPConnection(server.http)
        connection.request("POST", path, json.dumps(request), {"x-request-id": "find-me"})
        ours = uuid.UUID(connection.getresponse().headers["x-request-id"])
        sent["ok"] += 1
    rows = log(data)
    counted = dict(rows.execute("SELECT outcome, count(*) FROM log GROUP BY 1").fetchall())
    assert counted == sent
    # From a request id to the row.
    found = rows.execute(
        "SELECT model, version, client_request_id, status_code, error IS NULL FROM log WHERE request_id = ?", [ours.bytes]
    ).fetchall()
    assert found == [("digits", "1", "find-me", 200, True)]
    assert rows.execute("SELECT count(DISTINCT request_id) FROM log").fetchone() == (sum(sent.values()),)
    assert command(data, "verify")[0] == 0, command(data, "verify")


def flat(values):
    """The elements of nested lists, row by row."""
    return [one for value in values for one in flat(value)] if isinstance(values, list) else [values]


@pytest.mark.parametrize("model", ["digits", "iris", "diabetes", "language"])
def test_inputs_and_outputs_are_columns(data, model):
    path, request, response = request_of(model)
    with harness.serve(harness.ZOO, *flags(data), data=data) as server:
        server.json("POST", path, request)
    rows = log(data)
    for side, tensors in (("in", request["inputs"]), ("out", response["outputs"])):
        for tensor in tensors:
            name, sent = f"{side}.{tensor['name']}", flat(tensor["data"])
            columns = [name for (name,) in rows.execute("SELECT column_name FROM (DESCRIBE log)").fetchall()]
            own = [column for column in columns if column == name or column.removeprefix(f"{name}.").isdigit()]
            if f"{name}.rows" in columns:
                (kept,) = rows.execute(f'SELECT "{name}.rows" FROM log').fetchone()
            else:
                kept = rows.execute("SELECT " + ", ".join(f'"{column}"' for column in own) + " FROM log").fetchone()
                kept = kept[0] if isinstance(kept[0], list) else kept
            kept = [one.decode() if isinstance(one, bytes) else one for one in kept]
            if isinstance(sent[0], str):
                assert kept == sent, name
            else:
                assert kept == pytest.approx(sent, rel=1e-5, abs=1e-5), name


def test_the_queries_of_the_guide_run(data):
    path, request, _ = request_of("digits")
    with harness.serve(harness.ZOO, *flags(data), data=data) as server:
        for _ in range(20):
            server.json("POST", path, request)
    rows = log(data)
    traffic = rows.execute(
        "SELECT version, outcome, count(*) AS logged, sum(1/sampling_p) AS estimated, "
        "quantile_cont(total_us, 0.99) AS p99_us FROM log GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    ((version, outcome, logged, estimated, p99),) = traffic
    assert (version, outcome, logged, estimated) == ("1", "ok", 20, 20.0) and p99 > 0
    hours = "SELECT time_bucket(INTERVAL 1 HOUR, ts) AS h, version, count(*) AS n FROM log GROUP BY ALL ORDER BY ALL"
    assert rows.execute(f"SELECT sum(n) FROM ({hours})").fetchone() == (20,)
    assert rows.execute("SELECT v, count(*) FROM log, unnest(violations) AS t(v) GROUP BY 1").fetchall() == []
    pairs = "SELECT count(*) FROM log s JOIN log p ON s.shadow_of = p.request_id"
    assert rows.execute(pairs).fetchone() == (0,)
    stages = rows.execute(
        "SELECT bool_and(decode_us + queue_us + gather_us + compute_us + scatter_us + encode_us <= total_us + 6) FROM log"
    ).fetchone()
    assert stages == (True,), "whole microseconds of six stages"


def load(server, path, body, acknowledged, stop):
    """Sends one request after the other, and notes the id of each that was answered."""
    connection = http.client.HTTPConnection(server.http, timeout=30)
    while not stop.is_set():
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return
        assert answer.status == 200
        acknowledged.append(answer.headers["x-request-id"])


def test_a_kill_loses_no_answer(data):
    path, request, _ = request_of("digits")
    body = json.dumps(request)
    acknowledged = []
    chance = random.Random(5)
    with harness.zoo_copy("digits") as repository:
        for _ in range(ROUNDS):
            server = harness.Server(repository, *flags(data), data=data)
            server.wait_ready()
            before, stop = len(acknowledged), threading.Event()
            threads = [threading.Thread(target=load, args=(server, path, body, acknowledged, stop)) for _ in range(CLIENTS)]
            for thread in threads:
                thread.start()
            most = before + chance.randrange(1, 400)
            server.wait(lambda: len(acknowledged) >= most, "enough was answered")
            server.process.kill()
            server.process.wait()
            stop.set()
            for thread in threads:
                thread.join()
    code, said = command(data, "seal")
    assert code == 0, said
    rows = log(data)
    ids = [str(uuid.UUID(bytes=row[0])) for row in rows.execute("SELECT request_id FROM log").fetchall()]
    logged = set(ids)
    assert len(ids) == len(logged), "no row twice"
    lost = set(acknowledged) - logged
    assert not lost, f"{len(lost)} of {len(acknowledged)} answers have no record"
    # What a kill cut off while it was written is a gap, and nothing else is wrong.
    code, said = command(data, "verify")
    assert code in (0, 2), said


def test_a_changed_byte_is_found(data):
    path, request, _ = request_of("digits")
    with harness.serve(harness.ZOO, *flags(data), data=data) as server:
        server.json("POST", path, request)
    (file,) = data.glob("log/**/*.parquet")
    before = bytearray(file.read_bytes())
    changed = bytearray(before)
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    code, said = command(data, "verify")
    assert code == 1 and file.name in said, said
    file.write_bytes(before)
    assert command(data, "verify")[0] == 0


def test_a_data_folder_that_cannot_be_written_is_a_start_error(data):
    data.write_text("a file, and no folder")
    done = subprocess.run(
        [harness.BINARY, "serve", "--model-repository", harness.ZOO, "--data-dir", data, *flags(data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
