"""How exact the framework's blocks are: random configurations against torch in float64, and finite differences.

    python -m others.studies.exactness
    python -m others.studies.exactness --configurations 500 --record others/results/exactness.json

Each configuration (channels, kernel, stride, padding, dilation, groups, sizes, batch) is computed four times, with
one weight, one input and one gradient of the output: by the framework and by torch.nn in float32, by both in
float64. An error is the largest difference from torch's float64, divided by its largest value; that of torch.nn's
own float32 is the yardstick. `finite` compares the framework's float64 gradients with central differences of its
float64 output along a random direction; torch is not involved.
"""
import copy

import torch
from torch import nn

from Miniproject_2 import model as framework
from others.common import cli
from others.data import uniform as draw
from others.studies import shared
from others.studies.variants import torch_twin

STEP = 1e-3                     # of the finite differences; a convolution is linear in each of its arguments
SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)        # the quantiles that are recorded
BLOCKS = ('Conv2d', 'TransposeConv2d', 'Upsampling')
QUANTITIES = ('output', 'gradient of the input', 'gradient of the weight', 'gradient of the bias')


def configuration(block: str) -> tuple:
    """Random arguments of a block and the shape of an input that is large enough for them.

    Half of them have a kernel of twice the stride, many channels and an even size, as the assignment's network; a
    third have a single image.
    """
    like_ours, s = draw(0, 1), draw(1, 3)
    groups = 1 if like_ours else draw(1, 2)
    k = 2 * s if like_ours and block != 'Upsampling' else draw(1, 5)
    p, d = (s // 2, 1) if like_ours else (draw(0, k // 2), draw(1, 2))
    channels = [groups * draw(8, 40) if like_ours else groups * draw(1, 12) for _ in range(2)]
    options = dict(kernel_size=k, stride=s, padding=p, dilation=d, groups=groups, bias=bool(draw(0, 3)))
    if block == 'TransposeConv2d':
        options['output_padding'] = 0 if like_ours else draw(0, max(s, d) - 1)
    if block == 'Upsampling':
        options['scale_factor'] = draw(1, 3)
    least = d * (k - 1) + 1
    H, W = (4 * s * draw(1, 3) + least - 2 * p if like_ours else least + draw(0, 9) for _ in range(2))
    return (*channels, options), (max(1, draw(-3, 12)), channels[0], max(1, H), max(1, W))


def results(module, x: torch.Tensor, gradient: torch.Tensor) -> list:
    """The QUANTITIES of a module of either kind, whose own gradients are zero."""
    if isinstance(module, nn.Module):
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            y = module(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], gradient)]
    y, vjp = module.forward_and_vjp(x)
    return [y, vjp(gradient), *(found for _, found in module.param())]


def errors(block: str) -> dict:
    """{quantity: (framework's error, torch.nn's error, finite differences' error)} of a random configuration."""
    (inputs, outputs, options), shape = configuration(block)
    ours = getattr(framework, block)(inputs, outputs, **options)
    theirs = torch_twin(framework.Sequential(ours))
    x = torch.randn(shape)
    gradient = torch.randn_like(ours.infer(x))
    double = x.double(), gradient.double()
    finite = finite_differences(copy.deepcopy(ours).to(torch.float64), *double)
    truth = results(copy.deepcopy(theirs).double(), *double)
    relative = [[((got.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-300)).item()
                 for got, expected in zip(results(module, x, gradient), truth)] for module in (ours, theirs)]
    return dict(zip(QUANTITIES, zip(*relative, [None, *finite])))


def finite_differences(module, x: torch.Tensor, gradient: torch.Tensor) -> list:
    """Of each gradient the error along a random direction, relative to the two vectors' lengths."""
    _, *gradients = results(module, x, gradient)
    relative = []
    for found, variable in zip(gradients, [x, *(weight for weight, _ in module.param())]):
        direction = torch.randn_like(variable)
        values = []
        for sign in (1, -2):                                # + STEP, then - STEP
            variable.add_(direction, alpha=sign * STEP)
            values.append((module.infer(x) * gradient).sum())
        variable.add_(direction, alpha=STEP)
        error = abs((values[0] - values[1]) / (2 * STEP) - (found * direction).sum())
        relative.append((error / (found.norm() * direction.norm())).item())
    return relative


def main(arguments=None) -> None:
    parser = cli.parser('studies.exactness', __doc__)
    parser.add_argument('--configurations', type=cli.integer(1), default=500, metavar='N',
                        help='of all blocks (default: 500)')
    cli.add_options(parser, 'seed', 'record')
    options, found, rows = shared.parse(parser, arguments), {}, []
    torch.manual_seed(options.seed)
    with torch.no_grad():
        for i in range(options.configurations):
            block = BLOCKS[i % len(BLOCKS)]
            for name, triple in errors(block).items():
                found.setdefault((block, name), []).append(triple)
    shares = torch.tensor(SHARES).double()
    for (block, name), triples in found.items():
        ours, theirs, finite = (torch.tensor([value or 0. for value in values]).double() for values in zip(*triples))
        rows.append({'block': block, 'quantity': name, 'configurations': len(triples),
                     'ours': ours.quantile(shares).tolist(), 'torch.nn': theirs.quantile(shares).tolist(),
                     'finite': None if name == 'output' else finite.max().item()})
        print(f'{block:<16} {name:<24} {len(triples):4d}  median {ours.median():.1e} '
              f'(torch.nn {theirs.median():.1e})  largest {ours.max():.1e} ({theirs.max():.1e})  '
              + f'finite differences {finite.max():.1e}' * (name != 'output'), flush=True)
    shared.record(options, rows, 'cpu')


if __name__ == '__main__':
    cli.run(main)
