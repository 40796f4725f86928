"""What is measured, and the pairs it is measured on."""
from pathlib import Path

import torch


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image, in dB; infinite where the two are identical.

    a, b: (N, C, H, W), of any type, in 0..255 -> (N,). ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f'a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}')
    return -10 * ((a.float() - b.float()) / 255).square().mean((1, 2, 3)).log10()


def that_differ(noisy: torch.Tensor, clean: torch.Tensor) -> tuple:
    """Without the images that the noise has left as they were, whose infinite PSNR no mean survives."""
    differ = (noisy != clean).flatten(1).any(1)             # (N,)
    return noisy[differ], clean[differ]


def load_pairs(path) -> tuple:
    """The two uint8 tensors (N, 3, H, W) of a file. ValueError if it holds anything else."""
    path = Path(path)
    try:
        with open(path, 'rb') as file:
            pairs = torch.load(file, map_location='cpu', weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many types, by what is wrong with the file
        raise ValueError(f'{path} is not a file of pairs that torch.load can read') from error
    if not (isinstance(pairs, (tuple, list)) and len(pairs) == 2
            and all(isinstance(images, torch.Tensor) for images in pairs)):
        raise ValueError(f'{path} must hold two tensors, and holds something else')
    first, second = pairs
    if not (first.dtype is second.dtype is torch.uint8 and first.shape == second.shape
            and first.dim() == 4 and first.shape[1] == 3 and 0 not in first.shape):
        found = ' and '.join(f'{images.dtype} {tuple(images.shape)}' for images in pairs)
        raise ValueError(f'{path} must hold two uint8 tensors of a shape (N, 3, H, W), not {found}')
    return first, second
