"""A log that is encrypted: whoever has the key reads it with the programs they have, and nobody else finds anything."""

import base64
import json
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import duckdb
import harness
import numpy as np
import pyarrow.parquet
import pyarrow.parquet.encryption
import pytest

DUCKDB = Path(shutil.which("duckdb", path=str(Path(sys.executable).parent)))
# No float that an image of the model has by chance.
SECRET = np.float32(11.234567)
REQUESTS = 50
PERSON = "a-person-whom-nobody-else-is-called-by"


def run(*words, expect=0):
    """A command of the server's program: what it prints."""
    done = subprocess.run([harness.BINARY, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout if expect == 0 else done.stderr


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A data folder, the key of its log, and what the server left in it while it ran."""
    folder = tmp_path_factory.mktemp("encryption")
    key = folder / "key"
    key.write_text("5e" * 32 + "\n")
    (folder / "crossfade.toml").write_text(f'[log]\nseal_after = "1s"\n[log.encryption]\nkey = "file:{key}"\n')
    data = folder / "data"
    with harness.serve(harness.ZOO, "--config", str(folder / "crossfade.toml"), data=data) as server:
        image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [float(SECRET)] * 64}
        for _ in range(REQUESTS):
            status, _, answer = server.request(
                "POST", "/v2/models/digits/infer", json.dumps({"inputs": [image]}), {"x-subject-id": PERSON, "x-request-id": PERSON})
            assert status == 200, answer
        unsealed = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    return data, f"file:{key}", unsealed


def query(data, sql, *more, expect=0):
    """`crossfade log query`: the rows."""
    said = run("log", "query", sql, "--format", "json", "--duckdb", DUCKDB, "--data-dir", data, *more, expect=expect)
    return json.loads(said or "[]") if expect == 0 else said


def test_no_file_has_what_was_sent(logged):
    data, _, unsealed = logged
    sealed = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    assert any(content.startswith(b"PARE") for content in sealed)
    for content in unsealed + sealed:
        assert SECRET.tobytes() not in content
        assert PERSON.encode() not in content


def test_the_search_finds_what_is_not_encrypted(tmp_path):
    with harness.serve(harness.ZOO, data=tmp_path / "data") as server:
        image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [float(SECRET)] * 64}
        server.request("POST", "/v2/models/digits/infer", json.dumps({"inputs": [image]}), {"x-request-id": PERSON})
        content = b"".join(path.read_bytes() for path in (tmp_path / "data" / "segments").iterdir())
    assert SECRET.tobytes() in content and PERSON.encode() in content


def test_what_a_killed_server_leaves_stays_encrypted(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(200, 232)))
    config = tmp_path / "crossfade.toml"
    config.write_text(f'[log.encryption]\nkey = "file:{key}"\n')
    data = tmp_path / "data"
    server = harness.Server(harness.ZOO, "--config", str(config), data=data)
    server.wait_ready(60)
    server.request("POST", "/v2/models/digits/infer", "{", {"x-request-id": PERSON})
    server.process.kill()
    server.process.wait()
    assert "log-key" in run("log", "seal", "--data-dir", data, expect=1)
    run("log", "seal", "--data-dir", data, "--log-key", f"file:{key}")
    [file] = (data / "log").rglob("*.parquet")
    assert file.read_bytes().startswith(b"PARE")
    assert PERSON in run("log", "tail", "--data-dir", data, "--log-key", f"file:{key}")


def test_a_query_needs_the_key(logged):
    data, key, _ = logged
    rows = query(data, "SELECT count(*) AS n, min(\"in.image\"[1]) AS least FROM log", "--log-key", key)
    assert rows == [{"n": REQUESTS, "least": pytest.approx(float(SECRET))}]
    assert "log-key" in run("log", "export", "--out", data / "x.jsonl", "--data-dir", data, expect=1)
    wrong = data.parent / "wrong"
    wrong.write_bytes(bytes(32))
    assert "wrapped with the key" in run("log", "tail", "--data-dir", data, "--log-key", f"file:{wrong}", expect=1)


def test_what_was_asked_comes_again(logged):
    data, key, _ = logged
    lines = run("log", "tail", "-n", REQUESTS, "--data-dir", data, "--log-key", key).splitlines()
    asked = [json.loads(line)["request_id"] for line in lines]
    said = run("replay", *asked, "--data-dir", data, "--model-repository", harness.ZOO, "--log-key", key)
    assert f"{REQUESTS} the same" in said
    said = run("diff", 1, 2, "--model", "digits", "--data", "log:n_rows = 1", "--json", "--duckdb", DUCKDB,
               "--data-dir", data, "--model-repository", harness.ZOO, "--log-key", key)
    assert json.loads(said)["requests"] == REQUESTS


def test_other_programs_read_it_with_the_keys_of_its_files(logged):
    data, key, _ = logged
    keys = dict(line.split() for line in run("log", "keys", "--data-dir", data, "--log-key", key).splitlines())
    log = duckdb.connect()
    for name, secret in keys.items():
        log.execute(f"PRAGMA add_parquet_key('{name}', '{secret}')")
    rows = counted = 0
    for path in data.glob("log/**/*.parquet"):
        # A file names its key in its footer.
        [name] = [name for name in keys if uuid.UUID(name).bytes in path.read_bytes()]
        file = f"read_parquet('{path}', encryption_config = {{footer_key: '{name}'}})"
        counted += log.execute(f"SELECT count(total_us) FROM {file}").fetchone()[0]
        opened = pyarrow.parquet.encryption.create_decryption_properties(footer_key=base64.b64decode(keys[name]))
        with pytest.raises(Exception, match="(?i)decrypt|encrypt"):
            pyarrow.parquet.ParquetFile(path)
        rows += pyarrow.parquet.ParquetFile(path, decryption_properties=opened).read().num_rows
    assert (rows, counted) == (REQUESTS, REQUESTS)


def test_whether_it_is_whole_is_seen_without_a_key(logged):
    data, _, _ = logged
    assert f"{REQUESTS} records were written" in run("log", "verify", "--data-dir", data)
