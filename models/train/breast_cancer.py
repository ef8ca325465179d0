"""Trains `breast_cancer`: a small dense network that needs no configuration file at all."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import zoo

SEED = 20


def graph(scaler, network):
    """Standardise, two hidden layers, the probability that the tumour is malignant."""
    tensors = {"mean": scaler.mean_, "scale": scaler.scale_}
    nodes = [
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["x0"]),
    ]
    last = len(network.coefs_) - 1
    for i, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_)):
        tensors |= {f"weight{i}": weight, f"bias{i}": bias}
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"weight{i}", f"bias{i}"], [f"sum{i}"]))
        if i == last:
            nodes.append(helper.make_node("Sigmoid", [f"sum{i}"], ["malignant"]))
        else:
            nodes.append(helper.make_node("Relu", [f"sum{i}"], [f"x{i + 1}"]))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "breast_cancer",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 30])],
            [helper.make_tensor_value_info("malignant", TensorProto.FLOAT, ["batch", 1])],
            [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="crossfade zoo",
    )


def main():
    data = load_breast_cancer()
    malignant = (data.target == 0).astype(int)
    x, test_x, y, test_y = train_test_split(data.data, malignant, test_size=0.25, random_state=SEED, stratify=malignant)
    scaler = StandardScaler().fit(x)
    network = MLPClassifier((16, 8), alpha=1.0, solver="lbfgs", max_iter=2000, random_state=SEED)
    network.fit(scaler.transform(x), y)
    zoo.save("breast_cancer", 1, graph(scaler, network))
    test_x = test_x.astype(np.float32)
    answer = zoo.session("breast_cancer", 1).run(None, {"features": test_x})[0][:, 0] > 0.5
    print(f"breast_cancer: {np.mean(answer == test_y):.4f} of {len(test_y)} test tumours right")
    zoo.golden("breast_cancer", 1, "one-tumour", {"features": test_x[:1]})
    zoo.golden("breast_cancer", 1, "four-tumours", {"features": test_x[1:5]})
    zoo.write_sums()


if __name__ == "__main__":
    main()
