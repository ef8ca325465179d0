"""The ONNX project's backend node tests, through the server, beside ONNX Runtime in this process.

    python onnx_nodes.py [--only PART-OF-NAME] [--verbose]

Takes every case whose inputs and outputs are dense tensors of the protocol's 14 datatypes and that passes in-process,
serves it as it stands (no configuration file), asks over HTTP and gRPC, and compares with the in-process answer. Prints
the counts, the cases left out by reason, and each regression by name. Exit code 1 if there is any.
"""

import argparse
import ctypes
import re
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import graphs
import harness
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc
import tritonclient.http
from onnx import numpy_helper
from tritonclient.utils import triton_to_np_dtype

NAMES = {number: name for name, number in graphs.DATATYPES.items()}
# What ONNX Runtime's messages say, and what that means.
REFUSALS = {
    "ValidateOpsetForDomain": "its operator set is newer than ONNX Runtime's",
    "IR version": "its file format is newer than ONNX Runtime's",
    "NOT_IMPLEMENTED": "ONNX Runtime has no kernel for it",
    "No Op registered": "ONNX Runtime does not know the operator",
    "is not a registered function/op": "ONNX Runtime does not know the operator",
    "Unrecognized attribute": "ONNX Runtime does not know an attribute of it",
    "Failed to construct locale": "this machine lacks the locale it needs",
}
AT_ONCE = 100  # models loaded before the first is unloaded


class LeftOut(Exception):
    """Why a case is not for the server; the message is the reason that the report counts."""


def tensors(values):
    """`[(name, datatype)]` of graph inputs or outputs; only dense tensors of the 14 datatypes."""
    found = []
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise LeftOut(f"{kind.removesuffix('_type')} among its inputs or outputs")
        number = value.type.tensor_type.elem_type
        if number not in NAMES:
            raise LeftOut(f"datatype {onnx.TensorProto.DataType.Name(number)} is not in the protocol")
        found.append((value.name, NAMES[number]))
    return found


def as_array(value, datatype):
    """A case's input or output as the numpy array that the clients use for `datatype`."""
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if not isinstance(value, np.ndarray | np.generic):
        value = np.array(value)
    value = np.asarray(value)
    if datatype == "BYTES":
        encoded = [x if isinstance(x, bytes) else str(x).encode() for x in value.ravel().tolist()]
        out = np.empty(len(encoded), object)
        out[:] = encoded
        return out.reshape(value.shape)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if value.dtype != dtype and value.dtype.itemsize == dtype.itemsize and dtype == ml_dtypes.bfloat16:
        value = value.view(dtype)  # some versions hand BF16 out as UINT16
    if value.dtype != dtype:
        raise LeftOut(f"the case holds {value.dtype} for {datatype}")
    return np.ascontiguousarray(value).reshape(value.shape)


class Case:
    """One node test: its model, its inputs, and what ONNX Runtime answers in this process."""

    def __init__(self, test):
        self.name = re.sub(r"[^\w.-]", "_", test.name)
        self.model, self.rtol, self.atol = test.model, test.rtol, test.atol
        graph = self.model.graph
        initialised = {tensor.name for tensor in graph.initializer}
        inputs = tensors([i for i in graph.input if i.name not in initialised])
        self.outputs = tensors(graph.output)
        given, expected = test.data_sets[0]
        if len(given) != len(inputs):
            raise LeftOut("it leaves optional inputs out")
        self.inputs = [(name, kind, as_array(value, kind)) for (name, kind), value in zip(inputs, given)]
        expected = [as_array(value, kind) for (_, kind), value in zip(self.outputs, expected)]
        self.bytes = self.model.SerializeToString()
        self.answer = self.in_process()
        if not all(same(a, b, 0, 0) for a, b in zip(self.answer, self.in_process())):
            raise LeftOut("not deterministic")
        for (name, _), got, want in zip(self.outputs, self.answer, expected):
            if not same(got, want, self.rtol, self.atol):
                raise LeftOut("in-process, ONNX Runtime's answer is not the expected one")

    def in_process(self):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(self.bytes, options, providers=["CPUExecutionProvider"])
            names = [name for name, _ in self.outputs]
            kinds = [kind for _, kind in self.outputs]
            if any("BF16" == kind for kind in [*kinds, *(kind for _, kind, _ in self.inputs)]):
                feeds = {name: ort_value(array, kind) for name, kind, array in self.inputs}
                return list(map(from_ort_value, session.run_with_ort_values(names, feeds), kinds))
            answers = session.run(names, {name: for_numpy(array, kind) for name, kind, array in self.inputs})
            return list(map(as_array, answers, kinds))
        except LeftOut:
            raise
        except Exception as error:
            text = str(error)
            for part, reason in REFUSALS.items():
                if part in text:
                    raise LeftOut(f"in-process, {reason}") from None
            raise LeftOut("in-process, ONNX Runtime refuses it") from None


def for_numpy(array, kind):
    """The array as ONNX Runtime's Python takes it: texts as str."""
    if kind != "BYTES":
        return array
    return np.array([x.decode() for x in array.ravel()], object).reshape(array.shape)


def ort_value(array, kind):
    """An ONNX Runtime value; BF16, which it does not take from numpy, as raw 16-bit words."""
    if kind == "BF16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), graphs.DATATYPES[kind])
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def from_ort_value(value, kind):
    """The numpy array of an ONNX Runtime value, BF16 included."""
    if kind != "BF16":
        return as_array(value.numpy(), kind)
    shape = value.shape()
    words = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return np.frombuffer(words, ml_dtypes.bfloat16).reshape(shape)


def same(a, b, rtol, atol):
    """Whether two arrays agree: in shape and, NaN being equal to NaN, within the tolerances."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype == object or a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    if (rtol, atol) == (0, 0):
        return a.tobytes() == b.tobytes()
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol, atol, equal_nan=True))


def through(module, client, case, binary):
    """The server's answer over one protocol, as numpy arrays in the model's order."""
    inputs = []
    for name, kind, array in case.inputs:
        tensor = module.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array, **binary)
        inputs.append(tensor)
    outputs = [module.InferRequestedOutput(name, **binary) for name, _ in case.outputs]
    result = client.infer(case.name, inputs, outputs=outputs)
    return [as_array(result.as_numpy(name), kind) for name, kind in case.outputs]


def gather(only):
    """Every case for the server, and the number of others by reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        tests = collect_testcases(None)
    cases, left_out = [], defaultdict(list)
    for test in tests:
        if only and only not in test.name:
            continue
        try:
            cases.append(Case(test))
        except LeftOut as reason:
            left_out[str(reason)].append(test.name)
    return cases, left_out


def serve(cases):
    """Serves and asks every case. Returns `{name: complaint}` and how many answers were equal to the last bit."""
    regressions, exact = {}, Counter()
    with tempfile.TemporaryDirectory(prefix="crossfade-nodes-") as folder:
        for case in cases:
            version = Path(folder) / case.name / "1"
            version.mkdir(parents=True)
            (version / "model.onnx").write_bytes(case.bytes)
        with harness.serve(folder, "--model-control-mode", "explicit") as server:
            http = tritonclient.http.InferenceServerClient(server.http)
            grpc = tritonclient.grpc.InferenceServerClient(server.grpc)
            for start in range(0, len(cases), AT_ONCE):
                batch = cases[start : start + AT_ONCE]
                for case in batch:
                    try:
                        grpc.load_model(case.name)
                    except Exception as error:
                        regressions[case.name] = f"does not load: {error}"
                for case in batch:
                    if case.name not in regressions:
                        ask(case, http, grpc, regressions, exact)
                for case in batch:
                    grpc.unload_model(case.name)
            http.close()
            grpc.close()
    return regressions, exact


def ask(case, http, grpc, regressions, exact):
    """Asks one case over both protocols."""
    asked = (
        ("HTTP", tritonclient.http, http, {"binary_data": True}),
        ("gRPC", tritonclient.grpc, grpc, {}),
    )
    for protocol, module, client, binary in asked:
        try:
            answer = through(module, client, case, binary)
        except Exception as error:
            regressions[case.name] = f"{protocol}: {error}"
            return
        for (name, _), got, want in zip(case.outputs, answer, case.answer):
            if not same(got, want, case.rtol, case.atol):
                regressions[case.name] = f"{protocol}: `{name}` is {got.dtype}{got.shape}, not the in-process answer {want.dtype}{want.shape}"
                return
        exact[protocol] += all(same(a, b, 0, 0) for a, b in zip(answer, case.answer))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--verbose", action="store_true", help="name the cases left out, too")
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    cases, left_out = gather(arguments.only)
    total = len(cases) + sum(map(len, left_out.values()))
    print(f"onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}: {total} node tests")
    for reason, names in sorted(left_out.items(), key=lambda item: -len(item[1])):
        print(f"  left out {len(names):5}  {reason}")
        if arguments.verbose:
            print("\n".join(f"                  {name}" for name in names))
    print(f"  in-process {len(cases):3}  pass and are for the server", flush=True)
    started = time.monotonic()
    regressions, exact = serve(cases)
    passed = len(cases) - len(regressions)
    print(f"  served     {passed:3}  pass over HTTP and gRPC, in {time.monotonic() - started:.1f} s")
    print(f"             {exact['HTTP']:3}  (HTTP) and {exact['gRPC']} (gRPC) of them are equal to the last bit")
    for name, complaint in sorted(regressions.items()):
        print(f"REGRESSION {name}: {complaint[:400]}")
    sys.exit(bool(regressions) or not cases)


if __name__ == "__main__":
    main()
