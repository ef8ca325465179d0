"""Trains `diabetes`: a regression on five named inputs, each in the unit that a doctor would write down."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zoo

SEED = 20
# input: the columns of the data set that it takes
INPUTS = {"age": [0], "sex": [1], "bmi": [2], "blood_pressure": [3], "serum": [4, 5, 6, 7, 8, 9]}


def split(rows):
    """The model's inputs, from rows of the data set."""
    return {name: rows[:, columns].astype(np.float32) for name, columns in INPUTS.items()}


def graph(mean, scale, weight, bias):
    """Concatenate, standardise, one dense layer."""
    tensors = {"mean": mean, "scale": scale, "weight": weight[:, None], "bias": [bias]}
    nodes = [
        helper.make_node("Concat", list(INPUTS), ["row"], axis=1),
        helper.make_node("Sub", ["row", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["standard"]),
        helper.make_node("Gemm", ["standard", "weight", "bias"], ["progression"]),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "diabetes",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", len(c)]) for n, c in INPUTS.items()],
            [helper.make_tensor_value_info("progression", TensorProto.FLOAT, ["batch", 1])],
            [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="crossfade zoo",
    )


def main():
    data = load_diabetes(scaled=False)
    x, test_x, y, test_y = train_test_split(data.data, data.target, test_size=0.25, random_state=SEED)
    scaler, ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11))).fit(x, y).named_steps.values()
    zoo.save("diabetes", 1, graph(scaler.mean_, scaler.scale_, ridge.coef_, ridge.intercept_))
    answer = zoo.session("diabetes", 1).run(None, split(test_x))[0][:, 0]
    r2 = 1 - np.sum((test_y - answer) ** 2) / np.sum((test_y - test_y.mean()) ** 2)
    print(f"diabetes: R2 {r2:.3f}, mean absolute error {np.mean(abs(test_y - answer)):.1f} on {len(test_y)} test patients")
    zoo.golden("diabetes", 1, "one-patient", split(test_x[:1]))
    zoo.golden("diabetes", 1, "five-patients", split(test_x[1:6]))
    zoo.write_sums()


if __name__ == "__main__":
    main()
