"""Noise of several kinds. Images are uint8 (N, C, H, W) or (C, H, W) in 0..255, before and after: noisy values are
rounded and clipped. Random numbers come from a CPU `generator`."""
import io
import math

import torch


def gaussian_noise(clean: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """The same images with independent noise of the standard deviation `sigma`, on the scale 0..255."""
    return to_bytes(clean + sigma * torch.randn(clean.shape, generator=generator))


def poisson_noise(clean: torch.Tensor, photons: float, generator: torch.Generator) -> torch.Tensor:
    """The same images where each value counts photons, on average `photons` where the image is white."""
    return to_bytes(torch.poisson(clean / 255 * photons, generator=generator) / photons * 255)


def correlated_noise(clean: torch.Tensor, sigma: float, reach: float, generator: torch.Generator) -> torch.Tensor:
    """The same images with Gaussian noise that a blur by `reach` pixels has correlated between neighbours, and whose
    standard deviation is `sigma` then."""
    edge = math.ceil(4 * reach)                 # what the blur's border has touched is cut off
    *batch, H, W = clean.shape
    noise = gaussian_blur(torch.randn(*batch, H + 2 * edge, W + 2 * edge, generator=generator), reach)
    noise = noise[..., edge:-edge, edge:-edge]
    return to_bytes(clean + noise * (sigma / noise.std()))


def impulse_noise(clean: torch.Tensor, percent: float, generator: torch.Generator) -> torch.Tensor:
    """The same images with so many of the pixels black or white, whichever by chance."""
    *batch, _, H, W = clean.shape
    hit = torch.rand(*batch, 1, H, W, generator=generator) < percent / 100
    return torch.where(hit, 255 * torch.randint(2, (*batch, 1, H, W), generator=generator), clean).byte()


def jpeg(clean: torch.Tensor, quality: int, corner: tuple = (0, 0)) -> torch.Tensor:
    """An RGB image, uint8 (3, H, W), written as a JPEG file and read again.

    corner: by how many pixels, fewer than H and W, the image's first row and column lie inside the file's first
    block, whose rest the image's reflection fills.
    """
    from PIL import Image                       # not every machine that trains has Pillow
    top, left = corner
    padded = torch.nn.functional.pad(clean[None].float(), (left, 0, top, 0), mode='reflect')[0].byte()
    file = io.BytesIO()
    Image.fromarray(padded.permute(1, 2, 0).contiguous().numpy()).save(file, 'jpeg', quality=quality)
    pixels = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8)
    return pixels.view(*padded.shape[1:], 3).permute(2, 0, 1)[:, top:, left:]


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """(.., H, W) -> float32 of the same shape, with reflected borders; sigma in pixels."""
    radius = math.ceil(4 * sigma)
    kernel = torch.arange(-radius, radius + 1).div(sigma).square().mul(-0.5).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = images.float().reshape(-1, 1, *images.shape[-2:])
    for weight in (kernel, kernel.transpose(2, 3)):                 # along the rows, then the columns
        pad = (radius, radius, 0, 0) if weight.shape[-1] > 1 else (0, 0, radius, radius)
        flat = torch.nn.functional.conv2d(torch.nn.functional.pad(flat, pad, mode='reflect'), weight)
    return flat.view(images.shape)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    return images.round().clamp(0, 255).byte()
