"""The systems of five documents that the project grew from, each trained as its authors describe it.

    python -m others.studies.seeds all
    python -m others.studies.seeds nearest five
    python -m others.studies.seeds all --quick --record runs/seeds.json

A system is data: a network, a recipe, where it is described, what was reported. One trainer runs them all, and
measures on val_data.pkl and on the files of --also: the mean of the images' PSNR, and "pooled", the PSNR of the
squared error's mean over all images, which the assignment's own function computes. `all` means the headline
rows; a sweep is asked for by its name. A row that a document's sentence gives is marked `full`, one that was
trained on less than the authors' is not.

Each run, of one system and one seed, adds a row to the record; what is recorded is not run again. The folder --out
holds the state of each run: after a stop, the same command goes on from the last complete epoch.
"""
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

import torch
from torch import nn
from tqdm import tqdm

from Miniproject_2 import model as framework
from others import cli, data, records
from others.metrics import psnr

RECORD = cli.ROOT / 'others' / 'results' / 'seeds.json'
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
    framework: str = 'ours'                 # or 'torch.nn'
    skip: bool = False                      # the last convolution sees the first one's activation, too
    reported: Optional[float] = None        # dB, on the course's validation set
    reported_parameters: Optional[int] = None
    full: bool = True                       # trained on as much as the authors say
    seeds: int = 1
    chosen: str = ''                        # where the text leaves something open, and why a row is there at all


def mery(*channels: int, skip: bool = False) -> tuple:
    """3 x 3 convolutions, then as many transposed ones, without padding."""
    half, layers = len(channels) // 2, []
    for i, (before, after) in enumerate(zip((3, *channels), channels)):
        last = i == len(channels) - 1
        kind = 'Conv2d' if i < half else 'TransposeConv2d'
        layers += [(kind, before + channels[0] * (skip and last), after, 3), ('Sigmoid',) if last else ('ReLU',)]
    return tuple(layers)


def nearest(first: int, second: int, kernel: int = 3) -> tuple:
    p = kernel // 2
    return (('Conv2d', 3, first, kernel, 2, p), ('ReLU',), ('Conv2d', first, second, kernel, 2, p), ('ReLU',),
            ('Upsampling', second, first, kernel, 1, p), ('ReLU',), ('Upsampling', first, 3, kernel, 1, p),
            ('Sigmoid',))


FIVE = (('Conv2d', 3, 48, 3, 2, 1), ('ReLU',), ('Conv2d', 48, 64, 3, 2, 1), ('ReLU',),
        ('Upsampling', 64, 48, 3, 1, 1), ('ReLU',), ('Upsampling', 48, 32, 3, 1, 1), ('ReLU',),
        ('Conv2d', 32, 3, 3, 1, 1), ('Sigmoid',))

VJP = (('Conv2d', 3, 32, 3, 2, 1), ('ReLU',), ('Conv2d', 32, 64, 3, 2, 1), ('ReLU',),
       ('TransposeConv2d', 64, 32, 3, 2, 1, 1), ('ReLU',), ('TransposeConv2d', 32, 3, 3, 2, 1, 1), ('Sigmoid',))


def plain(*channels: int) -> tuple:
    """3 x 3 convolutions with padding, ReLU in between, the last one linear."""
    layers = [layer for before, after in zip((3, *channels), channels)
              for layer in (('Conv2d', before, after, 3, 1, 1), ('ReLU',))]
    return tuple(layers[:-1])


SKIP = System('skip', mery(100, 100, 100, 3, skip=True), batch=8, lr=1e-3, optimizer='Adam', framework='torch.nn',
              skip=True, reported=25.32, reported_parameters=188_403)
STUDIES = {'skip': (SKIP,)}


# ------------------------------------------------------------------------------------- the trainer

class SkipNetwork(nn.Sequential):
    """Layers in a row, whose last convolution sees the first one's activation, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self):
            x = layer(x if i != len(self) - 2 else torch.cat([x, seen], 1))
            seen = x if i == 1 else None if i == 0 else seen
        return x


class Torch:
    """A system on torch.nn. On a CPU the channels come last in memory, which is a third faster."""
    KINDS = {'TransposeConv2d': nn.ConvTranspose2d, 'NearestUpsampling': lambda s: nn.Upsample(scale_factor=s)}

    def __init__(self, system: System) -> None:
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        layers = [self.KINDS.get(kind, getattr(nn, kind, None))(*arguments) for kind, *arguments in system.layers]
        self.net = (SkipNetwork if system.skip else nn.Sequential)(*layers).to(self.device)
        if self.device == 'cpu':
            self.net = self.net.to(memory_format=torch.channels_last)
        kind = {'SGD': torch.optim.SGD, 'Adam': torch.optim.Adam}[system.optimizer]
        self.optimizer = kind(self.net.parameters(), lr=system.lr) if self.weights() else None

    def weights(self) -> list:
        return list(self.net.parameters())

    def to_device(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.device).float() / 255
        return images.contiguous(memory_format=torch.channels_last) if self.device == 'cpu' else images

    def step(self, noisy: torch.Tensor, other: torch.Tensor) -> None:
        loss = nn.functional.mse_loss(self.net(noisy), other)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def infer(self, noisy: torch.Tensor) -> torch.Tensor:
        return self.net(noisy)

    def state(self) -> dict:
        return {'net': self.net.state_dict(), 'optimizer': self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.net.load_state_dict(state['net'])
        self.optimizer.load_state_dict(state['optimizer'])


class Ours:
    """A system on the framework of mini-project 2, whose one primitive is forward_and_vjp."""

    def __init__(self, system: System) -> None:
        self.device = framework.default_device()
        self.net = framework.Sequential(*(getattr(framework, kind)(*arguments)
                                          for kind, *arguments in system.layers)).to(self.device)
        self.loss = framework.MSE()
        self.optimizer = framework.SGD(self.net.param(), lr=system.lr)

    def weights(self) -> list:
        return [weight for weight, _ in self.net.param()]

    def to_device(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device).float() / 255

    def step(self, noisy: torch.Tensor, other: torch.Tensor) -> None:
        output, network_vjp = self.net.forward_and_vjp(noisy)
        _, loss_vjp = self.loss.forward_and_vjp(output, other)
        self.optimizer.zero_grad()
        network_vjp(loss_vjp())
        self.optimizer.step()

    def infer(self, noisy: torch.Tensor) -> torch.Tensor:
        return self.net.infer(noisy)

    def state(self) -> dict:
        return {'weights': [weight.cpu() for weight in self.weights()]}

    def load(self, state: dict) -> None:
        for weight, value in zip(self.weights(), state['weights']):
            weight.copy_(value)


def build(system: System):
    """-> a `Torch` or an `Ours`, with fresh weights."""
    return (Ours if system.framework == 'ours' else Torch)(system)


def parameters(system: System) -> int:
    return sum(weight.numel() for weight in build(system).weights())


def predict(runner, noisy: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> float32 in 0..255, on the CPU."""
    return torch.cat([255 * runner.infer(runner.to_device(part)).cpu() for part in noisy.split(100)])


def train(system: System, seed: int, pairs: tuple, validation: tuple, state_file: Optional[Path] = None,
          clock: Callable[[], float] = time.process_time) -> tuple:
    """Train to the end, or on from `state_file`. -> what `build` gave, trained, and for each epoch a dict: the
    seconds of training so far, by `clock`, and the PSNR on (noisy, clean) `validation`, which is not timed."""
    torch.manual_seed(seed)
    runner, history, settings = build(system), [], {'seed': seed, **recipe(system)}
    if state_file and state_file.exists():
        saved = torch.load(state_file, map_location=runner.device, weights_only=True)
        if saved['settings'] != settings:
            raise cli.UserError(f'--out: {state_file} holds a run with other settings, expected a new folder')
        runner.load(saved['runner'])
        torch.set_rng_state(saved['random'].cpu())
        history = saved['history']
    while len(history) < system.epochs:
        start = clock()
        batches = torch.randperm(len(pairs[0])).split(system.batch)
        what = f'{system.name}, seed {seed}, epoch {len(history) + 1} of {system.epochs}'
        for batch in tqdm(batches, what, disable=None, leave=False, mininterval=1):
            runner.step(*(runner.to_device(images[batch]) for images in pairs))
        runner.weights()[-1].sum().item()                           # waits for the device
        seconds = clock() - start + (history[-1]['seconds'] if history else 0)
        history.append({'seconds': seconds, 'psnr': psnr(predict(runner, validation[0]), validation[1]).mean().item()})
        print(f'{what}: {seconds:.0f} s, {history[-1]["psnr"]:.3f} dB', flush=True)
        if state_file:
            content = io.BytesIO()
            torch.save({'settings': settings, 'runner': runner.state(), 'random': torch.get_rng_state(),
                        'history': history}, content)
            cli.write(state_file, content.getvalue())
    return runner, history


# ------------------------------------------------------------------------------------- the record

def recipe(system: System) -> dict:
    """What a run depends on beside its seed, as it is recorded."""
    return {'layers': '; '.join(' '.join(map(str, layer)) for layer in system.layers), 'skip': system.skip, 'framework': system.framework,
            'optimizer': system.optimizer, 'lr': system.lr, 'batch': system.batch, 'epochs': system.epochs,
            'pairs': system.pairs}


def measure(runner, sets: dict) -> dict:
    """sets: {name: (noisy, clean)} -> for each the images' mean PSNR, its standard error, the pooled PSNR."""
    row = {}
    for name, (noisy, clean) in sets.items():
        denoised = predict(runner, noisy)
        values = psnr(denoised, clean)
        row[name] = values.mean().item()
        row[f'{name}_error'] = (values.std() / len(values) ** 0.5).item()
        row[f'{name}_pooled'] = -10 * (10 ** (-values.double() / 10)).mean().log10().item()
    return row


def main(arguments=None) -> int:
    parser = cli.parser('studies.seeds', __doc__)
    option = parser.add_argument
    option('names', nargs='+', choices=['all', *STUDIES], metavar='NAME', help='all, or: ' + ', '.join(STUDIES))
    option('--data', type=Path, default=Path('data'), metavar='FOLDER', help='with all files (default: data)')
    option('--also', nargs='*', default=ALSO, metavar='FILE',
           help=f'of --data, beside {data.VAL_FILE}, to measure on (default: {" ".join(ALSO)})')
    option('--seeds', type=data.integer(1), metavar='N', help="of each system: 0 to N - 1 (default: the system's)")
    option('--quick', action='store_true', help='64 pairs, one epoch: shows that everything runs')
    option('--out', type=Path, default=Path('runs/seeds'), metavar='FOLDER', help='for states (default: runs/seeds)')
    option('--record', type=Path, default=RECORD, metavar='FILE', help='default: others/results/seeds.json')
    options = parser.parse_args(arguments)
    names = [name for name in STUDIES if '.' not in name] if 'all' in options.names else options.names
    if options.quick and options.record == RECORD:
        raise cli.UserError(f'--record: --quick does not belong into {RECORD.name}, expected another file')
    records.revision()                              # of the code that runs, not of the one there when it ends
    torch.set_num_threads(1)                        # processor seconds then say how much work it is
    systems = [replace(system, pairs=min(64, system.pairs), epochs=min(1, system.epochs), full=False)
               if options.quick else system for name in names for system in STUDIES[name]]
    pairs = cli.read_pairs('--data', options.data / data.TRAIN_FILE, max(system.pairs for system in systems))
    sets = {Path(name).stem: cli.read_validation('--data', options.data / name)
            for name in (data.VAL_FILE, *options.also)}
    for system in systems:
        for seed in range(options.seeds or system.seeds):
            settings = {'system': system.name, 'seed': seed, **recipe(system)}
            if any(settings.items() <= row.items() for run in records.read(options.record) for row in run['rows']):
                continue
            state_file = options.out / f'{system.name.replace(" ", "_")}_{seed}.pt'
            runner, history = train(system, seed, tuple(images[:system.pairs] for images in pairs),
                                    sets[Path(data.VAL_FILE).stem], None if options.quick else state_file)
            seconds = history[-1]['seconds'] if history else 0
            records.append(options.record, [{
                **settings, 'full': system.full, 'parameters': parameters(system), 'reported': system.reported,
                'chosen': system.chosen, 'processor_seconds': seconds, **measure(runner, sets),
                'by_epoch': [epoch['psnr'] for epoch in history]}], seconds)
    return 0


if __name__ == '__main__':
    cli.run(main)
