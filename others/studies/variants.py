"""The networks that studies compare: ours with other blocks, widths, kernels, and their twins in torch.nn."""
from functools import partial
from typing import Collection

import torch
from torch import nn

from Miniproject_1 import model as project_1
from Miniproject_2 import model as project_2


# ---------------------------------------------------------------------------------------- project 1

class BatchNormed(project_1.ResidualBlock):
    """Project 1's with batch norm before its ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.norm(self.conv1(x)).relu())


BLOCKS = {'plain': project_1.ResidualBlock, 'batchnorm': BatchNormed}


class Network(nn.Module):
    """A residual U-Net like project 1's, with any number of blocks at each level.

    widths: channels of each level, the finest first. encoder, decoder: blocks of each level, the encoder's last
    is the bottom, which the decoder has not. without: 'residual', the output is added to the input; 'skips', the
    encoder's outputs are added to the decoder's inputs. Shape: (N, 3, H, W) -> the same, H and W multiples of
    `multiple`. Values: 0..1.
    """

    def __init__(self, widths: list, encoder: list, decoder: list, block: str, without: Collection = ()) -> None:
        super().__init__()
        self.residual, self.skips = 'residual' not in without, 'skips' not in without
        self.multiple = 2 ** (len(widths) - 1)

        def blocks(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(BLOCKS[block](width) for _ in range(count)))

        steps = list(zip(widths, widths[1:]))
        self.head = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(blocks, widths, encoder))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in steps)
        self.decoder = nn.ModuleList(map(blocks, widths, decoder))
        self.tail = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, skips = self.head(x - 0.5), []
        for block, down in zip(self.encoder, self.down):
            y = block(y)
            skips.append(y)
            y = down(y)
        y = self.encoder[-1](y)
        for block, up in zip(reversed(self.decoder), reversed(self.up)):
            y = block(up(y) + skips.pop() if self.skips else up(y))
        return (x if self.residual else 0.5) + self.tail(y)


# ---------------------------------------------------------------------------------------- project 2

def network_2(channels: tuple = (128, 256), kernel: int = 4, upsampling: str = 'transposed') -> project_2.Sequential:
    """The assignment's network. Shape: (N, 3, H, W) -> the same, H and W multiples of 4; -0.5..0.5 -> 0..1.

    channels: at half and at a quarter of the size. kernel: of all convolutions, but with the upsampling 'nearest',
    where it must be odd on the way up, 1 less there if it is even.
    """
    first, second = channels

    def down(channels: int, wider: int) -> project_2.Module:
        return project_2.Conv2d(channels, wider, kernel, stride=2, padding=(kernel - 1) // 2)

    def up(channels: int, narrower: int) -> project_2.Module:
        if upsampling == 'nearest':
            odd = kernel - 1 + kernel % 2
            return project_2.Upsampling(channels, narrower, odd, padding=odd // 2)
        return project_2.TransposeConv2d(channels, narrower, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2)

    relu = partial(project_2.ReLU, inplace=True)
    return project_2.initialise(project_2.Sequential(down(3, first), relu(), down(first, second), relu(),
                                                     up(second, first), relu(), up(first, 3), project_2.Sigmoid()))


def step_2(net: project_2.Sequential, optimizer: project_2.SGD, noisy: torch.Tensor,
           target: torch.Tensor) -> torch.Tensor:
    """One training step: noisy, -0.5..0.5, and target, 0..1, (N, 3, H, W) -> the mean squared error, ()."""
    output, network_vjp = net.forward_and_vjp(noisy)
    loss, loss_vjp = project_2.MSE().forward_and_vjp(output, target)
    optimizer.zero_grad()
    network_vjp(loss_vjp())
    optimizer.step()
    return loss


# ------------------------------------------------------------------------------- twins in torch.nn

def torch_upsampling(*arguments, scale_factor=2, **options) -> nn.Sequential:
    """What `Upsampling` computes at once, one after the other."""
    return nn.Sequential(nn.Upsample(scale_factor=scale_factor), nn.Conv2d(*arguments, **options))


TORCH = {project_2.Conv2d: nn.Conv2d, project_2.TransposeConv2d: nn.ConvTranspose2d,
         project_2.Upsampling: torch_upsampling, project_2.ReLU: nn.ReLU, project_2.Sigmoid: nn.Sigmoid,
         project_2.Tanh: nn.Tanh,
         project_2.NearestUpsampling: lambda scale_factor: nn.Upsample(scale_factor=scale_factor)}


def torch_twin(net: project_2.Sequential) -> nn.Sequential:
    """The same network of project 2's blocks in torch.nn, with a copy of the weights. On the CPU, in float32."""
    def twin(module: project_2.Module) -> nn.Module:
        kind = TORCH[type(module)]
        if isinstance(module, project_2.NearestUpsampling):
            return kind(module.scale_factor)
        if isinstance(module, project_2.ReLU):
            return kind(inplace=module.inplace)
        if not module.param():
            return kind()
        names = ('kernel_size', 'stride', 'padding', 'dilation', 'groups')
        options = dict({name: getattr(module, name) for name in names}, bias=module.bias is not None)
        if isinstance(module, project_2.TransposeConv2d):
            options['output_padding'] = module.output_padding
        if isinstance(module, project_2.Upsampling):
            options['scale_factor'] = module.scale_factor
        return kind(module.in_channels, module.out_channels, **options)

    with torch.random.fork_rng(devices=[]):         # torch.nn draws weights, which are not used
        theirs = nn.Sequential(*map(twin, net))
    copy_weights(net, theirs)
    return theirs


def copy_weights(ours: project_2.Module, theirs: nn.Module, back: bool = False) -> None:
    """From our module to its twin in torch.nn; `back`: from the twin to ours."""
    with torch.no_grad():
        for (weight, _), twin in zip(ours.param(), theirs.parameters()):
            weight.copy_(twin) if back else twin.copy_(weight)
