"""The models that every server serves: known architectures with seeded random weights, and a request for each.

    python benches/peers/models.py target/peers/models

Writes `repository/NAME/1/model.onnx`, which peers read as plain files, and beside it `requests/NAME.json` (V2 JSON),
`requests/NAME.raw` (the bytes of all inputs, one after the other) and `expected/NAME.npy` (the answer of ONNX
Runtime in process). Nothing is downloaded; the same pinned packages give the same bytes, whose sha256 is in
`models.json`.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto

from graph import Graph


def identity():
    """Hands 1024 floats, 4 KB, back: what is left is the server."""
    graph = Graph("identity", 1)
    graph.output(graph.input("input", "FP32", [1024]), "output", "FP32", [1024])
    return graph


def perceptron(name, seed, widths):
    """Linear layers with ReLU between."""
    graph = Graph(name, seed)
    tensor = graph.input("input", "FP32", [widths[0]])
    layers = list(zip(widths, widths[1:]))
    for index, (rows, columns) in enumerate(layers):
        tensor = graph.linear(tensor, rows, columns)
        if index + 1 < len(layers):
            tensor = graph.op("Relu", tensor)
    graph.output(tensor, "output", "FP32", [widths[-1]])
    return graph


def convnet():
    """MobileNetV2 (Sandler et al. 2018, table 2): expansion, channels, repeats and first stride of each stage."""
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    graph = Graph("convnet", 4)
    tensor = graph.convolution(graph.input("input", "FP32", [3, 224, 224]), 3, 32, 3, stride=2)
    channels = 32
    for expansion, outputs, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            block, hidden = tensor, channels * expansion
            if expansion > 1:
                block = graph.convolution(block, channels, hidden, 1)
            block = graph.convolution(block, hidden, hidden, 3, stride=stride, groups=hidden)
            block = graph.convolution(block, hidden, outputs, 1, clip=False)
            tensor = graph.op("Add", tensor, block) if stride == 1 and channels == outputs else block
            channels = outputs
    tensor = graph.convolution(tensor, channels, 1280, 1)
    tensor = graph.op("Flatten", graph.op("GlobalAveragePool", tensor), axis=1)
    graph.output(graph.linear(tensor, 1280, 1000, deviation=0.02), "output", "FP32", [1000])
    return graph


TOKENS, WIDTH, HEADS, LAYERS, VOCABULARY = 32, 384, 12, 6, 30522


def transformer():
    """MiniLM-L6: a BERT encoder of 6 layers, width 384, 12 heads, then the mean over the real tokens, of length 1."""
    graph = Graph("transformer", 5)
    ids = graph.input("input_ids", "INT64", [TOKENS])
    mask = graph.op("Cast", graph.input("attention_mask", "INT64", [TOKENS]), to=TensorProto.FLOAT)
    words = graph.op("Gather", graph.random_weight((VOCABULARY, WIDTH), 0.05), ids)
    hidden = graph.layer_norm(graph.op("Add", words, graph.random_weight((TOKENS, WIDTH), 0.05)), WIDTH)
    # 0 where there is a token, -10000 where there is none; [batch, 1, 1, TOKENS]
    absent = graph.op("Sub", graph.constant(1.0), mask)
    penalty = graph.op("Mul", graph.op("Unsqueeze", absent, graph.constant([1, 2], np.int64)), graph.constant(-1e4))
    for _ in range(LAYERS):
        mixed = graph.linear(attention(graph, hidden, penalty), WIDTH, WIDTH, deviation=0.05)
        hidden = graph.layer_norm(graph.op("Add", hidden, mixed), WIDTH)
        inner = graph.op("Gelu", graph.linear(hidden, WIDTH, 4 * WIDTH, deviation=0.05))
        outer = graph.linear(inner, 4 * WIDTH, WIDTH, deviation=0.05)
        hidden = graph.layer_norm(graph.op("Add", hidden, outer), WIDTH)
    weights = graph.op("Unsqueeze", mask, graph.constant([2], np.int64))
    total = graph.op("ReduceSum", graph.op("Mul", hidden, weights), graph.constant([1], np.int64), keepdims=0)
    mean = graph.op("Div", total, graph.op("ReduceSum", weights, graph.constant([1], np.int64), keepdims=0))
    graph.output(graph.op("LpNormalization", mean, axis=1, p=2), "embedding", "FP32", [WIDTH])
    return graph


def attention(graph, hidden, penalty):
    """Scaled dot products of HEADS heads, put side by side again."""
    heads = graph.constant([0, 0, HEADS, WIDTH // HEADS], np.int64)
    query, key, value = (
        graph.op("Reshape", graph.linear(hidden, WIDTH, WIDTH, deviation=0.05), heads) for _ in range(3)
    )
    query, value = (graph.op("Transpose", tensor, perm=[0, 2, 1, 3]) for tensor in (query, value))
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 2, 3, 1]))
    scores = graph.op("Mul", scores, graph.constant((WIDTH // HEADS) ** -0.5))
    weights = graph.op("Softmax", graph.op("Add", scores, penalty), axis=-1)
    joined = graph.op("Transpose", graph.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return graph.op("Reshape", joined, graph.constant([0, 0, WIDTH], np.int64))


MODELS = {
    "identity": identity,
    "mlp": lambda: perceptron("mlp", 2, [64, 256, 256, 10]),
    "mlp_large": lambda: perceptron("mlp_large", 3, [512, 2048, 2048, 2048, 100]),
    "convnet": convnet,
    "transformer": transformer,
}
# For `cargo xtask limits`, which loads 100 MB beside serving; no peer is asked to serve it.
MODELS["large_100mb"] = lambda: perceptron("large_100mb", 6, [2048] * 7)
NOT_COMPARED = {"large_100mb"}


def request_of(graph):
    """One row for each input: floats in -1..1 of six digits, as a client would send pixels; words; a mask of ones."""
    random = np.random.Generator(np.random.PCG64(100))
    arrays = {}
    for info in graph.inputs:
        shape = [1, *(dim.dim_value for dim in info.type.tensor_type.shape.dim[1:])]
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            arrays[info.name] = np.round(random.uniform(-1, 1, shape), 6).astype(np.float32)
        elif info.name == "attention_mask":
            arrays[info.name] = np.ones(shape, np.int64)
        else:
            arrays[info.name] = random.integers(0, VOCABULARY, shape)
    return arrays


def v2_json(arrays):
    """The request in the protocol's JSON form."""
    datatypes = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        # The shortest decimal that gives the same float32 again, which is what a client sends.
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatypes[array.dtype.name],
            "data": [float(str(x)) if array.dtype == np.float32 else int(x) for x in array.ravel()],
        }
        for name, array in arrays.items()
    ]
    return json.dumps({"inputs": inputs}, separators=(",", ":"))


def write(root, name):
    """Writes one model with its request and answer; returns its entry in models.json."""
    graph = MODELS[name]()
    content = graph.serialised()
    path = root / "repository" / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    arrays = request_of(graph)
    (answer,) = session.run(None, arrays)
    if not np.isfinite(answer).all() or answer.std() == 0:
        raise SystemExit(f"{name}: the answer is not finite, or constant; choose other deviations")
    several = {key: np.repeat(array, 3, axis=0) for key, array in arrays.items()}
    (repeated,) = session.run(None, several)
    if not np.allclose(repeated, answer, rtol=1e-4, atol=1e-5):
        raise SystemExit(f"{name}: three equal rows do not give three equal answers")
    (root / "requests").mkdir(exist_ok=True)
    (root / "expected").mkdir(exist_ok=True)
    (root / "requests" / f"{name}.json").write_text(v2_json(arrays))
    (root / "requests" / f"{name}.raw").write_bytes(b"".join(array.tobytes() for array in arrays.values()))
    np.save(root / "expected" / f"{name}.npy", answer)
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "compared": name not in NOT_COMPARED,
        "parameters": graph.parameters,
        "inputs": [
            {"name": key, "shape": list(array.shape), "dtype": array.dtype.name} for key, array in arrays.items()
        ],
        "output": session.get_outputs()[0].name,
        "range": [float(answer.min()), float(answer.max())],
    }


def main():
    root = Path(sys.argv[1])
    entries = {name: write(root, name) for name in MODELS}
    (root / "models.json").write_text(json.dumps(entries, indent=1))
    for name, entry in entries.items():
        print(
            f"{name:12} {entry['parameters']:>10} parameters  {entry['bytes']:>10} bytes  sha256 {entry['sha256'][:16]}"
            f"  answers {entry['range'][0]:.3g}..{entry['range'][1]:.3g}"
        )


if __name__ == "__main__":
    main()
