"""Triton's own Python clients (gRPC, HTTP, and both for asyncio) against the zoo and a few models written here."""

import asyncio
import base64
import gzip
import json
import queue
import threading
import time

import graphs
import harness
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

MODULES = {
    "grpc": tritonclient.grpc,
    "http": tritonclient.http,
    "grpc.aio": tritonclient.grpc.aio,
    "http.aio": tritonclient.http.aio,
}
# The two columns of the status table that these tests meet.
CODES = {
    "invalid": ("StatusCode.INVALID_ARGUMENT", "400"),
    "not found": ("StatusCode.NOT_FOUND", "404"),
    "conflict": ("StatusCode.FAILED_PRECONDITION", "400"),
    "late": ("StatusCode.DEADLINE_EXCEEDED", "504"),
    "unsupported": ("StatusCode.UNIMPLEMENTED", "501"),
}


@pytest.fixture(scope="module")
def server():
    with harness.zoo_copy() as repository:
        for datatype in graphs.DATATYPES:
            graphs.put(repository, f"identity_{datatype}", graphs.identity(datatype, ["rows", "columns"]))
        graphs.put(repository, "scalar", graphs.identity("FP32", []))
        graphs.put(repository, "slow", graphs.slow())
        with harness.serve(repository, "--model-control-mode", "explicit", "--load-model", "*") as running:
            yield running


class Client:
    """One of the four clients, called in one way: a coroutine is run to its end."""

    def __init__(self, kind, server):
        self.kind, self.module = kind, MODULES[kind]
        self.is_http = kind.startswith("http")
        self.loop = asyncio.new_event_loop() if kind.endswith("aio") else None
        make = lambda: self.module.InferenceServerClient(server.http if self.is_http else server.grpc)  # noqa: E731
        self.client = make() if self.loop is None else self.loop.run_until_complete(self._made(make))

    @staticmethod
    async def _made(make):
        return make()

    def __getattr__(self, name):
        method = getattr(self.client, name)

        def call(*arguments, **named):
            result = method(*arguments, **named)
            return self.loop.run_until_complete(result) if self.loop else result

        return call

    def ended(self):
        self.close()
        if self.loop:
            self.loop.close()

    def code(self, status):
        return CODES[status][self.is_http]

    def input(self, name, array, datatype=None, binary=True):
        datatype = datatype or tritonclient.utils.np_to_triton_dtype(array.dtype)
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **({"binary_data": binary} if self.is_http else {}))
        return tensor

    def output(self, name, binary=True, **named):
        return self.module.InferRequestedOutput(name, **({"binary_data": binary} if self.is_http else {}), **named)

    def refused(self, status, call, *parts):
        """The call fails with this row of the status table, and its message holds every one of `parts`."""
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == self.code(status), caught.value
        for part in parts:
            assert part in caught.value.message(), caught.value


@pytest.fixture(params=MODULES)
def client(request, server):
    made = Client(request.param, server)
    yield made
    made.ended()


@pytest.fixture(params=["grpc", "http"])
def plain(request, server):
    made = Client(request.param, server)
    yield made
    made.ended()


def values(datatype):
    """Two rows of three values that this datatype finds hard."""
    if datatype == "BYTES":
        return np.array([[b"", b"\0", b"a\0b"], ["grün".encode(), b"\xff\xfe", b"x" * 70_000]], dtype=object)
    dtype = triton_to_np_dtype(datatype)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if np.dtype(dtype).kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return np.array([[low, high, 0], [1, 2, high - 1]], dtype=dtype)
    info = ml_dtypes.finfo(dtype)
    row = [info.max, info.min, info.tiny], [np.nan, np.inf, -0.0]
    return np.array(row, dtype=dtype)


def image(case="four-images-v2"):
    """The input and expected labels of a golden pair."""
    request = next(r for _, _, name, r, _ in harness.golden_pairs("digits") if name == case)["inputs"][0]
    return np.array(request["data"], np.float32).reshape(request["shape"])


# --- inference


@pytest.mark.parametrize("datatype", graphs.DATATYPES)
def test_every_datatype_comes_back_bit_for_bit(client, datatype):
    sent = values(datatype)
    result = client.infer(f"identity_{datatype}", [client.input("x", sent, datatype)])
    got = result.as_numpy("y")
    assert got.shape == sent.shape
    if datatype == "BYTES":
        assert got.tolist() == sent.tolist()
    else:
        assert got.dtype == sent.dtype and got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("kind", ["http", "http.aio"])
@pytest.mark.parametrize("datatype", [d for d in graphs.DATATYPES if d not in ("FP16", "BF16")])
def test_every_datatype_that_json_has_comes_back_the_same(server, kind, datatype):
    client = Client(kind, server)
    sent = values(datatype)
    if datatype == "BYTES":
        sent = np.array([["", "\0", "a\0b"], ["grün", "🙂", "x" * 70_000]], dtype=object)
    if datatype in ("FP32", "FP64"):
        sent[1, 0] = 0.1  # the client cannot write NaN, nor infinity
        sent[1, 1] = 1 / 3
    got = client.infer(
        f"identity_{datatype}", [client.input("x", sent, datatype, binary=False)], outputs=[client.output("y", binary=False)]
    ).as_numpy("y")
    got = [[x.decode() if isinstance(x, bytes) else x for x in row] for row in got.tolist()]
    assert got == sent.tolist()
    client.ended()


def test_binary_and_json_mix_in_one_request(server):
    client = Client("http", server)
    request = next(r for _, _, case, r, _ in harness.golden_pairs("diabetes") if case == "five-patients")
    arrays = {t["name"]: np.array(t["data"], np.float32).reshape(t["shape"]) for t in request["inputs"]}
    for binary in ({"age"}, {"serum", "bmi"}, set(arrays), set()):
        inputs = [client.input(n, a, binary=n in binary) for n, a in arrays.items()]
        for out in (True, False):
            got = client.infer("diabetes", inputs, outputs=[client.output("progression", binary=out)]).as_numpy("progression")
            assert got.shape == (5, 1)
    client.ended()


@pytest.mark.parametrize("name, version, case, request_, response", list(harness.golden_pairs()))
def test_golden_pairs_of_the_zoo(client, name, version, case, request_, response):
    inputs = []
    for tensor in request_["inputs"]:
        dtype = triton_to_np_dtype(tensor["datatype"])
        array = np.array(tensor["data"], dtype=dtype).reshape(tensor["shape"])
        inputs.append(client.input(tensor["name"], array, tensor["datatype"]))
    result = client.infer(name, inputs, model_version=version, request_id=case)
    answer = result.get_response(as_json=True) if not client.is_http else result.get_response()
    assert answer["model_name"] == name and answer["model_version"] == version and answer["id"] == case
    got = []
    for tensor in response["outputs"]:
        array = result.as_numpy(tensor["name"])
        data = [x.decode() if isinstance(x, bytes) else x for x in array.ravel().tolist()]
        got.append({"name": tensor["name"], "shape": list(array.shape), "datatype": tensor["datatype"], "data": data})
    harness.assert_same_outputs(got, response["outputs"])


def test_a_scalar_and_an_empty_tensor_need_no_reshaping(client):
    got = client.infer("scalar", [client.input("x", np.array(2.5, np.float32))]).as_numpy("y")
    assert got.shape == () and got == 2.5
    empty = np.zeros((3, 0), np.float32)
    got = client.infer("identity_FP32", [client.input("x", empty)]).as_numpy("y")
    assert got.shape == (3, 0)
    got = client.infer("identity_BYTES", [client.input("x", np.zeros((0, 2), object), "BYTES")]).as_numpy("y")
    assert got.shape == (0, 2)


def test_a_version_may_be_asked_for_by_number_and_by_label(client):
    inputs = [client.input("image", image())]
    for asked, answered in (("1", "1"), ("2", "2"), ("stable", "1"), ("candidate", "2"), ("", "2")):
        response = client.infer("digits", inputs, model_version=asked).get_response()
        version = response["model_version"] if client.is_http else response.model_version
        assert version == answered, asked


def test_outputs_come_in_the_order_asked_for(client):
    inputs = [client.input("image", image())]
    for names in (["label", "probabilities"], ["probabilities", "label"], ["label"]):
        response = client.infer("digits", inputs, outputs=[client.output(n) for n in names]).get_response()
        outputs = response["outputs"] if client.is_http else response.outputs
        assert [o["name"] if client.is_http else o.name for o in outputs] == names


def test_classification_gives_value_index_and_label(client):
    output = client.output("probabilities", class_count=3)
    result = client.infer("digits", [client.input("image", image())], outputs=[output])
    rows = result.as_numpy("probabilities")
    assert rows.shape == (4, 3)
    labels = (harness.ZOO / "digits" / "labels.txt").read_text().split()
    plain = client.infer("digits", [client.input("image", image())]).as_numpy("probabilities")
    for row, probabilities in zip(rows, plain):
        parts = [cell.decode().split(":") for cell in row]
        best = np.argsort(-probabilities, kind="stable")[:3]
        assert [int(p[1]) for p in parts] == best.tolist()
        assert [p[2] for p in parts] == [labels[i] for i in best]
        assert np.allclose([float(p[0]) for p in parts], probabilities[best], atol=1e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers(client, algorithm):
    sent = np.zeros((16, 4096), np.float32)
    inputs = [client.input("x", sent)]
    if client.is_http:
        named = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    else:
        named = {"compression_algorithm": algorithm}
    assert np.array_equal(client.infer("identity_FP32", inputs, **named).as_numpy("y"), sent)


def test_a_message_of_64_mib_passes(client):
    sent = np.arange(16 << 20, dtype=np.float32).reshape(1, -1)
    assert np.array_equal(client.infer("identity_FP32", [client.input("x", sent)]).as_numpy("y"), sent)


def test_many_requests_at_once_each_get_their_own_answer(server):
    failures = []

    def ask(kind, seed):
        client = Client(kind, server)
        random = np.random.default_rng(seed)
        for _ in range(50):
            sent = random.standard_normal((random.integers(1, 5), 3)).astype(np.float32)
            if not np.array_equal(client.infer("identity_FP32", [client.input("x", sent)]).as_numpy("y"), sent):
                failures.append(seed)
        client.ended()

    threads = [threading.Thread(target=ask, args=(kind, seed)) for kind in ("grpc", "http") for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_callbacks_and_futures_of_the_plain_clients(server):
    sent = [np.full((1, 2), i, np.float32) for i in range(20)]
    http = Client("http", server)
    futures = [http.async_infer("identity_FP32", [http.input("x", x)]) for x in sent]
    for x, future in zip(sent, futures):
        assert np.array_equal(future.get_result().as_numpy("y"), x)
    http.ended()
    grpc, answers = Client("grpc", server), queue.Queue()
    for i, x in enumerate(sent):
        grpc.async_infer(
            "identity_FP32", [grpc.input("x", x)], callback=lambda result, error: answers.put((result, error)), request_id=str(i)
        )
    for _ in sent:
        result, error = answers.get(timeout=30)
        assert error is None
        assert np.array_equal(result.as_numpy("y"), sent[int(result.get_response().id)])
    grpc.ended()


# --- streaming


def test_a_stream_answers_in_order_and_goes_on_after_an_error(server):
    client, answers = Client("grpc", server), queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    good = client.input("x", np.ones((1, 2), np.float32))
    bad = client.input("wrong", np.ones((1, 2), np.float32))
    for i in range(10):
        client.async_stream_infer("identity_FP32", [bad if i == 4 else good], request_id=str(i))
    for i in range(10):
        result, error = answers.get(timeout=30)
        if i == 4:
            assert "wrong" in error.message()
        else:
            assert error is None and result.get_response().id == str(i)
    client.async_stream_infer("identity_FP32", [good], request_id="last", enable_empty_final_response=True)
    result, error = answers.get(timeout=30)
    assert error is None and result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()
    client.ended()


def test_a_stream_of_the_asyncio_client(server):
    async def ask():
        async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
            tensor = tritonclient.grpc.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 2), np.float32))

            async def requests():
                for i in range(5):
                    yield {"model_name": "identity_FP32", "inputs": [tensor], "request_id": str(i)}

            ids = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                ids.append(result.get_response().id)
            return ids

    assert asyncio.run(ask()) == ["0", "1", "2", "3", "4"]


def test_a_stream_that_asks_for_grpc_errors_ends_with_one(server):
    client, answers = Client("grpc", server), queue.Queue()
    client.start_stream(
        callback=lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"}
    )
    client.async_stream_infer("nobody", [client.input("x", np.ones((1, 2), np.float32))])
    result, error = answers.get(timeout=30)
    assert result is None and error.status() == "StatusCode.NOT_FOUND"
    client.stop_stream()
    client.ended()


# --- what the server says about itself and its models


def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "7") and not client.is_model_ready("nobody")


def as_dict(client, method, *arguments, **named):
    """The answer as JSON, whichever client gave it."""
    if not client.is_http:
        named["as_json"] = True
    return getattr(client, method)(*arguments, **named)


def test_metadata(client):
    about = as_dict(client, "get_server_metadata")
    assert about["name"] == "crossfade" and about["version"]
    assert "binary_tensor_data" in about["extensions"] and "sequence" not in about["extensions"]
    assert "system_shared_memory" not in about["extensions"]
    about = as_dict(client, "get_model_metadata", "digits")
    assert about["name"] == "digits" and about["versions"] == ["1", "2"]
    assert about["platform"] == "onnxruntime_onnx"
    (tensor,) = about["inputs"]
    assert tensor["name"] == "image" and tensor["datatype"] == "FP32"
    assert [int(d) for d in tensor["shape"]] == [-1, 1, 8, 8]
    assert [o["name"] for o in about["outputs"]] == ["probabilities", "label"]
    about = as_dict(client, "get_model_metadata", "diabetes")
    assert [i["name"] for i in about["inputs"]] == ["age", "sex", "bmi", "blood_pressure", "serum"]
    client.refused("not found", lambda: client.get_model_metadata("nobody"), "nobody")


def test_config(client):
    config = as_dict(client, "get_model_config", "digits")
    config = config.get("config", config)
    assert config["name"] == "digits" and config["max_batch_size"] == 64
    assert "dynamic_batching" in config
    assert [int(d) for d in config["input"][0]["dims"]] == [1, 8, 8]
    completed = as_dict(client, "get_model_config", "breast_cancer")
    completed = completed.get("config", completed)
    assert completed["max_batch_size"] == 32 and completed["input"][0]["name"] == "features"
    client.refused("not found", lambda: client.get_model_config("nobody"), "nobody")


def test_statistics_count_rows_and_requests(client):
    def stats():
        (entry,) = as_dict(client, "get_inference_statistics", "diabetes", "1")["model_stats"]
        return int(entry["inference_count"] or 0), int(entry["inference_stats"]["success"].get("count", 0))

    def infer():
        request = next(r for _, _, case, r, _ in harness.golden_pairs("diabetes") if case == "five-patients")
        arrays = {t["name"]: np.array(t["data"], np.float32).reshape(t["shape"]) for t in request["inputs"]}
        client.infer("diabetes", [client.input(n, a) for n, a in arrays.items()])

    infer()
    before = stats()
    infer()
    after = stats()
    assert (after[0] - before[0], after[1] - before[1]) == (5, 1)
    assert len(as_dict(client, "get_inference_statistics")["model_stats"]) > 5
    client.refused("not found", lambda: client.get_inference_statistics("nobody"))


def test_repository_index_load_and_unload(client):
    def state(name):
        index = as_dict(client, "get_model_repository_index")
        index = index if isinstance(index, list) else index["models"]
        return {(m["name"], m.get("version", "")): m.get("state", "") for m in index if m["name"] == name}

    assert state("digits") == {("digits", "1"): "READY", ("digits", "2"): "READY"}
    client.unload_model("iris")
    assert not client.is_model_ready("iris")
    inputs = [client.input("measurements", np.ones((1, 4), np.float32))]
    client.refused("not found", lambda: client.infer("iris", inputs), "iris")
    # Nothing is routed to it any more; what it held is given back a little later.
    for _ in range(600):
        if set(state("iris").values()) != {"UNLOADING"}:
            break
        time.sleep(0.05)
    assert set(state("iris").values()) == {"UNAVAILABLE"}
    client.load_model("iris")
    assert client.is_model_ready("iris")
    client.infer("iris", inputs)
    client.refused("not found", lambda: client.load_model("nobody"), "nobody")


def test_load_with_a_configuration_and_with_files(client):
    config = {"max_batch_size": 7, "dynamic_batching": {}, "backend": "onnxruntime"}
    client.load_model("breast_cancer", config=json.dumps(config))
    got = as_dict(client, "get_model_config", "breast_cancer")
    assert got.get("config", got)["max_batch_size"] == 7
    client.unload_model("breast_cancer")
    client.load_model("breast_cancer")
    got = as_dict(client, "get_model_config", "breast_cancer")
    assert got.get("config", got)["max_batch_size"] == 32
    file = graphs.plus(5.0).SerializeToString()
    client.load_model("uploaded", config='{"backend": "onnxruntime"}', files={"file:3/model.onnx": file})
    result = client.infer("uploaded", [client.input("x", np.zeros((2, 2), np.float32))], model_version="3")
    assert result.as_numpy("y").tolist() == [[5, 5], [5, 5]]
    client.unload_model("uploaded")
    client.refused("invalid", lambda: client.load_model("breast_cancer", config="{not json"))
    client.infer("breast_cancer", [client.input("features", np.zeros((1, 30), np.float32))])


def test_log_settings_and_trace_settings(client):
    settings = as_dict(client, "get_log_settings")
    assert "log_verbose_level" in json.dumps(settings)
    changed = as_dict(client, "update_log_settings", settings={"log_verbose_level": 1})
    assert "1" in json.dumps(changed)
    as_dict(client, "update_log_settings", settings={"log_verbose_level": 0})
    assert "trace_level" in json.dumps(as_dict(client, "get_trace_settings"))
    client.refused("unsupported", lambda: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}))


def test_shared_memory_is_refused(client):
    register = (
        lambda: client.register_system_shared_memory("region", "/region", 64),
        lambda: client.register_cuda_shared_memory("region", base64.b64encode(b"handle"), 0, 64),
    )
    for call in register:
        if client.is_http:
            # The routes belong to an extension that the server does not list: not there, or not offered.
            with pytest.raises(InferenceServerException) as caught:
                call()
            assert caught.value.status() in ("404", "501"), caught.value
        else:
            client.refused("unsupported", call)
    if not client.is_http:
        assert not as_dict(client, "get_system_shared_memory_status")
        assert not as_dict(client, "get_cuda_shared_memory_status")
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
    tensor = client.module.InferInput("x", [1, 2], "FP32")
    tensor.set_shared_memory("region", 8)
    client.refused("unsupported", lambda: client.infer("identity_FP32", [tensor]))


# --- refusals


def test_wrong_requests_are_refused_by_name(client):
    def infer(name="x", array=np.ones((1, 2), np.float32), model="identity_FP32", version="", outputs=None):
        return lambda: client.infer(model, [client.input(name, array)], model_version=version, outputs=outputs)

    client.refused("invalid", infer(name="wrong"), "wrong")
    client.refused("invalid", infer(array=np.ones((1, 2), np.int64)), "x", "FP32", "INT64")
    client.refused("invalid", infer(array=np.ones((1, 2, 3), np.float32)), "x")
    client.refused("invalid", infer(outputs=[client.output("z")]), "z")
    client.refused("invalid", infer("image", np.ones((1, 1, 8, 9), np.float32), "digits"), "image")
    client.refused("invalid", infer("image", np.ones((65, 1, 8, 8), np.float32), "digits"), "64")
    client.refused("not found", infer(model="nobody"), "nobody")
    client.refused("not found", infer(version="9"), "identity_FP32")
    client.refused("invalid", infer(version="0"))
    client.refused("invalid", infer(version="no-such-label"))
    client.refused("invalid", lambda: client.infer("diabetes", [client.input("age", np.ones((1, 1), np.float32))]), "sex")
    two = [client.input("x", np.ones((1, 2), np.float32))] * 2
    client.refused("invalid", lambda: client.infer("identity_FP32", two), "x")
    assert client.is_server_ready()


def test_a_request_that_is_too_slow_is_cut_off(client):
    long = [client.input("times", np.array(2_000, np.int64))]
    client.refused("late", lambda: client.infer("slow", long, timeout=50_000))
    assert client.is_server_live()


def test_a_deadline_of_the_grpc_client_itself(server):
    client = Client("grpc", server)
    client.refused("late", lambda: client.infer("slow", [client.input("times", np.array(2_000, np.int64))], client_timeout=0.05))
    client.infer("identity_FP32", [client.input("x", np.ones((1, 2), np.float32))], client_timeout=30)
    client.ended()


def test_a_cancelled_call_leaves_the_server_well(server):
    client, answers = Client("grpc", server), queue.Queue()
    call = client.async_infer(
        "slow", [client.input("times", np.array(2_000, np.int64))], callback=lambda result, error: answers.put(error)
    )
    call.cancel()
    assert "ancel" in str(answers.get(timeout=30))
    client.infer("slow", [client.input("times", np.array(1, np.int64))])
    client.ended()


def test_load_and_unload_outside_explicit_mode_are_a_conflict():
    with harness.zoo_copy("digits") as repository, harness.serve(repository) as server:
        for kind in MODULES:
            client = Client(kind, server)
            client.refused("conflict", lambda: client.load_model("digits"))
            client.refused("conflict", lambda: client.unload_model("digits"))
            client.ended()


def test_response_body_builder_and_parser_of_the_client(server):
    client = tritonclient.http.InferenceServerClient
    tensor = tritonclient.http.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    body, length = client.generate_request_body([tensor])
    headers = {"Inference-Header-Content-Length": str(length), "Content-Encoding": "gzip"}
    status, sent, answer = server.request("POST", "/v2/models/identity_FP32/infer", gzip.compress(body), headers)
    assert status == 200
    header = sent["Inference-Header-Content-Length"]
    result = client.parse_response_body(answer, header_length=int(header) if header else None)
    assert result.as_numpy("y").tolist() == [[1, 1]]
