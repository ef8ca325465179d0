"""How the server holds at its limits: overload, bursts, loading beside serving, many connections, large tensors, start.

    cargo xtask limits [SCENARIO …]

prepares everything and runs this. Prints a table in Markdown for each scenario and keeps all figures as JSON. One
machine, server and load tester on the same cores; every comparison is made in turn within one run.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))

import bench  # noqa: E402
import ceiling  # noqa: E402
import connections  # noqa: E402
import equal  # noqa: E402
import loading  # noqa: E402
import overload  # noqa: E402
import recording  # noqa: E402
import rollback  # noqa: E402
import shadowing  # noqa: E402
import start  # noqa: E402
import tensors  # noqa: E402

SCENARIOS = {
    "start": start.measure,
    "ceiling": ceiling.measure,
    "overload": overload.measure,
    "bursts": overload.measure_bursts,
    "loading": loading.measure,
    "swapping": loading.measure_swaps,
    "shadowing": shadowing.measure,
    "equal": equal.measure,
    "rollback": rollback.measure,
    "recording": recording.measure,
    "connections": connections.measure,
    "tensors": tensors.measure,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=absolute, required=True)
    parser.add_argument("--loadtest", type=absolute, required=True)
    parser.add_argument("--models", type=absolute, required=True, help="what benches/peers/models.py made")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    tools = bench.Bench(options.server, options.loadtest, options.models, options.rounds)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.scenarios or SCENARIOS:
        print(f"\n## {name}\n", flush=True)
        known[name] = {
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
            "rounds": options.rounds,
            "rows": SCENARIOS[name](tools),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(known, indent=1) + "\n")
    print(f"\nwritten: {options.out}")


def absolute(text):
    """Servers run in folders of their own."""
    return Path(text).absolute()


if __name__ == "__main__":
    main()
