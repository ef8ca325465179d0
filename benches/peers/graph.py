"""An ONNX graph under construction: nodes appended one by one, weights from one seeded source."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

# Both are read by ONNX Runtime 1.24 and later.
OPSET = 20
IR_VERSION = 9

TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}


class Graph:
    """Collects nodes and initialisers; every method returns the name of the tensor it makes."""

    def __init__(self, name, seed):
        self.name = name
        self.random = np.random.Generator(np.random.PCG64(seed))
        self.nodes, self.weights, self.inputs, self.outputs = [], [], [], []
        self.parameters = 0

    def input(self, name, datatype, shape):
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[datatype], ["batch", *shape]))
        return name

    def output(self, tensor, name, datatype, shape):
        """Names `tensor` as an output of the graph."""
        self.op("Identity", tensor, result=name)
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[datatype], ["batch", *shape]))

    def constant(self, values, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def random_weight(self, shape, deviation):
        self.parameters += int(np.prod(shape))
        return self.constant(self.random.standard_normal(shape) * deviation)

    def op(self, kind, *inputs, result=None, **attributes):
        result = result or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def linear(self, tensor, rows, columns, deviation=None):
        """`tensor` times a matrix, plus a bias; the deviation keeps the variance of a rectified input by default."""
        weight = self.random_weight((rows, columns), deviation or np.sqrt(2.0 / rows))
        product = self.op("MatMul", tensor, weight)
        return self.op("Add", product, self.random_weight((columns,), 0.01))

    def convolution(self, tensor, inputs, outputs, size, stride=1, groups=1, clip=True):
        """A convolution with its normalisation folded in; clipped to 0..6 where the architecture does so."""
        fan_in = inputs // groups * size * size
        gain = 2.0 if clip else 1.0
        weight = self.random_weight((outputs, inputs // groups, size, size), np.sqrt(gain / fan_in))
        bias = self.random_weight((outputs,), 0.01)
        pad = size // 2
        tensor = self.op(
            "Conv",
            tensor,
            weight,
            bias,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )
        return self.op("Clip", tensor, self.constant(0.0), self.constant(6.0)) if clip else tensor

    def layer_norm(self, tensor, width):
        scale, bias = self.constant(np.ones(width)), self.constant(np.zeros(width))
        self.parameters += 2 * width
        return self.op("LayerNormalization", tensor, scale, bias, axis=-1, epsilon=1e-12)

    def serialised(self):
        """The checked model as bytes, the same each time."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="crossfade-peers",
        )
        checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)
