"""Mini-project 1: Noise2Noise with torch.nn.

A network that sees one noisy version of an image and is trained, by the mean squared error, to
give another noisy version of it can do no better than to give what the two have in common: their
mean, the clean image, which it never sees (Lehtinen et al. 2018, https://arxiv.org/abs/1803.04189).

The file reads top to bottom: the network (`ResidualBlock`, `SkipAutoencoder`), the arithmetic of
images, checkpoints, what a training needs, and `Model`, the interface of the assignment, which
trains the network with Adam and predicts.
"""
import contextlib
import glob
import io
import itertools
import math
import os
import pickletools
import re
import reprlib
import sys
import time
import warnings
import zipfile
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

    The encoder halves the resolution len(widths) - 1 times, the decoder doubles it back; on the way up
    a level begins with the sum of what comes from below and what the encoder had. The last convolution
    gives a correction, and output = input + correction: the network has to learn the noise, not to copy
    the image.

    widths: channels of each level, the finest first. blocks: of each level but the bottom, which has
    one, on the way down and as many on the way up; they are worth most at the full resolution.
    ValueError unless there is one number less of blocks than of widths.
    Shape: (N, 3, H, W) -> the same, H and W multiples of `multiple`. Values: 0..1.
    """

    def __init__(self, widths: tuple = (24, 48, 96, 192), blocks: tuple = (4, 2, 2)) -> None:
        super().__init__()
        if len(blocks) != len(widths) - 1:
            raise ValueError(f'blocks must be one number less than widths, {len(widths)}, got {len(blocks)}')
        self.widths = tuple(widths)
        self.multiple = 2 ** (len(widths) - 1)
        steps = list(zip(widths, widths[1:]))

        def stack(channels: int, number: int) -> nn.Sequential:
            return nn.Sequential(*[ResidualBlock(channels) for _ in range(number)])

        self.head = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(stack, widths[:-1], blocks))
        self.down = nn.ModuleList(nn.Conv2d(w, v, 2, stride=2) for w, v in steps)
        self.bottom = ResidualBlock(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(v, w, 2, stride=2) for w, v in reversed(steps))
        self.decoder = nn.ModuleList(map(stack, reversed(widths[:-1]), reversed(blocks)))
        self.tail = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x - 0.5)                       # (N, 24, H, W)
        skips = []
        for blocks, down in zip(self.encoder, self.down):
            y = blocks(y)
            skips.append(y)
            y = down(y)                              # twice the channels, half of H and W
        y = self.bottom(y)                           # (N, 192, H / 8, W / 8)
        for up, blocks in zip(self.up, self.decoder):
            y = blocks(up(y) + skips.pop())          # half the channels, twice H and W
        return x + self.tail(y)


# ------------------------------------------------------------------------- the arithmetic of images

def is_dense(tensor: torch.Tensor) -> bool:
    """Whether every value is there: not so of sparse tensors, nor on the device 'meta'."""
    return tensor.layout is torch.strided and tensor.device.type != 'meta'


def check_images(name: str, images: torch.Tensor) -> None:
    """Raise TypeError or ValueError unless `images` is (N, 3, H, W), integers in 0..255 or finite floating point."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f'{name} must be a tensor of shape (N, 3, H, W), got {type(images).__name__}')
    shape = tuple(images.shape)
    if len(shape) == 3:
        raise ValueError(f'{name} must have the shape (N, 3, H, W), got {shape}: of a single image, image[None]')
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        raise ValueError(f'{name} must have the shape (N, 3, H, W), H and W at least 1, got {shape}')
    if images.is_complex() or images.dtype is torch.bool:
        raise ValueError(f'{name} must be integers or floating point, in 0..255, got {images.dtype}')
    if not is_dense(images):
        raise ValueError(f'{name} must be a dense tensor, got {images.layout} on {images.device}')
    if images.is_floating_point():
        if not bool(images.detach().float().isfinite().all()):          # which 1e300 is not
            raise ValueError(f'{name} must be finite as float32, in 0..255, and holds NaN or infinity')
    elif images.dtype is not torch.uint8 and images.numel():
        low, high = int(images.long().min()), int(images.long().max())
        if low < 0 or high > 255:
            raise ValueError(f'{name} must be in 0..255, got integers from {low} to {high}')


def to_unit(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """0..255 of any type -> float32 in 0..1, on `device`."""
    return images.detach().to(device).float() / 255


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


def coins(*shape: int) -> torch.Tensor:
    """Fair coin flips from the global generator of the CPU, so that every device sees the same."""
    return torch.rand(*shape, device='cpu') < 0.5


def swap_noise(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """A new training pair of each pair: the two versions swap a random half of their pixels.

    Every noisy pixel is an independent draw, so this gives a new input and a new target, again with
    independent noise. (For noise that is correlated between neighbours it would be wrong.)
    Shapes: (N, C, H, W).
    """
    N, C, H, W = first.shape
    swap = coins(N, 1, H, W).to(first.device)
    return second.where(swap, first), first.where(swap, second)


def turn(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """Both images of each pair mirrored and transposed (square images only), at random but alike.
    Shapes: (N, C, H, W)."""
    N, C, H, W = first.shape
    pairs = torch.cat([first, second], 1)                                    # (N, 2 C, H, W)
    mirror, flip, transpose = coins(3, N, 1, 1, 1).to(first.device)
    pairs = pairs.flip(-1).where(mirror, pairs)
    pairs = pairs.flip(-2).where(flip, pairs)
    if H == W:
        pairs = pairs.transpose(-1, -2).where(transpose, pairs)
    return pairs[:, :C], pairs[:, C:]


def augment(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """A new training pair of each pair, (N, C, H, W)."""
    return turn(*swap_noise(first, second))


# ------------------------------------------------------------------------------------- checkpoints

LARGEST_CHECKPOINT = 2 ** 24        # bytes, also when it is unpacked
MOST_OPERATIONS = 2 ** 12           # of its pickle
# What torch.save writes of tensors in dicts and lists. Those that are not float32 and dense are for `check_weights`.
GLOBALS = re.compile(r'collections OrderedDict|torch (\w+Storage|Size|float32)|torch.serialization _get_layout|'
                     r'torch._utils _rebuild_(tensor_v2|sparse_tensor|meta_tensor_no_storage)')


def write_archive(path, content: dict) -> None:
    """torch.save to `path`, atomically: on an error an older file stays as it was. What a kill left
    more than a minute ago is removed; a younger one may be another process's, which is at it."""
    path = Path(path)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    archive = io.BytesIO()
    torch.save(content, archive)                                # to a file, a full disk is a RuntimeError
    try:
        temporary.write_bytes(archive.getvalue())
        os.replace(temporary, path)
    finally:
        for rest in path.parent.glob(f'{glob.escape(path.name)}.[0-9]*.tmp'):
            with contextlib.suppress(FileNotFoundError):        # another process has renamed its own
                if rest == temporary or time.time() - rest.stat().st_mtime > 60:
                    rest.unlink()


def read_archive(path):
    """Read what `write_archive` wrote: tensors in dicts and lists. torch.load runs no code, but can be made to take
    any memory, so the sizes and what is called are looked at before it begins. ValueError if they are others."""
    with open(path, 'rb') as file:
        data = file.read(LARGEST_CHECKPOINT + 1)
    if len(data) > LARGEST_CHECKPOINT:
        raise ValueError(f'path: {path} is larger than a checkpoint may be, {LARGEST_CHECKPOINT} bytes')
    if b'float32' in data[:100]:                                # the weights' key
        raise ValueError(f'path: {path} is a plain pickle, as a checkpoint of mini-project 2 is')
    try:
        if not data.startswith(b'PK\3\4'):                      # torch.load would take it for an older format
            raise ValueError('it is no zip archive')
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > LARGEST_CHECKPOINT:
                raise ValueError(f'it unpacks to more than {LARGEST_CHECKPOINT} bytes')
            used = {argument for entry in entries if entry.filename.lower().endswith('.pkl')
                    for name, argument in operations(archive.read(entry)) if name == 'GLOBAL'}
        foreign = sorted(name for name in used if not GLOBALS.fullmatch(name))
        if foreign:
            raise ValueError(f'it holds {reprlib.repr(foreign)}')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')                     # torch's, of files that it does not know either
            return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception as error:
        reason = f' ({error})' if type(error) is ValueError else ''
        raise ValueError(f'path: {path} is not a checkpoint of tensors{reason}') from error


def operations(data: bytes) -> list:
    """The (name, argument) of each operation of a pickle, none of which is done. ValueError if they are too many or
    bytes follow the last."""
    found = list(itertools.islice(pickletools.genops(data), MOST_OPERATIONS))
    if found[-1][2] + 1 != len(data):
        raise ValueError(f'it goes on after {len(found)} operations')
    return [(opcode.name, argument) for opcode, argument, _ in found]


def check_keys(name: str, content, keys: list) -> None:
    """ValueError unless `content` is a dict of these keys."""
    found = list(content) if isinstance(content, dict) else type(content).__name__
    if found != keys:
        raise ValueError(f'{name} holds {reprlib.repr(found)}, expected {keys}')


def check_weights(own: dict, given: dict) -> None:
    """ValueError unless `given` has the names, shapes and types of `own`, {name: tensor}, and is dense and finite."""
    def kind(weight) -> str:
        if not isinstance(weight, torch.Tensor):
            return type(weight).__name__
        place = '' if is_dense(weight) else f', {weight.layout} on {weight.device}'
        return f'{weight.dtype} {reprlib.repr(tuple(weight.shape))}{place}'

    for name in {**own, **given}:
        expected, found = kind(own.get(name)), kind(given.get(name))
        if name not in own or expected != found:
            told = name if name in own else reprlib.repr(name).strip("'")
            raise ValueError(f'weights: {told} is {found}, expected {expected}')
        if not bool(given[name].isfinite().all()):
            raise ValueError(f'weights: {name} holds NaN or infinity')


# ---------------------------------------------------------------------------- what a training needs

def one_cycle(progress: float, peak: float) -> float:
    """The learning rate at `progress` (0..1) of a training: in the first tenth up from peak / 20 to peak, then down
    to peak / 1000, by half cosines (Smith and Topin 2017, https://arxiv.org/abs/1708.07120)."""
    warm_up = 0.1
    if progress < warm_up:
        low, height = peak / 20, progress / warm_up
    else:
        low, height = peak / 1000, (1 - progress) / (1 - warm_up)
    return low + (peak - low) * (1 - math.cos(math.pi * height)) / 2


class Progress(NamedTuple):
    """What `Model.train` tells its callback after each step."""
    epoch: int                      # of this step, from 1
    num_epochs: int
    step: int                       # steps done in the whole training
    num_steps: int                  # of the whole training
    loss: torch.Tensor              # of this step; shape (), on the model's device
    lr: float                       # of this step
    state: Callable[[], dict]       # the state to hand to `train(.., resume=)`, as CPU tensors


class Team(NamedTuple):
    """Processes that train one model together, each on its share of every batch. With the same seed they draw the
    same batches, noise and turns, and all end with the weights that one process would have, to rounding."""
    rank: int                       # of this process, from 0
    size: int                       # how many there are
    add_up: Callable[[list], None]  # sets each of some tensors, in place, to its sum over the processes

    def share(self, noisy: torch.Tensor, target: torch.Tensor) -> tuple:
        """This process's images of a batch and their part of it (0 and an image, if there are too few for all)."""
        N, mine = len(noisy), slice(self.rank % len(noisy), None, self.size)
        return noisy[mine], target[mine], len(range(self.rank, N, self.size)) / N


ALONE = Team(0, 1, lambda tensors: None)


def _to_cpu(value):
    """A copy of nested dicts and lists with every tensor on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to('cpu', copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(item) for item in value)
    return value


def check_finite(loss: torch.Tensor, gradients: list) -> None:
    """FloatingPointError if a value is not finite; then a sum is not, either."""
    if not bool(torch.stack([loss, *(gradient.sum() for gradient in gradients)]).sum().isfinite()):
        raise FloatingPointError('the loss or a gradient is not finite')


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


# ---------------------------------------------------------------------------------------- the model

class Model:
    """The denoiser: `load_pretrained_model()` or `train(..)`, then `predict(..)`.

    Attributes: `device` (CUDA where there is one; `to(device)` moves it), `net`, `mixed_precision`
    (products in bfloat16; off unless it is set), `is_trained` (whether the weights are more than random).
    """
    NUM_EPOCHS = 5                  # within 40 minutes of float32 on 2 cores, for 50,000 pairs
    BATCH_SIZE = 16
    PEAK_LR = 2e-3                  # of the cycle of rates
    FINE_TUNING = 0.02              # the part of PEAK_LR that weights meet which are trained already
    BETAS = (0.9, 0.99)
    LONGEST_GRADIENT = 0.02         # its norm; a single long one can make the training of a deep network diverge
    PIXELS = 2 ** 18                # what predict takes at once; bounds its memory
    MARGIN = 96                     # pixels around a tile, more than the network's receptive radius; a multiple of 8

    @torch.inference_mode(False)    # parameters that are made in it cannot be trained
    def __init__(self) -> None:
        self.net = SkipAutoencoder()
        self.loss = nn.MSELoss()
        self.mixed_precision = self.is_trained = False
        self.to('cuda' if torch.cuda.is_available() else 'cpu')

    @torch.inference_mode(False)
    def to(self, device) -> 'Model':
        """Move to `device`."""
        self.device = torch.device(device)
        self.net.to(self.device, memory_format=torch.channels_last)
        return self

    # -- checkpoints

    def load_pretrained_model(self) -> None:
        """Load `bestmodel.pth`, which lies beside this file."""
        self.load(CHECKPOINT)

    def save(self, path) -> None:
        """Write the weights to `path`: an archive of {'widths': list, 'weights': {name: tensor}}."""
        write_archive(path, {'widths': list(self.net.widths), 'weights': self.weights()})

    def load(self, path) -> None:
        """Load what `save` wrote. ValueError if it is something else; the model is then as before."""
        content = read_archive(path)
        try:
            check_keys('it', content, ['widths', 'weights'])
            widths, weights = content['widths'], content['weights']
            if not (isinstance(widths, list) and all(isinstance(width, int) for width in widths)):
                raise ValueError('its widths are no list of integers')
            if tuple(widths) != self.net.widths:
                raise ValueError(f'it is of widths {reprlib.repr(tuple(widths))}, expected {self.net.widths}')
            self.set_weights(weights)
        except (TypeError, ValueError) as error:
            raise ValueError(f'path: {path} is not a checkpoint of this model ({error})') from error
        self.is_trained = True

    def weights(self) -> dict:
        """A copy of the weights on the CPU: {name: tensor}."""
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.net.state_dict().items()}

    def set_weights(self, weights: dict) -> None:
        """Copy `weights`, as `weights()` gives them, into the network; ValueError if they do not fit."""
        check_weights(self.net.state_dict(), weights)
        self.net.load_state_dict(weights)

    # -- training

    def train(self, train_input: torch.Tensor, train_target: torch.Tensor, num_epochs: int = NUM_EPOCHS, *,
              batch_size: int = BATCH_SIZE, peak_lr: Optional[float] = None,
              callback: Optional[Callable[[Progress], None]] = None, verbose: bool = True,
              resume: Optional[dict] = None, team: Team = ALONE) -> None:
        """Train on pairs of noisy images of the same content.

        train_input, train_target: (N, 3, H, W), integers or floating point, 0..255, N at least 1.
        peak_lr: the highest rate of the cycle (`one_cycle`). None: PEAK_LR; for weights that were loaded or
            trained before, FINE_TUNING times that.
        callback: called with a `Progress` after each step; may raise to stop the training.
        verbose: print a line per epoch.
        resume: a state from `Progress.state()`; the training goes on from there, with the same
            pairs, num_epochs and batch_size. The random state is torch's global one: with it set to
            what it was (`torch.get_rng_state()`), the result is that of an uninterrupted training.
        team: the processes that each batch is shared among.

        One call is one whole cycle of the rate: not to be called epoch by epoch. FloatingPointError if the loss
        or a gradient is not finite; the weights are then those from before the step.
        """
        check_images('train_input', train_input)
        check_images('train_target', train_target)
        if train_input.shape != train_target.shape:
            raise ValueError(f'train_target must have the shape of train_input, '
                             f'{tuple(train_input.shape)}, got {tuple(train_target.shape)}')
        N = len(train_input)
        if N < 1:
            raise ValueError('train_input must hold at least one image, got 0')
        for name, value in (('num_epochs', num_epochs), ('batch_size', batch_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name} must be an integer of at least 1, got {value!r}')
        if peak_lr is None:
            peak_lr = self.PEAK_LR * (self.FINE_TUNING if self.is_trained else 1)
        if not (isinstance(peak_lr, (int, float)) and 0 < peak_lr < math.inf):
            raise ValueError(f'peak_lr must be a number above 0, got {peak_lr!r}')

        steps_per_epoch = math.ceil(N / batch_size)
        num_steps = num_epochs * steps_per_epoch
        optimizer = torch.optim.Adam(self.net.parameters(), lr=peak_lr, betas=self.BETAS)
        first = start = 0                               # steps done; where among them the cycle of rates begins
        if resume is not None:
            first, start, order, peak_lr = self._resume(resume, optimizer, N, num_steps)

        def state() -> dict:
            return {'weights': self.weights(), 'optimizer': _to_cpu(optimizer.state_dict()), 'peak': peak_lr,
                    'step': step + 1, 'start': start, 'num_steps': num_steps, 'order': order.clone()}

        log = EpochLog(num_epochs, steps_per_epoch, N, first) if verbose else None
        for step in range(first, num_steps):
            epoch, k = divmod(step, steps_per_epoch)
            if k == 0:
                order = torch.randperm(N, device='cpu')
            batch = order[k * batch_size:(k + 1) * batch_size]
            lr = one_cycle((step - start) / (num_steps - start), peak_lr)
            for group in optimizer.param_groups:
                group['lr'] = lr
            try:
                loss = self.step(train_input[batch.to(train_input.device)],
                                 train_target[batch.to(train_target.device)], optimizer, team)
            except FloatingPointError as error:
                raise FloatingPointError(f'epoch {epoch + 1}, step {step + 1} of {num_steps}: {error}; '
                                         'the weights are those from before this step') from None
            self.is_trained = True
            if log is not None:
                log.step(step, loss, lr)
            if callback is not None:
                callback(Progress(epoch + 1, num_epochs, step + 1, num_steps, loss, lr, state))

    @torch.inference_mode(False)
    def step(self, first: torch.Tensor, second: torch.Tensor, optimizer, team: Team = ALONE) -> torch.Tensor:
        """One step of the optimizer on a batch of pairs, two tensors (N, 3, H, W), 0..255. Returns the loss, shape ().
        FloatingPointError, before anything has changed, if the loss or a gradient is not finite."""
        pair = augment(to_unit(first, self.device), to_unit(second, self.device))
        noisy, target = (pad_to_multiple(images, self.net.multiple) for images in pair)
        noisy, target, share = team.share(noisy, target)
        loss, gradients = self.differentiate(noisy.contiguous(memory_format=torch.channels_last), target, share)
        team.add_up([loss, *gradients])
        check_finite(loss, gradients)
        self.descend(gradients, optimizer)
        return loss

    @torch.inference_mode(False)
    @torch.enable_grad()
    def differentiate(self, noisy: torch.Tensor, target: torch.Tensor, share: float) -> tuple:
        """The loss on a batch, two tensors (N, 3, H, W), 0..1, times `share`, shape (), and the list of its gradients
        by the network's parameters."""
        self.net.train()
        with self._precision():
            output = self.net(noisy)
        loss = self.loss(output.float(), target) * share
        return loss.detach(), list(torch.autograd.grad(loss, list(self.net.parameters())))

    def descend(self, gradients: list, optimizer) -> None:
        """A step of the optimizer with the gradients, scaled down to the norm LONGEST_GRADIENT if theirs is larger
        (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063)."""
        for weight, gradient in zip(self.net.parameters(), gradients):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(self.net.parameters(), self.LONGEST_GRADIENT)
        optimizer.step()

    @torch.inference_mode(False)
    def _resume(self, state: dict, optimizer, N: int, num_steps: int) -> tuple:
        if (state['num_steps'], len(state['order'])) != (num_steps, N):
            raise ValueError(f"resume: the state is of a training of {state['num_steps']} steps on "
                             f"{len(state['order'])} pairs, this one has {num_steps} on {N}")
        self.set_weights(state['weights'])
        optimizer.load_state_dict(_to_cpu(state['optimizer']))      # a copy: Adam would work on the caller's
        return state['step'], state['start'], state['order'], state['peak']

    def _precision(self):
        if self.mixed_precision:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    # -- prediction

    def predict(self, test_input: torch.Tensor, *, ensemble: bool = True,
                progress: Optional[Callable[[float], None]] = None) -> torch.Tensor:
        """Denoise (N, 3, H, W), 0..255, integers or floating point -> float32 in 0..255, on the same device.

        H and W may be anything from 1 up, N may be 0. Memory is bounded: many images go through in
        batches, large ones in tiles whose margins exceed what the network sees, so without seams.
        ensemble: average over the 8 flips and rotations of each image.
        progress: called after each batch with its number of images, after a tile with its share of one.
        A warning if the values look as if they were in 0..1.
        """
        check_images('test_input', test_input)
        if test_input.is_floating_point() and test_input.numel() and 0 < test_input.float().max() <= 1:
            warnings.warn('test_input is expected in 0..255, its maximum is at most 1', stacklevel=2)
        N, C, H, W = test_input.shape
        output = torch.empty(N, C, H, W, device=test_input.device)
        m = self.net.multiple
        chunk = max(1, self.PIXELS // ((H + -H % m) * (W + -W % m)))
        self.net.eval()
        with torch.no_grad():
            for i in range(0, N, chunk):
                x = pad_to_multiple(to_unit(test_input[i:i + chunk], self.device), m)
                output[i:i + chunk] = self._tiled(x, ensemble, progress)[:, :, :H, :W].clamp(0, 1) * 255
        return output

    def _tiled(self, x: torch.Tensor, ensemble: bool, progress: Optional[Callable[[float], None]]) -> torch.Tensor:
        """Denoise tile by tile; an image that fits is one tile."""
        H, W = x.shape[2:]
        m = self.net.multiple
        side = max(H, W) if H * W <= self.PIXELS else math.isqrt(self.PIXELS) // m * m
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
        """The network's output, the mean over the symmetries."""
        turns = range(8 if ensemble else 1)
        total = torch.zeros_like(x)
        for k in turns:
            turned = symmetry(x, k).contiguous(memory_format=torch.channels_last)
            with self._precision():
                total += inverse_symmetry(self.net(turned).float(), k)
        return total / len(turns)
