"""Train mini-project 2's network twice, by its own framework and by torch.nn, and compare where the two end.

    python -m others.compare_torch --data data --pairs 6000 --epochs 2 --record others/results/compare_torch.json

Both have the same initial weights, batches, augmentation, loss and schedule, in float32. Torch's training is
nn.Sequential, autograd and torch.optim.SGD. PSNR is without ensembling, on val_data.pkl and on the files of --also.
"""
import time
from pathlib import Path

import torch
from torch import nn

from Miniproject_2 import model as project
from others import cli, data
from others.search import measure, read_sets


def torch_twin(net: project.Sequential) -> nn.Sequential:
    """The same network in torch.nn, with a copy of the weights. Of the blocks of mini-project 2's network."""
    def twin(module) -> nn.Module:
        if type(module) is project.ReLU:
            return nn.ReLU()
        if type(module) is project.Sigmoid:
            return nn.Sigmoid()
        kind = {project.Conv2d: nn.Conv2d, project.TransposeConv2d: nn.ConvTranspose2d}[type(module)]
        window = module.window
        return kind(module.in_channels, module.out_channels, window.kernel_size, window.stride, window.padding)

    with torch.random.fork_rng(devices=[]):         # torch.nn draws weights, which are not used
        twins = nn.Sequential(*map(twin, net))
    with torch.no_grad():
        for parameter, (weight, _) in zip(twins.parameters(), net.param()):
            parameter.copy_(weight)
    return twins


class TorchModel(project.Model):
    """Mini-project 2's `Model`, the steps of its training done by torch."""

    def train(self, *arguments, **options) -> None:
        self.twin = torch_twin(self.net).to(self.device)
        self.optimizer = torch.optim.SGD(self.twin.parameters(), lr=1, momentum=self.MOMENTUM, nesterov=True)
        super().train(*arguments, **options)
        self.set_weights({name: weight.detach() for name, weight in self.twin.named_parameters()})

    def step(self, first: torch.Tensor, second: torch.Tensor, schedule, team=None) -> torch.Tensor:
        pair = project.swap_noise(*(project.to_unit(images, self.device) for images in (first, second)))
        noisy, target = (project.pad_to_multiple(images, self.MULTIPLE) for images in project.turn(*pair))
        with torch.enable_grad():
            loss = nn.functional.mse_loss(self.twin(noisy - 0.5), target)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.param_groups[0]['lr'] = schedule.lr
        self.optimizer.step()
        return loss.detach()


def main(arguments=None) -> int:
    parser = cli.parser('compare_torch', __doc__)
    option = parser.add_argument
    option('--data', type=Path, default=Path('data'), metavar='FOLDER', help='with both files (default: data)')
    option('--pairs', type=data.integer(1), metavar='N', help='to train on (default: all)')
    option('--epochs', type=data.integer(1), default=1, metavar='N', help='(default: 1)')
    option('--seed', type=data.integer(0), default=0, metavar='N', help='(default: 0)')
    option('--also', type=Path, nargs='+', default=[], metavar='FILE', help='more (noisy, clean) pairs to measure on')
    option('--record', type=Path, metavar='FILE', help='write the figures to FILE, as JSON')
    options = parser.parse_args(arguments)
    pairs = cli.read_pairs('--data', options.data / data.TRAIN_FILE, options.pairs)
    sets = read_sets(options.data, options.also)
    record = {**cli.circumstances(), 'pairs': len(pairs[0]), 'epochs': options.epochs}

    runs = {}
    for name, kind in (('ours', project.Model), ('torch.nn', TorchModel)):
        print(name, flush=True)
        torch.manual_seed(options.seed)
        model, start = kind(), time.monotonic()
        model.train(*pairs, options.epochs)
        seconds = round(time.monotonic() - start, 1)
        runs[name] = {'psnr': measure(model, sets), 'seconds': seconds}
    for name, run in runs.items():
        scores = ', '.join(f'{name} {score:.3f} dB' for name, score in run['psnr'].items())
        print(f"{name:8}  {run['seconds']:7.1f} s  {scores}")
    if options.record:
        cli.write_json(options.record, {**record, **runs})
    return 0


if __name__ == '__main__':
    cli.run(main)
