"""Train mini-project 2's network twice, by its own framework and by torch.nn, and compare where the two end.

    python -m others.studies.compare_torch --data data --pairs 6000 --epochs 2
    python -m others.studies.compare_torch --data data --record others/results/compare_torch.json

Both have the same initial weights, batches, augmentation, loss and schedule, in float32, and take turns. Torch's
training is nn.Sequential, autograd and torch.optim.SGD, in the memory format that is the faster one here. PSNR is
without ensembling, on val_data.pkl and on the files of --also.
"""
import copy
import math
import time
from functools import partial

import torch
from torch import nn
from torch.utils import benchmark

from Miniproject_2 import model as project
from others.common import cli, datasets, denoisers
from others.studies import shared
from others.studies.variants import copy_weights, step_2, torch_twin


def train(model: project.Model, twin: nn.Module, first: torch.Tensor, second: torch.Tensor, epochs: int) -> dict:
    """Train the model's network and its twin by the model's recipe. -> {framework: seconds}"""
    ours = project.SGD(model.net.param(), lr=0, momentum=model.MOMENTUM, nesterov=True)
    theirs = torch.optim.SGD(twin.parameters(), lr=1, momentum=model.MOMENTUM, nesterov=True)
    layout = faster_layout(twin, model)
    twin.to(memory_format=layout)

    def forward(noisy: torch.Tensor) -> torch.Tensor:
        return twin(noisy.contiguous(memory_format=layout))

    steps = {'ours': partial(step_2, model.net, ours), 'torch.nn': partial(shared.torch_step, forward, theirs)}
    seconds = dict.fromkeys(steps, 0.0)
    num_steps = epochs * math.ceil(len(first) / model.BATCH_SIZE)
    batches = (batch for _ in range(epochs) for batch in torch.randperm(len(first)).split(model.BATCH_SIZE))
    for step, batch in enumerate(cli.progress(batches, num_steps, 'steps')):
        ours.lr = theirs.param_groups[0]['lr'] = project.one_cycle(step / num_steps, model.PEAK_LR)
        pair = project.turn(*project.swap_noise(*(project.to_unit(images[batch], model.device)
                                                  for images in (first, second))))
        noisy, target = (project.pad_to_multiple(images, model.MULTIPLE) for images in pair)
        for name, take in steps.items():
            start = time.perf_counter()
            take(noisy - 0.5, target).item()            # waits for the device
            seconds[name] += time.perf_counter() - start
    return seconds


def faster_layout(twin: nn.Module, model: project.Model) -> torch.memory_format:
    """The memory format in which torch.nn takes less time for forward and backward."""
    def seconds(layout: torch.memory_format) -> float:
        net = copy.deepcopy(twin).to(memory_format=layout)
        x = torch.rand(model.BATCH_SIZE, 3, 32, 32, device=model.device).contiguous(memory_format=layout)
        timer = benchmark.Timer('net(x).square().mean().backward()', globals={'net': net, 'x': x},
                                num_threads=torch.get_num_threads())
        return timer.blocked_autorange().median

    with torch.random.fork_rng():
        return min((torch.contiguous_format, torch.channels_last), key=seconds)


def main(arguments=None) -> None:
    parser = cli.parser('studies.compare_torch', __doc__)
    cli.add_options(parser, 'data', 'pairs', 'epochs', 'seed', 'also', 'threads', 'record')
    options = shared.parse(parser, arguments)
    pairs = datasets.read_pairs('--data', options.data / datasets.TRAIN_FILE, options.pairs)
    sets = datasets.read_sets(options.data / datasets.VAL_FILE, options.also)

    torch.manual_seed(options.seed)
    model = project.Model()
    twin = torch_twin(model.net).to(model.device)
    seconds = train(model, twin, *pairs, options.epochs)
    scores = {'ours': denoisers.measure(model, sets)}
    copy_weights(model.net, twin, back=True)
    scores['torch.nn'] = denoisers.measure(model, sets)

    rows = [{'framework': name, 'pairs': len(pairs[0]), 'epochs': options.epochs, 'seed': options.seed,
             'seconds': round(seconds[name], 1), 'psnr': scores[name]} for name in scores]
    print(cli.table([['', 'seconds', *(f'{name} (dB)' for name in sets)],
                     *([row['framework'], f"{row['seconds']:.1f}", *(f'{psnr:.3f}' for psnr in row['psnr'].values())]
                       for row in rows)]))
    shared.record(options, rows)


if __name__ == '__main__':
    cli.run(main)
