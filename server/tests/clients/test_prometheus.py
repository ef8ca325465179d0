"""Debian's Prometheus scrapes the server, and answers what an operator asks: p99 by version."""

import http.client
import json
import math
import socket
import subprocess
import time
import urllib.parse
from contextlib import contextmanager

import harness

P99 = (
    "histogram_quantile(0.99, sum by (le, model, version) "
    '(rate(crossfade_stage_duration_seconds_bucket{stage="total"}[30s])))'
)
CONFIG = """
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}
scrape_configs:
  - job_name: crossfade
    static_configs: [ {{ targets: ["{target}"] }} ]
"""


def prometheus_binary():
    """Debian's package, downloaded and unpacked under the cache; nothing is installed and no rights are needed."""
    folder = harness.CACHE / "prometheus"
    binary = folder / "root" / "usr" / "bin" / "prometheus"
    if binary.exists():
        return binary
    folder.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", "-q", "prometheus"]
    if subprocess.run(download, cwd=folder, check=False).returncode:
        # No package lists here: fetch them into a folder of our own.
        own = ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache", "-o", "APT::Sandbox::User="]
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", *own, "update", "-q"], cwd=folder, check=True)
        subprocess.run([download[0], *own, *download[1:]], cwd=folder, check=True)
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    return binary


@contextmanager
def prometheus(target, folder):
    """A running Prometheus that scrapes `target`. Yields a function that answers queries."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(target=target))
    flags = {
        "config.file": config,
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "web.console.templates": folder,
        "web.console.libraries": folder,
    }
    with open(folder / "log", "w") as log:
        command = [prometheus_binary(), *(f"--{k}={v}" for k, v in flags.items())]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def get(path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())["data"]
        except (OSError, ValueError):
            return None
        finally:
            connection.close()

    try:
        yield lambda text: (get("/api/v1/query?" + urllib.parse.urlencode({"query": text})) or {}).get("result", []), get
    except BaseException:
        print((folder / "log").read_text()[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(30)


def test_prometheus_answers_p99_by_version(tmp_path):
    pairs = [p for p in harness.golden_pairs("digits") if p[2].startswith("one-image")]
    with harness.serve(harness.ZOO) as server, prometheus(server.metrics, tmp_path) as (query, get):
        sent = 0
        deadline = time.monotonic() + 60
        versions = {}
        while set(versions) != {"1", "2"}:
            assert time.monotonic() < deadline, f"no p99 for both versions; targets: {get('/api/v1/targets')}"
            for name, version, _, request, response in pairs:
                for _ in range(20):
                    got = server.json("POST", f"/v2/models/{name}/versions/{version}/infer", request)
                    assert got["model_version"] == version
                sent += 20
            versions = {
                row["metric"]["version"]: float(row["value"][1])
                for row in query(P99)
                if row["metric"]["model"] == "digits" and not math.isnan(float(row["value"][1]))
            }
        print(f"p99 of digits by version, in seconds: {versions}")
        assert all(0 < seconds < 60 for seconds in versions.values())

        def counted(text):
            return {row["metric"]["version"]: float(row["value"][1]) for row in query(text)}

        expected = {version: sent / 2 for version in ("1", "2")}
        for text in (
            'sum by (version) (crossfade_requests_total{model="digits", protocol="http", status="ok"})',
            'nv_inference_request_success{model="digits"}',
            'nv_inference_count{model="digits"}',
            'crossfade_stage_duration_seconds_count{model="digits", stage="total"}',
        ):
            server.wait(lambda text=text: counted(text) == expected, f"{text} = {expected}, got {counted(text)}", 20)
        (target,) = get("/api/v1/targets")["activeTargets"]
        assert target["health"] == "up" and not target["lastError"]
        stages = {row["metric"]["stage"] for row in query('crossfade_stage_duration_seconds_count{model="digits"}')}
        assert stages == {"decode", "queue", "gather", "compute", "scatter", "encode", "total"}
