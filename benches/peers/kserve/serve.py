"""KServe's Python server: a custom model; a process per thread answers HTTP, its gRPC server is one process."""

import sys
from pathlib import Path

import served

# Read by its own parser of arguments when it is imported: no line per request, which is its default.
sys.argv += ["--log_config_file", str(Path(__file__).with_name("logging.json"))]

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402


class Onnx(Model):
    def __init__(self):
        super().__init__(served.MODEL)
        # The first process answers gRPC alone, so that all threads are its session's.
        self.session = served.session(served.THREADS)
        self.ready = True

    # Its HTTP workers are spawned with the model pickled. A session cannot be: each makes its own, of one thread.
    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "session"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.session = served.session()

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        inputs = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        answer = self.session.run(None, inputs)[0]
        described = self.session.get_outputs()[0]
        output = InferOutput(described.name, list(answer.shape), served.V2_TYPES[described.type])
        output.set_data_from_numpy(answer, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id or "", self.name, [output], use_binary_outputs=payload.use_binary_outputs)


if __name__ == "__main__":
    ModelServer(
        http_port=served.HTTP_PORT, grpc_port=served.GRPC_PORT, workers=served.THREADS, enable_latency_logging=False
    ).start([Onnx()])
