"""The sets of pairs that a tool is given, read with the option that named them."""
from pathlib import Path
from typing import Optional

from others.common.storage import UserError
from others.common.metrics import load_pairs, that_differ


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
