"""One request over each protocol, its answer compared with that of ONNX Runtime in process."""

import functools
import http.client
import json
from pathlib import Path

import numpy as np

# An other build or batch of the same runtime sums in another order.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
NAMES = {"float32": "FP32", "int64": "INT64"}


class Question:
    """A model's request in the forms of all protocols, and the answer that is right."""

    def __init__(self, root, model):
        root = Path(root)
        entry = json.loads((root / "models.json").read_text())[model]
        self.model, self.root, self.output = model, root, entry["output"]
        self.v2 = (root / "requests" / f"{model}.json").read_bytes()
        self.raw = (root / "requests" / f"{model}.raw").read_bytes()
        self.expected = np.load(root / "expected" / f"{model}.npy")
        self.arrays, offset = {}, 0
        for tensor in entry["inputs"]:
            array = np.frombuffer(self.raw, tensor["dtype"], int(np.prod(tensor["shape"])), offset)
            self.arrays[tensor["name"]] = array.reshape(tensor["shape"])
            offset += array.nbytes

    def ask(self, protocol, http_port, grpc_port):
        """Asks once; raises unless the answer is right."""
        answer = np.asarray(self._answer(protocol, http_port, grpc_port), np.float32).reshape(self.expected.shape)
        if not np.allclose(answer, self.expected, **TOLERANCE):
            difference = float(np.abs(answer - self.expected).max())
            raise ValueError(f"{self.model} over {protocol}: the answer differs by up to {difference:.3g}")

    def _answer(self, protocol, http_port, grpc_port):
        path = f"/v2/models/{self.model}/infer"
        if protocol == "grpc":
            return self._grpc(grpc_port)
        if protocol == "http-json":
            return json.loads(post(http_port, path, self.v2, "application/json")[0])["outputs"][0]["data"]
        if protocol == "http-binary":
            return self._binary(http_port, path)
        if protocol == "json":
            return json.loads(post(http_port, "/predict", self.nested, "application/json")[0])["output"]
        if protocol == "bytes":
            return np.frombuffer(post(http_port, "/inference", self.raw, "application/octet-stream")[0], np.float32)
        raise ValueError(f"unknown protocol {protocol}")

    @functools.cached_property
    def nested(self):
        """Inputs by name as nested lists, the numbers as they stand in the V2 request."""
        request = json.loads(self.v2)
        lists = {i["name"]: np.asarray(i["data"]).reshape(i["shape"]).tolist() for i in request["inputs"]}
        return json.dumps(lists, separators=(",", ":")).encode()

    def _binary(self, port, path):
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "shape": list(array.shape),
                        "datatype": NAMES[array.dtype.name],
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                    for name, array in self.arrays.items()
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        content, headers = post(
            port, path, head + self.raw, "application/octet-stream", {"Inference-Header-Content-Length": str(len(head))}
        )
        length = headers.get("Inference-Header-Content-Length")
        if length is None:
            raise ValueError("the answer to a binary request is JSON")
        return np.frombuffer(content[int(length) :], np.float32)

    def _grpc(self, port):
        from tritonclient import grpc

        inputs = [
            grpc.InferInput(name, list(array.shape), NAMES[array.dtype.name]) for name, array in self.arrays.items()
        ]
        for tensor, array in zip(inputs, self.arrays.values()):
            tensor.set_data_from_numpy(array)
        client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
        try:
            return client.infer(self.model, inputs, client_timeout=30).as_numpy(self.output)
        finally:
            client.close()


def post(port, path, body, content_type, headers=None):
    """The body and headers of the answer; raises unless it is a success."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type, **(headers or {})})
        response = connection.getresponse()
        content = response.read()
        if response.status // 100 != 2:
            raise ValueError(f"HTTP {response.status}: {content[:200].decode(errors='replace')}")
        return content, response.headers
    finally:
        connection.close()
