"""The servers that are compared: how each is started, and what it speaks."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from process import Server, free_port

HERE = Path(__file__).parent
V2 = ("grpc", "http-binary", "http-json")
# Rows of a batch where a peer batches by a timer of its own; which models, is in the table below.
BATCH = 32


@dataclass(frozen=True)
class Peer:
    """A server that can be started with one model.

    `protocols`: of the three of V2; or `json` and `bytes`, its own forms: nested lists, raw tensors.
    `package`: the distribution whose version is reported; none for crossfade.
    `environment`: the folder below `venv` that it runs in; none for crossfade.
    `program`: the folder with its `serve.py`; by default its name.
    `batched`: the models for which its own batching gave more at 64 in flight than none (`run.py --tune`).
    `can_batch`: whether `run.py --tune` tries both.
    """

    name: str
    protocols: tuple
    package: str = ""
    environment: str = ""
    program: str = ""
    batched: frozenset = field(default_factory=frozenset)
    can_batch: bool = False


PEERS = {
    peer.name: peer
    for peer in (
        Peer("crossfade", V2),
        Peer("triton", V2, "nvidia-pytriton", "pytriton"),
        Peer("pytriton", V2, "nvidia-pytriton", "pytriton"),
        # Its HTTP server knows no binary tensors.
        Peer(
            "mlserver",
            ("grpc", "http-json"),
            "mlserver",
            "mlserver",
            can_batch=True,
            batched=frozenset({"identity", "mlp_large", "transformer"}),
        ),
        Peer("kserve", V2, "kserve", "kserve"),
        Peer(
            "litserve",
            ("json",),
            "litserve",
            "litserve",
            can_batch=True,
            batched=frozenset({"mlp_large", "transformer"}),
        ),
        # Both ways: its batcher waits a millisecond at least, which wins at 64 in flight and loses at one.
        Peer("mosec", ("bytes",), "mosec", "mosec"),
        Peer(
            "mosec-batching",
            ("bytes",),
            "mosec",
            "mosec",
            "mosec",
            batched=frozenset({"identity", "mlp", "mlp_large", "convnet", "transformer"}),
        ),
        Peer("fastapi", ("json",), "fastapi", "fastapi"),
    )
}


@dataclass
class Setting:
    """Where things are, and how many threads compute in each server."""

    binary: Path
    models: Path
    environments: Path
    scratch: Path
    threads: int


def start(peer, model, setting, max_batch=None):
    """Starts `peer` with `model`; returns the server and its HTTP and gRPC ports."""
    http_port, grpc_port = free_port(), free_port()
    setting.scratch.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{peer.name}-{model}-", dir=setting.scratch))
    repository = setting.models / "repository"
    if peer.name == "crossfade":
        command = [
            setting.binary,
            "serve",
            "--model-repository",
            repository,
            "--model-control-mode",
            "explicit",
            "--load-model",
            model,
            "--cores",
            setting.threads,
            "--http-port",
            http_port,
            "--grpc-port",
            grpc_port,
            "--metrics-port",
            0,
            "--admin-port",
            0,
            # Kept over the rounds, as a server that is started again finds it: how to run the model is found out once.
            "--data-dir",
            setting.scratch / f"data-{model}",
            # The others record nothing.
            "--config",
            HERE / "crossfade.toml",
        ]
        environment = {}
    else:
        folder = HERE / (peer.program or peer.name)
        command = [setting.environments / peer.environment / "bin" / "python", folder / "serve.py"]
        if max_batch is None:
            max_batch = BATCH if model in peer.batched else 1
        environment = {
            "PYTHONPATH": f"{HERE}:{folder}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PEERS_REPOSITORY": str(repository),
            "PEERS_MODEL": model,
            "PEERS_HTTP_PORT": str(http_port),
            "PEERS_GRPC_PORT": str(grpc_port),
            "PEERS_THREADS": str(setting.threads),
            "PEERS_MAX_BATCH": str(max_batch),
            "PEERS_SCRATCH": str(scratch),
            "MOSEC_PORT": str(http_port),
            "MOSEC_ADDRESS": "127.0.0.1",
            "MOSEC_LOG_LEVEL": "warning",
        }
    server = Server([str(word) for word in command], environment, scratch, scratch / "log.txt")
    return server, http_port, grpc_port
