"""FastAPI behind /v1/embeddings, in one of three usual ways: TEXT_FOLDER=… TEXT_WAY=… uvicorn serve:app.

alone                  tokenizers and onnxruntime, a process per core; each request runs by itself, in a session of one thread
encode                 the same in one process; a request's texts are sorted by length and run in padded batches of 32, in a
                       session of all cores, as SentenceTransformer.encode does it
sentence-transformers  SentenceTransformer.encode itself, on PyTorch, one process, PyTorch's own threads
"""

import asyncio
import os
from pathlib import Path

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response

FOLDER, WAY = Path(os.environ["TEXT_FOLDER"]), os.environ["TEXT_WAY"]
CORES = os.cpu_count() or 1
BATCH = 32

app = FastAPI()
if WAY == "sentence-transformers":
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(FOLDER), device="cpu", local_files_only=True)
else:
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if WAY == "alone" else CORES
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()


def run(texts):
    rows = tokenizer.encode_batch(texts)
    ids = np.array([row.ids for row in rows], np.int64)
    mask = np.array([row.attention_mask for row in rows], np.int64)
    hidden = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]
    pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def encode(texts):
    if WAY == "sentence-transformers":
        return model.encode(texts, batch_size=BATCH, show_progress_bar=False)
    order = sorted(range(len(texts)), key=lambda k: -len(texts[k]))
    vectors = [None] * len(texts)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        for place, vector in zip(part, run([texts[k] for k in part])):
            vectors[place] = vector
    return np.array(vectors)


@app.post("/v1/embeddings")
async def embeddings(request: Request) -> Response:
    asked = orjson.loads(await request.body())["input"]
    texts = [asked] if isinstance(asked, str) else asked
    vectors = run(texts) if WAY == "alone" else await asyncio.to_thread(encode, texts)
    data = [{"object": "embedding", "index": k, "embedding": vector} for k, vector in enumerate(vectors)]
    content = orjson.dumps({"object": "list", "data": data}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")
