"""What the tools have in common: mistakes told in one line, files written whole, our two models."""
import argparse
import glob
import importlib
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Callable, Optional

import torch

from others.metrics import load_pairs, that_differ

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """A mistake of the user's: one line that names the argument, what it was, what was expected."""


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f'error: {message}\n')


def parser(tool: str, doc: str) -> argparse.ArgumentParser:
    """A parser for `python -m others.TOOL`, whose --help begins with the module's docstring."""
    return OneLineParser(prog=f'python -m others.{tool}', description=doc, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)


def run(main: Callable[[], int]) -> None:
    """Exit with the status that `main()` returns; with 2 and one line if the user, or the disk, errs."""
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f'error: {error}: pip install -r others/requirements.txt', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)               # what a shell gives for Ctrl-C


def write(path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place first, then renamed. Makes its folder; removes what a kill
    left of an earlier call."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        for rest in path.parent.glob(f'{glob.escape(path.name)}.[0-9]*.tmp'):
            rest.unlink(missing_ok=True)


def write_json(path, content) -> None:
    write(path, (json.dumps(content, indent=2) + '\n').encode())


def read_pairs(argument: str, path, limit: Optional[int] = None) -> tuple:
    """The two uint8 tensors (N, 3, H, W) of a file that `argument` named; UserError if it has none.

    limit: of --pairs, the first so many; UserError if there are fewer.
    """
    try:
        first, second = load_pairs(path)
    except OSError as error:
        raise UserError(f'{argument}: {path}: {error.strerror} '
                        '(python -m others.data makes such files)') from error
    except ValueError as error:
        raise UserError(f'{argument}: {error}') from error
    if limit is not None and limit > len(first):
        raise UserError(f'--pairs: {path} holds {len(first)}, expected {limit}')
    return first[:limit], second[:limit]


def read_validation(argument: str, path) -> tuple:
    """(noisy, clean) of such a file, without the images that have no noise; UserError if no image has any."""
    noisy, clean = that_differ(*read_pairs(argument, path))
    if len(noisy) == 0:
        raise UserError(f'{argument}: the first images of {path} are the second, expected noisy and clean ones')
    return noisy, clean


def circumstances() -> dict:
    """What a figure depends on, for its record: the command, the code, the versions, the machine."""
    command = shlex.join(['python', '-m', f'others.{Path(sys.argv[0]).stem}', *sys.argv[1:]])
    return {'command': command, 'revision': code_revision(),
            'python': platform.python_version(), 'torch': torch.__version__,
            'platform': f'{platform.system()} {platform.machine()}', 'processor': processor(),
            'threads': torch.get_num_threads()}


def code_revision() -> Optional[str]:
    """Of the git checkout that this file lies in; None if it lies in none."""
    try:
        return subprocess.run(['git', '-C', ROOT, 'describe', '--always', '--dirty', '--abbrev=40'],
                              check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The name of what a model trains on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(': ')[1] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_fast_bfloat16() -> bool:
    """Whether what a model runs on multiplies in bfloat16, and does not merely emulate it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(capabilities.get('amx_bf16') or capabilities.get('avx512_bf16'))


def set_precision(model, precision: Optional[str]) -> str:
    """Give a `Model` the precision of its products: 'mixed', 'float32', or None for what is fast here. Returns it."""
    model.mixed_precision = precision == 'mixed' or precision is None and has_fast_bfloat16()
    return 'mixed' if model.mixed_precision else 'float32'


def new_model(project: int):
    """An untrained `Model` of mini-project 1 or 2."""
    return importlib.import_module(f'Miniproject_{project}.model').Model()


def checkpoint(project: int) -> Path:
    """Where the trained weights of mini-project 1 or 2 lie."""
    return ROOT / f'Miniproject_{project}' / 'bestmodel.pth'


def trained_model(project: int, weights: Path):
    """A `Model` of mini-project 1 or 2 with the weights of a file. UserError if it holds none."""
    model = new_model(project)
    try:
        model.load(weights)
    except OSError as error:
        raise UserError(f'weights of project {project}: {weights}: {error.strerror}') from error
    except ValueError as error:
        raise UserError(f'weights of project {project}: {error}') from error
    return model
