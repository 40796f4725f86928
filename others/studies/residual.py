"""What the noise of some pairs is: its mean, its correlations, and what its strength depends on.

    python -m others.studies.residual data/val_data.pkl data/real_val.pkl
    python -m others.studies.residual data/val_data.pkl data/real_val.pkl --record others/results/residual.json

Each file holds (noisy, clean) images. The noise is their difference, on the scale 0..255. Its correlation with its
neighbours would be zero if every pixel were an independent draw; `neighbour_error` is the standard error of such a
zero, the same for all neighbours to a few per cent. `by_contrast` has, for tenths of the pixels from the flattest
to the busiest, the contrast (the mean distance of the clean pixel's colours to those of its 4 neighbours) and the
root mean square of the noise.
"""
from pathlib import Path

import torch

from others.common import cli, datasets
from others.studies import shared

REACH = 2                       # pixels to each side, of the neighbours whose correlation is measured
GROUPS = 10


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()).item()


def shifted(images: torch.Tensor, dy: int, dx: int) -> tuple:
    """Each pixel that has a neighbour dy, dx further, and that neighbour: two tensors of one shape."""
    H, W = images.shape[2:]
    rows = [slice(max(0, d), min(n, n + d)) for d, n in ((-dy, H), (-dx, W), (dy, H), (dx, W))]
    return images[:, :, rows[0], rows[1]], images[:, :, rows[2], rows[3]]


def contrast(clean: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, H - 2, W - 2), the mean distance of a pixel's colours to those of its 4 neighbours."""
    middle = clean[:, :, 1:-1, 1:-1]
    around = clean[:, :, :-2, 1:-1], clean[:, :, 2:, 1:-1], clean[:, :, 1:-1, :-2], clean[:, :, 1:-1, 2:]
    return sum((middle - other).abs() for other in around).mean(1) / len(around)


def describe(noisy: torch.Tensor, clean: torch.Tensor) -> dict:
    """A row of the record. noisy, clean: uint8 (N, 3, H, W)."""
    clean = clean.double()
    noise = noisy.double() - clean
    red, green, blue = noise.unbind(1)
    grey, steps = noise.mean(1, keepdim=True), range(-REACH, REACH + 1)
    products = torch.mul(*shifted(grey, 0, 1))
    busy, power = contrast(clean).flatten(), noise[:, :, 1:-1, 1:-1].square().mean(1).flatten()
    return {
        'images': len(clean), 'mean': noise.mean().item(),
        'mean_error': noise.mean((1, 2, 3)).std().item() / len(clean) ** 0.5,
        'rms': noise.square().mean().sqrt().item(),
        'red_green': correlation(red, green), 'red_blue': correlation(red, blue),
        'neighbours': [[correlation(*shifted(grey, dy, dx)) for dx in steps] for dy in steps],
        'neighbour_error': (products.square().sum().sqrt() / products.numel() / grey.square().mean()).item(),
        'by_contrast': [[busy[group].mean().item(), power[group].mean().sqrt().item()]
                        for group in busy.argsort(stable=True).tensor_split(GROUPS)],
    }


def main(arguments=None) -> None:
    parser = cli.parser('studies.residual', __doc__)
    parser.add_argument('files', type=Path, nargs='+', metavar='FILE', help='(noisy, clean) pairs')
    cli.add_options(parser, 'record')
    options, rows = shared.parse(parser, arguments), []
    for path in options.files:
        row = {'file': path.name, **describe(*datasets.read_validation('FILE', path))}
        rows.append(row)
        around = [value for line in row['neighbours'] for value in line if value < 0.999]
        print(f"{path.name}: {row['images']} images, mean {row['mean']:+.2f}, rms {row['rms']:.1f} of 255, neighbours "
              f"{min(around):+.3f} to {max(around):+.3f} (± {row['neighbour_error']:.3f}), red and green "
              f"{row['red_green']:.2f}; rms {row['by_contrast'][0][1]:.1f} where it is flat, "
              f"{row['by_contrast'][-1][1]:.1f} where it is busy", flush=True)
    shared.record(options, rows, 'cpu')


if __name__ == '__main__':
    cli.run(main)
