"""The load: crossfade-loadtest in a closed loop, and what is kept of its result."""

import json
import subprocess
import threading


class Generator:
    """Runs the load tester at `binary`; keeps its request bodies and results in `scratch`."""

    def __init__(self, binary, scratch):
        self.binary, self.scratch = binary, scratch

    def command(self, question, protocol, ports, concurrency, seconds, out):
        """The command line for one run of `seconds`."""
        http_port, grpc_port = ports
        words = [str(self.binary), "run"]
        if protocol in ("json", "bytes"):
            body = self.scratch / f"{question.model}.{protocol}"
            if not body.exists():
                body.write_bytes(question.nested if protocol == "json" else question.raw)
            path, kind = (
                ("/predict", "application/json") if protocol == "json" else ("/inference", "application/octet-stream")
            )
            words += [
                "--url",
                f"http://127.0.0.1:{http_port}",
                "--protocol",
                "http-raw",
                "--path",
                path,
                "--body",
                str(body),
                "--content-type",
                kind,
            ]
        else:
            port = grpc_port if protocol == "grpc" else http_port
            words += [
                "--url",
                f"http://127.0.0.1:{port}",
                "--protocol",
                protocol,
                "--model",
                question.model,
                "--request",
                str(question.root / "requests" / f"{question.model}.json"),
            ]
        # A connection per client over HTTP/1.1; gRPC shares a few, as its clients do.
        connections = min(concurrency, 4) if protocol == "grpc" else concurrency
        return words + [
            "--concurrency",
            str(concurrency),
            "--connections",
            str(connections),
            "--duration",
            f"{round(seconds * 1000)}ms",
            "--warm-up",
            "0s",
            "--quiet",
            "--out",
            str(out),
        ]

    def run(self, server, question, protocol, ports, concurrency, seconds):
        """One run against `server`, as a row: latencies in µs, CPU in µs of the server per request, memory in bytes."""
        out = self.scratch / "result.json"
        out.unlink(missing_ok=True)
        command = self.command(question, protocol, ports, concurrency, seconds, out)
        before = server.cpu_seconds()
        memory = Later(seconds / 2, server.memory_bytes)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
        cpu = server.cpu_seconds() - before
        if not out.exists():
            raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return {**row(json.loads(out.read_text()), cpu), "memory_bytes": memory.result()}


class Later(threading.Thread):
    """Calls `what` after some seconds, in the middle of something else."""

    def __init__(self, seconds, what):
        super().__init__(daemon=True)
        self.seconds, self.what, self.value = seconds, what, None
        self.ended = threading.Event()
        self.start()

    def run(self):
        self.ended.wait(self.seconds)
        self.value = self.what()

    def result(self):
        self.join()
        return self.value


def row(result, cpu_seconds):
    """What the comparison keeps of a result of the load tester."""
    total, latency, tester = result["total"], result["total"]["latency"], result["tester"]
    answered = total["ok"] + sum(total["errors"].values())
    return {
        "ok": total["ok"],
        "errors": total["errors"],
        "throughput_per_s": round(total["throughput_per_s"], 1),
        "p50_us": latency["p50_us"],
        "p99_us": latency["p99_us"],
        "p999_us": latency["p999_us"],
        "cpu_us": round(cpu_seconds * 1e6 / answered, 1) if answered else None,
        "tester_cpu_us": round(tester["cpu_s"] * 1e6 / answered, 1) if answered else None,
        "tester_is_bottleneck": tester["is_bottleneck"],
    }
