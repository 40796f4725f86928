"""The command line that the tools share: options, mistakes reported in one line, progress, tables."""
import argparse
import contextlib
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, Optional

import torch

from others.common import processes, records
from others.common.storage import UserError


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
    try:
        records.read(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(error) from error
    records.revision()                              # of the code that runs, whatever is committed meanwhile
    return Path(text)


SHARED = {
    'data': dict(type=Path, default=Path('data'), metavar='FOLDER',
                 help='folder with train_data.pkl and val_data.pkl (default: data)'),
    'pairs': dict(type=integer(1), metavar='N', help='train on the first N pairs (default: all)'),
    'epochs': dict(type=integer(1), default=1, metavar='N', help='(default: %(default)s)'),
    'seed': dict(type=integer(0), default=0, metavar='N', help='random seed (default: 0)'),
    'photos': dict(type=Path, required=True, metavar='FOLDER', help='photographs, as for others.data'),
    'also': dict(type=Path, nargs='+', default=[], metavar='FILE', help='more (noisy, clean) pairs to measure on'),
    'threads': dict(type=integer(1), default=torch.get_num_threads(), metavar='N',
                    help='CPU threads (default: %(default)s)'),
    'record': dict(type=record, metavar='FILE', help='append the numbers to FILE, a record as in others/results'),
}


def add_options(parser, *names: str, **changed: dict) -> None:
    """Add the options of these names that tools share; `changed`: {name: what `add_argument` is told otherwise}."""
    for name in (*names, *changed):
        parser.add_argument(f'--{name}', **{**SHARED[name], **changed.get(name, {})})


def run(main: Callable[[], Optional[int]]) -> None:
    """Exit with the status of `main()`, if any; with 2 and one line for a mistake, a failing disk or lack of memory.

    Ctrl-C and missing packages may come before this is imported: `others/__init__.py` reports them.
    """
    for name in ('stdout', 'stderr'):               # nothing that is only said may end a work
        stream = getattr(sys, name)
        if stream is None:                          # as in pythonw
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
        elif hasattr(stream, 'reconfigure'):        # a file's name may have letters that the terminal lacks
            stream.reconfigure(errors='backslashreplace')
    try:
        try:
            status = main() or 0
        finally:
            getattr(sys.stdout, 'flush', bool)()    # which the stdout of an experiment tracker may lack
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


def table(rows: list) -> str:
    """Rows of strings as aligned lines: the first column to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in rows)


def is_terminal(stream) -> bool:
    """Of any object that stands for stdout or stderr, or None."""
    return bool(getattr(stream, 'isatty', bool)())


def say(line: str) -> None:
    """Print a line above a progress bar, if stdout can take it."""
    from tqdm import tqdm                           # when it is needed: see `progress`

    with contextlib.suppress(AttributeError, OSError, ValueError):      # None, a closed pipe, an unknown letter
        tqdm.write(line)


def progress_bar(label: str, total: float, **options):
    """tqdm's bar on stderr, which it clears at its end; nothing if that is no terminal, or another process speaks."""
    from tqdm import tqdm

    is_shown = is_terminal(sys.stderr) and processes.rank() == 0
    return tqdm(desc=label, total=total, leave=False, disable=not is_shown, **options)


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Yield the items, with a bar on a terminal; elsewhere, as in a log file, a plain line marks the end."""
    start, number, bar = time.monotonic(), 0, None
    if is_terminal(sys.stderr):
        with contextlib.suppress(ModuleNotFoundError):      # test.py makes its demo set with torch alone
            bar = progress_bar(label, total)
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
