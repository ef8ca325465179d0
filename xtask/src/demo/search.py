"""Semantic search over the sentences of this project's guide: `search.py HTTP GRPC DOCS [QUESTION ...]`.

The sentences are embedded through /v1/embeddings with the openai client, the questions too, and once more through gRPC with
tritonclient, which has to find the same. With a terminal and no questions it asks for some after the prepared ones.
"""

import re
import sys
import time
from pathlib import Path

import numpy as np
import openai
import tritonclient.grpc

MODEL = "minilm"
QUESTIONS = [
    "How do I go back to the model that worked before?",
    "Can I find out what was predicted for a customer last month?",
    "What happens when too many requests come at once?",
    "Where do I put the weights?",
]


def sentences(folder):
    """Sentences of prose in the Markdown files, each with its file."""
    found = []
    for page in sorted(folder.glob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for paragraph in text.split("\n\n"):
            if paragraph.lstrip().startswith(("#", "|", "<", "!")):
                continue
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", " ".join(paragraph.split()))
            for sentence in re.split(r"(?<=[.:;])\s+(?=[A-Z])", plain.lstrip("- 0123456789.")):
                if 40 <= len(sentence) <= 300:
                    found.append((page.name, sentence))
    return found


def by_openai(client, texts):
    rows = client.embeddings.create(model=MODEL, input=texts).data
    return np.array([row.embedding for row in rows], dtype=np.float32)


def by_triton(client, text):
    given = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[text.encode()]], dtype=object))
    return client.infer(MODEL, [given]).as_numpy("embeddings")[0]


def show(question, vector, corpus, matrix):
    likeness = matrix @ vector
    best = np.argsort(-likeness)[:3]
    print(f"\n? {question}")
    for place in best:
        page, sentence = corpus[place]
        print(f"  {likeness[place]:.2f}  {page}: {sentence}")
    return best[0]


def main(http, grpc, docs, *questions):
    corpus = sentences(Path(docs))
    over_http = openai.OpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0)
    over_grpc = tritonclient.grpc.InferenceServerClient(grpc)
    started = time.monotonic()
    texts = [sentence for _, sentence in corpus]
    parts = [by_openai(over_http, texts[k : k + 200]) for k in range(0, len(texts), 200)]
    matrix = np.concatenate(parts)
    print(f"\n{len(corpus)} sentences of {len({page for page, _ in corpus})} pages embedded in {time.monotonic() - started:.1f} s")

    def ask(question):
        first = show(question, by_openai(over_http, [question])[0], corpus, matrix)
        again = int(np.argmax(matrix @ by_triton(over_grpc, question)))
        if again != first:
            sys.exit(f"tritonclient finds another sentence first: {corpus[again]}")

    for question in questions or QUESTIONS:
        ask(question)
    print("\ntritonclient, over gRPC, found the same sentence first each time.")
    if not questions and sys.stdin.isatty():
        try:
            while question := input("\nyour question (empty: the end): ").strip():
                ask(question)
        except (EOFError, KeyboardInterrupt):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
