"""Time our framework against torch.nn on the same networks, and compare the memory they take.

    python -m others.studies.bench_framework
    python -m others.studies.bench_framework --rounds 31 --record others/results/bench_framework.json

A training step (forward, loss, backward, SGD with momentum) and a prediction, images of 32 x 32 pixels, of three
networks: S, the one that ships, 3-128-256-128-3 channels, kernel 4, transposed convolutions, at batches of 32, 16 (as
it is trained) and 8; T, 3-100-200-100-3, the same, batch 100; N, 3-48-96-48-3, kernel 3, nearest upsampling and
convolution, batch 100. Ours computes these two as one transposed convolution, so N stands beside two twins: "N" beside
torch.nn's upsampling and convolution, "N merged" beside the same transposed convolutions, of kernel 4, in torch.nn.
torch.nn runs in its own memory format and with channels last; "mixed" and "autocast" (channels last) compute
products in bfloat16. Each has a process of its own, as a training has, and all take turns, so that a ratio means
something on a noisy machine; the figures are medians. "ratio" is ours to torch.nn's better format, both in float32,
with the quartiles of its rounds; "products" the share of our step that is matrix products, which no other code can
save. Peak memory is that of some training steps, less what the imports take; on the CPU Linux alone tells it.
"""
import contextlib
import functools
import itertools
import math
import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from unittest import mock

import torch
from torch import nn

from Miniproject_2 import model as framework
from others.common import cli, records
from others.studies import shared
from others.studies.variants import network_2, step_2, torch_twin

WARM_UP = 3                     # steps, whose peak memory is told
NETWORKS = {            # name: (arguments of network_2, batch, what it is)
    'S': (((128, 256), 4, 'transposed'), 32, 'S, the network that ships, batches of 32'),
    'S 16': (((128, 256), 4, 'transposed'), 16, 'S 16, batches of 16'),
    'S 8': (((128, 256), 4, 'transposed'), 8, 'S 8, batches of 8'),
    'T': (((100, 200), 4, 'transposed'), 100, 'T, 3-100-200-100-3 channels, the same kernels, batches of 100'),
    'N': (((48, 96), 3, 'nearest'), 100, 'N, 3-48-96-48-3, kernel 3, nearest upsampling, batches of 100'),
    'N merged': (((48, 96), 3, 'nearest'), 100, 'N merged, the same beside the merged convolutions in torch.nn')}
VARIANTS = ('ours', 'torch.nn', 'channels-last', 'ours mixed', 'autocast')     # the last two in bfloat16


@functools.lru_cache(maxsize=None)
def workload(name: str, variant: str, device: str) -> dict:
    """{'step': one step of training, 'predict': one prediction}, functions without arguments."""
    torch.manual_seed(0)
    arguments, batch, _ = NETWORKS[name]
    ours = network_2(*arguments)
    noisy, target = torch.rand(2, batch, 3, 32, 32, device=device)
    noisy -= 0.5
    if variant.startswith('ours'):
        for layer in ours.to(device):
            layer.mixed_precision = variant == 'ours mixed'
        optimizer = framework.SGD(ours.param(), lr=0.1, momentum=0.9)
        return {'step': partial(step_2, ours, optimizer, noisy, target), 'predict': partial(ours.infer, noisy)}

    layout = torch.contiguous_format if variant == 'torch.nn' else torch.channels_last
    net = (merged_twin if name == 'N merged' else torch_twin)(ours).to(device, memory_format=layout)
    noisy, target = noisy.contiguous(memory_format=layout), target.contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=variant == 'autocast'):
            return net(images)

    return {'step': partial(shared.torch_step, forward, optimizer, noisy, target),
            'predict': partial(torch.no_grad()(forward), noisy)}


def merged_twin(ours: framework.Sequential) -> nn.Sequential:
    """torch.nn's, with the transposed convolution that each Upsampling is computed as."""
    net = torch_twin(ours)
    for i, layer in enumerate(ours):
        if isinstance(layer, framework.Upsampling):
            window, weight, _ = layer.merged(layer.weight)
            net[i] = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, window.kernel_size, window.stride,
                                        window.padding)
            net[i].weight.data.copy_(weight)
            net[i].bias.data.copy_(layer.bias)
    return net


# -------------------------------------------- what each variant's process is asked for

def seconds(function, device: str) -> float:
    """One call, to its end on the device."""
    start = time.perf_counter()
    function()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def milliseconds(task: str, name: str, variant: str, device: str) -> float:
    return 1000 * seconds(workload(name, variant, device)[task], device)


def peak_memory(name: str, variant: str, device: str) -> float:
    """MB of the device, of the first steps; NaN on a CPU without Linux."""
    before, work = peak_so_far(), workload(name, variant, device)
    for _ in range(WARM_UP):
        work['step']()
    memory = torch.cuda.max_memory_allocated() / 2 ** 20 if device == 'cuda' else peak_so_far() - before
    work['predict']()
    return memory


def peak_so_far() -> float:
    """MB of this process: VmHWM, since ru_maxrss counts what the process was forked from, too."""
    status = Path('/proc/self/status')
    return int(re.search(r'VmHWM:\s*(\d+)', status.read_text())[1]) / 1024 if status.exists() else math.nan


def share_of_products(name: str, variant: str, device: str, steps: int = 5) -> float:
    """The part of a step's time that is spent in the framework's matrix products."""
    spent, multiply = [], framework.multiply

    def timed(*arguments):
        product = []
        spent.append(seconds(lambda: product.append(multiply(*arguments)), device))
        return product.pop()

    with mock.patch.object(framework, 'multiply', timed):
        total = sum(seconds(workload(name, variant, device)['step'], device) for _ in range(steps))
    return sum(spent) / total


# -------------------------------------------------------------------------- the table

def measure(name: str, device: str, rounds: int) -> dict:
    """{task: row of the table}: each variant's median in ms, and the quartiles of ours / torch.nn's better format; of
    the task 'memory', the MB."""
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context('spawn')
        pools = {variant: stack.enter_context(ProcessPoolExecutor(1, spawn)) for variant in VARIANTS}

        def ask(variant: str, function, *arguments):
            return pools[variant].submit(function, *arguments, name, variant, device)

        memory = {variant: ask(variant, peak_memory) for variant in VARIANTS}           # all start at once
        memory = {variant: answer.result() for variant, answer in memory.items()}
        times = {task: {variant: [] for variant in VARIANTS} for task in ('step', 'predict')}
        for _ in cli.progress(range(rounds), rounds, f'rounds of {name} on {device}'):
            for task, variant in itertools.product(times, VARIANTS):
                times[task][variant].append(ask(variant, milliseconds, task).result())
        products = ask('ours', share_of_products).result()
    rows = {}
    for task, by_variant in times.items():
        row = rows[task] = {variant: median(values) for variant, values in by_variant.items()}
        best = min(('torch.nn', 'channels-last'), key=row.get)
        ratios = [a / b for a, b in zip(by_variant['ours'], by_variant[best])]
        row.update(zip(('ratio_low', 'ratio', 'ratio_high'), quantiles(ratios * 2, n=4)))
    rows['step']['products'] = products
    rows['memory'] = {**memory, 'ratio': memory['ours'] / min(memory['torch.nn'], memory['channels-last'])}
    return rows


def line(row: dict) -> list:
    """The cells of a table row."""
    quartiles = ' ({ratio_low:.2f} to {ratio_high:.2f})'.format(**row) if 'ratio_low' in row else ''
    return ['{device} {network} {task} {unit}'.format(**row), *(f'{row[variant]:.1f}' for variant in VARIANTS),
            f"{row['ratio']:.2f}{quartiles}", f"{row['products']:.0%}" if 'products' in row else '']


def main(arguments=None) -> None:
    parser = cli.parser('studies.bench_framework', __doc__)
    parser.add_argument('--rounds', type=cli.integer(1), default=21, metavar='N', help='(default: %(default)s)')
    devices = ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',)
    parser.add_argument('--device', choices=devices, help='(default: the CPU and, if there is one, CUDA)')
    cli.add_options(parser, 'record')
    options = parser.parse_args(arguments)
    for device in [options.device] if options.device else devices:
        options.start = time.monotonic()
        rows = [{'device': device, 'network': name, 'task': task, 'unit': 'MB' if task == 'memory' else 'ms',
                 **{key: round(value, 3) for key, value in values.items()}}
                for name in NETWORKS for task, values in measure(name, device, options.rounds).items()]
        print(f'torch {torch.__version__}, {records.processor(device)}, {torch.get_num_threads()} threads, '
              f'medians of {options.rounds} rounds')
        print(cli.table([['', *VARIANTS, 'ratio', 'products'], *map(line, rows)]))
        shared.record(options, rows, device)


if __name__ == '__main__':
    cli.run(main)
