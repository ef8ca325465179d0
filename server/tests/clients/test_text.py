"""Text and embeddings with clients that others wrote: openai, tritonclient over both protocols; vectors held against ONNX Runtime."""

import json
import subprocess
import threading

import harness
import minilm
import numpy as np
import onnxruntime
import openai
import pytest
import tritonclient.grpc
import tritonclient.http

TINY = harness.ROOT / "runtimes" / "candle" / "tests" / "models"
SENTENCES = [
    "The cat sits outside",
    "A man is playing guitar",
    "The new movie is awesome",
    "I love pasta",
    "The dog plays in the garden",
    "A woman watches TV",
    "The new movie is so great",
    "Do you like pizza?",
]


@pytest.fixture(scope="module")
def real():
    """MiniLM's folder with its real weights, or a small one of made-up weights where the package cannot be had."""
    return minilm.folder()


@pytest.fixture(scope="module")
def server(tmp_path_factory, real):
    place = tmp_path_factory.mktemp("models")
    if real:
        minilm.repository(place, real)
    else:
        version = place / "minilm" / "1"
        version.mkdir(parents=True)
        for file in (TINY / "bert").iterdir():
            (version / file.name).write_bytes(file.read_bytes())
    with harness.serve(place) as server:
        server.repository = place
        yield server


def reference(folder, ids, mask):
    """What ONNX Runtime gives for the export, pooled and normalised as modules.json says."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    hidden = session.run(None, given)[0].astype(np.float64)
    pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def infer(client, module, model, tensors):
    inputs = []
    for name, values in tensors.items():
        kind = "BYTES" if values.dtype == object else "INT64"
        given = module.InferInput(name, list(values.shape), kind)
        given.set_data_from_numpy(values)
        inputs.append(given)
    return client.infer(model, inputs).as_numpy("embeddings")


def test_vectors_are_those_of_onnx_runtime_at_every_length(server, real):
    if not real:
        pytest.skip("the package with MiniLM's weights cannot be had; runtimes/candle/tests holds small models against the same")
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    random = np.random.default_rng(7)
    furthest = {"minilm": 0.0, "minilm_onnx": 0.0}
    batches = [[length] for length in [1, 2, 3, 7, 16, 31, 64, 127, 128, 200, 256, 300, 511, 512]]
    batches += [[1, 512, 5], [17, 3, 200, 64, 9, 33], list(range(1, 33))]
    for lengths in batches:
        ids = np.zeros((len(lengths), max(lengths)), np.int64)
        mask = np.zeros_like(ids)
        for row, length in enumerate(lengths):
            ids[row, :length] = random.integers(999, 30000, length)
            mask[row, :length] = 1
        expected = reference(real, ids, mask)
        for model in furthest:
            got = infer(client, tritonclient.grpc, model, {"input_ids": ids, "attention_mask": mask})
            furthest[model] = max(furthest[model], np.abs(got - expected).max())
    assert all(difference < 1e-5 for difference in furthest.values()), furthest


def test_openai_and_tritonclient_get_the_same_vectors(server, real):
    client = openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0)
    names = [model.id for model in client.models.list()]
    assert "minilm" in names
    # The client asks for base64 unless told otherwise.
    answer = client.embeddings.create(model="minilm", input=SENTENCES)
    vectors = np.array([row.embedding for row in answer.data])
    floats = client.embeddings.create(model="minilm", input=SENTENCES, encoding_format="float")
    assert np.abs(np.array([row.embedding for row in floats.data]) - vectors).max() < 1e-6
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(SENTENCES)
    texts = np.array([[text.encode()] for text in SENTENCES], dtype=object)
    grpc = infer(tritonclient.grpc.InferenceServerClient(server.grpc), tritonclient.grpc, "minilm", {"text": texts})
    http = infer(tritonclient.http.InferenceServerClient(server.http), tritonclient.http, "minilm", {"text": texts})
    for got in (grpc, http):
        assert np.abs(got - vectors).max() < 1e-6
    if real:
        # As sentence-transformers' documentation finds them: the two about the film, then those about food.
        likeness = vectors @ vectors.T
        np.fill_diagonal(likeness, -1)
        assert divmod(int(likeness.argmax()), len(SENTENCES)) == (2, 6), likeness
        assert likeness[2, 6] > 0.85 and likeness[0, 1] < 0.2
        other = client.embeddings.create(model="minilm_onnx", input=SENTENCES)
        assert np.abs(np.array([row.embedding for row in other.data]) - vectors).max() < 1e-5


def test_openai_sees_its_own_errors(server):
    client = openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError) as refused:
        client.embeddings.create(model="other", input="x")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="empty string"):
        client.embeddings.create(model="minilm", input="")
    with pytest.raises(openai.BadRequestError, match="tokens that the model takes"):
        client.embeddings.create(model="minilm", input="cat " * 2000)


def test_many_clients_at_once_get_their_own_vectors(server):
    client = openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0)
    texts = [" ".join(["cat", "dog", "sea"][k % 3 :] * (1 + k % 20)) for k in range(60)]
    alone = [client.embeddings.create(model="minilm", input=text).data[0].embedding for text in texts]
    failures = []

    def ask(first):
        for k in range(first, len(texts), 6):
            rows = client.embeddings.create(model="minilm", input=[texts[k], texts[-k]]).data
            for got, expected in zip(rows, (alone[k], alone[-k])):
                if np.abs(np.array(got.embedding) - np.array(expected)).max() > 1e-5:
                    failures.append(k)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_texts_that_were_cut_and_lists_that_were_divided_are_asked_again_as_they_were(server, tmp_path):
    data, config = tmp_path / "data", tmp_path / "crossfade.toml"
    config.write_text('[text]\nembed_model = "minilm"\n[log.payload]\nblobs = true\n')
    long = " ".join(f"cat {'dog' if k % 2 else 'sea'}" for k in range(400))
    asked = {}
    with harness.serve(server.repository, "--config", str(config), data=data) as own:

        def ask(about, inputs, expect=200, **more):
            status, headers, answer = own.request("POST", "/embed", json.dumps({"inputs": inputs} | more))
            assert status == expect, answer
            asked[headers["x-request-id"]] = about

        ask("refused", long, expect=422, truncate=False)
        ask("whole", ["cat", "dog"], truncate=True)
        ask("right", ["cat", long], truncate=True)
        ask("left", [long], truncate=True, truncation_direction="Left")
        ask("divided", [" ".join(["sea"] * (1 + k % 20)) for k in range(400)])
    words = [harness.BINARY, "log", "tail", "-n", "1000", "--data-dir", str(data)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    records = {record["request_id"]: record for record in map(json.loads, lines)}
    for request_id, about in asked.items():
        side = about if about in ("right", "left") else None
        assert records[request_id].get("truncated") == side, (about, records[request_id])
    words = [harness.BINARY, "replay", *asked, "--data-dir", str(data), "--model-repository", str(server.repository)]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    assert said.splitlines()[-1] == f"{len(asked) - 1} the same, 0 others, 1 that cannot be replayed", said
    refused, *_, divided, _ = said.splitlines()
    assert "more than the" in refused, refused
    assert " parts" in divided, divided


def test_what_was_asked_is_in_the_log_as_text(server):
    body = json.dumps({"model": "minilm", "input": "a cat in the log"})
    status, headers, _ = server.request("POST", "/v1/embeddings", body)
    assert status == 200
    asked = headers["x-request-id"]

    def logged():
        words = [harness.BINARY, "log", "tail", "-n", "1000", "--data-dir", server.data.name]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        return [record for record in map(json.loads, lines) if record["request_id"] == asked]

    server.wait(lambda: logged(), "the record")
    record = logged()[0]
    assert record["protocol"] == "openai" and record["model"] == "minilm"
    # Bytes, which JSON lines write in hexadecimal digits.
    assert bytes.fromhex(record["in.text"]) == b"a cat in the log"
