"""Files written whole or not at all, and the error that a user is told in one line."""
import contextlib
import glob
import io
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Iterator, Optional

import torch

ROOT = Path(__file__).resolve().parents[2]


class UserError(Exception):
    """A mistake by the user: one line that names the argument, what it was, what was expected."""


def write(path, content: bytes) -> None:
    """Write a file, or the file that it links to, whole or not at all: beside its place first, then renamed. Makes its
    folder. Temporary files older than a minute are leftovers of killed processes and are removed; younger ones may
    still be in use."""
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name[:50]                               # a file system takes 255 bytes for all of a name
    temporary = path.with_name(f'{name}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        for rest in path.parent.glob(f'{glob.escape(name)}.[0-9]*.tmp'):
            with contextlib.suppress(FileNotFoundError):        # another process has renamed its own
                if rest == temporary or time.time() - rest.stat().st_mtime > 60:
                    rest.unlink()


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_folder(folder: Path, argument: str) -> None:
    """UserError if no file can be written to the folder of `argument`, which may have to be made."""
    try:
        tempfile.TemporaryFile(dir=existing(folder)).close()
    except OSError as error:
        raise UserError(f'{argument}: {folder} is no folder to write to ({error.strerror})') from error


def to_json(content, indent: Optional[int] = None) -> str:
    """JSON with null for numbers that are not finite, which JSON does not know."""
    def finite(part):
        if isinstance(part, dict):
            return {key: finite(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(value) for value in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(content), indent=indent, allow_nan=False)


def write_json(path, content) -> None:
    write(path, (to_json(content, indent=2) + '\n').encode())


def write_tensors(path, content) -> None:
    """torch.save, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getbuffer())


@contextlib.contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Keep out other processes that call this with the same folder; a killed process lets go of it. If one is in it,
    wait for it, or raise BlockingIOError."""
    try:
        import fcntl
    except ImportError:                                 # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
