"""What the tools have in common: options, mistakes told in one line, files written whole, progress, tables, and
our two models."""
import argparse
import contextlib
import glob
import importlib
import io
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, Optional

import torch

from others.metrics import load_pairs, psnr, that_differ

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """A mistake of the user's: one line that names the argument, what it was, what was expected."""


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f'error: {message}\n')


def parser(tool: str, doc: str) -> argparse.ArgumentParser:
    """A parser for `python -m others.TOOL`, whose --help begins with the module's docstring.

    tool: with its room, as in 'studies.search'.
    """
    return OneLineParser(prog=f'python -m others.{tool}', description=doc, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)


def integer(low: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least `low`."""
    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if not low <= value < 2 ** 63:              # a seed has 64 bits
            raise argparse.ArgumentTypeError(f'expected an integer of at least {low}, got {text!r}')
        return value
    return parse


def positive(text: str) -> float:
    """The type of an argument that is a positive number."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f'{text}, expected a positive number')
    return float(text)


def share(text: str) -> float:
    """The type of an argument that is a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f'{text}, expected a number from 0 to 1')
    return float(text)


def record(text: str) -> Path:
    """The type of an argument that names a record to append to, which is read before the work and not after it."""
    from others import records                      # which writes by this module

    try:
        records.read(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(error) from error
    records.revision()                              # of the code that runs, whatever is committed meanwhile
    return Path(text)


SHARED = {
    'data': dict(type=Path, default=Path('data'), metavar='FOLDER', help='with both files (default: data)'),
    'pairs': dict(type=integer(1), metavar='N', help='to train on, the first so many (default: all)'),
    'epochs': dict(type=integer(1), default=1, metavar='N', help='(default: %(default)s)'),
    'seed': dict(type=integer(0), default=0, metavar='N', help='of all that is random (default: 0)'),
    'also': dict(type=Path, nargs='+', default=[], metavar='FILE', help='more (noisy, clean) pairs to measure on'),
    'threads': dict(type=integer(1), default=torch.get_num_threads(), metavar='N',
                    help='to compute with (default: %(default)s)'),
    'record': dict(type=record, metavar='FILE', help='append the figures to FILE, a record as in others/results'),
}


def add_options(parser, *names: str, **changed: dict) -> None:
    """Add the options of these names that tools share; `changed`: {name: what `add_argument` is told otherwise}."""
    for name in (*names, *changed):
        parser.add_argument(f'--{name}', **{**SHARED[name], **changed.get(name, {})})


def run(main: Callable[[], int]) -> None:
    """Exit with the status that `main()` returns; with 2 and one line if the user, the disk or the memory fails.

    Ctrl-C and packages that are missing may come before this is imported: `others/__init__.py` tells them.
    """
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
        if 'WORLD_SIZE' in os.environ:      # torchrun's: gloo's threads go on, and may abort Python's teardown
            os._exit(status)
        sys.exit(status)
    except BrokenPipeError:         # nobody reads on: no mistake, and nothing to flush at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)               # what a shell gives for it
    except (UserError, OSError) as error:
        message = str(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search('memory|size calculation overflow', str(error)):
            raise
        message = f'not enough memory: {error}'.splitlines()[0]
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def threads(n: int):
    """Inside `with`, or as a decorator: compute with n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write(path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place first, then renamed. Makes its folder; removes what a kill
    left more than a minute ago; a younger one may be another process's, which is at it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        for rest in path.parent.glob(f'{glob.escape(path.name)}.[0-9]*.tmp'):
            with contextlib.suppress(FileNotFoundError):        # another process has renamed its own
                if rest == temporary or time.time() - rest.stat().st_mtime > 60:
                    rest.unlink()


def write_json(path, content) -> None:
    write(path, (json.dumps(content, indent=2) + '\n').encode())


def write_tensors(path, content) -> None:
    """torch.save, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getvalue())


def table(rows: list) -> str:
    """Rows of strings as aligned lines: the first column to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in rows)


def progress_bar(label: str, total: float, disable: Optional[bool] = None, **options):
    """tqdm's bar on stderr, which it clears at its end; nothing if `disable`, or where that is no terminal."""
    from tqdm import tqdm                           # when it is needed: see `progress`

    return tqdm(desc=label, total=total, leave=False, disable=disable, **options)


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Hand on the items with a bar on a terminal; elsewhere, as in a log file, a plain line tells the end."""
    start, number, bar = time.monotonic(), 0, None
    if sys.stderr.isatty():
        try:
            bar = progress_bar(label, total)
        except ModuleNotFoundError:                 # test.py makes its demo set with torch alone
            pass
    try:
        for number, item in enumerate(items, 1):
            yield item
            if bar is not None:
                bar.update()
    finally:                                        # also when the caller takes no more
        if bar is not None:
            bar.close()
        elif number == total > 0:
            print(f'{label}: {number} of {total}, {time.monotonic() - start:.0f} s', file=sys.stderr, flush=True)


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


def read_sets(val_file: Path, also: list) -> dict:
    """{name: (noisy, clean)}, each (N, 3, H, W): of the file of --data and of those of --also."""
    sets = {}
    for argument, path in [('--data', val_file), *(('--also', path) for path in also)]:
        if path.stem in sets:
            raise UserError(f'--also: two files are called {path.stem}, expected different names')
        sets[path.stem] = read_validation(argument, path)
    return sets


def measure(model, sets: dict) -> dict:
    """{name: mean PSNR in dB} of a `Model` on `sets`, without ensembling."""
    return {name: psnr(model.predict(noisy, ensemble=False), clean).mean().item()
            for name, (noisy, clean) in sets.items()}


def has_fast_bfloat16(device) -> bool:
    """Whether a device multiplies in bfloat16, and does not merely emulate it."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(capabilities.get('amx_bf16') or capabilities.get('avx512_bf16'))


def set_precision(model, precision: Optional[str]) -> str:
    """Give a `Model` the precision of its products: 'mixed', 'float32', or None for what is fast here. Returns it."""
    model.mixed_precision = precision == 'mixed' or precision is None and has_fast_bfloat16(model.device)
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
