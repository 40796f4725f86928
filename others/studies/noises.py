"""How the denoisers do on noise other than the course's: one table, a row for each kind of noise.

    python -m others.studies.noises --photos ../photographs --data data
    python -m others.studies.noises --photos ../photographs --data data --record others/results/noises.json
    python -m others.studies.noises --photos ../photographs --data data --weights-1 runs/mixed/best.pth

The rows "blocks" have the course's noise with blocks of other sizes, from squares of the photographs that others.data
keeps out of training. The others begin with the clean images of val_data.pkl, as they are, or with noise that is
rounded to 0..255: Gaussian and Poisson noise, of which the pairs of `others.data photos --other-noise` have some; then
kinds that no training has, which show what is learned for noise in general. Beside the two projects: the noisy input,
and a Gaussian blur whose width is the best for that row, which is more than a real blur could know. All numbers are
PSNR in dB, means over the images; where nothing differs, "no noise", the PSNR has the bound of `metrics.psnr_bound`.
A last line names the noises with which a model's output is worse than its input.
"""
import io
import math
import time
from pathlib import Path

import torch
from PIL import Image

from others import data
from others.common import cli, datasets, denoisers, records
from others.common.metrics import psnr

BLOCKS = (2, 4, 8, 16)                      # pixels on a side
SIGMAS = (5, 15, 25, 50)                    # of Gaussian noise, on the scale 0..255
PHOTONS = (500, 100, 30, 10)                # of a white pixel, in the mean: Poisson noise
BLURS = [k / 20 for k in range(4, 41)]      # standard deviations that are tried, in pixels
IMPULSES = (2, 10)                          # per cent of the pixels that are black or white
QUALITIES = (70, 30)                        # of JPEG
CORRELATED, REACH = 15, 1                   # sigma, after a blur by so many pixels
STRONGER = 75                               # sigma of Gaussian noise, above the strongest that is trained on
NONE = 'no noise'


def block_noise(photos: list, b: int, n: int, generator: torch.Generator) -> tuple:
    """(noisy, clean), uint8 (n, 3, 32, 32), squares of 32 b at random places of the photographs, in turn."""
    side, pairs = data.SIZE * b, []
    for i in range(n):
        photo = photos[i % len(photos)]
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in photo.shape[1:])
        noisy, _, clean = data.point_sample(photo[:, top:top + side, left:left + side], generator)
        pairs.append((noisy, clean))
    return tuple(map(torch.stack, zip(*pairs)))


def impulse_noise(clean: torch.Tensor, percent: float, generator: torch.Generator) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> the same, with so many of the pixels black or white, whichever by chance."""
    N, _, H, W = clean.shape
    hit = torch.rand(N, 1, H, W, generator=generator) < percent / 100
    return torch.where(hit, 255 * torch.randint(2, (N, 1, H, W), generator=generator), clean).byte()


def correlated_noise(clean: torch.Tensor, sigma: float, reach: float, generator: torch.Generator) -> torch.Tensor:
    """uint8 (N, C, H, W) -> the same, with Gaussian noise that a blur by `reach` pixels has correlated, and whose
    standard deviation is `sigma` then."""
    N, C, H, W = clean.shape
    edge = math.ceil(4 * reach)                 # what the blur's border has touched is cut off
    noise = gaussian_blur(torch.randn(N, C, H + 2 * edge, W + 2 * edge, generator=generator), reach)
    noise = noise[:, :, edge:-edge, edge:-edge]
    return data.to_bytes(clean + noise * (sigma / noise.std()))


def jpeg(clean: torch.Tensor, quality: int) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> the same, each image written as a JPEG file and read again."""
    def one(image: torch.Tensor) -> torch.Tensor:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, 'jpeg', quality=quality)
        pixels = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8)
        return pixels.view(*image.shape[1:], 3).permute(2, 0, 1)

    return torch.stack([one(image) for image in clean])


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """(N, C, H, W) -> float32, with reflected borders; sigma in pixels."""
    radius = math.ceil(4 * sigma)
    kernel = torch.arange(-radius, radius + 1).div(sigma).square().mul(-0.5).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    N, C, H, W = images.shape
    flat = images.float().view(N * C, 1, H, W)
    for weight in (kernel, kernel.transpose(2, 3)):                 # along the rows, then the columns
        pad = (radius, radius, 0, 0) if weight.shape[-1] > 1 else (0, 0, radius, radius)
        flat = torch.nn.functional.conv2d(torch.nn.functional.pad(flat, pad, mode='reflect'), weight)
    return flat.view(N, C, H, W)


def figures(noisy: torch.Tensor, clean: torch.Tensor, models: dict) -> dict:
    """PSNR (dB) of the noisy images, of the best blur, with its width, and of each model."""
    def score(images: torch.Tensor) -> float:
        return psnr(images, clean).mean().item()

    best, sigma = max((score(gaussian_blur(noisy, sigma)), sigma) for sigma in BLURS)
    return {'images': len(clean), 'noisy input': score(noisy), 'best blur': best, 'blur sigma': sigma,
            **{name: score(model.predict(noisy)) for name, model in models.items()}}


def main(arguments=None) -> int:
    parser = cli.parser('studies.noises', __doc__)
    option = parser.add_argument
    option('--photos', type=Path, required=True, metavar='FOLDER', help='photographs, as for others.data')
    option('--images', type=cli.integer(1), default=500, metavar='N', help='of a row (default: 500)')
    for k in (1, 2):
        option(f'--weights-{k}', type=Path, metavar='FILE',
               help=f'other weights of project {k}, to measure beside the shipped ones')
    cli.add_options(parser, 'data', 'seed', 'threads', 'record')
    options, start = parser.parse_args(arguments), time.monotonic()
    torch.set_num_threads(options.threads)
    models = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)) for k in (1, 2)}
    models.update({f'project {k}, given': denoisers.trained_model(k, weights)
                   for k, weights in ((1, options.weights_1), (2, options.weights_2)) if weights})
    clean = datasets.read_pairs('--data', options.data / data.VAL_FILE)[1][:options.images]
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    photos = list(map(data.read_photo, paths))
    generator = torch.Generator().manual_seed(options.seed)

    def noises():
        yield NONE, (clean, clean)
        for b in BLOCKS:
            large = [photo for photo in photos if min(photo.shape[1:]) >= data.SIZE * b]
            if large:
                yield f'blocks of {b} x {b}', block_noise(large, b, options.images, generator)
        for sigma in SIGMAS:
            yield f'Gaussian, sigma {sigma}', (data.gaussian_noise(clean, sigma, generator), clean)
        for photons in PHOTONS:
            yield f'Poisson, {photons} photons', (data.poisson_noise(clean, photons, generator), clean)
        yield f'Gaussian, sigma {STRONGER}', (data.gaussian_noise(clean, STRONGER, generator), clean)
        yield f'correlated, sigma {CORRELATED}', (correlated_noise(clean, CORRELATED, REACH, generator), clean)
        for percent in IMPULSES:
            yield f'impulses, {percent} %', (impulse_noise(clean, percent, generator), clean)
        for quality in QUALITIES:
            yield f'JPEG, quality {quality}', (jpeg(clean, quality), clean)

    kinds = 3 + sum(map(len, (BLOCKS, SIGMAS, PHOTONS, IMPULSES, QUALITIES)))
    rows = [{'noise': name, **figures(*pair, models)}
            for name, pair in cli.progress(noises(), kinds, 'kinds of noise')]
    columns = ('noisy input', 'best blur', *models)
    print(cli.table([['', *columns],
                     *([row['noise'], *(f'{row[column]:.2f}' for column in columns)] for row in rows)]))
    if options.record:
        records.append(options.record, rows, time.monotonic() - start)
    below = [f'{row["noise"]}: {name}' for row in rows for name in models
             if row[name] < row['noisy input'] and row['noise'] != NONE]
    if below:
        print(f'below the noisy input: {"; ".join(below)}')
    return 0


if __name__ == '__main__':
    cli.run(main)
