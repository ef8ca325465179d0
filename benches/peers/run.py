"""Serves the same models with crossfade and its peers in turn, puts the same load on each, and writes what came out.

`cargo xtask peers` prepares everything and runs this; `--help` lists the options.
"""

import argparse
import datetime
import http.client
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import report
from ask import Question
from load import Generator
from peers import BATCH, PEERS, Setting, start

ROOT = Path(__file__).parents[2]
CONCURRENCIES = (1, 8, 64)
# A start may fail for a race in the server itself; it is tried again, and the attempts are in the result.
ATTEMPTS = 3
START_TIMEOUT_S = 60
SETTLE_TIMEOUT_S = 15
# Without the library it would compute with tract, and the runtimes would not be the same.
OUR_PLATFORM = "onnxruntime_onnx"


def main():
    options = parse()
    # An end from outside still stops the server that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    setting = Setting(
        options.server, options.target / "models", options.target / "venv", options.target / "scratch", options.threads
    )
    shutil.rmtree(setting.scratch, ignore_errors=True)
    setting.scratch.mkdir(parents=True)
    generator = Generator(options.loadtest, setting.scratch)
    if options.tune:
        return tune(setting, generator, options)
    result = {
        "schema": 1,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["cargo xtask peers", *options.shown]),
        "earlier": [],
        "machine": machine(),
        "threads": setting.threads,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": versions(setting, options),
        "models": {
            name: {key: entry[key] for key in ("sha256", "bytes", "parameters")}
            for name, entry in json.loads((setting.models / "models.json").read_text()).items()
        },
        "batched": {peer.name: sorted(peer.batched) for peer in PEERS.values() if peer.batched},
        "starts": [],
        "runs": [],
    }
    if options.replace:
        result = report.joined(json.loads(options.replace.read_text()), result, options.models)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for model in options.models:
        for number in range(options.rounds):
            # Another one begins each time, so that none is always the first after a pause.
            turn = number % len(options.peers)
            for name in options.peers[turn:] + options.peers[:turn]:
                serve(PEERS[name], model, number, setting, generator, options, result)
                options.out.write_text(report.compact(result))
    print(f"\nwritten: {options.out}")
    if options.publish:
        report.publish(result, options.out, ROOT / "docs")
    return 0


def serve(peer, model, number, setting, generator, options, result):
    """One start of one server with one model, and all its runs; rows are added to `result`."""
    question = Question(setting.models, model)
    key = {"model": model, "peer": peer.name, "round": number}
    server, ports, begun = ready(peer, setting, question)
    result["starts"].append({**key, **begun})
    if server is None:
        print(f"{model:12} {peer.name:10} does not start: {begun['error']}", flush=True)
        return
    try:
        for protocol in peer.protocols:
            for concurrency in CONCURRENCIES:
                row = {**key, "protocol": protocol, "concurrency": concurrency}
                try:
                    question.ask(protocol, *ports)
                    generator.run(server, question, protocol, ports, concurrency, options.warm_up)
                    row.update(generator.run(server, question, protocol, ports, concurrency, options.seconds))
                except Exception as error:  # Whatever it was is a result, and the others go on.
                    row["error"] = told(error)
                result["runs"].append(row)
                print(line(row), flush=True)
    finally:
        server.stop()


def ready(peer, setting, question, max_batch=None):
    """The server, its ports, and how it started: seconds from the start of the program to the first right answer."""
    attempt, failures = 0, []
    if peer.environment and not (setting.environments / peer.environment / "requirements.txt").exists():
        return None, None, {"attempts": 0, "error": "its environment is not there; see what pip said"}
    while attempt < ATTEMPTS:
        attempt, error = attempt + 1, "it was never asked"
        server, *ports = start(peer, question.model, setting, max_batch)
        while server.is_alive() and server.age() < START_TIMEOUT_S:
            try:
                question.ask(peer.protocols[-1], *ports)
            except (OSError, ValueError, http.client.HTTPException) as refused:
                error = told(refused)
                time.sleep(0.005)
                continue
            seconds = round(server.age(), 3)
            if peer.name == "crossfade" and (found := platform_of(ports[0], question.model)) != OUR_PLATFORM:
                server.stop()
                raise SystemExit(
                    f"crossfade computes with {found}, not {OUR_PLATFORM}: put ONNX Runtime's library beside it"
                )
            settle(server)
            if peer.name == "crossfade":
                wait_calibrated(ports[0], question.model)
            begun = {"seconds": seconds, "attempts": attempt, "memory_bytes": server.memory_bytes()}
            return server, ports, {**begun, "failures": failures} if failures else begun
        ended = "it lives, and does not answer" if server.is_alive() else f"it ended with {server.process.returncode}"
        failures.append(told(f"{error}; {ended}; its last words: {server.last_words()}")[-2000:])
        server.stop()
    return None, None, {"attempts": attempt, "error": failures[-1]}


def told(error):
    """An error as text that names no path of this machine, for it goes into the repository."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def platform_of(port, model):
    """What a server says it computes with."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{model}", timeout=10) as answer:
        return json.load(answer)["platform"]


def wait_calibrated(port, model):
    """Waits until ours has found out how to run the model, or for some seconds: once, as its data folder keeps that."""
    until = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{model}/config", timeout=10) as answer:
            config = json.load(answer)
        # A model of another runtime, or on one core, has nothing to find out.
        if "crossfade.instances" in config.get("parameters", {}):
            return
        time.sleep(0.1)


def settle(server):
    """Waits until the server is idle: one process may answer while others still start."""
    until, before = time.monotonic() + SETTLE_TIMEOUT_S, server.cpu_seconds()
    while time.monotonic() < until:
        time.sleep(0.5)
        now = server.cpu_seconds()
        if now - before < 0.05:
            return
        before = now


def tune(setting, generator, options):
    """Prints what each peer that can batch gives at 64 in flight, with and without: which `batched` in peers.py."""
    for name in options.peers:
        peer = PEERS[name]
        for model in options.models if peer.can_batch else ():
            question = Question(setting.models, model)
            for max_batch in (1, BATCH):
                server, ports, begun = ready(peer, setting, question, max_batch)
                if server is None:
                    print(f"{name} {model} {max_batch}: {begun['error']}")
                    continue
                try:
                    for seconds in (options.warm_up, options.seconds):
                        row = generator.run(server, question, peer.protocols[-1], ports, 64, seconds)
                finally:
                    server.stop()
                print(
                    f"{name:10} {model:12} batches of {max_batch:2}: {row['throughput_per_s']:9.1f} requests/s, "
                    f"p99 {row['p99_us']} us, errors {row['errors']}",
                    flush=True,
                )
    return 0


def line(row):
    """A row for the terminal."""
    head = f"{row['model']:12} {row['peer']:14} {row['protocol']:11} {row['concurrency']:3} in flight"
    if "error" in row:
        return f"{head}  {row['error']}"
    errors = f"  errors {row['errors']}" if row["errors"] else ""
    tester = "  (the load tester is the bottleneck)" if row["tester_is_bottleneck"] else ""
    return (
        f"{head}  {row['throughput_per_s']:9.1f}/s  p50 {row['p50_us']:7} p99 {row['p99_us']:7} "
        f"p99.9 {row['p999_us']:7} us  CPU {row['cpu_us']:8} us{errors}{tester}"
    )


def machine():
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": f"{platform.system()} {platform.release()}",
    }


def versions(setting, options):
    """Of each server, and of what it computes with."""

    def said(command):
        return subprocess.run([str(word) for word in command], capture_output=True, text=True).stdout.strip()

    found = {
        "crossfade": {
            "version": said([options.server, "--version"]),
            "commit": said(["git", "-C", ROOT, "rev-parse", "HEAD"]),
        }
    }
    question = (
        "import importlib.metadata as m, sys; print(*(m.version(p) for p in sys.argv[1:]), sys.version.split()[0])"
    )
    for peer in map(PEERS.get, options.peers):
        python = setting.environments / peer.environment / "bin" / "python"
        if peer.package and python.exists():
            of = said([python, "-c", question, peer.package, "onnxruntime"]).split()
            found[peer.name] = {"package": peer.package, **dict(zip(("version", "onnxruntime", "python"), of))}
    return found


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="one round of a second each, nothing published")
    parser.add_argument("--tune", action="store_true", help="only try the batching of the peers that have it")
    parser.add_argument("--models", help="comma-separated; by default all")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="that compute, in each server; by default the cores",
    )
    parser.add_argument("--server", type=absolute, required=True, help="the crossfade binary")
    parser.add_argument("--loadtest", type=absolute, required=True, help="the crossfade-loadtest binary")
    parser.add_argument("--target", type=absolute, required=True, help="where models and environments are")
    parser.add_argument("--out", type=absolute)
    parser.add_argument("--replace", type=absolute, help="a result whose other models stay beside what is measured now")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md and its plots, even if quick")
    options = parser.parse_args()
    options.shown = given(sys.argv[1:])
    if unknown := [name for name in options.peers if name not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    # Ours runs in any case: there is nothing to compare without it.
    options.peers = [name for name in PEERS if not options.peers or name in options.peers or name == "crossfade"]
    made = json.loads((options.target / "models" / "models.json").read_text())
    known = [name for name, entry in made.items() if entry["compared"]]
    options.models = options.models.split(",") if options.models else known
    if unknown := [name for name in options.models if name not in known]:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(known)}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    options.warm_up = options.seconds / 3
    whole = not options.quick and not options.shown and options.models == known
    options.publish = options.publish or whole
    today = datetime.date.today().isoformat()
    folder = ROOT / "benches" / "results" if whole or options.publish else options.target
    options.out = options.out or folder / f"{today}-peers.json"
    return options


def absolute(text):
    """Servers run in folders of their own. Links stay: an environment's Python is one."""
    return Path(text).absolute()


def given(words):
    """The words of the command line without those that xtask adds."""
    added = ("--server", "--loadtest", "--target")
    return [word for before, word in zip(["", *words], words) if word not in added and before not in added]


if __name__ == "__main__":
    sys.exit(main())
