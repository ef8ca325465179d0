"""FastAPI and onnxruntime: a process per thread, nested lists as JSON, orjson both ways."""

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

import served

app = FastAPI()
model = served.session()
types = served.input_types(model)


# Not in the thread pool: each process has a session of one thread, and the hop costs more than the small models.
@app.post("/predict")
async def predict(request: Request) -> Response:
    body = orjson.loads(await request.body())
    answers = model.run(None, {name: np.asarray(body[name], dtype=datatype) for name, datatype in types.items()})
    content = orjson.dumps({"output": answers[0]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "serve:app",
        host="127.0.0.1",
        port=served.HTTP_PORT,
        workers=served.THREADS,
        access_log=False,
        log_level="warning",
    )
