"""The server with ONNX Runtime's CUDA provider as it is in the wheel, on a GPU that pretended_gpu.cpp pretends in the host's memory.

What is pretended: the driver, CUDA's runtime, cuBLAS and NVML. What is not: the provider, its arenas, streams, bindings and graphs,
and all of ours. Kernels do nothing there, so models consist of matrix products.
"""

import concurrent.futures
import importlib.util
import os
import subprocess
import sysconfig
import threading
from pathlib import Path

import graphs
import harness
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.http

WIDTH = 64
CUDA = ["libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvidia-ml.so.1"]
SITE = Path(sysconfig.get_path("purelib"))


def library():
    """libonnxruntime.so of the wheel onnxruntime-gpu."""
    folder = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
    return next(folder.glob("libonnxruntime.so.*"))


@pytest.fixture(scope="session")
def pretended(tmp_path_factory):
    """The folder with the pretended libraries."""
    folder = tmp_path_factory.mktemp("pretended")
    here = Path(__file__).parent
    made = folder / "pretended.so"
    command = ["c++", "-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{SITE}/nvidia/cu13/include"]
    command += [f"-Wl,--version-script={here}/pretended_gpu.map", "-o", made, here / "pretended_gpu.cpp", "-lpthread"]
    subprocess.run([str(word) for word in command], check=True)
    for name in CUDA:
        (folder / name).symlink_to(made)
    return folder


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "models"


def put(repository, name, settings, graph=None, version=1):
    graphs.put(repository, name, graph or graphs.products(WIDTH), version)
    (repository / name / "model.toml").write_text(settings)


ON_GPU = '[instances]\ndevice = "cuda:0"\n'
OR_CPU = ON_GPU + 'fallback = "cpu"\n'


def serve(repository, folder, *flags, **environment):
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "PRETENDED_LOG": "1"} | environment
    flags = ["--ort-library", str(library()), "--cuda-lib-dir", str(folder), *flags]
    return harness.serve(repository, *flags, ready=0, environment=environment)


def state(server, name):
    """Its state and the reason for it, as soon as it is no longer being loaded."""

    def entry():
        index = server.json("POST", "/v2/repository/index", {})
        return next((one for one in index if one["name"] == name and one["state"] in ("READY", "UNAVAILABLE") and "version" in one), None)

    server.wait(entry, f"`{name}` was loaded or refused")
    return entry()["state"], entry()["reason"]


def wait_for(server, *names):
    for name in names:
        assert state(server, name) == ("READY", ""), state(server, name)


def expected(x):
    weights = graphs.products(WIDTH).graph.initializer[0]
    weights = np.frombuffer(weights.raw_data, np.float32).reshape(WIDTH, WIDTH).astype(np.float64)
    return x.astype(np.float64) @ weights @ weights


def ask(client, module, model, x, version=""):
    given = module.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    return client.infer(model, [given], model_version=version).as_numpy("y")


def metrics(server):
    """Values by name and labels."""
    text = server.request("GET", "/metrics", address=server.metrics)[2].decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))


def test_answers_are_those_of_the_cpu_while_models_come_and_go_and_graphs_are_recorded(repository, pretended):
    put(repository, "one", ON_GPU)
    put(repository, "two", ON_GPU + "count = 2\n")
    put(repository, "recorded", RECORDED + "count = 2\n")
    put(repository, "comes_and_goes", ON_GPU, graphs.products(512))
    models = ["one", "two", "recorded"]
    with serve(repository, pretended, "--model-control-mode", "explicit") as server:
        for name in models:
            server.request("POST", f"/v2/repository/models/{name}/load")
        wait_for(server, *models)
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
        over, cycles = threading.Event(), []

        def come_and_go():
            while not over.is_set():
                for deed in ("load", "unload"):
                    status, _, answer = server.request("POST", f"/v2/repository/models/comes_and_goes/{deed}")
                    assert status == 200, answer
                cycles.append(1)

        def one(seed):
            random = np.random.default_rng(seed)
            x = random.standard_normal((int(random.integers(1, 9)), WIDTH)).astype(np.float32)
            return max(np.abs(ask(client, tritonclient.grpc, name, x) - expected(x)).max() for name in models)

        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            going = pool.submit(come_and_go)
            try:
                furthest = max(pool.map(one, range(200)))
            finally:
                over.set()
            going.result()
        assert furthest < 1e-4
        assert cycles

        x = np.ones((3, WIDTH), np.float32)
        over_http = ask(tritonclient.http.InferenceServerClient(server.http), tritonclient.http, "two", x)
        assert np.abs(over_http - expected(x)).max() < 1e-4
        log = "".join(server.log)
        assert "a graph is launched" in log
        assert "while a stream is captured" not in log
        assert "not pretended" not in log
        # The stream is ours, one for each instance.
        assert "a stream of its own" not in log


def test_memory_is_told_by_device_and_given_back(repository, pretended):
    put(repository, "one", ON_GPU)
    put(repository, "large", ON_GPU + "count = 2\n", graphs.products(1024))
    with serve(repository, pretended, "--model-control-mode", "explicit") as server:
        for name in ("one", "large"):
            server.request("POST", f"/v2/repository/models/{name}/load")
        wait_for(server, "one", "large")
        weights = 1024 * 1024 * 4
        statistics = server.json("GET", "/v2/models/large/stats")["model_stats"][0]
        [memory] = statistics["memory_usage"]
        assert (memory["type"], memory["id"]) == ("GPU", 0)
        # Each instance holds the weights.
        assert 2 * weights <= memory["byte_size"] < 3 * weights
        values = metrics(server)
        assert float(values['crossfade_model_memory_bytes{model="large",version="1",device="cuda:0"}']) == memory["byte_size"]
        assert values['crossfade_model_instances{model="large",version="1",device="cuda:0"}'] == "2"

        def used():
            return float(metrics(server).get('nv_gpu_memory_used_bytes{gpu_uuid="GPU-pretended"}', -1))

        server.wait(lambda: used() >= 2 * weights, "NVML told what is used")
        values = metrics(server)
        for name, value in (("utilization", "0.25"), ("power_usage", "70.5"), ("power_limit", "700")):
            assert values[f'nv_gpu_{name}{{gpu_uuid="GPU-pretended"}}'] == value
        assert float(values['nv_energy_consumption{gpu_uuid="GPU-pretended"}']) > 0
        for name in ("one", "large"):
            server.request("POST", f"/v2/repository/models/{name}/unload")
        server.wait(lambda: used() == 0, "all memory of the device was given back")


def test_a_device_without_room_refuses_the_model_and_the_cpu_stands_in_where_it_may(repository, pretended):
    put(repository, "large", ON_GPU, graphs.products(1024))
    put(repository, "or_cpu", OR_CPU, graphs.products(1024))
    put(repository, "small", ON_GPU)
    with serve(repository, pretended, PRETENDED_MEMORY=str(3 << 20)) as server:
        found, reason = state(server, "large")
        assert found == "UNAVAILABLE" and "device `cuda:0` cannot be used" in reason and "Failed to allocate memory" in reason, reason
        assert 'fallback = "cpu"' in reason
        wait_for(server, "or_cpu", "small")
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
        assert ask(client, tritonclient.grpc, "or_cpu", np.ones((1, 1024), np.float32)).shape == (1, 1024)
        assert any("the model runs on the CPU" in line for line in server.log)


def test_what_is_missing_is_named_at_load(repository, pretended, tmp_path):
    put(repository, "filter", ON_GPU, graphs.convolution())
    put(repository, "filter_or_cpu", OR_CPU, graphs.convolution())
    put(repository, "tensorrt", '[model]\nparameters = { "tensorrt.trt_fp16_enable" = "1" }\n' + ON_GPU)
    put(repository, "shrinks", RECORDED.replace("= \"1\"", "= \"1\", \"memory.enable_memory_arena_shrinkage\" = \"gpu:0\""))
    put(repository, "mistake", '[model]\nparameters = { "cuda.no_such_option" = "1" }\n' + ON_GPU)
    put(repository, "product", ON_GPU)
    with serve(repository, pretended) as server:
        for name, part in (("filter", "cuDNN is unavailable"), ("tensorrt", "libnvinfer.so.10"), ("mistake", "no_such_option"), ("shrinks", "shrinkage")):
            found, reason = state(server, name)
            assert found == "UNAVAILABLE" and part in reason, reason
        wait_for(server, "filter_or_cpu", "product")
    less = tmp_path / "less"
    less.mkdir()
    for name in CUDA:
        if "curand" not in name:
            (less / name).symlink_to(pretended / name)
    with serve(repository, less) as server:
        found, reason = state(server, "product")
        assert found == "UNAVAILABLE" and "libcurand.so.10" in reason and "--cuda-lib-dir" in reason, reason
    with serve(repository, tmp_path) as server:
        found, reason = state(server, "product")
        assert found == "UNAVAILABLE" and "NVIDIA's driver cannot be opened" in reason, reason
        assert state(server, "filter_or_cpu")[0] == "READY"


RECORDED = '[model]\nparameters = { "cuda.enable_cuda_graph" = "1" }\n' + ON_GPU


def test_what_cannot_be_recorded_is_computed(repository, pretended):
    put(repository, "recorded", RECORDED)
    with serve(repository, pretended, PRETENDED_UNRECORDABLE="1") as server:
        wait_for(server, "recorded")
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
        for rows in (1, 2, 1, 2):
            x = np.full((rows, WIDTH), rows, np.float32)
            assert np.abs(ask(client, tritonclient.grpc, "recorded", x) - expected(x)).max() < 1e-4
        log = "".join(server.log)
        # Once for each number of rows, not for each request.
        assert log.count("a capture begins") == log.count("cannot be recorded") == 2


def test_a_lost_device_fails_its_models_and_nothing_else(repository, pretended, tmp_path):
    put(repository, "product", ON_GPU)
    put(repository, "recorded", RECORDED)
    put(repository, "on_cpu", '[instances]\ndevice = "cpu"\n')
    lost = tmp_path / "lost"
    x = np.ones((1, WIDTH), np.float32)
    with serve(repository, pretended, PRETENDED_LOST=str(lost)) as server:
        wait_for(server, "product", "recorded", "on_cpu")
        client = tritonclient.grpc.InferenceServerClient(server.grpc)
        for name in ("product", "recorded"):
            assert np.abs(ask(client, tritonclient.grpc, name, x) - expected(x)).max() < 1e-4
        lost.touch()
        for name in ("product", "recorded"):
            with pytest.raises(tritonclient.grpc.InferenceServerException, match="`cuda:0` is lost.*ILLEGAL_ADDRESS") as failed:
                ask(client, tritonclient.grpc, name, x)
            assert failed.value.status() == "StatusCode.INTERNAL"
            server.wait(lambda: server.request("GET", f"/v2/models/{name}/ready")[0] == 503, "its model was not ready")
            with pytest.raises(tritonclient.grpc.InferenceServerException, match="no healthy instance") as failed:
                ask(client, tritonclient.grpc, name, x)
            assert failed.value.status() == "StatusCode.UNAVAILABLE"
        assert np.abs(ask(client, tritonclient.grpc, "on_cpu", x) - expected(x)).max() < 1e-4
        assert server.request("GET", "/v2/health/live")[0] == 200


def test_the_library_of_the_wheel_is_the_one_that_serves():
    assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()
