"""Checks models/zoo without training: every hash; every golden pair where onnxruntime is installed (--golden: it must be)."""

import importlib.util
import sys

from sums import SUMS, ZOO, digest, hashed_files

# What two builds of a runtime, or two processors, may differ by on FP32.
ABSOLUTE, RELATIVE = 1e-5, 1e-5


def check_hashes():
    """Yields a complaint for every file that changed, is missing, or is not listed."""
    listed = dict(reversed(line.split("  ", 1)) for line in SUMS.read_text().splitlines())
    present = {path.relative_to(ZOO).as_posix(): path for path in hashed_files()}
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            yield f"{name}: listed in SHA256SUMS, but not there"
        elif name not in listed:
            yield f"{name}: not listed in SHA256SUMS"
        elif digest(present[name]) != listed[name]:
            yield f"{name}: its hash is not the one in SHA256SUMS"


def check_golden():
    """Yields a complaint for every golden response that the model does not give."""
    import numpy as np

    import zoo

    for name, version, case, request, response in zoo.golden_pairs():
        model = zoo.session(name, version)
        inputs = {tensor["name"]: zoo.tensor_of(tensor) for tensor in request["inputs"]}
        for expected in response["outputs"]:
            want = zoo.tensor_of(expected)
            got = np.asarray(model.run([expected["name"]], inputs)[0])
            if got.shape != want.shape:
                yield f"{name} {case}: `{expected['name']}` has shape {got.shape}, expected {want.shape}"
            elif want.dtype.kind == "f" and not np.allclose(got, want, atol=ABSOLUTE, rtol=RELATIVE):
                yield f"{name} {case}: `{expected['name']}` is off by {abs(got - want).max()}"
            elif want.dtype.kind != "f" and not np.array_equal(got, want):
                yield f"{name} {case}: `{expected['name']}` is {got.tolist()}, expected {want.tolist()}"


def main():
    complaints = list(check_hashes())
    print(f"{len(list(hashed_files()))} hashes checked")
    if importlib.util.find_spec("onnxruntime"):
        complaints += check_golden()
        print("golden pairs checked")
    elif "--golden" in sys.argv:
        complaints.append("golden pairs: onnxruntime is not installed")
    else:
        print("golden pairs left out: onnxruntime is not installed")
    print("\n".join(complaints) or "all right")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
