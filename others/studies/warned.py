"""How often others.denoise warns, for each kind of noise: of images that its models are for, and of others.

    python -m others.studies.warned --photos ../photographs
    python -m others.studies.warned --photos ../photographs --record others/results/warned.json

Of each photograph that others.data keeps out of training, the middle becomes an image of 96 x 96 pixels,
point-sampled as the course's are, and clean, to which other noise is added. Images that are point-sampled or have
independent noise should get no warning; clean ones, JPEG and correlated noise should, where they are changed by 2 of
255 or more. The table has, for both projects with the shipped weights, the images that were changed so much, and those
that got a warning.
"""
import torch

from others import data, denoise
from others.common import cli, denoisers, storage
from others.common.noise import correlated_noise, gaussian_noise, impulse_noise, jpeg, poisson_noise
from others.studies import shared
from others.studies.readme_picture import SIDE, sample


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


def main(arguments=None) -> None:
    parser = cli.parser('studies.warned', __doc__)
    parser.add_argument('--images', type=cli.integer(1), metavar='N',
                        help='of a kind (default: one of each photograph)')
    cli.add_options(parser, 'photos', 'seed', 'threads', 'record')
    options = shared.parse(parser, arguments)
    generator = torch.Generator().manual_seed(options.seed)
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    photos = [photo for photo in map(data.read_photo, paths[:options.images]) if min(photo.shape[1:]) >= 2 * SIDE]
    if not photos:
        raise storage.UserError(f'--photos: none that is kept out of training has {2 * SIDE} pixels on each side')
    pairs = [sample(data.centre_square(photo, SIDE), generator) for photo in photos]
    kinds = versions(*map(torch.stack, zip(*pairs)), generator)
    models = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)) for k in (1, 2)}
    rows = [{'kind': kind, 'images': len(images), **{name: count(model, images) for name, model in models.items()}}
            for kind, images in cli.progress(kinds.items(), len(kinds), 'kinds')]
    print(cli.table([['', *(f'{name}: {what}' for name in models for what in ('changed', 'warned'))],
                     *([row['kind'], *(f'{row[name][what]} of {row["images"]}' for name in models
                                       for what in ('changed', 'warned'))] for row in rows)]))
    shared.record(options, rows)


if __name__ == '__main__':
    cli.run(main)
