"""The sets of pairs that a tool is given, read with the option that named them."""
import math
from pathlib import Path
from typing import NamedTuple, Optional

import torch

from others.common.storage import UserError
from others.common.metrics import estimated_error, estimated_psnr, load_pairs, mean_and_error, psnr

TRAIN_FILE = 'train_data.pkl'                                   # (noisy, other noisy)
VAL_FILE, VAL_PAIRS_FILE = 'val_data.pkl', 'val_pairs.pkl'      # (noisy, clean); (noisy, other noisy)
SUMMARY_FILE, PICTURE_FILE = 'set.json', 'pairs.png'            # of a set from noisy shots


class Validation(NamedTuple):
    """Images to measure on: (N, 3, H, W), uint8 or float32 in 0..255."""
    noisy: torch.Tensor
    target: torch.Tensor        # the clean images or, if `estimated`, other noisy ones of the same scenes
    estimated: bool

    def psnr(self, denoised: torch.Tensor) -> tuple:
        """(PSNR in dB, its standard error, None for a single image) of what a model made of the noisy images: the
        mean over the images or, without clean images, the estimate."""
        if self.estimated:
            return estimated_psnr(denoised, self.noisy, self.target)
        return mean_and_error(psnr(denoised, self.target))

    def gain(self, denoised: torch.Tensor, other: torch.Tensor) -> tuple:
        """(difference in dB, its standard error) of two versions of the images, the first less the second."""
        if not self.estimated:
            return mean_and_error(psnr(denoised, self.target) - psnr(other, self.target))
        a, b = (estimated_error(images, self.noisy, self.target) for images in (denoised, other))
        _, error = mean_and_error(10 / math.log(10) * (a / a.mean() - b / b.mean()))    # of log(b / a), linearly
        return self.psnr(denoised)[0] - self.psnr(other)[0], error


def read_pairs(argument: str, path, limit: Optional[int] = None) -> tuple:
    """The two tensors of a file that `argument` named, as `load_pairs` gives them; of the first `limit` pairs, if
    --pairs asks for so many. UserError if it has none, or fewer."""
    try:
        first, second = load_pairs(path)
    except OSError as error:
        raise UserError(f'{argument}: {path}: {error.strerror} (python -m others.data makes such files)') from error
    except ValueError as error:
        raise UserError(f'{argument}: {error}') from error
    if limit is not None and limit > len(first):
        raise UserError(f'--pairs: {path} holds {len(first)}, expected {limit}')
    return first[:limit], second[:limit]


def read_validation(argument: str, path) -> tuple:
    """(noisy, clean) of such a file; UserError if no image has noise."""
    noisy, clean = read_pairs(argument, path)
    if torch.equal(noisy, clean):
        raise UserError(f'{argument}: the first images of {path} are the second, expected noisy and clean ones')
    return noisy, clean


def read_measured(argument: str, path: Path) -> Validation:
    """The images of a file, estimated if it is called val_pairs.pkl. Errors as `read_validation`."""
    return Validation(*read_validation(argument, path), path.name == VAL_PAIRS_FILE)


def validation_file(folder: Path) -> Path:
    """The one to measure on of a set of pairs: val_data.pkl or, where that is not there but it is, val_pairs.pkl."""
    pairs = folder / VAL_PAIRS_FILE
    return pairs if pairs.exists() and not (folder / VAL_FILE).exists() else folder / VAL_FILE


def read_sets(val_file: Path, also: list) -> dict:
    """{name: (noisy, clean)}, each (N, 3, H, W): of the file of --data and of those of --also."""
    sets = {}
    for argument, path in [('--data', val_file), *(('--also', path) for path in also)]:
        if path.stem in sets:
            raise UserError(f'--also: two files are called {path.stem}, expected different names')
        sets[path.stem] = read_validation(argument, path)
    return sets
