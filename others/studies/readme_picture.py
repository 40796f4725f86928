"""Make the README's picture: photographs, point-sampled, denoised by both projects, and the truth.

    python -m others.studies.readme_picture --force

The photographs come with scikit-image, whose documentation names their licences: `astronaut` (NASA,
public domain) and `coffee` (Rachel Michetti, CC0). Of each, a square is divided into 96 x 96 blocks.
The noisy image shows a random pixel of each block, the true average is the block's mean.

Beside it lie two files without titles, for the reports: a row for each image, a column for each of its versions.
tiles.png has the same photographs; squares.png has, for each project, the worst, the median and the best of
the 32 x 32 images that are made from random squares of both, as the course made its own.
"""
from pathlib import Path

import torch

from others import data
from others.common import cli, denoisers, plots, storage
from others.common.metrics import psnr

SIDE = 96                           # pixels of the images that are shown, a multiple of data.SIZE
SQUARES = {                         # photograph: pixels on a side of a block; top and left of the square
    'astronaut': (5, 0, 0),
    'coffee': (4, 16, 120),
}
IMAGES = 200                        # of 32 x 32 pixels, from each photograph: the worst is one of them


def sample(square: torch.Tensor, generator: torch.Generator) -> tuple:
    """uint8 (3, 96 b, 96 b) -> noisy and clean, uint8 (3, 96, 96): the course's noise, square by square."""
    part = square.shape[-1] // SIDE * data.SIZE
    rows = [[data.point_sample(block, generator) for block in band.split(part, 2)]
            for band in square.split(part, 1)]
    return tuple(torch.cat([torch.cat([block[i] for block in row], 2) for row in rows], 1) for i in (0, 2))


def course_images(photos: list, generator: torch.Generator) -> tuple:
    """noisy and clean, uint8 (N, 3, 32, 32), of random squares of the photographs."""
    noisy, _, clean = zip(*(data.point_sample(data.random_square(photo, generator), generator)
                            for photo in photos for _ in range(IMAGES)))
    return torch.stack(noisy), torch.stack(clean)


def extremes(images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Indices of the image with the least PSNR, with the median and with the largest."""
    order = psnr(images, clean).argsort()
    return order[[0, len(order) // 2, -1]]


def main(arguments=None) -> None:
    parser = cli.parser('studies.readme_picture', __doc__)
    parser.add_argument('--out', type=Path, default=storage.ROOT / 'others' / 'pictures' / 'denoised.png',
                        metavar='FILE', help='(default: others/pictures/denoised.png)')
    parser.add_argument('--force', action='store_true', help='replace a picture that is there')
    options = parser.parse_args(arguments)
    from skimage import data as photographs

    files = options.out, options.out.with_name('tiles.png'), options.out.with_name('squares.png')
    for path in files:
        if path.exists() and not options.force:
            raise storage.UserError(f'--out: {path} exists, expected a new file (--force replaces it)')

    models = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)) for k in (1, 2)}

    def versions(noisy: torch.Tensor, clean: torch.Tensor) -> dict:
        denoised = {name: model.predict(noisy) for name, model in models.items()}
        return {'point-sampled': noisy, **denoised, 'true average': clean}

    generator = torch.Generator().manual_seed(0)
    photos = {name: torch.tensor(getattr(photographs, name)()).permute(2, 0, 1) for name in SQUARES}
    pairs = [sample(photos[name][:, top:top + SIDE * b, left:left + SIDE * b], generator)
             for name, (b, top, left) in SQUARES.items()]
    large = versions(*map(torch.stack, zip(*pairs)))
    plots.montage(files[0], large, scale=2)
    plots.tiles(files[1], list(large.values()))

    small = versions(*course_images(list(photos.values()), generator))
    shown = torch.cat([extremes(small[name], small['true average']) for name in models])
    plots.tiles(files[2], [images[shown] for images in small.values()])
    print(f'{options.out}: {options.out.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    cli.run(main)
