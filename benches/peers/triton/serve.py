"""The tritonserver inside the pytriton package, on its own: its Python backend, without PyTriton's proxy.

The package brings no ONNX Runtime backend, so this is Triton's front end, scheduler and Python stub, not what Triton
does with an ONNX file in a full installation.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytriton

import served

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}


def tensors(of):
    return ", ".join(f'{{ name: "{t.name}" data_type: {TYPES[t.type]} dims: {list(t.shape[1:])} }}' for t in of)


def write_repository(folder):
    model = served.session()
    (folder / "1").mkdir(parents=True)
    # Triton gives the stub a module path of its own, which holds the model's folder.
    for module in (Path(__file__).with_name("model.py"), served.__file__):
        shutil.copy(module, folder / "1")
    (folder / "config.pbtxt").write_text(f"""
backend: "python"
max_batch_size: 32
input [ {tensors(model.get_inputs())} ]
output [ {tensors(model.get_outputs())} ]
instance_group [ {{ count: {served.THREADS} kind: KIND_CPU }} ]
dynamic_batching {{ }}
""")


def write_backend(installed, folder):
    """The backend's folder with the stub of this Python's version in its place."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(installed / "backends" / "python", folder)
    shutil.copy(installed / "python_backend_stubs" / version / "triton_python_backend_stub", folder)


scratch = Path(os.environ["PEERS_SCRATCH"])
installed = Path(pytriton.__file__).parent / "tritonserver"
write_repository(scratch / "models" / served.MODEL)
write_backend(installed, scratch / "backends" / "python")
# The stub embeds Python: it needs the library of this very interpreter and, moved, those of the package; and it finds
# packages by the path of this environment.
bundled = Path(sysconfig.get_path("purelib")) / "nvidia_pytriton.libs"
os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([sysconfig.get_config_var("LIBDIR"), str(bundled)])
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
server = installed / "bin" / "tritonserver"
os.execv(
    server,
    [
        str(server),
        f"--model-repository={scratch / 'models'}",
        f"--backend-directory={scratch / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={served.HTTP_PORT}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={served.GRPC_PORT}",
        "--allow-metrics=false",
    ],
)
