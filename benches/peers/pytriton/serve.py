"""PyTriton: the Triton it brings, in front of one Python callable per thread; Triton's dynamic batching."""

import os
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

import served


def instance():
    """A callable with a session of its own."""
    session = served.session()

    @batch
    def infer(**inputs):
        return session.run(None, inputs)

    return infer


def tensors(of):
    return [Tensor(name=t.name, dtype=np.dtype(served.NUMPY_TYPES[t.type]).type, shape=tuple(t.shape[1:])) for t in of]


if __name__ == "__main__":
    # Triton's Python stub must load the library of this very interpreter, not of another with the same name.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    described = served.session()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=served.HTTP_PORT,
        grpc_address="127.0.0.1",
        grpc_port=served.GRPC_PORT,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=served.MODEL,
            infer_func=[instance() for _ in range(served.THREADS)],
            inputs=tensors(described.get_inputs()),
            outputs=tensors(described.get_outputs()),
            config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher()),
        )
        triton.serve()
