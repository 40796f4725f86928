"""What of the denoisers' error is due to the draw of the noise, and how much noise one draw is worth.

    python -m others.studies.draws --photos ../photographs --data data
    python -m others.studies.draws --photos ../photographs --data data --record others/results/draws.json

The centre square of each photograph that others.data keeps out of training gets its noise several times. Then the
mean squared error of a denoiser against the clean image is the sum of two parts: the variance of its output over the
draws, and the square of its bias, which is what the mean over all draws would still have. Beside it: the PSNR of the
mean of 1, 2, 4 .. draws, without any denoiser. Of the training pairs and the validation pairs of --data, the error is
estimated in the same way, from the other noisy version (`metrics.estimated_error`): how far they differ is what the
weights have learnt by heart. Predictions are without ensembling; PSNR is the mean over the images, in dB.
"""
import time
from pathlib import Path

import torch

from others import data
from others.common import cli, datasets, denoisers, records
from others.common.metrics import estimated_error, psnr


def split(outputs: torch.Tensor, clean: torch.Tensor) -> tuple:
    """(variance over the draws, squared bias) of outputs (K, N, C, H, W) against (N, C, H, W); means over all values,
    without bias for any K > 1. Their sum is the mean squared error."""
    variance = outputs.var(0)
    return variance.mean().item(), ((outputs.mean(0) - clean).square() - variance / len(outputs)).mean().item()


def gap(model, pairs: tuple, validation: tuple) -> dict:
    """The estimated mean squared errors of a `Model` on training pairs and on pairs of other photographs."""
    return {f'{name}_error': estimated_error(model.predict(noisy, ensemble=False), noisy, other).mean().item()
            for name, (noisy, other) in (('training', pairs), ('validation', validation))}


def main(arguments=None) -> int:
    parser = cli.parser('studies.draws', __doc__)
    option = parser.add_argument
    option('--photos', type=Path, required=True, metavar='FOLDER', help='photographs, as for others.data')
    option('--draws', type=cli.integer(2), default=8, metavar='K', help='of each square (default: 8)')
    option('--pairs', type=cli.integer(1), default=2000, metavar='N', help='training pairs (default: 2000)')
    cli.add_options(parser, 'data', 'seed', 'threads', 'record')
    options, start = parser.parse_args(arguments), time.monotonic()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    squares = [data.centre_square(data.read_photo(path)) for path in paths]
    samples = [[data.point_sample(square, generator) for square in squares] for _ in range(options.draws)]
    noisy = torch.stack([torch.stack([first for first, _, _ in draw]) for draw in samples])     # (K, N, 3, 32, 32)
    clean = torch.stack([clean for _, _, clean in samples[0]])
    pairs = datasets.read_pairs('--data', options.data / data.TRAIN_FILE, options.pairs)
    # Pairs of photographs that nobody trained on, made as those of --data are.
    kept = data.make_pairs(paths, len(pairs[0]), 'validation pairs', data.read_photo, generator)[:2]

    counts = [2 ** k for k in range(options.draws.bit_length()) if 2 ** k <= options.draws]
    rows = [{'model': 'mean of draws', 'images': len(clean), 'draws': options.draws,
             'psnr': {str(k): psnr(noisy[:k].float().mean(0), clean).mean().item() for k in counts}}]
    print('mean of draws: ' + ', '.join(f'{k}: {score:.2f} dB' for k, score in rows[0]['psnr'].items()))
    for project in (1, 2):
        model = denoisers.trained_model(project, denoisers.checkpoint(project))
        outputs = torch.stack([model.predict(draw, ensemble=False) for draw in noisy])
        variance, bias = split(outputs.double(), clean.double())
        row = {'model': f'project {project}', 'images': len(clean), 'draws': options.draws,
               'psnr': {'1': torch.stack([psnr(output, clean) for output in outputs]).mean().item()},
               'variance': variance, 'squared_bias': bias, **gap(model, pairs, kept)}
        rows.append(row)
        print(f"project {project}: {row['psnr']['1']:.2f} dB from one draw; of its error {variance:.1f} (of 255^2) is "
              f"variance over draws, {bias:.1f} squared bias; estimated on training pairs "
              f"{row['training_error']:.1f}, on others {row['validation_error']:.1f}")
    if options.record:
        records.append(options.record, rows, time.monotonic() - start)
    return 0


if __name__ == '__main__':
    cli.run(main)
