"""Transformer encoders as ONNX, from the folders in which they are published; and tiny ones with made-up weights.

    encoders.py export FOLDER       writes FOLDER/model.onnx from its config.json and model.safetensors
    encoders.py tiny OUT            writes one folder per architecture with golden answers of ONNX Runtime

The graph is written from the equations (Vaswani et al. 2017; transformers' modeling_*.py for names and positions), with the
operators that exporters write, so that ONNX Runtime fuses what it fuses of theirs. It shares no code with the server.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

OPSET = 17
PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.", "distilbert": "distilbert."}


class Graph:
    """Nodes and initialisers; every call returns the name of its output."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, values, dtype=None):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        name = f"{kind}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name


class Encoder:
    """One folder's model."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = load_file(folder / "model.safetensors")
        self.kind = self.config.get("model_type", "bert")
        prefix = PREFIXES[self.kind]
        self.prefix = prefix if any(name.startswith(prefix) for name in self.weights) else ""
        self.hidden = self.config.get("hidden_size", self.config.get("dim"))
        self.heads = self.config.get("num_attention_heads", self.config.get("n_heads"))
        self.layers = self.config.get("num_hidden_layers", self.config.get("n_layers"))
        self.epsilon = self.config.get("layer_norm_eps", 1e-12)
        self.g = Graph()

    def weight(self, name, top=False):
        name = name if top else self.prefix + name
        return self.weights[name].astype(np.float32)

    def linear(self, x, name, top=False):
        weight = self.g.constant(self.weight(f"{name}.weight", top).T)
        return self.g.op("Add", self.g.op("MatMul", x, weight), self.g.constant(self.weight(f"{name}.bias", top)))

    def norm(self, x, name):
        scale, shift = (self.g.constant(self.weight(f"{name}.{part}")) for part in ("weight", "bias"))
        return self.g.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=self.epsilon)

    def activation(self, x):
        g, kind = self.g, self.config.get("hidden_act", self.config.get("activation", "gelu"))
        if kind == "relu":
            return g.op("Relu", x)
        if kind == "gelu":
            erf = g.op("Erf", g.op("Div", x, g.constant(np.sqrt(2.0), np.float32)))
            half = g.op("Mul", x, g.op("Add", erf, g.constant(1.0, np.float32)))
            return g.op("Mul", half, g.constant(0.5, np.float32))
        cube = g.op("Mul", g.op("Mul", x, x), x)
        inner = g.op("Add", x, g.op("Mul", cube, g.constant(0.044715, np.float32)))
        tanh = g.op("Tanh", g.op("Mul", inner, g.constant(np.sqrt(2.0 / np.pi), np.float32)))
        half = g.op("Mul", x, g.op("Add", tanh, g.constant(1.0, np.float32)))
        return g.op("Mul", half, g.constant(0.5, np.float32))

    def embeddings(self):
        g = self.g
        table = lambda name: g.constant(self.weight(f"embeddings.{name}.weight"))
        x = g.op("Gather", table("word_embeddings"), "input_ids")
        if f"{self.prefix}embeddings.token_type_embeddings.weight" in self.weights:
            x = g.op("Add", x, g.op("Gather", table("token_type_embeddings"), "token_type_ids"))
        if "roberta" in self.kind:
            padding = self.config["pad_token_id"]
            pad = g.constant(padding, np.int64)
            real = g.op("Cast", g.op("Not", g.op("Equal", "input_ids", pad)), to=TensorProto.INT64)
            counted = g.op("Mul", g.op("CumSum", real, g.constant(1, np.int64)), real)
            positions = g.op("Add", counted, pad)
        else:
            length = g.op("Gather", g.op("Shape", "input_ids"), g.constant(1, np.int64))
            zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
            positions = g.op("Unsqueeze", g.op("Range", zero, length, one), g.constant([0], np.int64))
        x = g.op("Add", x, g.op("Gather", table("position_embeddings"), positions))
        return self.norm(x, "embeddings.LayerNorm")

    def attention(self, x, mask, names):
        g, head = self.g, self.hidden // self.heads
        split, joined = g.constant([0, 0, self.heads, head], np.int64), g.constant([0, 0, self.hidden], np.int64)
        query, key, value = (g.op("Reshape", self.linear(x, name), split) for name in names[:3])
        query, value = (g.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
        scores = g.op("MatMul", query, g.op("Transpose", key, perm=[0, 2, 3, 1]))
        scores = g.op("Add", g.op("Div", scores, g.constant(np.sqrt(head), np.float32)), mask)
        context = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
        context = g.op("Reshape", g.op("Transpose", context, perm=[0, 2, 1, 3]), joined)
        return self.linear(context, names[3])

    def names(self, index):
        if self.kind == "distilbert":
            parts = ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"]
            parts += ["ffn.lin1", "ffn.lin2", "output_layer_norm"]
            return [f"transformer.layer.{index}.{part}" for part in parts]
        parts = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        parts += ["attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"]
        return [f"encoder.layer.{index}.{part}" for part in parts]

    def classifier(self, x):
        g = self.g
        first = g.op("Gather", x, g.constant(0, np.int64), axis=1)
        if self.kind == "distilbert":
            return self.linear(g.op("Relu", self.linear(first, "pre_classifier", top=True)), "classifier", top=True)
        if self.kind == "bert":
            return self.linear(g.op("Tanh", self.linear(first, "pooler.dense")), "classifier", top=True)
        dense = g.op("Tanh", self.linear(first, "classifier.dense", top=True))
        return self.linear(dense, "classifier.out_proj", top=True)

    def model(self):
        g = self.g
        x = self.embeddings()
        mask = g.op("Cast", g.op("Unsqueeze", "attention_mask", g.constant([1, 2], np.int64)), to=TensorProto.FLOAT)
        mask = g.op("Mul", g.op("Sub", g.constant(1.0, np.float32), mask), g.constant(np.finfo(np.float32).min))
        for index in range(self.layers):
            names = self.names(index)
            x = self.norm(g.op("Add", self.attention(x, mask, names), x), names[4])
            middle = self.activation(self.linear(x, names[5]))
            x = self.norm(g.op("Add", self.linear(middle, names[6]), x), names[7])
        classifies = self.config["architectures"][0].endswith("ForSequenceClassification")
        name, shape = "last_hidden_state", ["batch", "sequence", self.hidden]
        if classifies:
            x, name = self.classifier(x), "logits"
            shape = ["batch", len(self.config["id2label"])]
        g.nodes.append(helper.make_node("Identity", [x], [name]))
        used = {name for node in g.nodes for name in node.input}
        inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in used]
        graph = helper.make_graph(
            g.nodes,
            "encoder",
            [helper.make_tensor_value_info(i, TensorProto.INT64, ["batch", "sequence"]) for i in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            g.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="crossfade")
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


def export(folder):
    """Writes the folder's model.onnx."""
    onnx.save(Encoder(folder).model(), folder / "model.onnx")


TINY = {
    "bert": ("BertModel", "bert", {"hidden_act": "gelu"}),
    "bert_tanh": ("BertModel", "bert", {"hidden_act": "gelu_new"}),
    "bert_classifier": ("BertForSequenceClassification", "bert", {"hidden_act": "relu"}),
    "roberta": ("RobertaModel", "roberta", {"layer_norm_eps": 1e-5}),
    "xlmr_ranker": ("XLMRobertaForSequenceClassification", "xlm-roberta", {"layer_norm_eps": 1e-5}),
    "distilbert": ("DistilBertModel", "distilbert", {"activation": "gelu"}),
    "distilbert_classifier": ("DistilBertForSequenceClassification", "distilbert", {"activation": "gelu"}),
}
HIDDEN, HEADS, LAYERS, MIDDLE, WORDS, POSITIONS = 24, 3, 2, 40, 50, 34


def tiny(out):
    """One folder per architecture: config.json, model.safetensors, and answers of ONNX Runtime in golden.json."""
    import onnxruntime

    for seed, (name, (architecture, kind, more)) in enumerate(TINY.items()):
        random = np.random.default_rng(seed)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        labels = {"xlmr_ranker": 1}.get(name, 3)
        config = {"architectures": [architecture], "model_type": kind, "vocab_size": WORDS, "max_position_embeddings": POSITIONS}
        config |= {"pad_token_id": 1 if "roberta" in kind else 0} | more
        if kind == "distilbert":
            config |= {"dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": MIDDLE}
        else:
            config |= {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
            config |= {"intermediate_size": MIDDLE, "type_vocab_size": 2 if kind == "bert" else 1}
        if "Sequence" in architecture:
            config["id2label"] = {str(k): f"label {k}" for k in range(labels)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(weights(random, config, kind, labels if "Sequence" in architecture else 0), folder / "model.safetensors")
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(kind), indent=1) + "\n")
        session = onnxruntime.InferenceSession(Encoder(folder).model().SerializeToString())
        given = [i.name for i in session.get_inputs()]
        cases = []
        for rows, longest in [(1, 1), (1, 7), (3, 16), (2, 32), (5, 9)]:
            lengths = [longest] + [int(n) for n in random.integers(1, longest + 1, rows - 1)]
            ids = np.full((rows, longest), config["pad_token_id"], np.int64)
            mask, types = np.zeros_like(ids), np.zeros_like(ids)
            for row, length in enumerate(lengths):
                ids[row, :length] = random.integers(3, WORDS, length)
                mask[row, :length] = 1
                if config.get("type_vocab_size") == 2:
                    types[row, length // 2 : length] = 1
            all_inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
            inputs = {name: all_inputs[name] for name in given}
            answer = session.run(None, inputs)[0]
            if answer.ndim == 3:
                answer = answer * mask[:, :, None]
            cases.append({
                "inputs": {name: value.tolist() for name, value in inputs.items()},
                "output": session.get_outputs()[0].name,
                "shape": list(answer.shape),
                "values": [float(np.float32(x)) for x in answer.ravel()],
            })
        (folder / "golden.json").write_text(json.dumps(cases) + "\n")


WORDS_OF = "a the cat dog bird fish sat ran flew swam on in under over mat house sky sea red blue green big small and".split()


def tokenizer(kind):
    """Words of a small vocabulary, in lower case; as tokenizers writes them."""
    if "roberta" in kind:
        start, padding, end, unknown = "<s>", "<pad>", "</s>", "<unk>"
        special, between = [start, padding, end, unknown], [end, end]
    else:
        padding, unknown, start, end = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
        special, between = [padding, unknown, start, end], [end]
    vocabulary = {word: k for k, word in enumerate(special + WORDS_OF)}
    token = lambda name, kind_id: {"SpecialToken": {"id": name, "type_id": kind_id}}
    text = lambda name, kind_id: {"Sequence": {"id": name, "type_id": kind_id}}
    second = 0 if "roberta" in kind else 1
    single = [token(start, 0), text("A", 0), token(end, 0)]
    pair = single[:2] + [token(name, 0) for name in between] + [text("B", second), token(end, second)]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": k, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for k, word in enumerate(special)
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": {
                name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in dict.fromkeys([start, end])
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
    }


def weights(random, config, kind, labels):
    """Made-up weights under their published names, larger than trained ones, so that mistakes show."""
    made = {}

    def add(name, *shape, scale=0.3, shift=0.0):
        made[name] = (random.standard_normal(shape) * scale + shift).astype(np.float32)

    def linear(name, rows, columns):
        add(f"{name}.weight", rows, columns)
        add(f"{name}.bias", rows, scale=0.1)

    def norm(name):
        add(f"{name}.weight", HIDDEN, scale=0.2, shift=1.0)
        add(f"{name}.bias", HIDDEN, scale=0.1)

    prefix = PREFIXES[kind] if labels else ""
    add(f"{prefix}embeddings.word_embeddings.weight", WORDS, HIDDEN)
    add(f"{prefix}embeddings.position_embeddings.weight", POSITIONS, HIDDEN)
    if kind != "distilbert":
        add(f"{prefix}embeddings.token_type_embeddings.weight", config["type_vocab_size"], HIDDEN)
    norm(f"{prefix}embeddings.LayerNorm")
    shim = object.__new__(Encoder)
    shim.kind = kind
    for index in range(LAYERS):
        names = [prefix + name for name in shim.names(index)]
        for name in names[:4]:
            linear(name, HIDDEN, HIDDEN)
        linear(names[5], MIDDLE, HIDDEN)
        linear(names[6], HIDDEN, MIDDLE)
        norm(names[4])
        norm(names[7])
    if labels:
        dense, out = {
            "bert": ("bert.pooler.dense", "classifier"),
            "distilbert": ("pre_classifier", "classifier"),
        }.get(kind, ("classifier.dense", "classifier.out_proj"))
        linear(dense, HIDDEN, HIDDEN)
        linear(out, labels, HIDDEN)
    return made


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", folder]:
            export(Path(folder))
        case ["tiny", out]:
            tiny(Path(out))
        case _:
            sys.exit(__doc__)
