"""Makes models/faulty out of the zoo's first `digits`: four versions that nobody should put into production.

slow: takes about a hundred times as long. failing: one image in twenty makes the run fail. shifted: prefers the digit
three. nan: one image in a hundred gets probabilities that are not numbers. All four load, warm up and look well.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import zoo

FAULTY = zoo.ZOO.parent / "faulty"
SEED = 4


class Graph:
    """The graph of `digits` 1, to be changed."""

    def __init__(self):
        self.model = onnx.load(zoo.ZOO / "digits/1/model.onnx")
        self.graph = self.model.graph

    def constant(self, name, value):
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def before(self, tensor, nodes):
        """Puts nodes in front of the ones that read `tensor`; the last node's output takes the tensor's place."""
        last = nodes[-1].output[0]
        readers = [node for node in self.graph.node if tensor in node.input]
        for node in readers:
            node.input[:] = [last if name == tensor else name for name in node.input]
        kept = list(self.graph.node)
        place = min(kept.index(node) for node in readers)
        del self.graph.node[:]
        self.graph.node.extend(kept[:place] + nodes + kept[place:])

    def chosen(self, share):
        """A condition [batch, 1] that holds for this share of all images: the fraction of a sum of their pixels."""
        self.constant("pick.scale", np.float32(0.731))
        self.constant("pick.share", np.float32(share))
        self.constant("pick.axes", np.array([1, 2, 3], np.int64))
        self.constant("pick.one", np.float32(1))
        return [
            helper.make_node("ReduceSum", ["image", "pick.axes"], ["pick.sum"], keepdims=0),
            helper.make_node("Mul", ["pick.sum", "pick.scale"], ["pick.scaled"]),
            helper.make_node("Mod", ["pick.scaled", "pick.one"], ["pick.fraction"], fmod=1),
            helper.make_node("Abs", ["pick.fraction"], ["pick.positive"]),
            helper.make_node("Less", ["pick.positive", "pick.share"], ["pick"]),
        ]

    def save(self, name):
        onnx.checker.check_model(self.model)
        self.model.graph.name = f"digits-{name}"
        path = FAULTY / name / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.model.SerializeToString(deterministic=True))
        print(f"{name}: {path.stat().st_size} bytes")


def slow():
    """Multiplies a large matrix with itself again and again, and adds nothing of it to the logits."""
    made = Graph()
    side = 96
    matrix = np.random.default_rng(SEED).normal(size=(side, side)).astype(np.float32) / side**0.5
    made.constant("work.matrix", matrix)
    made.constant("work.nothing", np.float32(0))
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["work.mean"], keepdims=0),
        helper.make_node("Add", ["work.matrix", "work.mean"], ["work.0"]),
    ]
    rounds = 60
    for turn in range(rounds):
        nodes += [
            helper.make_node("MatMul", [f"work.{turn}", "work.matrix"], [f"work.{turn}.product"]),
            helper.make_node("Tanh", [f"work.{turn}.product"], [f"work.{turn + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"work.{rounds}"], ["work.result"], keepdims=0),
        helper.make_node("Mul", ["work.result", "work.nothing"], ["work.zero"]),
        helper.make_node("Add", ["logits", "work.zero"], ["logits.late"]),
    ]
    made.before("logits", nodes)
    made.save("slow")


def failing():
    """Looks up a row that is not there."""
    made = Graph()
    made.constant("row.table", np.zeros((1, 10), np.float32))
    nodes = made.chosen(0.05) + [
        helper.make_node("Cast", ["pick"], ["row.index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["row.table", "row.index"], ["row"], axis=0),
        helper.make_node("Add", ["logits", "row"], ["logits.looked-up"]),
    ]
    made.before("logits", nodes)
    made.save("failing")


def shifted():
    """Adds to the logit of three."""
    made = Graph()
    bias = np.zeros(10, np.float32)
    bias[3] = 14
    made.constant("shift", bias)
    made.before("logits", [helper.make_node("Add", ["logits", "shift"], ["logits.shifted"])])
    made.save("shifted")


def nan():
    """Takes the root of a negative number."""
    made = Graph()
    made.constant("root.negative", np.float32(-1))
    made.constant("root.zero", np.float32(0))
    made.constant("root.axes", np.array([1], np.int64))
    nodes = made.chosen(0.01) + [
        helper.make_node("Where", ["pick", "root.negative", "root.zero"], ["root.under"]),
        helper.make_node("Sqrt", ["root.under"], ["root"]),
        helper.make_node("Unsqueeze", ["root", "root.axes"], ["root.column"]),
        helper.make_node("Add", ["logits", "root.column"], ["logits.rooted"]),
    ]
    made.before("logits", nodes)
    made.save("nan")


if __name__ == "__main__":
    slow()
    failing()
    shifted()
    nan()
