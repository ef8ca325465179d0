"""MLServer: writes its two settings files, then becomes `mlserver start`."""

import json
import os
import sys
from pathlib import Path

import served

folder = Path(os.environ["PEERS_SCRATCH"])
(folder / "settings.json").write_text(
    json.dumps(
        {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": served.HTTP_PORT,
            "grpc_port": served.GRPC_PORT,
            "metrics_endpoint": None,
            # No worker processes: passing tensors to them cost each of these models more than it gained (measured: two to four
            # times the CPU per request of a small one, no more throughput of the convolutional net).
            "parallel_workers": 0,
        }
    )
)
(folder / "model-settings.json").write_text(
    json.dumps(
        {
            "name": served.MODEL,
            "implementation": "runtime.Onnx",
            # Adaptive batching, off by default.
            **({"max_batch_size": served.MAX_BATCH, "max_batch_time": 0.001} if served.MAX_BATCH > 1 else {}),
        }
    )
)
os.execv(Path(sys.executable).with_name("mlserver"), ["mlserver", "start", str(folder)])
