"""Trains `digits`: two convolutional networks on scikit-learn's handwritten digits, the second larger and better."""

import jax
import jax.numpy as jnp
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import zoo

SEED = 20
LABELS = "zero one two three four five six seven eight nine".split()
# version: (channels of each convolution, passes over the data)
VERSIONS = {1: ((4,), 8), 2: ((12, 24), 40)}


def init(key, channels):
    """Random weights: a 3x3 convolution and a 2x2 pool per entry of `channels`, then one dense layer."""
    layers, before, side = [], 1, 8
    for after in channels:
        key, sub = jax.random.split(key)
        scale = np.sqrt(2 / (9 * before))
        layers.append((scale * jax.random.normal(sub, (after, before, 3, 3)), jnp.zeros(after)))
        before, side = after, side // 2
    key, sub = jax.random.split(key)
    width = before * side * side
    return layers, (jax.random.normal(sub, (width, 10)) / np.sqrt(width), jnp.zeros(10))


def logits(weights, image):
    """The network as it is trained; `graph` writes the same one in ONNX."""
    layers, (w, b) = weights
    x = image / 16.0
    for kernel, bias in layers:
        x = jax.lax.conv(x, kernel, (1, 1), "SAME") + bias[None, :, None, None]
        x = jax.nn.relu(x)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(x.shape[0], -1) @ w + b


def train(channels, epochs, images, labels):
    """Adam on the cross-entropy, batches of 64 rows."""

    def loss(weights, x, y):
        return -jnp.mean(jax.nn.log_softmax(logits(weights, x))[jnp.arange(len(y)), y])

    @jax.jit
    def step(weights, mean, square, t, x, y):
        grad = jax.grad(loss)(weights, x, y)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grad)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, grad)
        rate = 0.003 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weights = jax.tree.map(lambda w, m, s: w - rate * m / (jnp.sqrt(s) + 1e-8), weights, mean, square)
        return weights, mean, square

    weights = init(jax.random.PRNGKey(SEED), channels)
    mean = square = jax.tree.map(jnp.zeros_like, weights)
    shuffle, t = np.random.default_rng(SEED), 0
    for _ in range(epochs):
        order = shuffle.permutation(len(images))
        for start in range(0, len(order) - 63, 64):
            rows, t = order[start : start + 64], t + 1
            weights, mean, square = step(weights, mean, square, t, images[rows], labels[rows])
    return jax.tree.map(lambda w: np.asarray(w, np.float32), weights)


def graph(weights, version):
    """The trained network as an ONNX model, from pixel values (0 to 16) to probabilities and label."""
    layers, (w, b) = weights
    tensors = {"scale": np.float32(1 / 16), "dense.weight": w, "dense.bias": b}
    nodes, x = [helper.make_node("Mul", ["image", "scale"], ["scaled"])], "scaled"
    for i, (kernel, bias) in enumerate(layers):
        tensors |= {f"conv{i}.weight": kernel, f"conv{i}.bias": bias}
        nodes += [
            helper.make_node("Conv", [x, f"conv{i}.weight", f"conv{i}.bias"], [f"conv{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]),
            helper.make_node("MaxPool", [f"relu{i}"], [f"pool{i}"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        x = f"pool{i}"
    nodes += [
        helper.make_node("Flatten", [x], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "dense.weight", "dense.bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            f"digits-{version}",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
                helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            ],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="crossfade zoo",
    )


def main():
    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    x, test_x, y, test_y = train_test_split(images, data.target, test_size=0.25, random_state=SEED, stratify=data.target)
    for version, (channels, epochs) in VERSIONS.items():
        weights = train(channels, epochs, x, y)
        zoo.save("digits", version, graph(weights, version))
        predicted = zoo.session("digits", version).run(["label"], {"image": test_x})[0]
        print(f"digits {version}: {np.mean(predicted == test_y):.4f} of {len(test_y)} test images right")
    first = zoo.session("digits", 1).run(["label"], {"image": test_x})[0]
    second = zoo.session("digits", 2).run(["label"], {"image": test_x})[0]
    differ = np.flatnonzero((first != test_y) & (second == test_y))[:1]
    for version in VERSIONS:
        zoo.golden("digits", version, f"one-image-v{version}", {"image": test_x[:1]})
        zoo.golden("digits", version, f"four-images-v{version}", {"image": test_x[1:5]})
        zoo.golden("digits", version, f"versions-differ-v{version}", {"image": test_x[differ]})
    zoo.golden("digits", 2, "demo", {"image": test_x[5:6]})
    (zoo.ZOO / "digits" / "labels.txt").write_text("\n".join(LABELS) + "\n")
    zoo.write_sums()


if __name__ == "__main__":
    main()
