"""The hashes of models/zoo. Needs nothing but Python."""

import hashlib
from pathlib import Path

ZOO = Path(__file__).resolve().parents[1] / "zoo"
SUMS = ZOO / "SHA256SUMS"


def hashed_files():
    """Every file whose hash is kept: all that a server or a test reads, the prose left out."""
    return sorted(p for p in ZOO.rglob("*") if p.is_file() and p != SUMS and p.suffix != ".md")


def write_sums():
    """Writes SHA256SUMS, in the form that `sha256sum -c` reads."""
    lines = [f"{digest(path)}  {path.relative_to(ZOO).as_posix()}\n" for path in hashed_files()]
    SUMS.write_text("".join(lines), encoding="ascii")


def digest(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
