"""How often others.denoise warns, for each kind of noise: of images that its models are for, and of others.

    python -m others.studies.warned --photos ../photographs
    python -m others.studies.warned --photos ../photographs --record others/results/warned.json

Of each photograph that others.data keeps out of training, the middle becomes an image of 96 x 96 pixels,
point-sampled as the course's are, and clean, to which other noise is added. Images that are point-sampled or have
independent noise should get no warning; clean ones, JPEG and correlated noise should, where they are changed by 2 of
255 or more. The table has, for both projects with the shipped weights, the images that were changed so much, and those
that got a warning.
"""
from pathlib import Path

import torch

from others import data, denoise
from others.common import cli, denoisers, storage
from others.common.noise import correlated_noise, gaussian_noise, impulse_noise, jpeg, poisson_noise
from others.studies import shared

TILES = 3                                       # of 32 x 32 pixels, along a side of an image
SIDE = TILES * data.SIZE


def point_sampled(photo: torch.Tensor, generator: torch.Generator) -> tuple:
    """(noisy, clean), uint8 (3, 96, 96), of the middle of (3, H, W), whose sides are 192 at least."""
    H, W = photo.shape[1:]
    part = min(H, W) // SIDE * data.SIZE
    top, left = (H - TILES * part) // 2, (W - TILES * part) // 2
    rows = [[data.point_sample(photo[:, y:y + part, x:x + part], generator)
             for x in range(left, left + TILES * part, part)] for y in range(top, top + TILES * part, part)]
    return tuple(torch.cat([torch.cat([tile[which] for tile in row], 2) for row in rows], 1) for which in (0, 2))


def versions(noisy: torch.Tensor, clean: torch.Tensor, generator: torch.Generator) -> dict:
    """{kind: images}, uint8 (N, 3, 96, 96) each."""
    kinds = {'point-sampled': noisy}
    kinds.update((f'Gaussian, sigma {sigma}', gaussian_noise(clean, sigma, generator)) for sigma in (10, 25, 50))
    kinds.update((f'Poisson, {photons} photons', poisson_noise(clean, photons, generator)) for photons in (100, 30))
    kinds['impulses, 5 %'] = impulse_noise(clean, 5, generator)
    kinds['clean'] = clean
    kinds.update((f'correlated over {reach} pixels, sigma 15', correlated_noise(clean, 15, reach, generator))
                 for reach in (0.5, 1))
    kinds.update((f'JPEG, quality {quality}', torch.stack([jpeg(image, quality) for image in clean]))
                 for quality in (10, 30, 70))
    return kinds


def count(model, images: torch.Tensor) -> dict:
    """How many of (N, 3, H, W) the model changes by LEAST_CHANGE or more, and how many get a warning."""
    removed = [image - model.predict(image) for image in images.float().split(1)]
    return {'changed': sum(float(part.square().mean().sqrt()) >= denoise.LEAST_CHANGE for part in removed),
            'warned': sum(not denoise.is_noise(part) for part in removed)}


def main(arguments=None) -> int:
    parser = cli.parser('studies.warned', __doc__)
    option = parser.add_argument
    option('--photos', type=Path, required=True, metavar='FOLDER', help='photographs, as for others.data')
    option('--images', type=cli.integer(1), metavar='N', help='of a kind (default: one of each photograph)')
    cli.add_options(parser, 'seed', 'threads', 'record')
    options = shared.parse(parser, arguments)
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    photos = [photo for photo in map(data.read_photo, paths[:options.images]) if min(photo.shape[1:]) >= 2 * SIDE]
    if not photos:
        raise storage.UserError(f'--photos: none that is kept out of training has {2 * SIDE} pixels on each side')
    kinds = versions(*map(torch.stack, zip(*(point_sampled(photo, generator) for photo in photos))), generator)
    models = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)) for k in (1, 2)}
    rows = [{'kind': kind, 'images': len(images), **{name: count(model, images) for name, model in models.items()}}
            for kind, images in cli.progress(kinds.items(), len(kinds), 'kinds')]
    print(cli.table([['', *(f'{name}: {what}' for name in models for what in ('changed', 'warned'))],
                     *([row['kind'], *(f'{row[name][what]} of {row["images"]}' for name in models
                                       for what in ('changed', 'warned'))] for row in rows)]))
    shared.record(options, rows)
    return 0


if __name__ == '__main__':
    cli.run(main)
