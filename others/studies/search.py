"""Train a variant of a mini-project for a given time and measure it: one run in the search for the best one.

    python -m others.studies.search plain --project 1 --seconds 420
    python -m others.studies.search nearest --project 2 --upsampling nearest --record others/results/search.json

Variants compare at equal training time, each in a process with one thread on the CPU (two may run side by side, on
two cores): the rate follows one cycle over that time, measured as the processor's. With --epochs they compare at
equally many pairs, on CUDA where there is one. PSNR is that of val_data.pkl and of the files of --also, without
ensembling.

--oracle trains towards the clean images instead, which nobody who denoises has: what is then missing is due to
the network and to the noise in its input, not to the noise in its targets. --without leaves out a part of the recipe,
to measure what it is worth; few pairs and many epochs show it, less than an epoch cannot.
"""
import argparse
import math
import time
from pathlib import Path
from typing import Collection, Iterator, Optional

import torch

from Miniproject_1 import model as project_1
from Miniproject_2 import model as project_2
from others import data
from others.common import cli, datasets, denoisers, graphs, storage
from others.studies import shared
from others.studies.variants import BLOCKS, DnCNN, Network, UNet, network_2

OTHERS = {'dncnn': DnCNN, 'unet': UNet}
LOSSES = {'squared': torch.nn.MSELoss, 'absolute': torch.nn.L1Loss}


class Variant1(project_1.Model):
    """Project 1's `Model` around another network."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.net = (OTHERS[options.network]() if options.network != 'ours' else
                    Network(options.widths, options.blocks, options.block, options.without))
        self.loss, self.LONGEST_GRADIENT = LOSSES[options.loss](), options.clip
        self.to(self.device if options.epochs else 'cpu')       # its time is the processor's
        weights, betas = self.net.parameters(), (self.BETAS[0], options.beta2)
        self.optimizer = (torch.optim.Adam(weights, betas=betas) if options.optimizer == 'adam' else
                          torch.optim.SGD(weights, lr=1, momentum=0.9, nesterov=True))

    def parameters(self) -> list:
        return list(self.net.parameters())

    def fit(self, noisy: torch.Tensor, target: torch.Tensor, rate: float) -> float:
        """One step on (N, 3, H, W), 0..1. -> the loss"""
        self.optimizer.param_groups[0]['lr'] = rate
        loss, gradients = self.differentiate(noisy, target)
        self.descend(gradients, self.optimizer)
        return loss.item()


class Variant2(project_2.Model):
    """Project 2's `Model` with other channels, kernels or upsampling."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.net = network_2(options.channels, options.kernel, options.upsampling, options.without)
        self.to(self.device if options.epochs else 'cpu')
        self.optimizer = project_2.SGD(self.net.param(), lr=0, momentum=options.momentum,
                                       nesterov=options.momentum > 0 and 'nesterov' not in options.without)

    def parameters(self) -> list:
        return [weight for weight, _ in self.net.param()]

    def fit(self, noisy: torch.Tensor, target: torch.Tensor, rate: float) -> float:
        """One step on (N, 3, H, W), 0..1. -> the loss"""
        self.optimizer.lr = rate
        loss, _ = self.differentiate(noisy, target)
        self.optimizer.step()
        return loss.item()


VARIANTS = {1: (project_1, Variant1), 2: (project_2, Variant2)}


def shares_of(options: argparse.Namespace, pairs: int) -> Iterator:
    """The part of the training that is done, 0..1, before each step: of --epochs, or of the processor's time."""
    if options.epochs:
        steps = math.ceil(options.epochs * pairs / options.batch)
        yield from (step / steps for step in range(steps))
        return
    start = time.process_time()
    while (share := (time.process_time() - start) / options.seconds) < 1:
        yield share


def held(share: float, peak: float) -> float:
    """A rate that rises in the first twentieth, is held, and falls to zero in the last 30 %."""
    return peak * min(20 * share + 0.05, 1, (1 - share) / 0.3)


SCHEDULES = {'cycle': project_1.one_cycle, 'held': held, 'constant': lambda share, peak: peak}


def train(variant, options: argparse.Namespace, images: tuple) -> list:
    """A step on a random batch for each of `shares_of` -> the losses. images: first, second, clean of `pair_of`."""
    losses, project = [], VARIANTS[options.project][0]
    bar = cli.progress_bar('training', 100, unit=' %')
    for share in shares_of(options, len(images[0])):
        bar.update(int(100 * share) - bar.n)
        batch = torch.randint(len(images[0]), (options.batch,))
        pair = pair_of(project, *(part[batch].to(variant.device) for part in images), without=options.without)
        losses.append(variant.fit(*pair, SCHEDULES[options.schedule](share, options.lr)))
        if not math.isfinite(losses[-1]):
            raise storage.UserError(f'--lr: the loss is not finite after {len(losses)} steps, expected a lower rate')
    bar.close()
    if options.project == 1:
        variant.net.eval()                          # batch norm by what it saw in training
    return losses


def pair_of(project, first: torch.Tensor, second: torch.Tensor, clean: Optional[torch.Tensor] = None,
            without: Collection = ()) -> tuple:
    """(input, target) for a step, 0..1, of a batch of pairs; the target is `clean`, where that is not None.

    All (N, 3, H, W), the arguments in 0..255. project: the module with the arithmetic. without: which of the
    augmentations, 'swap' and 'turn', are left out.
    """
    pair = tuple(project.to_unit(images, first.device) for images in (first, second))
    if 'swap' not in without:
        pair = project.swap_noise(*pair)
    if clean is not None:
        pair = pair[0], project.to_unit(clean, first.device)
    return pair if 'turn' in without else project.turn(*pair)


def with_clean(images: tuple, folder: Path, photos: Path) -> tuple:
    """(noisy, noisy) of `folder`, with the clean images that belong to them; UserError if they are of other
    photographs."""
    generator = torch.Generator().manual_seed(data.SPLIT_SEED)
    train_photos, val_photos = data.split_photos(photos, generator, '--oracle')
    val = len(datasets.read_pairs('--data', folder / data.VAL_FILE)[0])
    data.make_pairs(val_photos, val, 'validation pairs', data.read_photo, generator)      # draws what the set drew
    *again, clean = data.make_pairs(train_photos, len(images[0]), 'training pairs', data.read_photo, generator)
    if not all(map(torch.equal, again, images)):
        raise storage.UserError(f'--oracle: --data was not made from {photos} with the default seed')
    return *images, clean


PARTS = {                                                               # what --without leaves out
    1: ('swap', 'turn', 'residual', 'skips', 'addition', 'halving', 'small'),
    2: ('swap', 'turn', 'initialisation', 'last', 'centring', 'nesterov'),
}
OF_PROJECT = {
    1: {'network': 'ours', 'widths': [24, 48, 96, 192], 'blocks': [8, 2, 2], 'block': 'plain', 'loss': 'squared',
        'optimizer': 'adam', 'beta2': project_1.Model.BETAS[1], 'clip': project_1.Model.LONGEST_GRADIENT},
    2: {'channels': [128, 256], 'kernel': 4, 'upsampling': 'transposed', 'momentum': project_2.Model.MOMENTUM},
}


def parse(arguments) -> argparse.Namespace:
    """The options; those of the project that were not given have its own values. UserError for the other's."""
    parser = cli.parser('studies.search', __doc__)
    option = parser.add_argument
    option('name', metavar='NAME', help='of the variant, for the record')
    option('--project', type=int, choices=(1, 2), required=True, help='the mini-project')
    length = parser.add_mutually_exclusive_group().add_argument
    length('--seconds', type=cli.integer(1), metavar='N', help='of training (default: 420)')
    length('--epochs', type=cli.positive, metavar='N', help='train for N epochs instead of a fixed time')
    option('--schedule', choices=SCHEDULES, default='cycle',
           help='of the learning rate: one cycle, held and lowered at the end, or constant (default: cycle)')
    option('--oracle', type=Path, metavar='FOLDER',
           help='the photographs that --data was made from (with the default seed): train towards clean images')
    option('--without', choices=dict.fromkeys(PARTS[1] + PARTS[2]), nargs='+', default=[], metavar='PART',
           help='leave out swap, the exchange of pixels between the two versions; turn, the flips and transpositions; '
                'in project 1 residual, the input in the output; skips, between encoder and decoder; addition, of the '
                'skips, which are joined; halving, by 2 x 2 convolutions, for max pooling; small, the weights with '
                "which blocks begin; in project 2 initialisation, for torch.nn's; last, the last layer's smaller "
                "weights; centring, of the input; nesterov, for classical momentum")
    option('--lr', type=cli.positive, help="peak learning rate (default: the project's own)")
    option('--batch', type=cli.integer(1), metavar='N', help="(default: the project's own)")
    option('--precision', choices=('float32', 'mixed'),
           help='mixed: products in bfloat16 (default: what is fast on this machine)')
    cli.add_options(parser, 'data', 'seed', 'also', 'record')
    option = parser.add_argument_group('project 1').add_argument
    option('--network', choices=('ours', *OTHERS),
           help='dncnn, or unet, that of the Noise2Noise paper, which have no other options (default: ours)')
    option('--widths', type=cli.integer(1), nargs='+', metavar='N',
           help='channels of each level (default: 24 48 96 192)')
    option('--blocks', type=cli.integer(0), nargs='*', metavar='N',
           help='blocks of each level but the bottom, the finest first (default: 8 2 2)')
    option('--block', choices=BLOCKS, help='kind of block (default: plain)')
    option('--loss', choices=LOSSES, help='mean squared or mean absolute error (default: squared)')
    option('--optimizer', choices=('adam', 'sgd'), help='sgd: with Nesterov momentum of 0.9 (default: adam)')
    option('--beta2', type=cli.share, metavar='N', help="Adam's, of the squares (default: 0.99)")
    option('--clip', type=cli.positive, metavar='N', help='gradient clipping: the longest norm (default: 0.02)')
    option = parser.add_argument_group('project 2').add_argument
    option('--channels', type=cli.integer(1), nargs=2, metavar='N', help='at half and quarter size (default: 128 256)')
    option('--kernel', type=cli.integer(2), metavar='N',
           help='of all convolutions; with --upsampling nearest, on the way up 1 less if even (default: 4)')
    option('--upsampling', choices=('transposed', 'nearest'), help='on the way up (default: transposed)')
    option('--momentum', type=cli.share, metavar='N', help="the optimizer's, 0 for none (default: 0.9)")
    options = shared.parse(parser, arguments)
    if not options.epochs:
        options.seconds = options.seconds or 420
    for number, defaults in OF_PROJECT.items():
        for name, default in defaults.items():
            if number == options.project and getattr(options, name) is None:
                setattr(options, name, default)
            elif number != options.project and getattr(options, name) is not None:
                raise storage.UserError(f'--{name} is of project {number}, '
                                      f'expected none with --project {options.project}')
    parts = PARTS[options.project]
    if wrong := set(options.without).difference(parts):
        raise storage.UserError(f'--without: {min(wrong)} is of the other project, expected some of '
                                f'{", ".join(parts)} with --project {options.project}')
    model = VARIANTS[options.project][0].Model
    options.lr, options.batch = options.lr or model.PEAK_LR, options.batch or model.BATCH_SIZE
    if options.project == 1 and len(options.widths) != len(options.blocks) + 1:
        raise storage.UserError(f'--blocks: expected {len(options.widths) - 1} numbers for --widths, '
                                f'got {len(options.blocks)}')
    return options


def main(arguments=None) -> None:
    options = parse(arguments)
    images = datasets.read_pairs('--data', options.data / data.TRAIN_FILE)
    sets = datasets.read_sets(options.data / data.VAL_FILE, options.also)
    if options.oracle:
        images = with_clean(images, options.data, options.oracle)

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    variant = VARIANTS[options.project][1](options)
    precision = denoisers.set_precision(variant, options.precision)
    graphs.accelerate(variant)
    start = time.monotonic()
    losses = train(variant, options, images)
    training_seconds = round(time.monotonic() - start, 1)
    scores = denoisers.measure(variant, sets)
    decibels = ', '.join(f'{name} {score:.3f} dB' for name, score in scores.items())
    print(f'{options.name}: {len(losses)} steps, {decibels}')
    settings = ('name', 'project', 'seconds', 'epochs', 'schedule', 'without', 'seed', 'batch', 'lr')
    row = {**{name: getattr(options, name) for name in settings}, 'oracle': options.oracle is not None,
           'precision': precision, **{name: getattr(options, name) for name in OF_PROJECT[options.project]},
           'parameters': sum(weight.numel() for weight in variant.parameters()),
           'pairs_seen': len(losses) * options.batch, 'training_seconds': training_seconds, 'psnr': scores,
           'loss_curve': [round(sum(losses[i:i + 100]) / 100, 5) for i in range(0, len(losses) - 99, 100)]}
    shared.record(options, [row], variant.device)


if __name__ == '__main__':
    cli.run(main)
