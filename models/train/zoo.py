"""The shelf: writes models and golden pairs into models/zoo, and reads them back."""

import json

import numpy as np

from sums import ZOO, write_sums  # noqa: F401  (the scripts finish with zoo.write_sums())

DATATYPES = {
    "FP32": np.float32,
    "FP64": np.float64,
    "INT64": np.int64,
    "INT32": np.int32,
    "BYTES": object,
}


def save(name, version, model):
    """Checks an ONNX model and writes it as `<name>/<version>/model.onnx`. Returns the path."""
    import onnx

    onnx.checker.check_model(model)
    path = ZOO / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{path.relative_to(ZOO)}: {path.stat().st_size} bytes")
    return path


def session(name, version):
    """Opens a model of the zoo in ONNX Runtime, in this process, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = ZOO / name / str(version) / "model.onnx"
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def datatype(array):
    """The Open Inference Protocol's name of a numpy array's datatype."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    return next(name for name, dtype in DATATYPES.items() if array.dtype == dtype)


def tensor_json(name, array):
    """One tensor as the protocol's JSON: data flat, in row-major order."""
    if array.dtype == np.float32:
        # The shortest decimal that reads back to the same float32.
        data = [float(np.format_float_positional(x, unique=True)) for x in array.ravel()]
    else:
        data = array.ravel().tolist()
    return {"name": name, "shape": list(array.shape), "datatype": datatype(array), "data": data}


def tensor_of(entry):
    """The numpy array of one tensor of a JSON request or response."""
    dtype = DATATYPES[entry["datatype"]]
    return np.array(entry["data"], dtype=dtype).reshape(entry["shape"])


def golden(name, version, case, inputs):
    """Runs `inputs` through the model and writes `golden/<case>.{request,response}.json`."""
    model = session(name, version)
    names = [output.name for output in model.get_outputs()]
    outputs = [np.asarray(output) for output in model.run(names, inputs)]
    request = {"id": case, "inputs": [tensor_json(k, v) for k, v in inputs.items()]}
    response = {
        "model_name": name,
        "model_version": str(version),
        "id": case,
        "outputs": [tensor_json(k, v) for k, v in zip(names, outputs)],
    }
    folder = ZOO / name / "golden"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, body in (("request", request), ("response", response)):
        (folder / f"{case}.{kind}.json").write_text(readable(body), encoding="utf-8")


def readable(body):
    """A request or response as JSON with one line per tensor."""
    text = ",\n ".join(
        f"{json.dumps(key)}: "
        + ("[\n  " + ",\n  ".join(json.dumps(t, ensure_ascii=False) for t in value) + "\n ]" if isinstance(value, list) else json.dumps(value))
        for key, value in body.items()
    )
    return "{\n " + text + "\n}\n"


def golden_pairs():
    """Yields `(model, version, case, request, response)` for every golden pair of the zoo."""
    for path in sorted(ZOO.glob("*/golden/*.request.json")):
        case = path.name.removesuffix(".request.json")
        request = json.loads(path.read_text(encoding="utf-8"))
        response = json.loads(path.with_name(f"{case}.response.json").read_text(encoding="utf-8"))
        yield response["model_name"], int(response["model_version"]), case, request, response
