"""How the denoisers do on noise other than the course's: one table, a row for each kind of noise.

    python -m others.studies.noises --photos ../photographs --data data
    python -m others.studies.noises --photos ../photographs --data data --record others/results/noises.json
    python -m others.studies.noises --photos ../photographs --data data --weights-1 runs/mixed/best.pth

The rows "blocks" have the course's noise with blocks of other sizes, from squares of the photographs that others.data
keeps out of training. The others begin with the clean images of val_data.pkl, as they are, or with noise that is
rounded to 0..255: Gaussian, Poisson and correlated noise and JPEG, of which the pairs of `others.data photos
--other-noise` have some; then noise that no training has, which shows what is learned for noise in general. Beside the
two projects: the noisy input, and a Gaussian blur whose width is the best for that row, which is more than a real blur
could know. All numbers are PSNR in dB, means over the images; where nothing differs, "no noise", the PSNR has the
bound of `metrics.psnr_bound`. A last line names the noises with which a model's output is worse than its input.
"""
from pathlib import Path

import torch

from others import data
from others.common import cli, datasets, denoisers
from others.common.metrics import psnr
from others.common.noise import correlated_noise, gaussian_blur, gaussian_noise, impulse_noise, jpeg, poisson_noise
from others.studies import shared

BLOCKS = (2, 4, 8, 16)                      # pixels on a side
SIGMAS = (5, 15, 25, 50)                    # of Gaussian noise, on the scale 0..255
PHOTONS = (500, 100, 30, 10)                # of a white pixel, in the mean: Poisson noise
BLURS = [k / 20 for k in range(4, 41)]      # standard deviations that are tried, in pixels
CORRELATED, REACH = 15, 1                   # sigma, after a blur by so many pixels
QUALITIES = (70, 30)                        # of JPEG
STRONGER = 75                               # sigma of Gaussian noise, above the strongest that is trained on
IMPULSES = (2, 10)                          # per cent of the pixels that are black or white
NONE = 'no noise'


def block_noise(photos: list, b: int, n: int, generator: torch.Generator) -> tuple:
    """(noisy, clean), uint8 (n, 3, 32, 32), squares of 32 b at random places of the photographs, in turn."""
    squares = (data.random_square(photos[i % len(photos)], generator, (b, b)) for i in range(n))
    noisy, _, clean = zip(*(data.point_sample(square, generator) for square in squares))
    return torch.stack(noisy), torch.stack(clean)


def all_noises(photos: list, clean: torch.Tensor, n: int, generator: torch.Generator) -> dict:
    """{kind of noise: (noisy, clean)}; blocks, of which there are n images, where a photograph is large enough."""
    pairs = {NONE: (clean, clean)}
    for b in BLOCKS:
        large = [photo for photo in photos if min(photo.shape[1:]) >= data.SIZE * b]
        if large:
            pairs[f'blocks of {b} x {b}'] = block_noise(large, b, n, generator)
    noisy = {
        **{f'Gaussian, sigma {sigma}': gaussian_noise(clean, sigma, generator) for sigma in SIGMAS},
        **{f'Poisson, {photons} photons': poisson_noise(clean, photons, generator) for photons in PHOTONS},
        f'correlated, sigma {CORRELATED}': correlated_noise(clean, CORRELATED, REACH, generator),
        **{f'JPEG, quality {q}': torch.stack([jpeg(image, q) for image in clean]) for q in QUALITIES},
        f'Gaussian, sigma {STRONGER}': gaussian_noise(clean, STRONGER, generator),
        **{f'impulses, {percent} %': impulse_noise(clean, percent, generator) for percent in IMPULSES},
    }
    return {**pairs, **{name: (images, clean) for name, images in noisy.items()}}


def figures(noisy: torch.Tensor, clean: torch.Tensor, models: dict) -> dict:
    """PSNR (dB) of the noisy images, of the best blur, with its width, and of each model."""
    def score(images: torch.Tensor) -> float:
        return psnr(images, clean).mean().item()

    best, sigma = max((score(gaussian_blur(noisy, sigma)), sigma) for sigma in BLURS)
    return {'images': len(clean), 'noisy input': score(noisy), 'best blur': best, 'blur sigma': sigma,
            **{name: score(model.predict(noisy)) for name, model in models.items()}}


def main(arguments=None) -> None:
    parser = cli.parser('studies.noises', __doc__)
    option = parser.add_argument
    option('--images', type=cli.integer(1), default=500, metavar='N', help='of a row (default: 500)')
    for k in (1, 2):
        option(f'--weights-{k}', type=Path, metavar='FILE',
               help=f'other weights of project {k}, to measure beside the shipped ones')
    cli.add_options(parser, 'photos', 'data', 'seed', 'threads', 'record')
    options = shared.parse(parser, arguments)
    models = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)) for k in (1, 2)}
    models.update({f'project {k}, given': denoisers.trained_model(k, weights)
                   for k, weights in ((1, options.weights_1), (2, options.weights_2)) if weights})
    clean = datasets.read_pairs('--data', options.data / data.VAL_FILE)[1][:options.images]
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    pairs = all_noises(list(map(data.read_photo, paths)), clean, options.images,
                       torch.Generator().manual_seed(options.seed))
    rows = [{'noise': name, **figures(*pair, models)}
            for name, pair in cli.progress(pairs.items(), len(pairs), 'kinds of noise')]
    columns = ('noisy input', 'best blur', *models)
    print(cli.table([['', *columns],
                     *([row['noise'], *(f'{row[column]:.2f}' for column in columns)] for row in rows)]))
    shared.record(options, rows)
    below = [f'{row["noise"]}: {name}' for row in rows for name in models
             if row[name] < row['noisy input'] and row['noise'] != NONE]
    if below:
        print(f'below the noisy input: {"; ".join(below)}')


if __name__ == '__main__':
    cli.run(main)
