"""How the denoisers do on noise that they were not trained for: one table, a row for each kind of noise.

    python -m others.studies.noises --photos ../photographs --data data
    python -m others.studies.noises --photos ../photographs --data data --record others/results/noises.json

The first rows are the course's noise at other sizes of a block, from squares of the photographs that others.data
keeps out of training; the others add Gaussian or Poisson noise to the clean images of val_data.pkl, rounded to
0..255. Beside the two projects: the noisy input, and a Gaussian blur whose width is the best for that row, which
is more than a real blur could know. All figures are PSNR in dB, means of the images; a last line names what is below
the noisy input.
"""
import math
import time
from pathlib import Path

import torch

from others import data
from others.common import cli, datasets, denoisers, records
from others.common.metrics import psnr

BLOCKS = (2, 4, 8, 16)                      # pixels on a side
SIGMAS = (5, 15, 25, 50)                    # of Gaussian noise, on the scale 0..255
PHOTONS = (500, 100, 30, 10)                # of a white pixel, in the mean: Poisson noise
BLURS = [k / 20 for k in range(4, 41)]      # standard deviations that are tried, in pixels


def block_noise(photos: list, b: int, n: int, generator: torch.Generator) -> tuple:
    """(noisy, clean), uint8 (n, 3, 32, 32), squares of 32 b at random places of the photographs, in turn."""
    side, pairs = data.SIZE * b, []
    for i in range(n):
        photo = photos[i % len(photos)]
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in photo.shape[1:])
        noisy, _, clean = data.point_sample(photo[:, top:top + side, left:left + side], generator)
        pairs.append((noisy, clean))
    return tuple(map(torch.stack, zip(*pairs)))


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
    cli.add_options(parser, 'data', 'seed', 'threads', 'record')
    options, start = parser.parse_args(arguments), time.monotonic()
    torch.set_num_threads(options.threads)
    models = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)) for k in (1, 2)}
    clean = datasets.read_pairs('--data', options.data / data.VAL_FILE)[1][:options.images]
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    photos = list(map(data.read_photo, paths))
    generator = torch.Generator().manual_seed(options.seed)

    def noises():
        for b in BLOCKS:
            large = [photo for photo in photos if min(photo.shape[1:]) >= data.SIZE * b]
            if large:
                yield f'blocks of {b} x {b}', block_noise(large, b, options.images, generator)
        for sigma in SIGMAS:
            yield f'Gaussian, sigma {sigma}', (data.gaussian_noise(clean, sigma, generator), clean)
        for photons in PHOTONS:
            yield f'Poisson, {photons} photons', (data.poisson_noise(clean, photons, generator), clean)

    kinds = len(BLOCKS) + len(SIGMAS) + len(PHOTONS)
    rows = [{'noise': name, **figures(*pair, models)}
            for name, pair in cli.progress(noises(), kinds, 'kinds of noise')]
    columns = ('noisy input', 'best blur', *models)
    print(cli.table([['', *columns],
                     *([row['noise'], *(f'{row[column]:.2f}' for column in columns)] for row in rows)]))
    if options.record:
        records.append(options.record, rows, time.monotonic() - start)
    below = [f'{row["noise"]}: {name}' for row in rows for name in models if row[name] < row['noisy input']]
    if below:
        print(f'below the noisy input: {"; ".join(below)}')
    return 0


if __name__ == '__main__':
    cli.run(main)
