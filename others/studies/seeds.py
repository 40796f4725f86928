"""The systems of the five documents that the project grew from, each trained as its authors describe it.

    python -m others.studies.seeds all
    python -m others.studies.seeds skip.depth nearest.kernels
    python -m others.studies.seeds all --quick --data data --record runs/quick.json

A system is data: a network, a recipe, what was reported. One trainer runs them all, and measures on val_data.pkl and
on the files of --also: the mean of the images' PSNR, its standard error, and "pooled", the PSNR of the mean squared
error over all images, which is what the function printed in the assignment computes. `all` means every headline row;
a sweep, whose name has a dot, is asked for by its name. `full` rows were trained on as much as the authors say.

Each run, of one system and one seed, appends to the record; what is recorded is not run again. The folder --out
holds the states: after a stop, the same command goes on from the last complete epoch. One thread computes, and time
is the processor's.
"""
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Union

import torch
from torch import nn

from Miniproject_2 import model as framework
from others.common import cli, datasets, records, storage
from others.common.metrics import mean_and_error, pooled_psnr, psnr
from others.studies.shared import torch_step
from others.studies.variants import TORCH, step_2

RECORD, EVALUATION = (storage.ROOT / 'others' / 'results' / f'{name}.json' for name in ('seeds', 'evaluation'))
ALSO = ('centre.pkl', 'real_val.pkl')


# ------------------------------------------------------------------------------------- the systems

@dataclass(frozen=True)
class System:
    """A network and a recipe."""
    name: str
    layers: tuple                           # (class, *its arguments), named as in Miniproject_2.model
    batch: int
    lr: float
    epochs: int = 10
    pairs: int = 50_000
    optimizer: str = 'SGD'                  # or 'Adam', without momentum; the mean squared error is the loss
    project: int = 2                        # the mini-project that it was made for
    framework: str = 'ours'                 # or 'torch.nn'
    skip: bool = False                      # the last convolution sees the first one's activation, too
    reported: Optional[float] = None        # dB, on the course's validation set
    full: bool = True                       # trained on as much as the authors say
    seeds: int = 1
    chosen: str = ''                        # where the text leaves something open, and why a row is there at all


def chain(*layers: tuple, last: tuple = (('Sigmoid',),)) -> tuple:
    """The layers with ReLU in between, and what comes `last`."""
    return (*(part for layer in layers for part in (layer, ('ReLU',))),)[:-1] + last


def mery(*channels: int, skip: bool = False) -> tuple:
    """3 x 3 convolutions, then as many transposed ones, without padding."""
    half, before = len(channels) // 2, [3, *channels[:-1]]
    before[-1] += channels[0] * skip
    kinds = ['Conv2d'] * half + ['TransposeConv2d'] * half
    return chain(*((kind, a, b, 3) for kind, a, b in zip(kinds, before, channels)))


def nearest(a: int, b: int, kernel: int = 3) -> tuple:
    p = kernel // 2
    return chain(('Conv2d', 3, a, kernel, 2, p), ('Conv2d', a, b, kernel, 2, p),
                 ('Upsampling', b, a, kernel, 1, p), ('Upsampling', a, 3, kernel, 1, p))


def five(a: int, b: int, c: int, d: int) -> tuple:
    return chain(('Conv2d', 3, a, 3, 2, 1), ('Conv2d', a, b, 3, 2, 1), ('Upsampling', b, c, 3, 1, 1),
                 ('Upsampling', c, d, 3, 1, 1), ('Conv2d', d, 3, 3, 1, 1))


def transposed(a: int, b: int, kernel: int = 4) -> tuple:
    how = kernel, 2, kernel // 2 - 1
    return chain(('Conv2d', 3, a, *how), ('Conv2d', a, b, *how), ('TransposeConv2d', b, a, *how),
                 ('TransposeConv2d', a, 3, *how))


def plain(*channels: int) -> tuple:
    """3 x 3 convolutions with padding, the last one linear."""
    return chain(*(('Conv2d', before, after, 3, 1, 1) for before, after in zip((3, *channels), channels)), last=())


# T. Mery, "Noise2Noise auto-encoder using PyTorch Framework": sections 3.1 to 4, tables 2 and 3, figures 1, 3 and 4.
SKIP = System('skip', mery(100, 100, 100, 3, skip=True), batch=8, lr=1e-3, optimizer='Adam', project=1,
              framework='torch.nn', skip=True, reported=25.32, seeds=3)
INITIAL = System('skip, initial', mery(32, 32, 32, 3), batch=50, lr=1e-3, pairs=5_000, optimizer='Adam',
                 project=1, framework='torch.nn')
DEPTH = tuple(replace(INITIAL, name=f'skip, {len(channels)} layers', layers=mery(*channels), reported=reported,
                      chosen='the number of epochs is not said: 10')
              for channels, reported in (
    ((32, 32, 32, 3), 23.69), ((26, 22, 22, 22, 26, 3), 22.63), ((20, 20, 18, 18, 18, 20, 20, 3), 20.91),
    ((18, 16, 16, 16, 16, 16, 16, 16, 18, 3), 20.10), ((16, 16, 14, 14, 14, 14, 14, 14, 14, 16, 16, 3), 19.31)))
WITH_AND_WITHOUT = (
    replace(INITIAL, name='skip, with', layers=mery(32, 32, 32, 3, skip=True), skip=True, epochs=25, reported=24.69),
    replace(INITIAL, name='skip, without', epochs=25, reported=24.43))
CHANNELS = tuple(replace(INITIAL, name=f'skip, {n} channels', layers=mery(n, n, n, 3), batch=5, epochs=1)
                 for n in (*range(10, 100, 10), 100, 200, 300, 400))
BATCHES = tuple(replace(INITIAL, name=f'skip, batches of {n}', batch=n, epochs=1, pairs=10_000, full=False,
                        chosen='10,000 pairs and a seed in place of 50,000 and five')
                for n in (1, 2, 4, 5, 8, 10, 16, 20, 25, 40, 50))
EPOCHS = (replace(INITIAL, name='skip, epochs', batch=8, epochs=15, pairs=10_000, full=False,
                  chosen='one run of 15, measured after each: the rate is constant; 10,000 pairs in place of 50,000'),)

# M. Bechaz, T. Castiglione, E. Seiler, "Project 2: Mini Framework for Noise2Noise": section V, table I, figure 4.
NEAREST = System('nearest', nearest(256, 32), batch=4, lr=1, pairs=3_000, reported=22.50,
                 chosen='batch and rate are not said: 4 and 1; ReLU as printed, tanh is not in the listing')
NEAREST_CODE = replace(NEAREST, name='nearest, as in their code', batch=100, lr=0.1,
                       chosen='batch and rate of the code that they handed in')
KERNELS = tuple(replace(NEAREST, name=f'nearest, kernel {kernel}', layers=nearest(256, 32, kernel), pairs=1_000,
                        reported=reported, chosen='1,000 images, as the table before; padding (kernel - 1) / 2 '
                        'everywhere: with the 1 that is printed for the first layer a kernel of 7 gives 28 x 28')
                for kernel, reported in ((3, 22.36), (5, 21.50), (7, 21.90)))
PAIRS = tuple(replace(NEAREST, name=f'nearest, channels {first} {second}', layers=nearest(first, second),
                      pairs=1_000, reported=None)
              for first in (32, 64, 128, 256) for second in (32, 64, 128, 256))

# M.-A. Gillyboeuf, R. Mamou, A. Ouanaya, "Mini-project 2: Mini Deep Learning Framework": section 4, table 1.
FIVE = System('five', five(48, 64, 48, 32), batch=100, lr=1, reported=21.91,
              chosen='the layer from 32 to 3 has no kernel in their table: 3 x 3')
FIVE_FASTER = replace(FIVE, name='five, rate 2', lr=2, reported=None, chosen='twice their rate')
FIVE_CODE = replace(FIVE, name='five, as in their code', lr=0.2, chosen='the rate of their last code')

# L. Gravina, G. Palermo, "Miniproject 2": figures 1 and 2, "Network results".
VJP = System('vjp', transposed(32, 64), batch=10, lr=5, epochs=6, seeds=5, reported=23.55,
             chosen='only the kinds of layers are said: 32 and 64 channels, kernel 4, stride 2; batch 10, rate 5, '
                    '6 epochs, which are more than 4')
VJP_TORCH = replace(VJP, name='vjp, torch.nn', framework='torch.nn', reported=23.68,
                    chosen='starts from the weights of ours and sees the same batches')
VJP_CODE = replace(VJP, name='vjp, as in their code', layers=transposed(32, 32, kernel=2), batch=32, lr=0.1, seeds=1,
                   chosen='channels, kernel, batch and rate of their code, on the mean squared error over all '
                          'values; the momentum written there is not used')

# "Mini-project for EE-559", section 2: what the course gives as yardsticks.
COURSE = System('course, 8 convolutions', plain(*[32] * 7, 3), batch=32, lr=1e-3, epochs=2, optimizer='Adam',
                project=1, framework='torch.nn', reported=24,
                chosen='channels and recipe are not said: 32, 3 x 3, ReLU, Adam, 2 epochs')
SIMPLE = tuple(System(f'course, {name}', layers, batch=32, lr=1e-2, epochs=epochs, pairs=10_000, optimizer='Adam',
                      project=1, framework='torch.nn', reported=23, chosen='one guess at "extremely simple"')
               for name, layers, epochs in (
    ('box of 3 x 3', (('AvgPool2d', 3, 1, 1, False, False),), 0),
    ('one 3 x 3 convolution', (('Conv2d', 3, 3, 3, 1, 1),), 4),
    ('one 7 x 7 convolution', (('Conv2d', 3, 3, 7, 1, 3),), 4),
    ('two 3 x 3 convolutions', plain(16, 3), 4)))

STUDIES = {'skip': (SKIP,), 'nearest': (NEAREST,), 'five': (FIVE,), 'vjp': (VJP, VJP_TORCH),
           'course': (COURSE, *SIMPLE), 'skip.initial': (replace(INITIAL, reported=23.88),), 'skip.depth': DEPTH,
           'skip.with': WITH_AND_WITHOUT, 'skip.channels': CHANNELS, 'skip.batches': BATCHES, 'skip.epochs': EPOCHS,
           'five.rate': (FIVE_FASTER,), 'five.code': (FIVE_CODE,), 'nearest.code': (NEAREST_CODE,),
           'vjp.code': (VJP_CODE,), 'nearest.kernels': KERNELS, 'nearest.channels': PAIRS}


# ------------------------------------------------------------------------------------- the trainer

class SkipNetwork(nn.Sequential):
    """Layers in a row, whose last convolution sees the first one's activation, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = None
        for i, layer in enumerate(self):
            x = layer(x if i != len(self) - 2 else torch.cat([x, seen], 1))
            seen = x if i == 1 else seen
        return x


class Torch:
    """A system on torch.nn. The channels come last in memory, which is a tenth faster on a CPU."""

    def __init__(self, system: System) -> None:
        self.device = framework.default_device()
        kinds = {**vars(nn), **{ours.__name__: twin for ours, twin in TORCH.items()}}
        layers = [kinds[kind](*arguments) for kind, *arguments in system.layers]
        self.net = (SkipNetwork if system.skip else nn.Sequential)(*layers)
        self.infer = self.net.to(self.device, memory_format=torch.channels_last)
        optimizer = {'SGD': torch.optim.SGD, 'Adam': torch.optim.Adam}[system.optimizer]
        self.optimizer = optimizer(self.weights(), lr=system.lr) if self.weights() else None

    def weights(self) -> list:
        return list(self.net.parameters())

    def step(self, noisy: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch_step(self.net, self.optimizer, noisy, other).detach()

    def state(self) -> dict:
        return {'net': self.net.state_dict(), 'optimizer': self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.net.load_state_dict(state['net'])
        self.optimizer.load_state_dict(state['optimizer'])


class Ours:
    """A system on the framework of mini-project 2, whose one primitive is forward_and_vjp."""

    def __init__(self, system: System) -> None:
        self.device = framework.default_device()
        layers = [getattr(framework, kind)(*arguments) for kind, *arguments in system.layers]
        self.net = framework.Sequential(*layers).to(self.device)
        self.infer = self.net.infer
        self.optimizer = framework.SGD(self.net.param(), lr=system.lr)

    def weights(self) -> list:
        return [weight for weight, _ in self.net.param()]

    def step(self, noisy: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return step_2(self.net, self.optimizer, noisy, other)

    def state(self) -> dict:
        return {'weights': [weight.cpu() for weight in self.weights()]}

    def load(self, state: dict) -> None:
        for weight, value in zip(self.weights(), state['weights']):
            weight.copy_(value)


def build(system: System) -> Union[Torch, Ours]:
    """The system with fresh weights: the same, after the same torch.manual_seed, in both frameworks."""
    return (Ours if system.framework == 'ours' else Torch)(system)


@torch.no_grad()
def predict(runner, noisy: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> float32 in 0..255, on the CPU."""
    return torch.cat([255 * runner.infer(framework.to_unit(part, runner.device)).cpu() for part in noisy.split(100)])


def train(system: System, seed: int, pairs: tuple, validation: tuple, state_file: Optional[Path] = None,
          clock: Callable[[], float] = time.process_time, **circumstances) -> tuple:
    """Train to the end, or on from `state_file`. -> what `build` gave, trained, and for each epoch a dict: the
    seconds of training so far, by `clock`, the mean of the loss, and the PSNR on (noisy, clean) `validation`, which is
    not timed.

    circumstances: what else must be as it was when the state was saved. UserError if it, or the recipe, is not."""
    torch.manual_seed(seed)
    runner, history, settings = build(system), [], {**recipe(system, seed), **circumstances}
    if state_file and state_file.exists():
        saved = torch.load(state_file, map_location=runner.device, weights_only=True)
        if saved['settings'] != settings:
            raise storage.UserError(f'--out: {state_file} holds a run with other settings, expected a new folder')
        runner.load(saved['runner'])
        torch.set_rng_state(saved['random'].cpu())
        history = saved['history']
    while len(history) < system.epochs:
        start = clock()
        batches = torch.randperm(len(pairs[0])).split(system.batch)
        label = f'{system.name}, seed {seed}, epoch {len(history) + 1} of {system.epochs}'
        total = torch.zeros((), device=runner.device)
        for batch in cli.progress(batches, len(batches), f'{label}, steps'):
            total += len(batch) * runner.step(*(framework.to_unit(images[batch], runner.device) for images in pairs))
        loss = total.item() / len(pairs[0])                         # waits for the device
        seconds = clock() - start + (history[-1]['seconds'] if history else 0)
        figure = psnr(predict(runner, validation[0]), validation[1]).mean().item()
        history.append({'seconds': seconds, 'loss': loss, 'psnr': figure})
        print(f'{label}  {seconds:7.1f} s  {figure:.3f} dB', flush=True)
        if state_file:
            storage.write_tensors(state_file, {'settings': settings, 'runner': runner.state(),
                                           'random': torch.get_rng_state(), 'history': history})
    return runner, history


# ------------------------------------------------------------------------------------- the record

def recipe(system: System, seed: int) -> dict:
    """What a run depends on, as it is recorded."""
    names = ('skip', 'framework', 'optimizer', 'lr', 'batch', 'epochs', 'pairs')
    return {'seed': seed, 'layers': '; '.join(' '.join(map(str, layer)) for layer in system.layers),
            **{name: getattr(system, name) for name in names}}


def measure(runner, sets: dict) -> dict:
    """sets: {name: (noisy, clean)} -> for each the images' mean PSNR, its standard error, the pooled PSNR."""
    row = {}
    for name, (noisy, clean) in sets.items():
        denoised = predict(runner, noisy)
        row[name], row[f'{name}_error'] = mean_and_error(psnr(denoised, clean))
        row[f'{name}_pooled'] = pooled_psnr(denoised, clean)
    return row


def run(system: System, seed: int, pairs: tuple, sets: dict, state_file: Optional[Path]) -> dict:
    """Train and measure. -> the row of the record."""
    runner, history = train(system, seed, tuple(images[:system.pairs] for images in pairs),
                            sets[Path(datasets.VAL_FILE).stem], state_file)
    return {'system': system.name, **recipe(system, seed), 'full': system.full,
            'parameters': sum(weight.numel() for weight in runner.weights()), 'reported': system.reported,
            'chosen': system.chosen, **measure(runner, sets), 'by_epoch': [epoch['psnr'] for epoch in history],
            'loss_by_epoch': [epoch.get('loss') for epoch in history],
            'processor_seconds': history[-1]['seconds'] if history else 0}


def rows_of(record: Path, system: System) -> list:
    """The rows of a record that this system has, one for each seed."""
    return [row for run in records.read(record) for row in run['rows']
            if {'system': system.name, **recipe(system, row.get('seed'))}.items() <= row.items()]


def summary(systems: list, record: Path) -> str:
    """What was reported, what came out (mean and standard deviation over seeds), ours."""
    ours = {row['model']: row['psnr'] for run in records.read(EVALUATION) for row in run['rows']
            if Path(row['file']).name == datasets.VAL_FILE}
    lines = [['', 'reported', 'reproduced', 'pooled', 'seeds', 'full size', 'ours']]
    for system in systems:
        rows = rows_of(record, system)
        figures, pooled = (torch.tensor([row[name] for row in rows]) for name in ('val_data', 'val_data_pooled'))
        spread = f' ± {figures.std():.2f}' if len(rows) > 1 else ''
        lines.append([system.name, f'{system.reported:.2f}' if system.reported else '-',
                      f'{figures.mean():.2f}{spread}' if rows else '-', f'{pooled.mean():.2f}' if rows else '-',
                      str(len(rows)), 'yes' if system.full else 'no', f"{ours[f'project {system.project}']:.2f}"])
    return cli.table(lines)


def main(arguments=None) -> None:
    parser = cli.parser('studies.seeds', __doc__)
    option = parser.add_argument
    option('names', nargs='+', choices=['all', *STUDIES], metavar='NAME', help='all, or: ' + ', '.join(STUDIES))
    option('--seeds', type=cli.integer(0), nargs='+', metavar='N',
           help="of each system (default: 0 and up, as many as the system's)")
    option('--quick', action='store_true', help='8 pairs, one epoch: shows that everything runs')
    option('--out', type=Path, default=Path('runs/seeds'), metavar='FOLDER', help='for states (default: runs/seeds)')
    cli.add_options(parser, 'data', also={'help': f'to measure on (default: {" ".join(ALSO)} of --data, without '
                                                  '--quick)'},
                    record={'default': RECORD, 'help': 'to append to (default: others/results/seeds.json)'})
    options = parser.parse_args(arguments)
    if options.quick and options.record == RECORD:
        raise storage.UserError(f'--record: {RECORD.name} holds no rows of --quick, expected another file')
    names = [name for name in STUDIES if '.' not in name] if 'all' in options.names else options.names
    systems = [replace(system, pairs=min(8, system.pairs), epochs=min(1, system.epochs), full=False)
               if options.quick else system for name in names for system in STUDIES[name]]
    pairs = datasets.read_pairs('--data', options.data / datasets.TRAIN_FILE, max(system.pairs for system in systems))
    also = options.also or ([] if options.quick else [options.data / name for name in ALSO])
    sets = datasets.read_sets(options.data / datasets.VAL_FILE, also)
    records.revision()                              # of the code that runs, whatever is committed meanwhile
    torch.set_num_threads(1)
    for system in systems:
        done = {row['seed'] for row in rows_of(options.record, system)}
        for seed in sorted(set(options.seeds or range(system.seeds)) - done):
            state_file = options.out / f'{system.name.replace(", ", "_").replace(" ", "_")}_{seed}.pt'
            row = run(system, seed, pairs, sets, None if options.quick else state_file)
            records.append(options.record, [row], row['processor_seconds'])
    print(summary(systems, options.record))


if __name__ == '__main__':
    cli.run(main)
