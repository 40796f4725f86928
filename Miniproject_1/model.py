"""Mini-project 1: Noise2Noise with torch.nn.

A network that sees one noisy version of an image and is trained, by the mean squared error, to
give another noisy version of it can do no better than to give what the two have in common: their
mean, the clean image, which it never sees (Lehtinen et al. 2018, https://arxiv.org/abs/1803.04189).

The file reads top to bottom: the network (`ResidualBlock`, `SkipAutoencoder`), the arithmetic of
images, and `Model`, the interface of the assignment, which trains it with Adam and predicts.
"""
import contextlib
import math
import os
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import torch
from torch import nn

CHECKPOINT = Path(__file__).resolve().parent / 'bestmodel.pth'


# ------------------------------------------------------------------------------------ the network

class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3 convolutions. Shape: (N, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():  # near the identity at first, so that a deep stack starts well scaled
            self.conv2.weight.mul_(0.1)
            self.conv2.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.conv1(x).relu())


class SkipAutoencoder(nn.Module):
    """A residual U-Net: an autoencoder with a skip connection at every resolution.

    The encoder halves the resolution len(widths) - 1 times, the decoder doubles it back; each level
    of the decoder adds what the encoder had at that level. The last convolution gives a correction,
    and output = input + correction: the network has to learn the noise, not to copy the image.

    Shape: (N, 3, H, W) -> the same, H and W multiples of `multiple`. Values: centred, x / 255 - 0.5.
    """

    def __init__(self, widths: tuple = (48, 96, 192)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.multiple = 2 ** (len(widths) - 1)
        steps = list(zip(widths, widths[1:]))
        self.head = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(w) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(w, v, 2, stride=2) for w, v in steps)
        self.bottom = ResidualBlock(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(v, w, 2, stride=2) for w, v in reversed(steps))
        self.decoder = nn.ModuleList(ResidualBlock(w) for w in reversed(widths[:-1]))
        self.tail = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x)                             # (N, 48, H, W)
        skips = []
        for block, down in zip(self.encoder, self.down):
            y = block(y)
            skips.append(y)
            y = down(y)                              # twice the channels, half of H and W
        y = self.bottom(y)                           # (N, 192, H / 4, W / 4)
        for up, block in zip(self.up, self.decoder):
            y = block(up(y) + skips.pop())           # half the channels, twice H and W
        return x + self.tail(y)


# ------------------------------------------------------------------------- the arithmetic of images

def check_images(name: str, images: torch.Tensor) -> None:
    """Raise TypeError or ValueError unless `images` is (N, 3, H, W), uint8 or floating, finite."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f'{name} must be a tensor of shape (N, 3, H, W), got {type(images).__name__}')
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        raise ValueError(f'{name} must have the shape (N, 3, H, W), H and W at least 1, got {shape}')
    if not (images.dtype is torch.uint8 or images.dtype.is_floating_point):
        raise ValueError(f'{name} must be uint8 or floating point, in 0..255, got {images.dtype}')
    if images.dtype is not torch.uint8 and not bool(images.isfinite().all()):
        raise ValueError(f'{name} must be finite, in 0..255, and holds NaN or infinity')


def to_centred(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """0..255 of any type -> float32 in -0.5..0.5, on `device`."""
    return images.detach().to(device).float() / 255 - 0.5


def to_bytes_range(images: torch.Tensor) -> torch.Tensor:
    """-0.5..0.5 -> float32, clamped to 0..255."""
    return ((images.float() + 0.5) * 255).clamp(0, 255)


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and the last column until H and W are multiples of `multiple`."""
    H, W = x.shape[2:]
    return nn.functional.pad(x, (0, -W % multiple, 0, -H % multiple), mode='replicate')


def symmetry(x: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th of the 8 symmetries of the square: k % 4 quarter turns, mirrored first if k >= 4."""
    return (x.flip(-1) if k >= 4 else x).rot90(k % 4, (-2, -1))


def inverse_symmetry(x: torch.Tensor, k: int) -> torch.Tensor:
    """Undo `symmetry(., k)`."""
    x = x.rot90(-(k % 4), (-2, -1))
    return x.flip(-1) if k >= 4 else x


def augment(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """A new training pair of each pair: other noise, another orientation, other colours.

    Every noisy pixel is an independent draw, so a random half of the pixels may be swapped between
    the two versions: a new input and a new target, again with independent noise. (For noise that
    is correlated between neighbours this would be wrong.) Both are then mirrored and transposed
    (square images only) and have their colours permuted alike. Shapes: (N, 3, H, W).
    """
    N, C, H, W = first.shape
    swap = torch.rand(N, 1, H, W).lt(0.5).to(first.device)
    pair = torch.cat([torch.where(swap, second, first), torch.where(swap, first, second)], 1)
    coins = torch.rand(3, N, 1, 1, 1).lt(0.5).to(first.device)
    pair = torch.where(coins[0], pair.flip(-1), pair)                      # (N, 6, H, W)
    pair = torch.where(coins[1], pair.flip(-2), pair)
    if H == W:
        pair = torch.where(coins[2], pair.transpose(-1, -2), pair)
    order = torch.rand(N, C).argsort(1).to(first.device).view(N, 1, C, 1, 1)
    pair = pair.view(N, 2, C, H, W).gather(2, order.expand(N, 2, C, H, W))
    return pair[:, 0], pair[:, 1]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16, and does not merely emulate it."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(capabilities.get('amx_bf16') or capabilities.get('avx512_bf16'))


# ---------------------------------------------------------------------------------------- the model

class Progress(NamedTuple):
    """What `Model.train` tells its callback after each step."""
    epoch: int                      # of this step, from 1
    num_epochs: int
    step: int                       # steps done in the whole training
    num_steps: int                  # of the whole training
    loss: torch.Tensor              # of this step; shape (), on the model's device
    lr: float                       # of this step
    state: Callable[[], dict]       # the state to hand to `train(.., resume=)`, as CPU tensors


class Model:
    """The denoiser: `load_pretrained_model()` or `train(..)`, then `predict(..)`.

    Attributes: `device` (CUDA where there is one; `to(device)` moves it), `net`,
    `mixed_precision` (products in bfloat16; on where the hardware is fast at it).
    """
    NUM_EPOCHS = 5                  # within 40 minutes of float32 on 2 cores, for 50,000 pairs
    BATCH_SIZE = 32
    PEAK_LR = 1.5e-3                # one cycle: up from a 20th of it, down to a 1000th of it
    FINE_TUNING = 0.05              # weights that are trained already meet this part of the rate
    BETAS = (0.9, 0.99)
    LEAST_NOISE = 1e-3              # mean square (30 dB), added to each image's noise: bounds its weight in the loss
    PIXELS = 2 ** 18                # what predict takes at once; bounds its memory
    MARGIN = 32                     # pixels around a tile, more than the network's receptive radius

    def __init__(self) -> None:
        self.net = SkipAutoencoder()
        self.is_trained = False
        self.to('cuda' if torch.cuda.is_available() else 'cpu')

    def to(self, device) -> 'Model':
        """Move to `device`; choose the precision for it."""
        self.device = torch.device(device)
        self.net.to(self.device, memory_format=torch.channels_last)
        self.mixed_precision = has_fast_bfloat16(self.device)
        return self

    # -- checkpoints

    def load_pretrained_model(self) -> None:
        """Load `bestmodel.pth`, which lies beside this file."""
        self.load(CHECKPOINT)

    def save(self, path) -> None:
        """Write the weights to `path`, atomically: on an error an older file stays as it was."""
        path = Path(path)
        checkpoint = {'widths': list(self.net.widths), 'weights': self._weights()}
        temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
        try:
            with open(temporary, 'wb') as file:
                torch.save(checkpoint, file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path) -> None:
        """Load what `save` wrote. ValueError if it is something else; the model is then as before."""
        try:
            with open(path, 'rb') as file:
                checkpoint = torch.load(file, map_location='cpu', weights_only=True)
            widths, weights = tuple(checkpoint['widths']), dict(checkpoint['weights'])
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f'path: {path} is not a checkpoint of this model') from error
        if widths != self.net.widths:
            raise ValueError(f'path: {path} holds a network of widths {widths}, expected {self.net.widths}')
        self._set_weights(weights)
        self.is_trained = True

    def _weights(self) -> dict:
        return {name: tensor.detach().cpu().contiguous().clone()
                for name, tensor in self.net.state_dict().items()}

    def _set_weights(self, weights: dict) -> None:
        own, given = ({name: tuple(getattr(weight, 'shape', ('no tensor',))) for name, weight in some.items()}
                      for some in (self.net.state_dict(), weights))
        for name in sorted(own.keys() | given.keys(), key=str):
            if own.get(name) != given.get(name):
                raise ValueError(f'weights: {name} has the shape {given.get(name)}, '
                                 f'expected {own.get(name)}')
        self.net.load_state_dict(weights)

    # -- training

    def learning_rate(self, progress: float, peak: float) -> float:
        """One cycle (Smith and Topin 2017, https://arxiv.org/abs/1708.07120), `progress` in 0..1."""
        warm_up = 0.1
        if progress < warm_up:
            low, t = peak / 20, progress / warm_up
        else:
            low, t = peak / 1000, 1 - (progress - warm_up) / (1 - warm_up)
        return low + (peak - low) * (1 - math.cos(math.pi * t)) / 2

    def train(self, train_input: torch.Tensor, train_target: torch.Tensor,
              num_epochs: int = NUM_EPOCHS, *,
              callback: Optional[Callable[[Progress], None]] = None,
              verbose: bool = True, resume: Optional[dict] = None) -> None:
        """Train on pairs of noisy images of the same content.

        train_input, train_target: (N, 3, H, W), uint8 or floating, 0..255, N at least 1.
        callback: called with a `Progress` after each step; may raise to stop the training.
        verbose: print a line per epoch.
        resume: a state from `Progress.state()`; the training goes on from there, with the same
            pairs and num_epochs. The random state is torch's global one: with it set to what it
            was (`torch.get_rng_state()`), the result is that of an uninterrupted training.

        One call is one whole cycle of the rate: not to be called epoch by epoch. Weights that were
        loaded or trained before are trained on, at a lower rate.
        """
        check_images('train_input', train_input)
        check_images('train_target', train_target)
        if train_input.shape != train_target.shape:
            raise ValueError(f'train_target must have the shape of train_input, '
                             f'{tuple(train_input.shape)}, got {tuple(train_target.shape)}')
        N = len(train_input)
        if N < 1:
            raise ValueError('train_input must hold at least one image, got 0')
        if not isinstance(num_epochs, int) or num_epochs < 1:
            raise ValueError(f'num_epochs must be an integer of at least 1, got {num_epochs!r}')

        steps_per_epoch = math.ceil(N / self.BATCH_SIZE)
        num_steps = num_epochs * steps_per_epoch
        peak = self.PEAK_LR * (self.FINE_TUNING if self.is_trained else 1)
        optimizer = torch.optim.Adam(self.net.parameters(), lr=peak, betas=self.BETAS)
        first, order = 0, None
        if resume is not None:
            first, order, peak = self._resume(resume, optimizer, N, num_steps)

        def state() -> dict:
            return {'weights': self._weights(), 'optimizer': _to_cpu(optimizer.state_dict()),
                    'peak': peak, 'step': step + 1, 'num_steps': num_steps, 'order': order.clone()}

        log = EpochLog(num_epochs, steps_per_epoch, N, first) if verbose else None
        self.is_trained = True
        with torch.enable_grad():
            for step in range(first, num_steps):
                epoch, k = divmod(step, steps_per_epoch)
                if k == 0:
                    order = torch.randperm(N)
                batch = order[k * self.BATCH_SIZE:(k + 1) * self.BATCH_SIZE]
                lr = self.learning_rate(step / num_steps, peak)
                for group in optimizer.param_groups:
                    group['lr'] = lr
                loss = self._step(train_input[batch.to(train_input.device)],
                                  train_target[batch.to(train_target.device)], optimizer)
                if log is not None:
                    log.step(step, loss, lr)
                if callback is not None:
                    callback(Progress(epoch + 1, num_epochs, step + 1, num_steps, loss, lr, state))

    def loss(self, output: torch.Tensor, noisy: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean squared error, in which images that the network finds less noise in count for more.

        PSNR is a mean of decibels: a smooth image counts as much as a busy one, but adds little to the plain
        mean. The weights depend on the inputs alone and no gradient goes through them, so for each input the
        best output is still the mean of its targets. output, noisy, target: (N, C, H, W) -> ()
        """
        noise = (output.detach() - noisy).square().mean((1, 2, 3))              # (N,)
        weight = 1 / (noise + self.LEAST_NOISE)
        error = (output - target).square().mean((1, 2, 3))
        return (weight / weight.mean() * error).mean()

    def _step(self, first: torch.Tensor, second: torch.Tensor, optimizer) -> torch.Tensor:
        """One step of Adam on one batch of pairs. Returns the loss, shape ()."""
        pair = augment(to_centred(first, self.device), to_centred(second, self.device))
        noisy, other = (pad_to_multiple(images, self.net.multiple) for images in pair)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        self.net.train()
        with self._precision():
            output = self.net(noisy)
        loss = self.loss(output.float(), noisy, other)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def _resume(self, state: dict, optimizer, N: int, num_steps: int) -> tuple:
        if (state['num_steps'], len(state['order'])) != (num_steps, N):
            raise ValueError(f"resume: the state is of a training of {state['num_steps']} steps on "
                             f"{len(state['order'])} pairs, this one has {num_steps} on {N}")
        self._set_weights(state['weights'])
        optimizer.load_state_dict(_to_cpu(state['optimizer']))      # a copy: Adam would work on the caller's
        return state['step'], state['order'], state['peak']

    def _precision(self):
        if self.mixed_precision:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    # -- prediction

    def predict(self, test_input: torch.Tensor, *, ensemble: bool = True,
                progress: Optional[Callable[[float], None]] = None) -> torch.Tensor:
        """Denoise (N, 3, H, W), 0..255, uint8 or floating -> float32 in 0..255, on the same device.

        H and W may be anything from 1 up, N may be 0. Memory is bounded: many images go through in
        batches, large ones in tiles whose margins exceed what the network sees, so without seams.
        ensemble: average over the 8 flips and rotations of each image.
        progress: called after each batch with its number of images, after a tile with its share of one.
        """
        check_images('test_input', test_input)
        N, C, H, W = test_input.shape
        output = torch.empty(N, C, H, W, device=test_input.device)
        m = self.net.multiple
        chunk = max(1, self.PIXELS // ((H + -H % m) * (W + -W % m)))
        self.net.eval()
        with torch.no_grad():
            for i in range(0, N, chunk):
                x = pad_to_multiple(to_centred(test_input[i:i + chunk], self.device), m)
                output[i:i + chunk] = to_bytes_range(self._tiled(x, ensemble, progress))[:, :, :H, :W]
        return output

    def _tiled(self, x: torch.Tensor, ensemble: bool, progress: Optional[Callable[[float], None]]) -> torch.Tensor:
        """Denoise tile by tile; an image that fits is one tile."""
        H, W = x.shape[2:]
        side = max(H, W) if H * W <= self.PIXELS else math.isqrt(self.PIXELS)
        corners = [(top, left) for top in range(0, H, side) for left in range(0, W, side)]
        output = torch.empty_like(x)
        for top, left in corners:
            row, column = max(0, top - self.MARGIN), max(0, left - self.MARGIN)
            tile = x[:, :, row:top + side + self.MARGIN, column:left + side + self.MARGIN]
            tile = self._denoise(tile, ensemble)[:, :, top - row:, left - column:]
            output[:, :, top:top + side, left:left + side] = tile[:, :, :side, :side]
            if progress is not None:
                progress(len(x) / len(corners))
        return output

    def _denoise(self, x: torch.Tensor, ensemble: bool) -> torch.Tensor:
        turns = range(8 if ensemble else 1)
        total = torch.zeros_like(x)
        for k in turns:
            turned = symmetry(x, k).contiguous(memory_format=torch.channels_last)
            with self._precision():
                total += inverse_symmetry(self.net(turned).float(), k)
        return total / len(turns)


def _to_cpu(value):
    """A copy of nested dicts and lists with every tensor on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to('cpu', copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(item) for item in value)
    return value


class EpochLog:
    """Prints one aligned line per epoch and, on a terminal, a live one in between."""

    def __init__(self, num_epochs: int, steps_per_epoch: int, N: int, first: int) -> None:
        self.num_epochs, self.steps_per_epoch, self.N = num_epochs, steps_per_epoch, N
        self.first, self.start, self.shown = first, time.monotonic(), 0.0
        self.total, self.count = 0.0, 0

    def step(self, step: int, loss: torch.Tensor, lr: float) -> None:
        self.total, self.count = self.total + loss, self.count + 1
        epoch, k = divmod(step, self.steps_per_epoch)
        ends, now = k + 1 == self.steps_per_epoch, time.monotonic()
        live = sys.stdout.isatty() and now - self.shown > 0.5
        if not (ends or live):
            return
        self.shown = now
        pace = max(now - self.start, 1e-3) / (step + 1 - self.first)    # seconds per step
        left = int(pace * (self.num_epochs * self.steps_per_epoch - step - 1))
        line = (f'epoch {epoch + 1:3d}/{self.num_epochs}  {(k + 1) / self.steps_per_epoch:4.0%}  '
                f'loss {float(self.total) / self.count:.5f}  rate {lr:.1e}  '
                f'{self.N / self.steps_per_epoch / pace:6.0f} pairs/s  '
                f'left {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}')
        print('\r' * sys.stdout.isatty() + line, end='\n' if ends else '', flush=True)
        if ends:
            self.total, self.count = 0.0, 0
