"""Texts of 5 to 256 tokens through /v1/embeddings, one per request: crossfade (candle, ONNX Runtime) beside FastAPI's two ways.

    run.py MINILM CROSSFADE OUT [--quick]

Every server has its turn in every round; the best round counts, as the machine has other work. Closed loop: so many
connections, each asking again as soon as it is answered. Writes OUT, a JSON file with the raw numbers.
"""

import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = "the cat dog house river stone light water music paper city garden window winter letter market bridge forest".split()
CONNECTIONS = [1, 8, 32]


def texts(count=500):
    """Texts whose every word is one token; two more are special."""
    draw = random.Random(11)
    return [(n + 2, " ".join(draw.choice(WORDS) for _ in range(n))) for n in (draw.randint(3, 254) for _ in range(count))]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def repository(place, minilm, onnx):
    version = place / "minilm" / "1"
    shutil.copytree(minilm, version, symlinks=True)
    (version / ("model.safetensors" if onnx else "model.onnx")).unlink()
    return place


def crossfade(binary, minilm, onnx):
    def start(port, aside):
        models = repository(aside / "models", minilm, onnx)
        ports = [str(port)] + [str(free_port()) for _ in range(3)]
        flags = [f for pair in zip(["--http-port", "--grpc-port", "--metrics-port", "--admin-port"], ports) for f in pair]
        return [binary, "serve", "--model-repository", models, "--data-dir", aside / "data", *flags]

    return start


def fastapi(minilm, way):
    serve = Path(__file__).parent / "serve.py"
    return lambda port, aside: [sys.executable, serve, minilm, str(port), way]


def ask(connection, text):
    connection.request("POST", "/v1/embeddings", json.dumps({"model": "minilm", "input": text}), {"content-type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {body[:200]}")
    return body


def wait_for(port):
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask(http.client.HTTPConnection("127.0.0.1", port, timeout=20), "the cat")
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def load(port, connections, seconds):
    """Tokens per second, and the milliseconds of each answer."""
    corpus, took, tokens = texts(), [], []
    stop = time.monotonic() + seconds
    lock, turn = threading.Lock(), iter(range(10**9))

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < stop:
            with lock:
                length, text = corpus[next(turn) % len(corpus)]
            begun = time.monotonic()
            ask(connection, text)
            with lock:
                took.append((time.monotonic() - begun) * 1e3)
                tokens.append(length)

    begun = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took.sort()
    at = lambda share: round(took[min(len(took) - 1, int(len(took) * share))], 1)
    elapsed = time.monotonic() - begun
    return {"tokens_per_s": round(sum(tokens) / elapsed), "requests_per_s": round(len(took) / elapsed, 1), "p50_ms": at(0.5), "p99_ms": at(0.99)}


def main(minilm, binary, out, *flags):
    rounds, seconds = (1, 4) if "--quick" in flags else (3, 10)
    minilm = Path(minilm).resolve()
    servers = {
        "crossfade, candle": crossfade(binary, minilm, onnx=False),
        "crossfade, ONNX Runtime": crossfade(binary, minilm, onnx=True),
        "FastAPI + onnxruntime": fastapi(minilm, "alone"),
        "FastAPI, encode() on onnxruntime": fastapi(minilm, "encode"),
    }
    best = {name: {} for name in servers}
    for _ in range(rounds):
        for name, command in servers.items():
            with tempfile.TemporaryDirectory() as aside:
                port = free_port()
                words = [str(word) for word in command(port, Path(aside))]
                process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
                try:
                    wait_for(port)
                    load(port, 4, 5)  # Warm; crossfade finds out how the model runs best.
                    for connections in CONNECTIONS:
                        got = load(port, connections, seconds)
                        known = best[name].get(connections)
                        if known is None or got["tokens_per_s"] > known["tokens_per_s"]:
                            best[name][connections] = got
                        print(f"{name}, {connections} connections: {got}", flush=True)
                finally:
                    os.killpg(process.pid, 15)
                    process.wait()
    table = ["| server | " + " | ".join(f"{c} connections: tokens/s, p50 / p99 ms" for c in CONNECTIONS) + " |", "|---|" + "---|" * len(CONNECTIONS)]
    for name, cells in best.items():
        row = [f"{cells[c]['tokens_per_s']}, {cells[c]['p50_ms']} / {cells[c]['p99_ms']}" for c in CONNECTIONS]
        table.append(f"| {name} | " + " | ".join(row) + " |")
    print("\n".join(table))
    Path(out).write_text(json.dumps({"lengths": "5 to 256 tokens, one text per request", "cores": os.cpu_count(), "seconds": seconds, "rounds": rounds, "best": best}, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
