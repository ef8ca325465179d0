"""Sealed files of the inference log in S3-compatible storage: every one arrives, also over an outage and a restart."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time

import boto3
import harness
import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret"}
BUCKET = "inferences"


class Storage:
    """moto's server, on a port of its own."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "moto does not start"
                time.sleep(0.05)
        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1",
                                   aws_access_key_id="an-id", aws_secret_access_key="a-secret")
        self.client.create_bucket(Bucket=BUCKET)

    def objects(self):
        """Every key below the prefix, with the sha256 of what is there."""
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for entry in page.get("Contents", []):
                try:
                    body = self.client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
                except self.client.exceptions.NoSuchKey:
                    # Replaced since it was listed.
                    continue
                found[entry["Key"]] = hashlib.sha256(body).hexdigest()
        return found

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def storage():
    storage = Storage()
    yield storage
    storage.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setitem(os.environ, name, value)


def config(folder, storage, more="", seal_after="1s"):
    path = folder / "crossfade.toml"
    path.write_text(f"""[log]
seal_after = "{seal_after}"
[[log.sink]]
name = "archive"
url = "s3://{BUCKET}/crossfade/one"
endpoint = "{storage.url}"
{more}""")
    return str(path)


def sealed(data):
    """Every file of the log, under the name that it has in the storage."""
    files = [path for top in ("log", "gap", "correction") for path in (data / top).rglob("*.parquet")]
    return {f"crossfade/one/{path.relative_to(data)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scrape(server):
    return server.request("GET", "/metrics", address=server.metrics)[2].decode()


def ask(server, subject):
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [1.0] * 64}
    status, headers, answer = server.request(
        "POST", "/v2/models/digits/infer", json.dumps({"inputs": [image]}), {"x-subject-id": subject})
    assert status == 200, answer
    return headers["x-request-id"]


def test_every_file_arrives_over_an_outage_and_a_restart(tmp_path, storage):
    data = tmp_path / "data"
    flags = ["--config", config(tmp_path, storage, "upload_before_expiry = true")]
    # Nobody is there yet.
    with harness.serve(harness.ZOO, *flags, data=data) as server:
        ask(server, "ann")
        server.wait(lambda: 'crossfade_sink_events_total{sink="archive",result="failed"}' in scrape(server), "a failed try")
    assert sealed(data)
    storage.start()
    with harness.serve(harness.ZOO, *flags, data=data) as server:
        ask(server, "bob")
        server.wait(lambda: len(sealed(data)) >= 2 and storage.objects() == sealed(data), "every file in the storage")
    # What was sealed when it stopped is sent at the next start, and nothing twice.
    with harness.serve(harness.ZOO, *flags, data=data) as server:
        server.wait(lambda: storage.objects() == sealed(data), "every file in the storage")


def test_a_person_who_is_erased_here_is_erased_there(tmp_path, storage):
    data = tmp_path / "data"
    storage.start()
    with harness.serve(harness.ZOO, "--config", config(tmp_path, storage), data=data) as server:
        ask(server, "ann")
        ask(server, "bob")
        server.wait(lambda: sealed(data) and storage.objects() == sealed(data), "every file in the storage")
        before = storage.objects()
        status, _, answer = server.request("POST", "/crossfade/v1/subjects:erase",
                                           json.dumps({"subject": "ann", "reason": "asked for it"}), address=server.admin)
        assert status == 200, answer
        assert json.loads(answer)["rows"] == 1
        server.wait(lambda: storage.objects() == sealed(data), "the files without her")
        assert not set(before.items()) & set(storage.objects().items())


def test_a_large_file_is_sent_in_parts(tmp_path, storage):
    data = tmp_path / "data"
    storage.start()
    with harness.serve(harness.ZOO, "--config", config(tmp_path, storage, seal_after="1h"), data=data) as server:
        # Random images do not compress: 16 MB of them in one file.
        image = {"name": "image", "datatype": "FP32", "shape": [64, 1, 8, 8]}
        for _ in range(1000):
            raw = os.urandom(64 * 64 * 4)
            head = json.dumps({"inputs": [image | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
            status, _, answer = server.request("POST", "/v2/models/digits/infer", head + raw,
                                               {"inference-header-content-length": str(len(head))})
            assert status == 200, answer
    with harness.serve(harness.ZOO, "--config", config(tmp_path, storage), data=data) as server:
        server.wait(lambda: storage.objects() == sealed(data), "every file in the storage")
        etags = [entry["ETag"] for entry in storage.client.list_objects_v2(Bucket=BUCKET)["Contents"]]
        assert any("-" in etag for etag in etags), "nothing was sent in parts"
