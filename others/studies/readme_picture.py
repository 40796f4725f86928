"""Make the README's picture: photographs, point-sampled, denoised by both projects, and the truth.

    python -m others.studies.readme_picture --force

Beside it, in tiles.png, the same images without titles, a row for each photograph: the reports show them.

The photographs come with scikit-image, whose documentation names their licences: `astronaut` (NASA,
public domain) and `coffee` (Rachel Michetti, CC0). Of each, a square is divided into 96 x 96 blocks.
The noisy image shows a random pixel of each block, the true average is the block's mean.
"""
from pathlib import Path

import torch

from others import data
from others.common import cli, denoisers, plots, storage

SIDE = 96                           # pixels of the images that are shown, a multiple of data.SIZE
SQUARES = {                         # photograph: pixels on a side of a block; top and left of the square
    'astronaut': (5, 0, 0),
    'coffee': (4, 16, 120),
}


def sample(square: torch.Tensor, generator: torch.Generator) -> tuple:
    """uint8 (3, 96 b, 96 b) -> noisy and clean, uint8 (3, 96, 96): the course's noise, square by square."""
    part = square.shape[-1] // SIDE * data.SIZE
    rows = [[data.point_sample(block, generator) for block in band.split(part, 2)]
            for band in square.split(part, 1)]
    return tuple(torch.cat([torch.cat([block[i] for block in row], 2) for row in rows], 1) for i in (0, 2))


def main(arguments=None) -> int:
    parser = cli.parser('studies.readme_picture', __doc__)
    parser.add_argument('--out', type=Path, default=storage.ROOT / 'others' / 'pictures' / 'denoised.png',
                        metavar='FILE', help='(default: others/pictures/denoised.png)')
    parser.add_argument('--force', action='store_true', help='replace a picture that is there')
    options = parser.parse_args(arguments)
    from skimage import data as photographs

    tiles = options.out.with_name('tiles.png')
    for path in (options.out, tiles):
        if path.exists() and not options.force:
            raise storage.UserError(f'--out: {path} exists, expected a new file (--force replaces it)')

    generator = torch.Generator().manual_seed(0)
    pairs = []
    for name, (b, top, left) in SQUARES.items():
        photo = torch.tensor(getattr(photographs, name)()).permute(2, 0, 1)
        pairs.append(sample(photo[:, top:top + SIDE * b, left:left + SIDE * b], generator))
    noisy, clean = map(torch.stack, zip(*pairs))
    denoised = {f'project {k}': denoisers.trained_model(k, denoisers.checkpoint(k)).predict(noisy) for k in (1, 2)}
    versions = {'point-sampled': noisy, **denoised, 'true average': clean}
    plots.montage(options.out, versions, scale=2)
    plots.tiles(tiles, list(versions.values()))
    print(f'{options.out}: {options.out.stat().st_size / 1000:.0f} kB')
    return 0


if __name__ == '__main__':
    cli.run(main)
