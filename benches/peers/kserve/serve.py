"""KServe's Python server: a custom model; a process per thread answers HTTP, its gRPC server is one process."""

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

import served


class Onnx(Model):
    def __init__(self):
        super().__init__(served.MODEL)
        self.ready = self.load()

    def load(self):
        self.session = served.session()
        return True

    # Its HTTP workers are spawned with the model pickled; a session cannot be, so that each makes its own.
    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "session"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.load()

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        inputs = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        answer = self.session.run(None, inputs)[0]
        described = self.session.get_outputs()[0]
        output = InferOutput(described.name, list(answer.shape), served.V2_TYPES[described.type])
        output.set_data_from_numpy(answer, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id or "", self.name, [output], use_binary_outputs=payload.use_binary_outputs)


if __name__ == "__main__":
    ModelServer(http_port=served.HTTP_PORT, grpc_port=served.GRPC_PORT, workers=served.THREADS,
                enable_latency_logging=False).start([Onnx()])
