"""A disk that becomes read-only under a running server: requests are answered, it is seen, and nothing is lost once it works again."""

import json
import os
import subprocess
import sys
import time

import harness

INSIDE = "CROSSFADE_IN_NAMESPACE"


def scraped(server, name):
    """The sum of a series."""
    lines = server.request("GET", "/metrics", address=server.metrics)[2].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and not line.startswith("#"))


def ask(server):
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [1.0] * 64}
    status, _, answer = server.request("POST", "/v2/models/digits/infer", json.dumps({"inputs": [image]}))
    assert status == 200, answer


def test_a_disk_that_becomes_read_only(tmp_path):
    if INSIDE not in os.environ:
        # Mounts of its own, which end with it.
        words = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(words, env=os.environ | {INSIDE: "1"}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"in a namespace of its own (unshare --map-root-user --mount):\n{done.stdout}{done.stderr}"
        return
    data = tmp_path / "data"
    config = tmp_path / "crossfade.toml"
    config.write_text('[log]\nseal_after = "1s"\n')
    with harness.serve(harness.ZOO, "--config", str(config), data=data) as server:
        asked = 0
        for _ in range(20):
            ask(server)
            asked += 1
        server.wait(lambda: any((data / "log").rglob("*.parquet")), "a sealed file")
        # Whatever is opened by its name from now on is on a disk that takes nothing; what is open already still does.
        # It is made so at another place, where the server opens nothing: a mount with a file open for writing cannot be.
        aside = tmp_path / "aside"
        aside.mkdir()
        for words in (("--bind", data, aside), ("-o", "remount,bind,ro", aside), ("--bind", aside, data)):
            subprocess.run(["mount", *map(str, words)], check=True)
        before = scraped(server, "crossfade_log_failures_total")
        deadline = time.monotonic() + 60
        while scraped(server, "crossfade_log_failures_total") == before:
            assert time.monotonic() < deadline, "that the disk refuses is not seen"
            ask(server)
            asked += 1
        assert "Read-only file system" in server.tail(200)
        # Lazily: the server may have a file of it open, at this moment.
        subprocess.run(["umount", "--lazy", str(data)], check=True)
        ask(server)
        asked += 1
        sealed = lambda: scraped(server, "crossfade_log_sealed_rows_total")
        server.wait(lambda: sealed() == asked, "every record in a file")
        assert scraped(server, "crossfade_log_records_total") == asked
        assert scraped(server, "crossfade_log_lost_records_total") == 0
    done = subprocess.run([harness.BINARY, "log", "verify", "--data-dir", str(data)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
