"""Small ONNX models that tests serve: one identity per datatype, and one that takes as long as it is told to."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def model(nodes, inputs, outputs, initializers=()):
    """An ONNX model in a version that every runtime reads."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def identity(datatype, shape):
    """`y = x`."""
    kind = DATATYPES[datatype]
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )


def plus(amount, rows="rows"):
    """`y = x + amount`, FP32, two columns."""
    return model(
        [helper.make_node("Add", ["x", "amount"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])],
        [helper.make_tensor("amount", TensorProto.FLOAT, [1], [amount])],
    )


def products(width, seed=1):
    """`y = x · w · w`, FP32; no operator but MatMul, which every device has from a library."""
    weights = np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32) / np.float32(width**0.5)
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("MatMul", ["xw", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", width])],
        [numpy_helper.from_array(weights, "w")],
    )


def convolution():
    """A filter of 3 x 3 over one channel: cuDNN's, on a GPU."""
    image = ["rows", 1, 8, 8]
    return model(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
    )


def slow():
    """Multiplies matrices of 256 x 256 as many times as `times` says: about a millisecond each."""
    side = 256
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("MatMul", ["before", "matrix"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [side, side]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [side, side]),
        ],
    )
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [side, side])
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1 / side])
    return model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["matrix"], value=value),
            helper.make_node("Loop", ["times", "yes", "matrix"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        ],
        [helper.make_tensor_value_info("times", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
        [shape, helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )


def put(repository, name, graph, version=1):
    """Writes `<repository>/<name>/<version>/model.onnx`, whole or not at all: a scan sees no half-written folder."""
    final = Path(repository) / name / str(version)
    final.parent.mkdir(parents=True, exist_ok=True)
    half = final.parent / f".{version}"
    half.mkdir()
    (half / "model.onnx").write_bytes(graph.SerializeToString())
    half.rename(final)
    return final
