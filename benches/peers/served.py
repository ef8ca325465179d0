"""What every peer serves: one model, named by the environment that run.py sets, in ONNX Runtime on the CPU."""

import os
from pathlib import Path

import onnxruntime

MODEL = os.environ["PEERS_MODEL"]
PATH = Path(os.environ["PEERS_REPOSITORY"]) / MODEL / "1" / "model.onnx"
HTTP_PORT = int(os.environ["PEERS_HTTP_PORT"])
GRPC_PORT = int(os.environ["PEERS_GRPC_PORT"])
# Threads that compute, over all processes of the server.
THREADS = int(os.environ["PEERS_THREADS"])
# Most rows of a batch where the peer batches; 1: it does not.
MAX_BATCH = int(os.environ["PEERS_MAX_BATCH"])
NUMPY_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
V2_TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}


def session(threads=1):
    """A session of `threads` threads. They do not spin while idle: on a shared machine that costs every server."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(PATH), options, providers=["CPUExecutionProvider"])


def input_types(model):
    """Name to numpy datatype of the inputs of a session, in their order."""
    return {tensor.name: NUMPY_TYPES[tensor.type] for tensor in model.get_inputs()}
