"""Train a variant of a mini-project for a given time and measure it: one record of the search for the best one.

    python -m others.search plain --project 1 --seconds 420
    python -m others.search nearest --project 2 --upsampling nearest --record nearest.json

Variants compare at equal training time, each in a process with one thread (two may run side by side, on two
cores): the rate follows one cycle over that time, measured as the processor's. PSNR is that of val_data.pkl and of
the files of --also, without ensembling.

--oracle trains towards the clean images instead, which nobody who denoises has: what is then missing is due to
the network and to the noise in its input, not to the noise in its targets.
"""
import argparse
import time
from pathlib import Path

import torch
from torch import nn

from Miniproject_1 import model as project_1
from Miniproject_2 import model as project_2
from others import cli, data
from others.metrics import psnr


# --------------------------------------------------------------------------------- project 1's blocks
# All (N, C, H, W) -> the same, x + something that is small at first.

def small(conv: nn.Conv2d) -> nn.Conv2d:
    """The last convolution of a residual branch: a tenth of the usual weights, no bias."""
    with torch.no_grad():
        conv.weight.mul_(0.1)
        conv.bias.zero_()
    return conv


class Larger(project_1.ResidualBlock):
    """Project 1's with conv5x5"""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv2 = small(nn.Conv2d(channels, channels, 5, padding=2))


class Gated(nn.Module):
    """conv3x3 to twice the channels, one half times the other, conv1x1 (or conv3x3)"""

    def __init__(self, channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.conv2 = small(nn.Conv2d(channels, channels, kernel, padding=kernel // 2))
        with torch.no_grad():
            self.conv1.bias[channels:] += 0.5

    def gate(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.gate(*self.conv1(x).chunk(2, 1)))


class SiluGated(Gated):
    """The same with silu(a) * b."""

    def gate(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(a) * b


class Excited(project_1.ResidualBlock):
    """Project 1's, its hidden channels times a linear function of their means over the image."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = small(nn.Conv2d(channels, channels, 1))
        with torch.no_grad():
            self.scale.bias.fill_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(x).relu()
        return x + self.conv2(hidden * self.scale(hidden.mean((2, 3), keepdim=True)))


class BatchNormed(project_1.ResidualBlock):
    """Project 1's with batch norm before its ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.norm(self.conv1(x)).relu())


class Depthwise(nn.Module):
    """conv1x1 to twice the channels, depthwise conv3x3, gate, scale by the means, conv1x1; then the same
    without the convolution and the means (Chen et al. 2022, https://arxiv.org/abs/2204.04676, no norms)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.scale, self.merge = small(nn.Conv2d(channels, channels, 1)), small(nn.Conv2d(channels, channels, 1))
        self.expand2, self.merge2 = nn.Conv2d(channels, 2 * channels, 1), small(nn.Conv2d(channels, channels, 1))
        with torch.no_grad():
            self.scale.bias.fill_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.depthwise(self.expand(x)).chunk(2, 1)
        hidden = a * b
        x = x + self.merge(hidden * self.scale(hidden.mean((2, 3), keepdim=True)))
        a, b = self.expand2(x).chunk(2, 1)
        return x + self.merge2(a * b)


class Attention(nn.Module):
    """Every pixel attends to every pixel, 4 heads (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""
    HEADS = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.merge = small(nn.Conv2d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, C, H, W = x.shape
        parts = self.query_key_value(x).reshape(N, 3, self.HEADS, C // self.HEADS, H * W)
        query, key, value = parts.transpose(-1, -2).unbind(1)                   # (N, heads, HW, C / heads)
        weights = (query @ key.transpose(-1, -2) / (C // self.HEADS) ** 0.5).softmax(-1)
        return x + self.merge((weights @ value).transpose(-1, -2).reshape(N, C, H, W))


BLOCKS = {'plain': project_1.ResidualBlock, 'larger': Larger, 'gated': Gated,
          'gated3': lambda channels: Gated(channels, 3), 'silu': SiluGated, 'excited': Excited,
          'batchnorm': BatchNormed, 'depthwise': Depthwise}


class Network(nn.Module):
    """A residual U-Net like project 1's, with any number of any blocks at each level."""

    def __init__(self, widths: list, encoder: list, decoder: list, block: str, attention: bool) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)

        def blocks(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(BLOCKS[block](width) for _ in range(count)))

        steps = list(zip(widths, widths[1:]))
        self.head = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(blocks, widths, encoder))              # the last one is the bottom
        if attention:
            self.encoder[-1].append(Attention(widths[-1]))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in steps)
        self.decoder = nn.ModuleList(map(blocks, widths, decoder))
        self.tail = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, skips = self.head(x), []
        for block, down in zip(self.encoder, self.down):
            y = block(y)
            skips.append(y)
            y = down(y)
        y = self.encoder[-1](y)
        for block, up in zip(reversed(self.decoder), reversed(self.up)):
            y = block(up(y) + skips.pop())
        return x + self.tail(y)


# ------------------------------------------------------------------------------------------ training

class Timed:
    """Training for a time instead of a number of epochs; for a `Model` of either project."""
    clean = None                        # of the batch, 0..1; for the oracle

    def train_for(self, seconds: float, first: torch.Tensor, second: torch.Tensor, clean=None) -> list:
        """Train on random batches for `seconds` of processor time -> for each 100 steps their mean loss.

        clean: for the oracle, the images that the loss is to compare with, turned as the noisy ones are.
        """
        optimizer, average = self.new_optimizer(), None
        start, losses = time.process_time(), []
        while (progress := (time.process_time() - start) / seconds) < 1:
            self.set_rate(optimizer, progress)
            batch = torch.randint(len(first), (self.options.batch,))
            if clean is not None:
                random = torch.get_rng_state()
                target = self.project.to_unit(clean[batch], self.device)
                self.clean, _ = self.project.turn(*self.project.swap_noise(target, target))
                torch.set_rng_state(random)
            losses.append(self.step(first[batch], second[batch], optimizer).item())
            if self.options.average and progress > 0.1:
                weights = self.weights()
                average = average or weights
                for name, new in weights.items():
                    if new.is_floating_point():
                        average[name].lerp_(new, 1 - self.options.average)
            if len(losses) % 100 == 0:
                print(f'{progress:4.0%}  step {len(losses)}  loss {sum(losses[-100:]) / 100:.5f}', flush=True)
        if average:
            self.set_weights(average)
        self.steps = len(losses)
        return [round(sum(losses[i:i + 100]) / 100, 5) for i in range(0, len(losses) - 99, 100)]


class Variant1(Timed, project_1.Model):
    """Project 1's `Model` around a `Network`."""
    project = project_1

    def __init__(self, options) -> None:
        super().__init__()
        self.net = Network(options.widths, options.encoder, options.decoder, options.block, options.attention)
        self.to('cpu')                  # its time is the processor's
        self.loss, self.options = self.distance, options

    def parameters(self) -> list:
        return list(self.net.parameters())

    def new_optimizer(self):
        return torch.optim.Adam(self.net.parameters(), betas=self.BETAS)

    def set_rate(self, optimizer, progress: float) -> None:
        for group in optimizer.param_groups:
            group['lr'] = project_1.one_cycle(progress, self.options.lr)

    def distance(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, with the clean images for --oracle."""
        return nn.functional.mse_loss(output, target if self.clean is None else self.clean)


class Variant2(Timed, project_2.Model):
    """Project 2's `Model` with other channels, kernels, upsampling or loss."""
    project = project_2

    def __init__(self, options) -> None:
        super().__init__()
        self.net = network_2(options.channels, options.kernel, options.upsampling, options.up_kernel)
        self.net[0]._needs_input_gradient = False
        self.to('cpu')
        self.loss, self.options = Loss2(self), options

    def parameters(self) -> list:
        return [weight for weight, _ in self.net.param()]

    def new_optimizer(self):
        return project_2.SGD(self.net.param(), lr=0, momentum=self.MOMENTUM, nesterov=True)

    def set_rate(self, optimizer, progress: float) -> None:
        optimizer.lr = project_2.one_cycle(progress, self.options.lr)


class Loss2(project_2.MSE):
    """Project 2's loss, with the clean images for --oracle."""

    def __init__(self, model: Variant2) -> None:
        super().__init__()
        self.model = model

    def forward_and_vjp(self, prediction, target) -> tuple:
        return super().forward_and_vjp(prediction, target if self.model.clean is None else self.model.clean)


def network_2(channels: tuple, kernel: int, upsampling: str, up_kernel: int) -> project_2.Sequential:
    """The assignment's network. Shape: (N, 3, H, W) -> the same, H and W multiples of 4."""
    first, second = channels
    padding, up_padding = (kernel - 1) // 2, (up_kernel - 1) // 2

    def down(channels: int, wider: int) -> project_2.Module:
        return project_2.Conv2d(channels, wider, kernel, stride=2, padding=padding)

    def up(channels: int, narrower: int) -> project_2.Module:
        if upsampling == 'nearest':
            return project_2.Upsampling(channels, narrower, up_kernel, padding=up_padding)
        return project_2.TransposeConv2d(channels, narrower, up_kernel, 2, up_padding, output_padding=up_kernel % 2)

    relu = project_2.ReLU
    return project_2.initialise(project_2.Sequential(down(3, first), relu(), down(first, second), relu(),
                                                     up(second, first), relu(), up(first, 3), project_2.Sigmoid()))


def with_clean(images: tuple, folder: Path, photos: Path) -> tuple:
    """(noisy, noisy) of `folder`, with the clean images that belong to them; UserError if they are of other photographs."""
    generator = torch.Generator().manual_seed(data.SPLIT_SEED)
    try:
        train_photos, val_photos = data.split_photos(photos, generator)
    except ValueError as error:
        raise cli.UserError(f'--oracle: {error}') from error
    val = len(cli.read_pairs('--data', folder / data.VAL_FILE)[0])
    data.make_pairs(val_photos, val, 'validation pairs', data.read_photo, generator)      # draws what the set drew
    *again, clean = data.make_pairs(train_photos, len(images[0]), 'training pairs', data.read_photo, generator)
    if not all(map(torch.equal, again, images)):
        raise cli.UserError(f'--oracle: --data was not made from {photos} with the default seed')
    return *images, clean


def read_sets(folder: Path, also: list) -> dict:
    """{name: (noisy, clean)}, each (N, 3, H, W): the validation pairs of `folder` and the files of --also."""
    sets = {'val_data': cli.read_validation('--data', folder / data.VAL_FILE)}
    for path in also:
        if path.stem in sets:
            raise cli.UserError(f'--also: two files are called {path.stem}, expected different names')
        sets[path.stem] = cli.read_validation('--also', path)
    return sets


def measure(model, sets: dict, ensemble: bool = False) -> dict:
    """{name: PSNR in dB} of a `Model` on `sets`."""
    return {name: psnr(model.predict(noisy, ensemble=ensemble), clean).mean().item()
            for name, (noisy, clean) in sets.items()}


OF_PROJECT = {
    1: {'widths': [48, 96, 192], 'encoder': [1, 1, 1], 'decoder': [1, 1], 'block': 'plain', 'attention': False},
    2: {'channels': [128, 256], 'kernel': 4, 'upsampling': 'transposed', 'up_kernel': None},
}


def decay(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}, expected a number of at least 0 and less than 1')
    return float(text)


def parse(arguments) -> argparse.Namespace:
    """The options; those of the project that were not given have its own values. UserError for the other's."""
    parser = cli.parser('search', __doc__)
    option = parser.add_argument
    option('name', metavar='NAME', help='of the variant, for the record')
    option('--project', type=int, choices=(1, 2), required=True, help='the mini-project')
    option('--seconds', type=data.integer(1), default=420, metavar='N', help='of training (default: 420)')
    option('--oracle', type=Path, metavar='FOLDER',
           help='the photographs that --data was made from (with the default seed): train towards clean images')
    option('--lr', type=data.positive, help="peak rate (default: the project's own)")
    option('--batch', type=data.integer(1), metavar='N', help="(default: the project's own)")
    option('--average', type=decay, default=0, metavar='DECAY',
           help='of an average of the weights, 0..1, 1 excluded (default: 0, none)')
    option('--seed', type=data.integer(0), default=0, metavar='N', help='(default: 0)')
    option('--data', type=Path, default=Path('data'), metavar='FOLDER', help='with both files (default: data)')
    option('--also', type=Path, nargs='+', default=[], metavar='FILE', help='more (noisy, clean) pairs to measure on')
    option('--ensemble', action='store_true', help='measure with averaging over flips and rotations, too')
    option('--precision', choices=('float32', 'mixed'),
           help='mixed: products in bfloat16 (default: what is fast on this machine)')
    option('--record', type=Path, metavar='FILE', help='write the figures to FILE, as JSON')
    option = parser.add_argument_group('project 1').add_argument
    option('--widths', type=data.integer(1), nargs='+', metavar='N', help='channels of each level (default: 48 96 192)')
    option('--encoder', type=data.integer(0), nargs='+', metavar='N',
           help='blocks of each level on the way down, the last is the bottom (default: 1 1 1)')
    option('--decoder', type=data.integer(0), nargs='*', metavar='N',
           help='blocks of each level but the bottom on the way up, the finest first (default: 1 1)')
    option('--block', choices=BLOCKS, help='kind of block (default: plain)')
    option('--attention', action='store_true', default=None, help='an attention layer at the bottom')
    option = parser.add_argument_group('project 2').add_argument
    option('--channels', type=data.integer(1), nargs=2, metavar='N', help='at half and quarter size (default: 128 256)')
    option('--kernel', type=data.integer(2), metavar='N', help='of the convolutions on the way down (default: 4)')
    option('--upsampling', choices=('transposed', 'nearest'), help='on the way up (default: transposed)')
    option('--up-kernel', type=data.integer(2), metavar='N',
           help="kernel on the way up, odd for nearest (default: that of the way down; for nearest 3)")
    options = parser.parse_args(arguments)

    for number, defaults in OF_PROJECT.items():
        for name, default in defaults.items():
            if getattr(options, name) is None:
                setattr(options, name, default)
            elif number != options.project:
                raise cli.UserError(f'--{name.replace("_", "-")} is of project {number}, '
                                    f'expected none with --project {options.project}')
    model = {1: project_1, 2: project_2}[options.project].Model
    options.lr, options.batch = options.lr or model.PEAK_LR, options.batch or model.BATCH_SIZE
    if not len(options.widths) == len(options.encoder) == len(options.decoder) + 1:
        raise cli.UserError(f'--encoder, --decoder: expected {len(options.widths)} and {len(options.widths) - 1} '
                            f'numbers for the levels of --widths')
    if options.attention and options.widths[-1] % Attention.HEADS:
        raise cli.UserError(f'--attention: the last of --widths is {options.widths[-1]}, '
                            f'expected a multiple of {Attention.HEADS}')
    nearest = options.upsampling == 'nearest'
    options.up_kernel = options.up_kernel or (3 if nearest else options.kernel)
    if nearest and options.up_kernel % 2 == 0:
        raise cli.UserError(f'--up-kernel: {options.up_kernel}, expected an odd one for --upsampling nearest')
    return options


def main(arguments=None) -> int:
    options = parse(arguments)
    images = cli.read_pairs('--data', options.data / data.TRAIN_FILE)
    sets = read_sets(options.data, options.also)
    if options.oracle:
        images = with_clean(images, options.data, options.oracle)

    torch.set_num_threads(1)
    circumstances = cli.circumstances()
    torch.manual_seed(options.seed)
    model = {1: Variant1, 2: Variant2}[options.project](options)
    cli.set_precision(model, options.precision)
    curve = model.train_for(options.seconds, *images)
    scores = {'psnr': measure(model, sets)}
    if options.ensemble:
        scores['psnr_ensembled'] = measure(model, sets, ensemble=True)
    for kind, by_set in scores.items():
        print(f'{options.name}, {kind}: ' + ', '.join(f'{name} {score:.3f} dB' for name, score in by_set.items()))
    if options.record:
        record = {**circumstances, 'name': options.name,
                  'parameters': sum(weight.numel() for weight in model.parameters()),
                  'precision': 'mixed' if model.mixed_precision else 'float32', 'seconds': options.seconds,
                  'pairs_seen': model.steps * options.batch, **scores, 'loss_curve': curve}
        cli.write_json(options.record, record)
    return 0


if __name__ == '__main__':
    cli.run(main)
