"""mosec: a worker per thread, raw bytes in and out, its own dynamic batching."""

import numpy as np
from mosec import Server, Worker

import served


class Model(Worker):
    """Inputs lie one after the other in the body, a row each; the answer is the bytes of the output."""

    def __init__(self):
        super().__init__()
        self.session = served.session()
        self.inputs = [
            (tensor.name, np.dtype(served.NUMPY_TYPES[tensor.type]), [1, *tensor.shape[1:]])
            for tensor in self.session.get_inputs()
        ]

    def deserialize(self, data):
        arrays, offset = {}, 0
        for name, datatype, shape in self.inputs:
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(data, datatype, count, offset).reshape(shape)
            offset += count * datatype.itemsize
        return arrays

    def serialize(self, data):
        return data.tobytes()

    def forward(self, data):
        if self.max_batch_size == 1:
            return self.session.run(None, data)[0]
        joined = {name: np.concatenate([row[name] for row in data]) for name, _, _ in self.inputs}
        return list(self.session.run(None, joined)[0])


if __name__ == "__main__":
    server = Server()
    # A wait of 1 ms is the shortest it takes; it counts only where batches are formed.
    server.append_worker(Model, num=served.THREADS, max_batch_size=served.MAX_BATCH, max_wait_time=1)
    server.run()
