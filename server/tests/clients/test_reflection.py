"""A gRPC client that has no .proto file: everything it knows comes from the server's reflection service."""

import struct
import threading

import grpc
import harness
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "inference.GRPCInferenceService"
RPCS = """
ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer ModelStreamInfer ModelConfig ModelStatistics
RepositoryIndex RepositoryModelLoad RepositoryModelUnload TraceSetting LogSettings
SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister
CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister
""".split()


@pytest.fixture(scope="module")
def server():
    with harness.zoo_copy() as repository, harness.serve(repository, "--model-control-mode", "explicit", "--load-model", "*") as running:
        yield running


class Stub:
    """Calls of one service, made from descriptors alone."""

    def __init__(self, channel, service):
        self.channel = channel
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self.service = self.pool.FindServiceByName(service)

    def __call__(self, method, **fields):
        """Prepares a call: `(callable, request)`."""
        found = self.service.methods_by_name[method]
        request, answer = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}
        kind = kinds[found.client_streaming, found.server_streaming]
        call = getattr(self.channel, kind)(
            f"/{self.service.full_name}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call, request(**fields)

    def ask(self, method, **fields):
        """One unary call."""
        call, request = self(method, **fields)
        return call(request, timeout=30)


@pytest.fixture()
def channel(server):
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture()
def stub(channel):
    return Stub(channel, SERVICE)


def test_services_are_listed(channel):
    names = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert names & {"grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}


def test_reflection_v1_answers_as_v1alpha_does(channel):
    # The messages of v1 and v1alpha are the same; only the service's name differs.
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=30)
    assert SERVICE in {s.name for s in answer.list_services_response.service}
    alpha = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
    # Said in an answer or as the call's own status: clients take both.
    try:
        (answer,) = alpha(iter([request]), timeout=30)
        code = answer.error_response.error_code
    except grpc.RpcError as error:
        code = error.code().value[0]
    assert code == grpc.StatusCode.NOT_FOUND.value[0]


def test_every_rpc_is_described(stub):
    assert set(RPCS) <= set(stub.service.methods_by_name)


def test_server_and_model_metadata(stub):
    assert stub.ask("ServerMetadata").name == "crossfade"
    about = stub.ask("ModelMetadata", name="digits")
    assert list(about.versions) == ["1", "2"] and list(about.inputs[0].shape) == [-1, 1, 8, 8]
    config = stub.ask("ModelConfig", name="digits").config
    assert config.name == "digits" and config.HasField("dynamic_batching")
    assert stub.ask("ServerLive").live and stub.ask("ServerReady").ready and stub.ask("ModelReady", name="digits").ready


def infer_fields(case):
    name, version, case, request, response = next(p for p in harness.golden_pairs() if p[2] == case)
    contents = {"FP32": "fp32_contents", "BYTES": "bytes_contents"}
    inputs = [
        {
            "name": t["name"],
            "datatype": t["datatype"],
            "shape": t["shape"],
            "contents": {contents[t["datatype"]]: [x.encode() if isinstance(x, str) else x for x in t["data"]]},
        }
        for t in request["inputs"]
    ]
    return {"model_name": name, "model_version": version, "id": case, "inputs": inputs}, response["outputs"]


def raw_floats(data):
    return struct.unpack(f"<{len(data) // 4}f", data)


def test_typed_contents_are_answered_raw(stub):
    fields, expected = infer_fields("four-images-v1")
    answer = stub.ask("ModelInfer", **fields)
    assert answer.model_version == "1" and answer.id == "four-images-v1"
    assert [o.name for o in answer.outputs] == ["probabilities", "label"]
    assert not any(o.HasField("contents") for o in answer.outputs)
    assert raw_floats(answer.raw_output_contents[0]) == pytest.approx(expected[0]["data"], abs=1e-5)
    assert list(struct.unpack("<4q", answer.raw_output_contents[1])) == expected[1]["data"]
    fields, expected = infer_fields("odd-texts")
    words = stub.ask("ModelInfer", **fields).raw_output_contents[0]
    assert words == b"".join(struct.pack("<I", len(w)) + w.encode() for w in expected[0]["data"])


def test_every_answer_carries_a_request_id(stub):
    call, request = stub("ModelInfer", **infer_fields("one-flower")[0])
    first, second = (dict(call.with_call(request, timeout=30)[1].initial_metadata()).get("x-request-id") for _ in range(2))
    assert first and second and first != second


def test_a_stream(stub):
    call, _ = stub("ModelStreamInfer")
    _, request = stub("ModelInfer", **infer_fields("one-flower")[0])
    _, wrong = stub("ModelInfer", **infer_fields("one-flower")[0])
    wrong.inputs[0].name = "wrong"
    answers = list(call(iter([request, wrong, request]), timeout=30))
    assert [bool(a.error_message) for a in answers] == [False, True, False]
    assert answers[1].infer_response.id == "one-flower"


def test_repository_and_statistics(stub):
    index = stub.ask("RepositoryIndex")
    assert ("digits", "2", "READY") in {(m.name, m.version, m.state) for m in index.models}
    stub.ask("RepositoryModelLoad", model_name="digits")
    stats = stub.ask("ModelStatistics", name="digits", version="1").model_stats[0]
    assert stats.inference_count >= 4 and stats.inference_stats.success.ns > 0


def refused(stub, code, method, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ask(method, **fields)
    assert caught.value.code() == code, caught.value
    return caught.value.details()


def test_refusals(stub):
    codes = grpc.StatusCode
    assert "nobody" in refused(stub, codes.NOT_FOUND, "ModelMetadata", name="nobody")
    refused(stub, codes.UNIMPLEMENTED, "SystemSharedMemoryRegister", name="region", key="/region", byte_size=64)
    refused(stub, codes.INVALID_ARGUMENT, "ModelInfer", model_name="digits", model_version="0")
    fields, _ = infer_fields("one-flower")
    refused(stub, codes.INVALID_ARGUMENT, "ModelInfer", **fields, raw_input_contents=[b"\0" * 16])
    raw = [{k: v for k, v in t.items() if k != "contents"} for t in fields["inputs"]]
    fields = {**fields, "inputs": raw}
    refused(stub, codes.INVALID_ARGUMENT, "ModelInfer", **fields)
    refused(stub, codes.INVALID_ARGUMENT, "ModelInfer", **fields, raw_input_contents=[b"\0" * 15])
    refused(stub, codes.INVALID_ARGUMENT, "ModelInfer", **fields, raw_input_contents=[b"\0" * 16] * 2)
    assert stub.ask("ModelInfer", **fields, raw_input_contents=[b"\0" * 16]).model_version == "1"


def test_health_service(channel, server):
    health = Stub(channel, "grpc.health.v1.Health")
    serving = 1
    assert health.ask("Check").status == serving
    assert health.ask("Check", service=SERVICE).status == serving
    assert refused(health, grpc.StatusCode.NOT_FOUND, "Check", service="nobody") is not None
    call, request = health("Watch", service="nobody")
    watched = call(request, timeout=30)
    assert next(watched).status == 3  # SERVICE_UNKNOWN
    watched.cancel()


def test_watch_sees_the_server_drain():
    with harness.zoo_copy("iris") as repository:
        server = harness.Server(repository)
        server.wait_ready()
        seen = []
        with grpc.insecure_channel(server.grpc) as channel:
            health = Stub(channel, "grpc.health.v1.Health")
            call, request = health("Watch")
            watched = call(request, timeout=60)
            seen.append(next(watched).status)

            def watch():
                try:
                    seen.extend(answer.status for answer in watched)
                except grpc.RpcError:
                    pass  # the server's end closes the watch

            watcher = threading.Thread(target=watch)
            watcher.start()
            server.stop()
            watcher.join(30)
        assert seen[0] == 1 and seen[1:2] == [2], seen
