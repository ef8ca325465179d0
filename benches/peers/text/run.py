"""Texts of 5 to 256 tokens through /v1/embeddings, one per request: crossfade (candle, ONNX Runtime) beside FastAPI's ways.

    run.py MINILM CROSSFADE LOADTEST OUT [--python SENTENCE_TRANSFORMERS] [--quick]

The load is crossfade-loadtest's: as many clients as CONNECTIONS says, each asking again as soon as it is answered, for the
highest throughput; then a Poisson process at shares of what the first server managed, the same for all, for latencies. Every
server has its turn in every round. Writes OUT, a JSON file with every run; the table has medians over the rounds.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONNECTIONS = [1, 8, 32]
RATES = [0.4, 0.7, 0.9]
# Words of the load tester are a token each; two more tokens are special.
WORDS, SPECIAL = "3..255", 2
ASKED = ["the cat", "winter light on the river " * 9]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def crossfade(binary, minilm, runtime):
    def start(port, aside):
        version = aside / "models" / "minilm" / "1"
        shutil.copytree(minilm, version, symlinks=True)
        (version / ("model.safetensors" if runtime == "ort" else "model.onnx")).unlink()
        ports = [str(port)] + [str(free_port()) for _ in range(3)]
        flags = [f for pair in zip(["--http-port", "--grpc-port", "--metrics-port", "--admin-port"], ports) for f in pair]
        return [binary, "serve", "--model-repository", aside / "models", "--data-dir", aside / "data", *flags], {}

    return start


def fastapi(python, minilm, way):
    def start(port, aside):
        workers = os.cpu_count() if way == "alone" else 1
        words = [python, "-m", "uvicorn", "serve:app", "--app-dir", Path(__file__).parent, "--port", port]
        words += ["--workers", workers, "--no-access-log", "--log-level", "warning"]
        return words, {"TEXT_FOLDER": str(minilm), "TEXT_WAY": way, "HF_HUB_OFFLINE": "1"}

    return start


def ask(port):
    """The vectors of ASKED."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"model": "minilm", "input": ASKED})
    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise OSError(f"{response.status}: {answer[:200]}")
    return [row["embedding"] for row in json.loads(answer)["data"]]


def ready(port, process, name):
    """The vectors of ASKED, as soon as there are some."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return ask(port)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not answer") from None
            time.sleep(0.2)


def load(loadtest, port, seconds, *when):
    """One run of the load tester, as a row: tokens and requests per second, milliseconds."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        words = [loadtest, "run", "--url", f"http://127.0.0.1:{port}", "--protocol", "openai", "--model", "minilm"]
        words += ["--lengths", WORDS, "--duration", f"{seconds}s", "--warm-up", "1s", "--quiet", "--out", out.name, *when]
        subprocess.run([str(word) for word in words], check=True)
        result = json.loads(Path(out.name).read_text())
    total = result["total"]
    return {
        "tokens_per_s": round(total["tokens_per_s"] + SPECIAL * total["throughput_per_s"]),
        "requests_per_s": round(total["throughput_per_s"], 1),
        "errors": total["errors"],
        "p50_ms": round(total["latency"]["p50_us"] / 1e3, 1),
        "p99_ms": round(total["latency"]["p99_us"] / 1e3, 1),
        "tester_is_bottleneck": result["tester"]["is_bottleneck"],
    }


def measure(loadtest, port, seconds, base):
    """Every load at one server; `base`: requests per second that the rates are shares of, its own where None."""
    load(loadtest, port, 5, "--concurrency", 4)  # crossfade finds out how the model runs best.
    rows = {f"{c} clients": load(loadtest, port, seconds, "--concurrency", c, "--connections", c) for c in CONNECTIONS}
    base = base or max(row["requests_per_s"] for row in rows.values())
    for share in RATES:
        rows[f"{base * share:.0f}/s"] = load(loadtest, port, seconds, "--rate", base * share)
    return rows, base


def median(runs):
    """The run of the median throughput, and the median of each latency."""
    middle = {key: statistics.median(run[key] for run in runs) for key in ("tokens_per_s", "p50_ms", "p99_ms")}
    return f"{middle['tokens_per_s']:.0f}, {middle['p50_ms']:.1f} / {middle['p99_ms']:.1f}"


def main():
    parser = argparse.ArgumentParser()
    for name in ("minilm", "crossfade", "loadtest", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--python", type=Path, help="an interpreter that has sentence-transformers")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, seconds = (1, 4) if args.quick else (3, 10)
    minilm = args.minilm.resolve()
    servers = {
        "crossfade, ONNX Runtime": crossfade(args.crossfade, minilm, "ort"),
        "crossfade, candle": crossfade(args.crossfade, minilm, "candle"),
        "FastAPI + onnxruntime": fastapi(sys.executable, minilm, "alone"),
        "FastAPI, encode() on onnxruntime": fastapi(sys.executable, minilm, "encode"),
    }
    if args.python:
        servers["FastAPI + sentence-transformers"] = fastapi(args.python, minilm, "sentence-transformers")
    runs, base, expected = {name: {} for name in servers}, None, None
    for _ in range(rounds):
        for name, command in servers.items():
            with tempfile.TemporaryDirectory() as aside:
                port = free_port()
                words, environment = command(port, Path(aside))
                process = subprocess.Popen(
                    [str(word) for word in words],
                    env=os.environ | environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                try:
                    vectors = ready(port, process, name)
                    expected = expected or vectors
                    far = max(abs(a - b) for row, other in zip(vectors, expected) for a, b in zip(row, other))
                    if far > 1e-4:
                        raise RuntimeError(f"{name} gives other vectors than the first server: {far} apart")
                    rows, base = measure(args.loadtest, port, seconds, base)
                finally:
                    os.killpg(process.pid, 15)
                    process.wait()
            for level, row in rows.items():
                runs[name].setdefault(level, []).append(row)
                print(f"{name}, {level}: {row}", flush=True)
    levels = list(next(iter(runs.values())))
    print("| tokens/s, p50 / p99 ms | " + " | ".join(levels) + " |", "|---|" + "---|" * len(levels), sep="\n")
    for name, rows in runs.items():
        print(f"| {name} | " + " | ".join(median(rows[level]) for level in levels) + " |")
    about = {"lengths": "5 to 256 tokens, one text per request", "cores": os.cpu_count(), "seconds": seconds, "rounds": rounds}
    args.out.write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
