"""Time our framework against torch.nn on the same networks, and compare the memory they take.

    python -m others.bench_framework
    python -m others.bench_framework --rounds 31 --record others/results/bench_framework.json

A training step (forward, loss, backward, SGD with momentum) and a prediction, batch 100, images of
32 x 32 pixels, of two networks: T, 3-100-200-100-3 channels, kernel 4, transposed convolutions; N,
3-48-96-48-3, kernel 3, nearest upsampling and convolution. torch.nn runs in its own memory format and with
channels last; "mixed" and "autocast" (channels last) compute products in bfloat16. All take turns within one
run, so that a ratio means something on a noisy machine; the figures are medians. Peak memory is that of some
training steps in a process of its own, less what the imports take. The last two columns are ratios to
torch.nn's better format in float32.
"""
import copy
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn

from Miniproject_2 import model as framework
from others import cli
from others.data import integer

BATCH = 100
MEMORY_STEPS = 3
VARIANTS = ('ours', 'torch.nn', 'channels-last', 'ours mixed', 'autocast')     # the last two in bfloat16


def networks(name: str) -> tuple:
    """The network of that name, (ours, torch.nn's), with the same weights."""
    def upsampling(*arguments, **options) -> nn.Module:
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(*arguments, **options))

    def build(blocks, transposed, upsampling):
        if name == 'T':
            a, b, kernel, up = 100, 200, dict(kernel_size=4, padding=1), dict(kernel_size=4, stride=2, padding=1)
            layer = transposed
        else:
            a, b, kernel, up = 48, 96, dict(kernel_size=3, padding=1), dict(kernel_size=3, padding=1)
            layer = upsampling
        return blocks.Sequential(blocks.Conv2d(3, a, stride=2, **kernel), blocks.ReLU(),
                                 blocks.Conv2d(a, b, stride=2, **kernel), blocks.ReLU(),
                                 layer(b, a, **up), blocks.ReLU(), layer(a, 3, **up), blocks.Sigmoid())

    ours = build(framework, framework.TransposeConv2d, framework.Upsampling)
    theirs = build(nn, nn.ConvTranspose2d, upsampling)
    with torch.no_grad():
        for parameter, (weight, _) in zip(theirs.parameters(), ours.param()):
            parameter.copy_(weight)
    return ours, theirs


def workload(name: str, variant: str, device: str) -> dict:
    """{'step': one step of training, 'predict': one prediction}, functions without arguments."""
    torch.manual_seed(0)
    ours, theirs = networks(name)
    noisy, target = torch.rand(2, BATCH, 3, 32, 32, device=device)
    if variant.startswith('ours'):
        ours.to(device)
        ours[0]._needs_input_gradient = False           # as in Model.train; autograd spares it too
        for layer in ours:
            layer.mixed_precision = variant == 'ours mixed'
        loss, optimizer = framework.MSE(), framework.SGD(ours.param(), lr=0.1, momentum=0.9)

        def step() -> None:
            output, network_vjp = ours.forward_and_vjp(noisy)
            _, loss_vjp = loss.forward_and_vjp(output, target)
            optimizer.zero_grad()
            network_vjp(loss_vjp())
            optimizer.step()

        return {'step': step, 'predict': lambda: ours.infer(noisy)}

    layout = torch.contiguous_format if variant == 'torch.nn' else torch.channels_last
    precision = partial(torch.autocast, device, torch.bfloat16, enabled=variant == 'autocast')
    net = copy.deepcopy(theirs).to(device, memory_format=layout)
    noisy, target = noisy.contiguous(memory_format=layout), target.contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        with precision():
            output = net(noisy)
        loss = nn.functional.mse_loss(output.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def predict() -> None:
        with torch.no_grad(), precision():
            net(noisy)

    return {'step': step, 'predict': predict}


def seconds(function, device: str) -> float:
    """One call, to its end on the device."""
    start = time.perf_counter()
    function()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times(name: str, device: str, rounds: int) -> dict:
    """{task: {variant: median milliseconds}}"""
    work = {variant: workload(name, variant, device) for variant in VARIANTS}
    measured = {task: {variant: [] for variant in VARIANTS} for task in ('step', 'predict')}
    for round_ in range(-2, rounds):                    # two to warm up
        for task, by_variant in measured.items():
            for variant in VARIANTS:
                duration = seconds(work[variant][task], device)
                if round_ >= 0:
                    by_variant[variant].append(1000 * duration)
    return {task: {variant: median(values) for variant, values in by_variant.items()}
            for task, by_variant in measured.items()}


def peak_memory(name: str, variant: str) -> float:
    """MB, on the CPU, of a process of its own."""
    output = subprocess.run([sys.executable, '-m', 'others.bench_framework', '--memory', name, variant],
                            check=True, capture_output=True, text=True, cwd=cli.ROOT).stdout
    return float(output)


def print_peak_memory(name: str, variant: str) -> None:
    before, work = peak_so_far(), workload(name, variant, 'cpu')
    for _ in range(MEMORY_STEPS):
        work['step']()
    print(peak_so_far() - before)


def peak_so_far() -> float:
    """MB of this process. Linux counts in ru_maxrss what the process was forked from, in VmHWM not."""
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(device: str, name: str, task: str, values: dict, unit: str) -> str:
    """One line of the table: the figures, and ours over torch.nn's better one in float32."""
    best = min(values['torch.nn'], values['channels-last'])
    figures = ''.join(f'{values[variant]:15.1f}' for variant in VARIANTS)
    return (f'{device:<5} {name:<2} {task:<8} {unit:<3}{figures}'
            f'{values["ours"] / best:9.2f}{values["ours mixed"] / best:9.2f}')


def main(arguments=None) -> int:
    parser = cli.parser('bench_framework', __doc__)
    parser.add_argument('--rounds', type=integer(1), default=21, metavar='N', help='(default: %(default)s)')
    parser.add_argument('--record', type=Path, metavar='FILE', help='write the figures to FILE, as JSON')
    parser.add_argument('--memory', nargs=2, metavar=('NETWORK', 'VARIANT'),
                        help="print the peak memory of one variant's training steps, in MB, and no more")
    options = parser.parse_args(arguments)
    if options.memory:
        print_peak_memory(*options.memory)
        return 0

    print(f'torch {torch.__version__}, {cli.processor()}, {torch.get_num_threads()} threads, '
          f'medians of {options.rounds} rounds')
    print(f'{"":<21}' + ''.join(f'{variant:>15}' for variant in VARIANTS) + '     ours    mixed')
    record = {**cli.circumstances(), 'figures': []}

    def report(device: str, name: str, task: str, values: dict, unit: str) -> None:
        print(row(device, name, task, values, unit), flush=True)
        record['figures'].append({'device': device, 'network': name, 'task': task, 'unit': unit, **values})

    for device in ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',):
        for name in ('T', 'N'):
            for task, values in times(name, device, options.rounds).items():
                report(device, name, task, values, 'ms')
    for name in ('T', 'N'):
        report('cpu', name, 'memory', {variant: peak_memory(name, variant) for variant in VARIANTS}, 'MB')
    if options.record:
        cli.write_json(options.record, record)
    return 0


if __name__ == '__main__':
    cli.run(main)
