"""Classical denoisers, those of scikit-image, each at the strength that is best for the images at hand."""
import time
from typing import Callable, Iterator

import numpy
import torch

STEP = 2 ** 0.5                                 # between two strengths that are tried
STRENGTHS = 9
TUNED_ON, TUNED_SIDE = 50, 128                  # images, and pixels of their middles, that a strength is chosen on


def methods() -> dict:
    """{name: (function of an image (H, W, 3) in 0..1 and a strength, the lowest strength)}"""
    from skimage.filters import gaussian
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

    return {
        'Gaussian blur, sigma': (lambda x, sigma: gaussian(x, sigma, channel_axis=-1), 0.25),
        'total variation, weight': (lambda x, weight: denoise_tv_chambolle(x, weight, channel_axis=-1), 0.02),
        'non-local means, h': (lambda x, h: denoise_nl_means(x, 5, 6, h, channel_axis=-1), 0.02),
    }


def apply(method: Callable, image: torch.Tensor, strength: float) -> torch.Tensor:
    """(3, H, W), 0..255 -> the same, float32"""
    pixels = image.permute(1, 2, 0).float().div(255).numpy()
    return torch.from_numpy(numpy.float32(255 * method(pixels, strength).clip(0, 1))).permute(2, 0, 1)


def middle(image: torch.Tensor) -> torch.Tensor:
    """(.., H, W) -> (.., h, w), at most TUNED_SIDE of each."""
    (top, h), (left, w) = ((max(0, n - TUNED_SIDE) // 2, min(n, TUNED_SIDE)) for n in image.shape[-2:])
    return image[..., top:top + h, left:left + w]


def best(noisy: list, score: Callable[[list], float]) -> Iterator[tuple]:
    """(name with its strength, denoised images, seconds) of each method.

    noisy: images (3, H, W), 0..255, of any sizes. score: of the middles of the first TUNED_ON images, denoised; higher
    is better.
    """
    tuned = [middle(image) for image in noisy[:TUNED_ON]]
    for name, (method, lowest) in methods().items():
        strengths = [lowest * STEP ** k for k in range(STRENGTHS)]
        strength = max(strengths, key=lambda s: score([apply(method, image, s) for image in tuned]))
        start = time.perf_counter()
        denoised = [apply(method, image, strength) for image in noisy]
        yield f'{name} {strength:.2g}', denoised, time.perf_counter() - start
