"""LitServe: a worker process per thread and as many API servers, its default JSON, its own batching, the fast queue."""

import litserve
import numpy as np

import served


class Model(litserve.LitAPI):
    def setup(self, device):
        self.session = served.session()
        self.types = served.input_types(self.session)

    def decode_request(self, request):
        return {name: np.asarray(request[name], dtype=datatype) for name, datatype in self.types.items()}

    def batch(self, inputs):
        return {name: np.concatenate([row[name] for row in inputs]) for name in self.types}

    def predict(self, x):
        return self.session.run(None, x)[0]

    def encode_response(self, output):
        return {"output": np.atleast_2d(output).tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Model(max_batch_size=served.MAX_BATCH, batch_timeout=0.001 if served.MAX_BATCH > 1 else 0.0),
        accelerator="cpu",
        workers_per_device=served.THREADS,
        fast_queue=True,
        disable_openapi_url=True,
    )
    server.run(host="127.0.0.1", port=served.HTTP_PORT, generate_client_file=False, log_level="warning")
