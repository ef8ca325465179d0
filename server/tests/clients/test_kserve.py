"""KServe's own inference clients, REST and gRPC, against the zoo."""

import asyncio

import grpc
import harness
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

NUMPY = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}


@pytest.fixture(scope="module")
def server():
    with harness.serve(harness.ZOO) as running:
        yield running


def ask(server, protocol, request):
    """One inference. A client lives no longer than its event loop."""

    async def once():
        if protocol == "grpc":
            async with InferenceGRPCClient(server.grpc) as client:
                return await client.infer(request)
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return await client.infer(f"http://{server.http}", request, model_name=request.model_name)

    return asyncio.run(once())


def infer_request(name, body, how):
    """A golden request as KServe's own object: data as a list, or set from numpy, binary or not."""
    inputs = []
    for tensor in body["inputs"]:
        made = InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        if how == "list":
            made = InferInput(tensor["name"], tensor["shape"], tensor["datatype"], data=tensor["data"])
        else:
            array = np.array(tensor["data"], NUMPY[tensor["datatype"]]).reshape(tensor["shape"])
            made.set_data_from_numpy(array, binary_data=how == "binary")
        inputs.append(made)
    return InferRequest(model_name=name, infer_inputs=inputs, request_id=body["id"])


def outputs_of(response):
    """The outputs of KServe's response object as V2 JSON."""
    got = []
    for output in response.outputs:
        array = output.as_numpy()
        data = [x.decode() if isinstance(x, bytes) else x for x in array.ravel().tolist()]
        got.append({"name": output.name, "shape": list(output.shape), "datatype": output.datatype, "data": data})
    return got


# Both of digits' versions are loaded and these clients cannot name one, so they get the newest.
PAIRS = [p for p in harness.golden_pairs() if (p[0], p[1]) != ("digits", "1")]


@pytest.mark.parametrize("how", ["list", "json", "binary"])
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize("name, version, case, body, expected", PAIRS, ids=[f"{p[0]}-{p[2]}" for p in PAIRS])
def test_golden_pairs_of_the_zoo(server, protocol, how, name, version, case, body, expected):
    if protocol == "grpc" and how != "binary" and name == "language":
        # Typed gRPC contents hold bytes, not text.
        body = {**body, "inputs": [{**t, "data": [x.encode() for x in t["data"]]} for t in body["inputs"]]}
    response = ask(server, protocol, infer_request(name, body, how))
    assert response.model_name == name and response.id == case
    harness.assert_same_outputs(outputs_of(response), expected["outputs"])


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_binary_outputs_can_be_asked_for(server, protocol):
    _, _, _, body, expected = next(p for p in PAIRS if p[2] == "four-images-v2")
    request = infer_request("digits", body, "binary")
    request.request_outputs = [RequestedOutput("label", {"binary_data": True})]
    harness.assert_same_outputs(outputs_of(ask(server, protocol, request)), expected["outputs"][1:])


def test_health(server):
    async def rest():
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            url = f"http://{server.http}"
            return (
                await client.is_server_live(url),
                await client.is_server_ready(url),
                await client.is_model_ready(url, "digits"),
                await client.is_model_ready(url, "nobody"),
            )

    async def rpc():
        async with InferenceGRPCClient(server.grpc) as client:
            return (
                await client.is_server_live(),
                await client.is_server_ready(),
                await client.is_model_ready("digits"),
                await client.is_model_ready("nobody"),
            )

    assert asyncio.run(rest()) == (True, True, True, False)
    assert asyncio.run(rpc()) == (True, True, True, False)


def test_refusals_have_the_right_codes(server):
    body = next(p for p in PAIRS if p[2] == "one-flower")[3]
    with pytest.raises(httpx.HTTPStatusError, match="nobody") as caught:
        ask(server, "rest", infer_request("nobody", body, "list"))
    assert caught.value.response.status_code == 404
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, "grpc", infer_request("nobody", body, "binary"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    wrong = {**body, "inputs": [{**body["inputs"][0], "name": "wrong"}]}
    with pytest.raises(httpx.HTTPStatusError, match="wrong") as caught:
        ask(server, "rest", infer_request("iris", wrong, "list"))
    assert caught.value.response.status_code == 400
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, "grpc", infer_request("iris", wrong, "binary"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "wrong" in caught.value.details()
