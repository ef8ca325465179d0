"""Whether a version beside itself is sent back: what the check of latency makes of two versions that do not differ."""

import shutil
import time

from bench import median, table
from rollback import Model

# Requests per second; about a third of what two cores can answer.
RATES = {"mlp": 600, "convnet": 150}
SECONDS = 30
# One step that no run passes.
RULES = """
[model]
risk = "low"
[instances]
count = 1
[gates.golden]
enabled = false
[rollout]
warmup = 300
[[rollout.step]]
percent = 10
min = "10h"
max = "20h"
[[rollout.check]]
metric = "output"
enabled = false
"""


def measure(tools):
    """Each round a new server: equal versions take a place on the machine once, and keep it."""
    rows = []
    for model, rate in RATES.items():
        for number in range(tools.rounds):
            rows.append({"model": model, "rate": rate, **once(tools, model, rate, number)})
    shown = []
    for model in RATES:
        runs = [row for row in rows if row["model"] == model]
        back = [run for run in runs if run["state"] != "canary"]
        events = [sum(run["events"][arm] for run in runs) for arm in ("canary", "control")]
        evidence = [run["log_e"] for run in runs]
        shown.append([model, RATES[model], len(runs), len(back), *events, f"{median(evidence):.2f}", f"{max(evidence):.2f}"])
    head = ["model", "requests/s", "releases", "sent back", "slow batches of the new version", "of the baseline"]
    table(head + ["ln E, median", "highest; sent back at 5.3"], shown)
    return rows


def once(tools, model, rate, number):
    folder = tools.scratch / f"equal-{model}-{number}" / model
    (folder / "1").mkdir(parents=True)
    shutil.copy(tools.models / "repository" / model / "1" / "model.onnx", folder / "1")
    (folder / "model.toml").write_text(RULES)
    with tools.serving(model, repository=folder.parent, calibrated=False) as server:
        released = Model(server, folder)
        release = released.begin(2)
        load = ["--rate", rate]
        tools.load(server, "http-binary", model, *load, seconds=SECONDS)
        # The looks take in what has ended.
        time.sleep(3)
        found = released.call("GET", f"/rollouts/{release}")
    check = next(check for check in found["report"]["checks"] if check["metric"] == "latency")
    figures = {key: check[key] for key in ("events", "units", "log_e")}
    return {"state": found["state"]["state"], "why": found.get("why"), **figures}
