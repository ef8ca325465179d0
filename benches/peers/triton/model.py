"""The model as Triton's Python backend runs it: one stub process, with one session, per instance."""

import triton_python_backend_utils as triton

import served


class TritonPythonModel:
    def initialize(self, args):
        self.session = served.session()
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.output = self.session.get_outputs()[0].name

    def execute(self, requests):
        """Answers each request by itself; Triton's scheduler hands over those that wait together."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        inputs = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        output = self.session.run(None, inputs)[0]
        return triton.InferenceResponse([triton.Tensor(self.output, output)])
