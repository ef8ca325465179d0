"""MLServer's side of a model: a custom runtime around one session."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

import served


class Onnx(MLModel):
    async def load(self) -> bool:
        # One process, so that the threads are the session's.
        self.session = served.session(served.THREADS)
        self.output = self.session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        answer = self.session.run(None, inputs)[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self.output, answer)])
