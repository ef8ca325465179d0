"""Trains `language`: tells fourteen languages apart, from the manual pages that Debian ships in each of them.

Downloads the packages with `apt-get download` into a folder given on the command line (default: a temporary one); the
text itself is not kept in the repository.
"""

import gzip
import hashlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy import sparse
from sklearn.linear_model import LogisticRegression

import zoo

SEED = 20
# language: (its folder under /usr/share/man, package=version, sha256 of the package)
SOURCES = {
    "cs": ("cs", "manpages-cs=4.18.1-1", "2c3c32887089fe16b173073cbd72fd5f000911f1b9b8f384f3f46e01fce39791"),
    "da": ("da", "manpages-da=4.18.1-1", "977b0dee2ab0d0315cc8f0864dd1c89473ece240033e1651a1c23a62e66afff4"),
    "de": ("de", "manpages-de=4.18.1-1", "37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978"),
    "en": (".", "manpages=6.03-2", "efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91"),
    "es": ("es", "manpages-es=4.18.1-1", "d21e9f85e487f149ae45b5c525b2b1a70ae7fd38d4b05b47c8753042c66f4c2b"),
    "fi": ("fi", "manpages-fi=4.18.1-1", "a0491e7141cd540896388fd3d4f394fa96657838780bf7f213eb5e529b0880dd"),
    "fr": ("fr", "manpages-fr=4.18.1-1", "ec29759cc0e4a44dc7719c1e32869d0060667049e584f09556f0d982b969ea33"),
    "it": ("it", "manpages-it=4.18.1-1", "4b18e87cc1b6a930d40949ddc86fb8e84b50da1a862cd17e2a504eeb8e3b4e48"),
    "nl": ("nl", "manpages-nl=4.18.1-1", "c1ac0e9fb2ff88a8d7f796042ce7d876fa8918e5d3367521c7f09dd885eb3b2d"),
    "pl": ("pl", "manpages-pl=1:4.18.1-1", "31e518ea8331b5204d4fd0032037f96af1ba94a5afa4f0585dca1996b270cdf9"),
    "pt": ("pt_BR", "manpages-pt-br=4.18.1-1", "da971a7bc0107f7b74b4ae592d1d7cc6424fa7e77cc1808f5c110a07edaf3890"),
    "ro": ("ro", "manpages-ro=4.18.1-1", "1d1d32dbc090850c1e796fd51156ae3852e1cc46a22d712493800182817f6024"),
    "ru": ("ru", "manpages-ru=4.18.1-1", "5d5821dad5840652ba9c1c6b85bdc785c1fc52148a71c18fab6658c9659244c0"),
    "sv": ("sv", "manpages-sv=4.18.1-1", "12b386ce4e11fadf3c05b55a813c81df129d244606ba3383da586d39a4a8cca4"),
}
ENGLISH = {"the", "and", "this", "which", "with", "from", "that", "not", "are", "file"}  # left untranslated in many pages
WINDOWS = 2500  # training snippets per language
GRAMS = 260  # most frequent n-grams kept per language and length
LONGEST = 3  # characters of an n-gram
TEST_WORDS = (1, 3, 8, 20)

# Written for these cases; no page holds them.
CASES = {
    "one-sentence": ["Wo ist der nächste Bahnhof, bitte?"],
    "every-language": [
        "Dnes večer půjdeme do kina.",
        "I aften skal vi spise sammen med vores venner.",
        "Heute Abend gehen wir mit Freunden essen.",
        "Tonight we are going out for dinner with friends.",
        "Esta noche vamos a cenar con unos amigos.",
        "Tänä iltana menemme ystävien kanssa syömään.",
        "Ce soir nous allons dîner avec des amis.",
        "Stasera andiamo a cena con degli amici.",
        "Vanavond gaan we met vrienden uit eten.",
        "Dziś wieczorem idziemy na kolację z przyjaciółmi.",
        "Hoje à noite vamos jantar com os nossos amigos.",
        "Astă seară mergem la cină cu niște prieteni.",
        "Сегодня вечером мы идём ужинать с друзьями.",
        "I kväll ska vi äta middag med våra vänner.",
    ],
    "odd-texts": ["", "Guten\u0000Tag, wie geht es Ihnen?", "naïve café — déjà vu 🙂\n"],
}


def fetch(folder):
    """Downloads and unpacks every package. Yields `(language, folder of its pages)`."""
    for language, (place, pinned, sha256) in SOURCES.items():
        name, version = pinned.split("=")
        package = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
        if not package.exists():
            subprocess.run(["apt-get", "download", "-q", pinned], cwd=folder, check=True)
        found = hashlib.sha256(package.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{package.name}: sha256 is {found}, expected {sha256}")
        pages = folder / language
        subprocess.run(["dpkg", "-x", package, pages], check=True)
        yield language, pages / "usr/share/man" / place


def sentences(page):
    """The running text of one manual page: requests, escapes and untranslated paragraphs left out."""
    text = gzip.decompress(page.read_bytes()).decode("utf-8", "replace")
    text = re.split(r'^\.SH "?(?:COPYRIGHT|COLOPHON|ÜBERSETZUNG|TRADUCTION|ÖVERSÄTTNING)', text, flags=re.M)[0]
    paragraphs, lines = [], []
    for line in text.splitlines() + [".PP"]:
        if line[:1] in (".", "'"):
            if line[1:3] in ("B ", "I ", "BR", "IR", "RB", "RI", "BI", "IB"):
                continue
            paragraphs.append(" ".join(lines))
            lines = []
        else:
            lines.append(line)
    for paragraph in paragraphs:
        paragraph = re.sub(r"\\f(\[[^\]]*\]|\(..|.)|\\s[-+]?\d+|\\[&%/,|^c]", "", paragraph)
        paragraph = re.sub(r"\\\(aq|\\\[aq\]", "'", paragraph).replace("\\-", "-").replace("\\e", "\\")
        paragraph = re.sub(r"\\\(..|\\\[[^\]]*\]|\\\S", " ", paragraph)
        paragraph = " ".join(paragraph.split())
        letters = sum(c.isalpha() or c.isspace() for c in paragraph)
        if len(paragraph) >= 30 and letters > 0.85 * len(paragraph) and "�" not in paragraph:
            yield paragraph


def corpus(folder):
    """`{language: ([training paragraphs], [test paragraphs])}`; a page belongs to one of the two."""
    texts = {}
    for language, pages in fetch(folder):
        kept = ([], [])
        for page in sorted(pages.glob("man*/*.gz")):
            if page.is_symlink():
                continue
            # By the page's name, so that a page and its translations are on the same side.
            test = hashlib.sha256(page.name.encode()).digest()[0] < 51
            for paragraph in sentences(page):
                words = set(re.findall(r"\w+", paragraph.lower()))
                if language == "en" or len(words & ENGLISH) < 2:
                    kept[test].append(paragraph)
        texts[language] = tuple(sorted(set(side)) for side in kept)
        print(language, *(f"{len(side)} paragraphs" for side in texts[language]))
    return texts


def windows(paragraphs, count, random, words=None):
    """`count` pieces of 1 to 20 (or `words`) neighbouring words."""
    pieces = []
    while len(pieces) < count:
        split = paragraphs[random.integers(len(paragraphs))].split()
        size = words or min(1 + int(random.exponential(5)), 20)
        if len(split) >= size:
            start = random.integers(len(split) - size + 1)
            piece = " ".join(split[start : start + size])
            if sum(c.isalpha() for c in piece) >= 3:
                pieces.append(piece)
    return pieces


def choose_grams(snippets):
    """The most frequent n-grams of each language, as one list per length. Words are closed by \\x02 and \\x03."""
    chosen = [set() for _ in range(LONGEST)]
    for texts in snippets.values():
        for length in range(1, LONGEST + 1):
            seen = Counter()
            for text in texts:
                marked = f"\x02{text}\x03"
                seen.update(marked[i : i + length] for i in range(len(marked) - length + 1))
            ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
            chosen[length - 1].update(gram for gram, _ in ranked[:GRAMS])
    return [sorted(grams) for grams in chosen]


def graph(grams, weight=None, bias=None):
    """Characters → counts of the n-grams → log, length 1 → dense → softmax → name. Without weights: up to the features."""
    flat = [gram for same_length in grams for gram in same_length]
    counts = np.cumsum([0] + [len(g) * n for n, g in enumerate(grams, 1)])[:-1]
    nodes = [
        # Characters, not words; ONNX Runtime's own operator, for which the ONNX standard has no like.
        helper.make_node("Tokenizer", ["text"], ["characters"], domain="com.microsoft", mark=1, mincharnum=1, pad_value="", separators=[""]),
        helper.make_node(
            "TfIdfVectorizer",
            ["characters"],
            ["counts"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=LONGEST,
            max_skip_count=0,
            ngram_counts=counts.tolist(),
            ngram_indexes=list(range(len(flat))),
            pool_strings=[character for gram in flat for character in gram],
        ),
        helper.make_node("Add", ["counts", "one"], ["counts1"]),
        helper.make_node("Log", ["counts1"], ["logs"]),
        helper.make_node("LpNormalization", ["logs"], ["features"], axis=-1, p=2),
    ]
    tensors = {"one": np.float32(1)}
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(flat)])]
    if weight is not None:
        tensors |= {"weight": weight, "bias": bias}
        nodes += [
            helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
            helper.make_node(
                "LabelEncoder",
                ["best"],
                ["language"],
                domain="ai.onnx.ml",
                keys_int64s=list(range(len(SOURCES))),
                values_strings=list(SOURCES),
                default_string="",
            ),
        ]
        outputs = [
            helper.make_tensor_value_info("language", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(SOURCES)]),
        ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "language",
            [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
            outputs,
            [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
        producer_name="crossfade zoo",
    )


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        texts = corpus(folder.resolve())
    random = np.random.default_rng(SEED)
    snippets = {language: windows(train, WINDOWS, random) for language, (train, _) in texts.items()}
    grams = choose_grams(snippets)
    front = onnxruntime.InferenceSession(graph(grams).SerializeToString())

    def features(some):
        parts = [front.run(None, {"text": np.array(some[i : i + 500], object)})[0] for i in range(0, len(some), 500)]
        return sparse.vstack([sparse.csr_matrix(part) for part in parts])

    rows = features([text for language in SOURCES for text in snippets[language]])
    target = np.repeat(np.arange(len(SOURCES)), WINDOWS)
    print(f"{rows.shape[0]} snippets, {rows.shape[1]} n-grams")
    fit = LogisticRegression(C=30.0, max_iter=300).fit(rows, target)
    zoo.save("language", 1, graph(grams, fit.coef_.T, fit.intercept_))

    model = zoo.session("language", 1)
    for words in TEST_WORDS:
        right = total = 0
        for language, (_, test) in texts.items():
            pieces = windows(test, 400, random, words)
            answer = model.run(["language"], {"text": np.array(pieces, object)})[0]
            right, total = right + np.sum(answer == language), total + len(pieces)
        print(f"language: {right / total:.4f} of {total} test pieces of {words} words right")
    for case, lines in CASES.items():
        zoo.golden("language", 1, case, {"text": np.array(lines, object)})
    (zoo.ZOO / "language" / "languages.txt").write_text("\n".join(SOURCES) + "\n")
    zoo.write_sums()


if __name__ == "__main__":
    main()
