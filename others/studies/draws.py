"""What of the denoisers' error is due to the draw of the noise, and how much noise one draw is worth.

    python -m others.studies.draws --photos ../photographs --data data
    python -m others.studies.draws --photos ../photographs --data data --record others/results/draws.json

The centre square of each photograph that others.data keeps out of training gets its noise several times. Then the
mean squared error of a denoiser against the clean image is the sum of two parts: the variance of its output over the
draws, and the square of its bias, which is what the mean over all draws would still have. Beside it, for 1, 2, 4 ..
draws: the PSNR of their mean, without any denoiser; of that mean, denoised; and of the mean of the denoised draws.
Of the training pairs of --data, and of pairs of the photographs that are kept out, the error is estimated from the
other noisy version (`metrics.estimated_error`), beside the variance of the noise: how far their quotients differ is
what the weights have learnt by heart. How good such an estimate is, the latter pairs show, since their clean images
are there: the PSNR of both denoisers and of Gaussian blurs, true and estimated. Predictions are without test-time
augmentation; PSNR is the mean over the images, or "pooled", of the mean squared error of all, in dB.
"""
import torch

from others import data
from others.common import cli, datasets, denoisers
from others.common.metrics import estimated_error, estimated_psnr, pooled_psnr, psnr
from others.common.noise import gaussian_blur
from others.studies import shared

BLURS = (0.2, 0.3, 0.4, 0.5, 0.7, 1)            # standard deviations, in pixels


def split(outputs: torch.Tensor, clean: torch.Tensor) -> tuple:
    """(variance over the draws, squared bias) of outputs (K, N, C, H, W) against (N, C, H, W); means over all values,
    without bias for any K > 1. Their sum is the mean squared error."""
    variance = outputs.var(0)
    return variance.mean().item(), ((outputs.mean(0) - clean).square() - variance / len(outputs)).mean().item()


def by_count(draws: torch.Tensor, clean: torch.Tensor, denoise=lambda noisy: noisy) -> dict:
    """{k: PSNR of `denoise` of the mean of k of the draws (K, N, C, H, W)}, for k = 1, 2, 4 .. up to K; the mean over
    all images and over groups of k draws, which do not overlap."""
    scores = {}
    for k in (2 ** i for i in range(len(draws).bit_length())):
        groups = draws[:len(draws) // k * k].float().unflatten(0, (-1, k)).mean(1)
        scores[str(k)] = torch.stack([psnr(denoise(group), clean) for group in groups]).mean().item()
    return scores


def pooled(denoised: torch.Tensor, noisy: torch.Tensor, other: torch.Tensor, clean: torch.Tensor) -> dict:
    """The pooled PSNR against the clean images, and what it is estimated to be without them, with its standard error.
    All (N, C, H, W)."""
    estimated, uncertain = estimated_psnr(denoised, noisy, other)
    return {'pooled': pooled_psnr(denoised, clean), 'estimated': estimated, 'estimated_error': uncertain}


def told(scores: dict) -> str:
    return ', '.join(f'{k}: {score:.2f} dB' for k, score in scores.items())


def main(arguments=None) -> None:
    parser = cli.parser('studies.draws', __doc__)
    option = parser.add_argument
    option('--draws', type=cli.integer(2), default=8, metavar='K', help='of each square (default: 8)')
    option('--pairs', type=cli.integer(1), default=2000, metavar='N', help='training pairs (default: 2000)')
    cli.add_options(parser, 'photos', 'data', 'seed', 'threads', 'record')
    options = shared.parse(parser, arguments)
    generator = torch.Generator().manual_seed(options.seed)
    _, paths = data.split_photos(options.photos, torch.Generator().manual_seed(data.SPLIT_SEED), '--photos')
    squares = [data.centre_square(data.read_photo(path)) for path in paths]
    samples = [[data.point_sample(square, generator) for square in squares] for _ in range(options.draws)]
    noisy = torch.stack([torch.stack([first for first, _, _ in draw]) for draw in samples])     # (K, N, 3, 32, 32)
    clean = torch.stack([clean for _, _, clean in samples[0]])
    pairs = datasets.read_pairs('--data', options.data / data.TRAIN_FILE, options.pairs)
    # Pairs of photographs that nobody trained on, made as those of --data are.
    kept = data.make_pairs(paths, len(pairs[0]), 'validation pairs', data.read_photo, generator)

    rows = [{'model': 'mean of draws', 'images': len(clean), 'draws': options.draws, 'psnr': by_count(noisy, clean)}]
    print(f"mean of draws: {told(rows[0]['psnr'])}")
    noise = {f'{name}_noise': estimated_error(first, first, second).mean().item()
             for name, (first, second, *_) in (('training', pairs), ('validation', kept))}
    rows += [{'model': f'blur of {sigma}', **pooled(gaussian_blur(kept[0], sigma), *kept)} for sigma in BLURS]
    for project in (1, 2):
        model = denoisers.trained_model(project, denoisers.checkpoint(project))
        outputs = torch.stack([model.predict(draw, ensemble=False) for draw in noisy])
        variance, bias = split(outputs.double(), clean.double())
        on_others = model.predict(kept[0], ensemble=False)
        row = {'model': f'project {project}', 'images': len(clean), 'draws': options.draws,
               'psnr': by_count(noisy, clean, lambda mean: model.predict(mean, ensemble=False)),
               'psnr_of_outputs': by_count(outputs, clean), 'variance': variance, 'squared_bias': bias,
               'training_error': estimated_error(model.predict(pairs[0], ensemble=False), *pairs).mean().item(),
               'validation_error': estimated_error(on_others, *kept[:2]).mean().item(), **noise,
               **pooled(on_others, *kept)}
        rows.append(row)
        print(f"project {project}: mean of draws, denoised: {told(row['psnr'])}")
        print(f"project {project}: mean of denoised draws: {told(row['psnr_of_outputs'])}")
        print(f"project {project}: of the error {variance:.1f} (of 255^2) is variance over draws, {bias:.1f} squared "
              f"bias; estimated on training pairs {row['training_error']:.1f} (noise {row['training_noise']:.1f}), "
              f"others {row['validation_error']:.1f} ({row['validation_noise']:.1f})")
    for row in rows[1:]:
        print(f"{row['model']}: {row['pooled']:.2f} dB pooled, estimated {row['estimated']:.2f} ± "
              f"{row['estimated_error']:.2f}")
    shared.record(options, rows)


if __name__ == '__main__':
    cli.run(main)
