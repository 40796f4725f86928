"""The networks that studies compare: ours with other blocks, widths, kernels, and their twins in torch.nn."""
import itertools
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


class SmoothBlock(project_1.ResidualBlock):
    """Project 1's with GELU for its ReLU (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(nn.functional.gelu(self.conv1(x)))


class GatedBlock(nn.Module):
    """NAFNet's, with group norm for its layer norm: depthwise convolution, a gate that multiplies one half of the
    channels by the other, and the attention of channels, then a second gate between 1 x 1 convolutions (Chen et al.
    2022, https://arxiv.org/abs/2204.04676). Shape: (N, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, channels), nn.GroupNorm(1, channels)
        self.widen1, self.widen2 = (nn.Conv2d(channels, 2 * channels, 1) for _ in range(2))
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention, self.narrow1, self.narrow2 = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.scale1, self.scale2 = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.depthwise(self.widen1(self.norm1(x))).chunk(2, 1)
        y = a * b
        x = x + self.scale1 * self.narrow1(y * self.attention(y.mean((2, 3), keepdim=True)))
        a, b = self.widen2(self.norm2(x)).chunk(2, 1)
        return x + self.scale2 * self.narrow2(a * b)


BLOCKS = {'plain': project_1.ResidualBlock, 'batchnorm': BatchNormed, 'gelu': SmoothBlock, 'gated': GatedBlock}


class Network(project_1.SkipAutoencoder):
    """Project 1's, with another block or without a part of it: `without` 'residual', the output is not added to the
    input; 'skips', the decoder does not see the encoder's outputs; 'addition', it sees them joined, in a 1 x 1
    convolution that begins as the sum; 'halving', by 2 x 2 convolutions, for the maximum of 2 x 2 pixels and a 1 x 1
    convolution; 'small', blocks begin with the weights that torch.nn draws."""

    def __init__(self, widths: list, blocks: list, block: str, without: Collection = ()) -> None:
        super().__init__(widths, blocks, BLOCKS[block])
        self.without = without
        if 'halving' in without:
            self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(narrow, wide, 1))
                                      for narrow, wide in zip(widths, widths[1:]))
        if 'small' in without:
            for part in self.modules():
                if isinstance(part, project_1.ResidualBlock):
                    part.conv2.reset_parameters()
        if 'addition' in without:
            self.join = nn.ModuleList(nn.Conv2d(2 * width, width, 1, bias=False) for width in widths[-2::-1])
            for layer, width in zip(self.join, widths[-2::-1]):
                layer.weight.data = torch.eye(width).repeat(1, 2).view_as(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if {'skips', 'addition'}.isdisjoint(self.without):
            y = super().forward(x)
        else:
            y, skips = self.head(x - 0.5), []
            for blocks, down in zip(self.encoder, self.down):
                y = blocks(y)
                skips.append(y)
                y = down(y)
            y = self.bottom(y)
            for level, (up, blocks) in enumerate(zip(self.up, self.decoder)):
                y = up(y)
                if 'skips' not in self.without:
                    y = self.join[level](torch.cat([y, skips.pop()], 1))
                y = blocks(y)
            y = x + self.tail(y)
        return y - x + 0.5 if 'residual' in self.without else y


class DnCNN(nn.Module):
    """17 convolutions of 64 channels with batch norm predict the noise (Zhang et al. 2017,
    https://arxiv.org/abs/1608.03981). Shape: (N, 3, H, W) -> the same. Values: 0..1."""
    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        middle = [(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(15)]
        self.noise = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), *itertools.chain(*middle),
                                   nn.Conv2d(64, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.noise(x)


class UNet(nn.Module):
    """The network of Noise2Noise: 48 channels, five times half the size and back, where what the encoder had is joined
    (Lehtinen et al. 2018, table 2 of https://arxiv.org/abs/1803.04189). Shape: (N, 3, H, W) -> the same, H and W
    multiples of 32. Values: 0..1."""
    multiple = 32

    def __init__(self) -> None:
        super().__init__()

        def convolutions(*channels: int) -> nn.Sequential:
            return nn.Sequential(*(layer for a, b in zip(channels, channels[1:])
                                   for layer in (nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1, inplace=True))))

        self.down = nn.ModuleList([convolutions(3, 48, 48), *(convolutions(48, 48) for _ in range(4))])
        self.bottom = convolutions(48, 48)
        self.up = nn.ModuleList([convolutions(96, 96, 96), *(convolutions(144, 96, 96) for _ in range(3)),
                                 convolutions(99, 64, 32)])
        self.last = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x - 0.5
        skips = []
        for down in self.down:
            skips.append(y)
            y = nn.functional.max_pool2d(down(y), 2)
        y = self.bottom(y)
        for up in self.up:
            y = up(torch.cat([nn.functional.interpolate(y, scale_factor=2), skips.pop()], 1))
        return 0.5 + self.last(y)


# ---------------------------------------------------------------------------------------- project 2

class Uncentred(project_2.Module):
    """Undoes the centring of project 2's input: -0.5..0.5 -> 0..1, any shape."""

    def forward_and_vjp(self, x: torch.Tensor) -> tuple:
        return x + 0.5, lambda gradient: gradient


def network_2(channels: tuple = (128, 256), kernel: int = 4, upsampling: str = 'transposed',
              without: Collection = ()) -> project_2.Sequential:
    """The assignment's network. Shape: (N, 3, H, W) -> the same, H and W multiples of 4; -0.5..0.5 -> 0..1.

    channels: at half and at a quarter of the size. kernel: of all convolutions, but with the upsampling 'nearest',
    where it must be odd on the way up, 1 less there if it is even. without: 'initialisation', the weights are drawn as
    torch.nn draws them; 'last', the last layer's like the others'; 'centring', the first layer sees 0..1.
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
    network = project_2.Sequential(down(3, first), relu(), down(first, second), relu(),
                                   up(second, first), relu(), up(first, 3), project_2.Sigmoid())
    if 'initialisation' not in without:
        project_2.initialise(network)
        if 'last' in without:
            network[6].weight.div_(0.3)
    return project_2.Sequential(Uncentred(), *network) if 'centring' in without else network


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

TORCH = {project_2.Conv2d: nn.Conv2d, project_2.TransposeConv2d: nn.ConvTranspose2d,
         project_2.ReLU: nn.ReLU, project_2.Sigmoid: nn.Sigmoid, project_2.Tanh: nn.Tanh,
         project_2.Upsampling: lambda *arguments, scale_factor=2, **options: nn.Sequential(
             nn.Upsample(scale_factor=scale_factor), nn.Conv2d(*arguments, **options)),
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
