"""What is measured, and the pairs it is measured on.

test.py loads this file by its path, so it imports torch alone.
"""
import math

import torch


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB: -10 log10(mean((a - b)^2) / 255^2), at most `psnr_bound`.

    a, b: (N, C, H, W), of any type, in 0..255 -> (N,). ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f'a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}')
    decibels = -10 * ((a.float() - b.float()) / 255).square().mean((1, 2, 3)).log10()
    return decibels.clamp(max=psnr_bound(a))


def psnr_bound(images: torch.Tensor) -> float:
    """What an error of half a grey level in one of an image's values gives: -10 log10((0.5 / 255)^2 / (C H W)) dB.

    That is 89.0 dB for 3 x 32 x 32 values. Two different images of 8 bits stay below it; identical ones, whose ratio
    is infinite, count as this much, so that one exact image does not outweigh all the others in a mean.
    """
    return 20 * math.log10(510) + 10 * math.log10(math.prod(images.shape[1:]))


def pooled_psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """PSNR in dB of the mean squared error over all images, as the assignment's function has it. a, b: as `psnr`."""
    return _decibels((a.double() - b.double()).square().mean().item(), a)


def _decibels(error: float, images: torch.Tensor) -> float:
    """The PSNR of a mean squared error, in grey levels squared; at most the `psnr_bound` of the images."""
    return min(10 * math.log10(255 ** 2 / error), psnr_bound(images)) if error > 0 else psnr_bound(images)


def estimated_error(denoised: torch.Tensor, noisy: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """An estimate of each image's mean squared error against the clean image, which nobody needs to have.

    denoised: what a model makes of `noisy`; noisy, other: two shots of a scene; (N, C, H, W), in 0..255 -> (N,), in
    grey levels squared. mean((denoised - other)^2) exceeds the error by the variance of the noise, which is
    mean((noisy - other)^2) / 2, if the noise of the two shots is independent, equally strong and has the mean 0. The
    estimate is unbiased; that of a single image may be negative.
    """
    noisy, other = noisy.double(), other.double()
    return ((denoised.double() - other).square() - (noisy - other).square() / 2).mean((1, 2, 3))


def estimated_psnr(denoised: torch.Tensor, noisy: torch.Tensor, other: torch.Tensor) -> tuple:
    """(PSNR in dB, its standard error) by `estimated_error`, of its mean over the images; at most `psnr_bound`.

    The error is taken before the logarithm, since a single image's estimate may be negative; so the PSNR is of all
    images together, which reads somewhat lower than the mean of their PSNRs. The standard error is None for one image.
    """
    error, deviation = mean_and_error(estimated_error(denoised, noisy, other))
    decibels = _decibels(error, noisy)
    return decibels, deviation and 10 / math.log(10) * deviation / (255 ** 2 * 10 ** (-decibels / 10))


def mean_and_error(values: torch.Tensor) -> tuple:
    """Mean of (N,) and its standard error, which is None for a single value."""
    N = len(values)
    return values.mean().item(), (values.std() / N ** 0.5).item() if N > 1 else None


def load_pairs(path) -> tuple:
    """The two tensors (N, 3, H, W) of a file, both uint8, or both float32 with values in 0..255. ValueError if it
    holds anything else."""
    with open(path, 'rb') as file:
        try:
            pairs = torch.load(file, map_location='cpu', weights_only=True)
        except Exception as error:                              # of many types, by what is wrong with the file
            raise ValueError(f'{path} is not a file of pairs that torch.load can read') from error
    if not (isinstance(pairs, (tuple, list)) and len(pairs) == 2
            and all(isinstance(images, torch.Tensor) for images in pairs)):
        raise ValueError(f'{path} must hold two tensors, and holds something else')
    first, second = pairs
    if not (first.dtype is second.dtype and first.dtype in (torch.uint8, torch.float32)
            and first.shape == second.shape and first.dim() == 4 and first.shape[1] == 3 and 0 not in first.shape):
        found = ' and '.join(f'{images.dtype} {tuple(images.shape)}' for images in pairs)
        raise ValueError(f'{path} must hold two tensors of a shape (N, 3, H, W), uint8 or float32, not {found}')
    for images in pairs:
        low, high = images.min().item(), images.max().item()
        if not 0 <= low <= high <= 255:                         # so that NaN is refused, too
            raise ValueError(f'{path} must hold two tensors of values in 0..255, not in {low:g}..{high:g}')
    return first, second
