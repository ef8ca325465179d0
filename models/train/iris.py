"""Trains `iris`: gradient-boosted trees that answer with the species' name as a string."""

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

import zoo

SEED = 20


def main():
    data = load_iris()
    names = data.target_names[data.target].astype(object)
    x, test_x, y, test_y = train_test_split(
        data.data.astype(np.float32), names, test_size=0.33, random_state=SEED, stratify=names
    )
    trees = GradientBoostingClassifier(n_estimators=30, max_depth=2, random_state=SEED).fit(x, y)
    model = to_onnx(
        trees,
        name="iris",
        initial_types=[("measurements", FloatTensorType([None, 4]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    rename(model, {"label": "species"}, "batch")
    zoo.save("iris", 1, model)
    predicted = zoo.session("iris", 1).run(["species"], {"measurements": test_x})[0]
    print(f"iris: {np.mean(predicted == test_y):.4f} of {len(test_y)} test flowers right")
    zoo.golden("iris", 1, "one-flower", {"measurements": test_x[:1]})
    zoo.golden("iris", 1, "three-species", {"measurements": data.data[[0, 50, 100]].astype(np.float32)})
    (zoo.ZOO / "iris" / "species.txt").write_text("\n".join(trees.classes_) + "\n")
    zoo.write_sums()


def rename(model, outputs, batch):
    """Gives outputs their public names, and every tensor's first dimension one name."""
    for node in model.graph.node:
        node.output[:] = [outputs.get(name, name) for name in node.output]
        node.input[:] = [outputs.get(name, name) for name in node.input]
    for value in [*model.graph.input, *model.graph.output]:
        value.name = outputs.get(value.name, value.name)
        value.type.tensor_type.shape.dim[0].dim_param = batch


if __name__ == "__main__":
    main()
