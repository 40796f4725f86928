"""What a grader gets who trains with the defaults: `Model().train(noisy, noisy)`, its minutes and its PSNR.

    python -m others.studies.defaults --data data --record others/results/defaults.json
    python -m others.studies.defaults --data data --project 2 --threads 2

PSNR is that of val_data.pkl as `predict` denoises it, with test-time augmentation: the mean over images, and pooled,
as the course's own function has it. The time includes that of `predict`.
"""
import time

import torch

from others.common import cli, datasets, denoisers
from others.common.metrics import pooled_psnr, psnr
from others.studies import shared


def main(arguments=None) -> None:
    parser = cli.parser('studies.defaults', __doc__)
    parser.add_argument('--project', type=int, choices=(1, 2), help='train only this mini-project')
    cli.add_options(parser, 'data', 'seed', 'threads', 'record')
    options = shared.parse(parser, arguments)
    pairs = datasets.read_pairs('--data', options.data / datasets.TRAIN_FILE)
    noisy, clean = datasets.read_validation('--data', options.data / datasets.VAL_FILE)
    rows = []
    for project in [options.project] if options.project else [1, 2]:
        torch.manual_seed(options.seed)
        model = denoisers.new_model(project)
        start = time.monotonic()
        model.train(*pairs)
        denoised = model.predict(noisy)
        seconds = time.monotonic() - start
        rows.append({'project': project, 'pairs': len(pairs[0]), 'seed': options.seed, 'seconds': round(seconds, 1),
                     'psnr': psnr(denoised, clean).mean().item(), 'pooled': float(pooled_psnr(denoised, clean))})
        print('project {project}: {seconds} s, {psnr:.3f} dB, pooled {pooled:.3f} dB'.format(**rows[-1]), flush=True)
    shared.record(options, rows)


if __name__ == '__main__':
    cli.run(main)
