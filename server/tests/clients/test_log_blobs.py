"""Tensors that are too large for a record: with `payload.blobs` they are kept all the same, answer again, and go with the person."""

import json
import subprocess

import duckdb
import harness
import numpy as np
import pytest

REQUESTS = 20


def run(*words, expect=0):
    """A command of the server's program: what it prints."""
    done = subprocess.run([harness.BINARY, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.mark.parametrize("encrypted", [False, True])
def test_large_tensors_are_kept_and_answer_again(tmp_path, encrypted):
    key = tmp_path / "key"
    key.write_text("5e" * 32)
    more, opened = (f'[log.encryption]\nkey = "file:{key}"\n', ["--log-key", f"file:{key}"]) if encrypted else ("", [])
    # An image has 256 bytes, and the probabilities 40.
    config = tmp_path / "crossfade.toml"
    config.write_text(f'[log]\nseal_after = "1s"\n[log.payload]\nmax_bytes = 100\nblobs = true\n{more}')
    data = tmp_path / "data"
    with harness.serve(harness.ZOO, "--config", str(config), data=data) as server:
        ids = []
        for seed in range(REQUESTS):
            image = np.random.default_rng(seed).uniform(0, 16, (1, 1, 8, 8)).astype(np.float32)
            body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": image.ravel().tolist()}]}
            status, headers, answer = server.request("POST", "/v2/models/digits/versions/2/infer", json.dumps(body),
                                                     {"x-subject-id": "ann" if seed % 2 else "bob"})
            assert status == 200, answer
            ids.append(headers["x-request-id"])
        files = lambda: list((data / "blob").rglob("*.parquet"))
        server.wait(lambda: len(files()) == REQUESTS, "a file for each")
        if not encrypted:
            # DuckDB reads them as it reads the log.
            lists = duckdb.sql(f"SELECT \"in.image\" FROM read_parquet('{data}/blob/**/*.parquet')").fetchall()
            assert {len(values) for values, in lists} == {64}
        server.wait(lambda: any((data / "log").rglob("*.parquet")), "a sealed file")
        said = run("replay", *ids, "--data-dir", data, "--model-repository", harness.ZOO, *opened)
        assert f"{REQUESTS} the same" in said
        status, _, answer = server.request("POST", "/crossfade/v1/subjects:erase",
                                           json.dumps({"subject": "ann", "reason": "asked for it"}), address=server.admin)
        assert (status, json.loads(answer)["rows"]) == (200, REQUESTS / 2), answer
        assert len(files()) == REQUESTS / 2
    assert all(path.stem in ids[::2] for path in files())
    # Without its file a request is only known by its digest.
    files()[0].unlink()
    said = run("replay", *ids[::2], "--data-dir", data, "--model-repository", harness.ZOO, *opened, expect=2)
    assert "only its digest" in said and f"{REQUESTS // 2 - 1} the same" in said
