"""Mini-project 1: Noise2Noise with torch.nn.

A network that sees one noisy version of an image and is trained, by the mean squared error, to predict another one,
whose noise is independent and zero on average, learns the mean of all such versions: the best guess of the clean
image, which it never sees (Lehtinen et al. 2018, https://arxiv.org/abs/1803.04189).

The file reads top to bottom: the network, operations on images, checkpoints, what a training needs, and `Model`, the
interface of the assignment, which trains the network with Adam and predicts.
"""
import contextlib
import copy
import datetime
import glob
import io
import math
import numbers
import os
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

    The encoder halves the resolution len(widths) - 1 times, the decoder doubles it back; on the way up a level begins
    with the sum of what comes from below and what the encoder had. The last convolution gives a correction, and
    output = input + correction: the network has to learn the noise, not to copy the image.

    widths: channels of each level, the finest first. blocks: residual blocks per level, on the way down and again on
    the way up (the bottom has one); they help most at full resolution. ValueError unless there is one width more than
    blocks. block: the class of the blocks, built with a number of channels.
    Shape: (N, 3, H, W) -> the same, H and W multiples of `multiple`. Values: 0..1.
    """

    def __init__(self, widths: tuple = (24, 48, 96, 192), blocks: tuple = (8, 2, 2), block=ResidualBlock) -> None:
        super().__init__()
        if len(blocks) != len(widths) - 1:
            raise ValueError(f'blocks must be one number less than widths, {len(widths)}, got {len(blocks)}')
        self.widths, self.multiple = tuple(widths), 2 ** len(blocks)

        self.head = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(nn.Sequential(*map(block, [w] * n)) for w, n in zip(widths, blocks))
        self.down = nn.ModuleList(nn.Conv2d(w, v, 2, stride=2) for w, v in zip(widths, widths[1:]))
        self.bottom = block(widths[-1])
        up = list(zip(widths, widths[1:], blocks))[::-1]            # from the bottom
        self.up = nn.ModuleList(nn.ConvTranspose2d(v, w, 2, stride=2) for w, v, _ in up)
        self.decoder = nn.ModuleList(nn.Sequential(*map(block, [w] * n)) for w, _, n in up)
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


# ----------------------------------------------------------------------------- operations on images

def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the tensor stores all its values; sparse and meta tensors do not."""
    return tensor.layout is torch.strided and tensor.device.type != 'meta'


def check_images(name: str, images: torch.Tensor) -> None:
    """TypeError or ValueError unless `images` is (N, 3, H, W), integers in 0..255 or floating point in -255..510, as
    noise may make it. Warns of values outside -1..256, and of floating point that looks like 0..1."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f'{name} must be a tensor of shape (N, 3, H, W), got {type(images).__name__}')
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        hint = '; for a single image pass image[None]' * (len(shape) == 3)
        raise ValueError(f'{name} must have the shape (N, 3, H, W), H and W at least 1, got {shape}{hint}')
    if images.is_complex() or images.dtype is torch.bool or not is_dense(images):
        raise ValueError(f'{name} must be a dense tensor of integers or floating point, in 0..255, '
                         f'got {images.dtype}, {images.layout} on {images.device}')
    if images.dtype is torch.uint8 or not images.numel():
        return
    low, high = map(float, images.detach().float().aminmax())
    slack = 255 * images.is_floating_point()
    if not -slack <= low <= high <= 255 + slack:            # a comparison with NaN is False
        raise ValueError(f'{name} must be finite and in 0..255, got values from {low:g} to {high:g}')
    if low < -1 or high > 256 or (slack and 0 < high <= 1):
        warnings.warn(f'{name} is expected in 0..255, its values are from {low:g} to {high:g}', stacklevel=3)


def to_unit(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """0..255 of any type -> float32 in 0..1, on `device`."""
    return images.detach().to(device).float() / 255


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and the last column until H and W are multiples of `multiple`."""
    H, W = x.shape[2:]
    return nn.functional.pad(x, (0, -W % multiple, 0, -H % multiple), mode='replicate')


def coins(*shape: int) -> torch.Tensor:
    """Fair coin flips from the global generator of the CPU, so that every device sees the same."""
    return torch.rand(*shape, device='cpu', dtype=torch.float32) < 0.5


def swap_noise(first: torch.Tensor, second: torch.Tensor, whole: Optional[torch.Tensor] = None) -> tuple:
    """Turn each pair, (N, C, H, W), into a new one: the two versions swap a random half of their pixels.

    Every pixel of the two is an independent draw of one kind of noise, so this gives a new input and a new target,
    again with independent noise. If the noise of neighbours correlates, the target would reveal some of the input's
    noise: for such pairs `whole`, a bool tensor (N,), is True, and the two images are swapped as a whole, or not, at
    random.
    """
    N, C, H, W = first.shape
    swap = coins(N, 1, H, W)
    if whole is not None:
        swap = swap[:, :, :1, :1].where(whole.view(N, 1, 1, 1), swap)       # the first pixel's coin is for all
    swap = swap.to(first.device)
    return second.where(swap, first), first.where(swap, second)


CORRELATED = 0.1        # noise that correlates more between neighbours is not swapped pixel by pixel


def neighbour_correlation(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """How strongly the noise of vertical and horizontal neighbours correlates in each pair, two tensors (N, C, H, W).

    The difference of the two versions holds nothing but noise. Returns its correlation r, (N,), and the sum of the
    neighbours' products over the root of the sum of their squares, z, (N,): about standard normal if the noise is
    independent, however unevenly it spreads over the image.
    """
    d = to_unit(first, 'cpu') - to_unit(second, 'cpu')
    d = d - d.mean((2, 3), keepdim=True)                                # a difference in brightness is no noise
    products = torch.cat([(d[:, :, 1:] * d[:, :, :-1]).sum(1).flatten(1),
                          (d[..., 1:] * d[..., :-1]).sum(1).flatten(1)], 1)         # (N, neighbours), colours pooled
    variance = d.square().sum(1).mean((1, 2)).clamp(min=1e-10)          # below, it is rounding
    total, spread = products.sum(1), products.square().sum(1).sqrt().clamp(min=1e-20)
    return total / max(1, products.shape[1]) / variance, total / spread


def choose_swap(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """Which pairs, of two tensors (N, C, H, W), `swap_noise` has to swap as whole images: a bool tensor (N,), and a
    line that says what was found and what follows.

    Each image is judged by itself, since a set may be mixed: its noise must correlate by more than CORRELATED, and by
    |z| > 6 (of 100,000 images with independent noise none reached 4.5). Small images, whose |z| is at most the root of
    the number of neighbours, need not where the set's mean of r is above CORRELATED, and that of z significant.
    """
    chunk = max(1, 2 ** 18 // math.prod(first.shape[2:]))
    parts = [neighbour_correlation(*pair) for pair in zip(first.split(chunk), second.split(chunk))]
    r, z = (torch.cat(part) for part in zip(*parts))
    noisy = z != 0                                                      # 0 if the two versions are equal
    n = max(1, int(noisy.sum()))
    is_common = bool(r.sum().abs() > CORRELATED * n) and bool(z.sum().abs() > 4 * math.sqrt(n))
    whole = (r.abs() > CORRELATED) & ((z.abs() > 6) | is_common)
    count = int(whole.sum())
    mean = float(r[whole if count else noisy].sum()) / (count or n)
    follows = f' in {count} of {len(r)} pairs: there whole images' if count else ': pixels'
    return whole, f'the noise of neighbouring pixels correlates by {mean:.2f}{follows} are swapped'


def turn(first: torch.Tensor, second: torch.Tensor) -> tuple:
    """Mirror and transpose (only square images) each pair, (N, C, H, W), at random, both images alike."""
    N, C, H, W = first.shape
    pairs = torch.cat([first, second], 1)                                    # (N, 2 C, H, W)
    mirror, flip, transpose = coins(3, N, 1, 1, 1).to(first.device)
    pairs = pairs.flip(-1).where(mirror, pairs)
    pairs = pairs.flip(-2).where(flip, pairs)
    if H == W:
        pairs = pairs.transpose(-1, -2).where(transpose, pairs)
    return pairs[:, :C], pairs[:, C:]


# ------------------------------------------------------------------------------------- checkpoints

LARGEST_CHECKPOINT = 2 ** 24        # bytes, also when it is unpacked


def write_archive(path, content: dict) -> None:
    """torch.save to `path`, or to the file that it links to, atomically: on an error an older file stays as it was.
    Temporary files older than a minute, which a killed process has left, are removed; younger ones may be in use."""
    path = Path(path).resolve()
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    archive = io.BytesIO()
    torch.save(content, archive)                                # to a file, a full disk would be a RuntimeError
    try:
        temporary.write_bytes(archive.getvalue())
        os.replace(temporary, path)
    finally:
        for rest in path.parent.glob(f'{glob.escape(path.name)}.[0-9]*.tmp'):
            with contextlib.suppress(FileNotFoundError):        # another process has renamed its own
                if rest == temporary or time.time() - rest.stat().st_mtime > 60:
                    rest.unlink()


def read_archive(data: bytes):
    """Undo torch.save of tensors in dicts and lists. torch.load with `weights_only` runs no code, but would unpack any
    amount: ValueError if that is more than LARGEST_CHECKPOINT."""
    if len(data) > LARGEST_CHECKPOINT:
        raise ValueError(f'it is larger than {LARGEST_CHECKPOINT} bytes')
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > LARGEST_CHECKPOINT:
            raise ValueError(f'it unpacks to more than {LARGEST_CHECKPOINT} bytes')
        if any(b'bytearray' in archive.read(entry) for entry in archive.infolist()):
            raise ValueError('it holds a bytearray')            # which torch.load allows, of any size
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                         # torch's, of files that it does not know
        return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def describe(value) -> str:
    """Type and shape of a tensor; plain data by its value, as far as 60 characters hold it."""
    if isinstance(value, torch.Tensor):
        return f'{value.dtype} {reprlib.repr(tuple(value.shape))}' + ', not dense' * (not is_dense(value))
    return 'a dict' if isinstance(value, dict) else reprlib.repr(value)[:60]


def check_like(name: str, given, own) -> None:
    """ValueError unless `given` is as `own`: in dicts the same names, tensors of the same type and shape, dense and
    finite, and equal plain data."""
    if isinstance(given, dict) and isinstance(own, dict):
        for key in {**own, **given}:
            check_like(f'{name}: {reprlib.repr(key)[:60]}', given.get(key), own.get(key))
    elif describe(given) != describe(own):
        raise ValueError(f'{name} is {describe(given)}, expected {describe(own)}')
    elif isinstance(given, torch.Tensor) and not bool(given.isfinite().all()):
        raise ValueError(f'{name} holds NaN or infinity')


# ---------------------------------------------------------------------------- what a training needs

def one_cycle(progress: float, peak: float) -> float:
    """The learning rate at `progress` (0..1) of a training: in the first tenth up from peak / 20 to peak, then down
    to peak / 1000, by half cosines (Smith and Topin 2017, https://arxiv.org/abs/1708.07120)."""
    low, height = (peak / 20, progress / 0.1) if progress < 0.1 else (peak / 1000, (1 - progress) / 0.9)
    return low + (peak - low) * (1 - math.cos(math.pi * height)) / 2


class Progress(NamedTuple):
    """What `Model.train` passes to its callback after each step."""
    epoch: int                      # of this step, from 1
    num_epochs: int
    step: int                       # steps done in the whole training
    num_steps: int                  # of the whole training
    loss: torch.Tensor              # of this step; shape (), on the model's device
    lr: float                       # the learning rate of this step
    state: Callable[[], dict]       # called in the callback: the state for `train(.., resume=)`, copies on the CPU


def say(line: str, is_live: bool = False) -> None:
    """Print a line; a live one, which the next one overwrites, on a terminal alone. A stdout that has no `flush`, is
    full or closed is no reason to end a training."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        is_terminal = getattr(sys.stdout, 'isatty', bool)()
        if is_terminal or not is_live:
            print('\r' * is_terminal + line, end='' if is_live else '\n', flush=True)


class EpochLog:
    """Prints one aligned line per epoch of N pairs, and a live one in between; `done` steps were done before."""

    def __init__(self, N: int, done: int) -> None:
        self.N, self.done, self.begun, self.shown = N, done, time.monotonic(), 0.0
        self.total, self.images = 0.0, 0                # of this epoch: sum of losses, images seen

    def step(self, progress: Progress, images: int) -> None:
        """Count a step on `images` pairs: an epoch's last batch may be smaller, and its loss weighs less."""
        self.total, self.images = self.total + progress.loss * images, self.images + images
        ends, now = progress.step % (progress.num_steps // progress.num_epochs) == 0, time.monotonic()
        if not ends and now - self.shown < 0.5:
            return
        self.shown = now
        pace = (progress.step - self.done) / max(now - self.begun, 1e-3)       # steps a second
        left = datetime.timedelta(seconds=int((progress.num_steps - progress.step) / pace))
        say(f'epoch {progress.epoch:3d}/{progress.num_epochs}  {self.images / self.N:4.0%}  '
            f'loss {float(self.total) / self.images:.5f}  learning rate {progress.lr:.1e}  '
            f'{pace * self.N * progress.num_epochs / progress.num_steps:6.0f} pairs/s  left {left}', is_live=not ends)
        if ends:
            self.total, self.images = 0.0, 0


# ---------------------------------------------------------------------------------------- the model

class Model:
    """The denoiser: `load_pretrained_model()` or `train(..)`, then `predict(..)`.

    Attributes: `device` (CUDA if there is one; `to(device)` moves it), `net`, `mixed_precision` (products in bfloat16;
    off unless it is set), `is_trained` (False while the weights are random; `set_weights` keeps it).
    """
    NUM_EPOCHS = 2                  # of 50,000 pairs, within 45 minutes of float32 on 2 slow cores
    BATCH_SIZE = 16
    PEAK_LR = 2e-3                  # the highest learning rate
    FINE_TUNING = 0.02              # fraction of PEAK_LR for weights that are already trained
    BETAS = (0.9, 0.99)
    LONGEST_GRADIENT = 0.02         # gradient clipping: the largest norm of all gradients together
    PIXELS = 2 ** 18                # pixels that predict processes at once; bounds its memory
    MARGIN = 112                    # pixels around a tile, more than the network's receptive radius; a multiple of 8

    @torch.inference_mode(False)    # a caller's inference mode would make parameters that cannot be trained
    def __init__(self) -> None:
        self.net = SkipAutoencoder().float()            # whatever the default type is
        self.loss = nn.MSELoss()
        self.mixed_precision = self.is_trained = False
        self.to('cuda' if torch.cuda.is_available() else 'cpu')

    @torch.inference_mode(False)
    def to(self, device) -> 'Model':
        """Move to `device`; where that fails, the model stays where it was."""
        torch.zeros(1).to(device)                       # fails before a part of the network has moved
        self.net.to(device, memory_format=torch.channels_last)
        self.device = torch.device(device)
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
        with open(path, 'rb') as file:
            data = file.read(LARGEST_CHECKPOINT + 1)
        try:
            content = read_archive(data)
            check_like('content', content, {'widths': list(self.net.widths), 'weights': self.net.state_dict()})
            self.net.load_state_dict(content['weights'])
        except Exception as error:
            reason = error if type(error) is ValueError else f'{type(error).__name__} while reading it'
            raise ValueError(f'path: {path} is not a checkpoint of mini-project 1 ({reason})') from error
        self.is_trained = True

    def weights(self) -> dict:
        """A copy of the weights on the CPU: {name: tensor}."""
        return {name: tensor.cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in self.net.state_dict().items()}

    def set_weights(self, weights: dict) -> None:
        """Copy `weights`, as `weights()` gives them, into the network; ValueError if they do not fit."""
        check_like('weights', weights, self.net.state_dict())
        self.net.load_state_dict(weights)

    # -- training

    def train(self, train_input: torch.Tensor, train_target: torch.Tensor, num_epochs: int = NUM_EPOCHS, *,
              batch_size: int = BATCH_SIZE, peak_lr: Optional[float] = None,
              callback: Optional[Callable[[Progress], None]] = None, verbose: bool = True,
              resume: Optional[dict] = None, swap: str = 'auto') -> None:
        """Train on pairs of noisy images of the same content, by one cycle of the learning rate: call it once, not
        epoch by epoch.

        train_input, train_target: (N, 3, H, W), N at least 1, integers or floating point in 0..255.
        peak_lr: the highest learning rate (`one_cycle`). None: PEAK_LR, times FINE_TUNING if `is_trained`.
        callback: called with a `Progress` after each step; may raise to stop. verbose: print what happens.
        resume: a `Progress.state()`, to go on with the same pairs, num_epochs, batch_size and swap; its peak_lr
            counts. With torch's random state of then (`torch.get_rng_state()`) the result is that of an uninterrupted
            training, to the last bit on a CPU with one thread, else to rounding. To lengthen a training, set the
            state's 'num_steps', and its 'start' to the step at which a new cycle begins.
        swap: what the two versions of a pair exchange at random (`swap_noise`): 'pixels', 'images', or 'auto', as the
            noise of each pair allows (`choose_swap`).

        TypeError or ValueError, before anything has changed, for an argument that cannot be used. FloatingPointError
        if a gradient is not finite; the weights are then those from before the step.
        """
        check_images('train_input', train_input)
        check_images('train_target', train_target)
        N = len(train_input)
        if train_input.shape != train_target.shape or N < 1:
            raise ValueError('train_input and train_target must have one shape, N at least 1, '
                             f'got {tuple(train_input.shape)} and {tuple(train_target.shape)}')
        for name, value in (('num_epochs', num_epochs), ('batch_size', batch_size)):
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f'{name} must be an integer of at least 1, got {value!r}')
        if peak_lr is None:
            peak_lr = self.PEAK_LR * (self.FINE_TUNING if self.is_trained else 1)
        if not (isinstance(peak_lr, numbers.Real) and 0 < peak_lr < math.inf):
            raise ValueError(f'peak_lr must be a number above 0, got {peak_lr!r}')
        if swap not in ('auto', 'pixels', 'images'):
            raise ValueError(f"swap must be 'auto', 'pixels' or 'images', got {swap!r}")

        if all(to_unit(a, 'cpu').equal(to_unit(b, 'cpu')) for a, b in zip(train_input, train_target)):
            warnings.warn('train_target equals train_input: the model learns to change nothing', stacklevel=2)
        whole = torch.full((N,), swap == 'images', device='cpu')
        if swap == 'auto':
            whole, line = choose_swap(train_input, train_target)
            if verbose:
                say(line)

        num_epochs, batch_size, peak_lr = int(num_epochs), int(batch_size), float(peak_lr)
        steps_per_epoch = math.ceil(N / batch_size)
        num_steps = num_epochs * steps_per_epoch
        optimizer = torch.optim.Adam(self.net.parameters(), betas=self.BETAS)
        done = start = 0        # steps already done; the step at which the learning rate's cycle began
        if resume is not None:
            done, start, order, peak_lr = self._resume(resume, optimizer, N, batch_size, num_steps)

        def state() -> dict:
            moments = {i: {name: value.to('cpu', copy=True) for name, value in of_weight.items()}
                       for i, of_weight in optimizer.state_dict()['state'].items()}
            return {'weights': self.weights(), 'moments': moments, 'peak': peak_lr, 'step': step + 1, 'start': start,
                    'num_steps': num_steps, 'batch_size': batch_size, 'order': order.clone()}

        log = EpochLog(N, done)
        for step in range(done, num_steps):
            epoch, k = divmod(step, steps_per_epoch)
            if k == 0:
                order = torch.randperm(N, device='cpu')
            batch = order[k * batch_size:(k + 1) * batch_size]
            optimizer.param_groups[0]['lr'] = lr = one_cycle((step - start) / (num_steps - start), peak_lr)
            try:
                loss = self.step(train_input[batch.to(train_input.device)],
                                 train_target[batch.to(train_target.device)], optimizer, whole[batch])
            except FloatingPointError as error:
                raise FloatingPointError(f'epoch {epoch + 1}, step {step + 1} of {num_steps}: {error}') from None
            self.is_trained = True
            progress = Progress(epoch + 1, num_epochs, step + 1, num_steps, loss, lr, state)
            if verbose:
                log.step(progress, len(batch))
            if callback is not None:
                callback(progress)

    @torch.inference_mode(False)
    def step(self, first: torch.Tensor, second: torch.Tensor, optimizer,
             whole: Optional[torch.Tensor] = None) -> torch.Tensor:
        """One step of the optimizer on a batch of pairs, two tensors (N, 3, H, W), 0..255; `whole` as in `swap_noise`.
        Returns the loss, shape (). FloatingPointError, before any weight has changed, if a gradient is not finite."""
        pair = turn(*swap_noise(to_unit(first, self.device), to_unit(second, self.device), whole))
        loss, gradients = self.differentiate(*(pad_to_multiple(images, self.net.multiple) for images in pair))
        self.descend(gradients, optimizer)
        return loss

    @torch.enable_grad()
    def differentiate(self, noisy: torch.Tensor, target: torch.Tensor) -> tuple:
        """Return the loss on a batch, two tensors (N, 3, H, W), 0..1, and the list of its gradients with respect to
        the parameters. Tools replace this method, to share a batch among processes or to record it as a CUDA graph."""
        loss = self.loss(self._output(noisy), target)
        return loss.detach(), list(torch.autograd.grad(loss, list(self.net.parameters())))

    def descend(self, gradients: list, optimizer) -> None:
        """Clip the gradients to the norm LONGEST_GRADIENT (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063), and
        step. FloatingPointError, before any weight has changed, if their norm is not finite."""
        for weight, gradient in zip(self.net.parameters(), gradients):
            weight.grad = gradient
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.LONGEST_GRADIENT)
        if not bool(norm.isfinite()):
            raise FloatingPointError('the gradient is not finite; the weights are those from before this step')
        optimizer.step()

    @torch.inference_mode(False)
    def _resume(self, state: dict, optimizer, N: int, batch_size: int, num_steps: int) -> tuple:
        """Take over the weights of `state` and the optimizer's moments. Return the steps done, the step at which the
        learning rate's cycle began, the order of the pairs and the highest learning rate. ValueError, before anything
        has changed, if the state is of another training."""
        try:
            moments, order, indices = state['moments'], state['order'], torch.arange(N, device='cpu')
            rest = {name: state[name] for name in ('step', 'start', 'peak')}        # checked below
            check_like('content', state, {
                'weights': self.net.state_dict(), 'num_steps': num_steps, 'batch_size': batch_size, 'order': indices,
                'moments': {i: {'step': moments[i]['step'], 'exp_avg': weight, 'exp_avg_sq': weight}
                            for i, weight in enumerate(self.net.parameters())}, **rest})
            step, start, peak = rest.values()
            if step not in range(num_steps + 1) or start not in range(step + 1):
                raise ValueError(f"'start', {start!r}, and 'step', {step!r}, must be integers, 0 <= start <= step "
                                 f'<= {num_steps}')
            if not (0 < peak < math.inf and order.sort().values.equal(indices)):
                raise ValueError("its 'peak' is no learning rate, or its 'order' no order of the pairs")
            optimizer.load_state_dict({**optimizer.state_dict(), 'state': copy.deepcopy(moments)})
            self.net.load_state_dict(state['weights'])
        except Exception as error:
            raise ValueError(f'resume: no state of this training ({type(error).__name__}: {error})') from error
        return step, start, order, peak

    # -- prediction

    def predict(self, test_input: torch.Tensor, *, ensemble: bool = True,
                progress: Optional[Callable[[float], None]] = None) -> torch.Tensor:
        """Denoise (N, 3, H, W), 0..255, integers or floating point -> float32 in 0..255, on the same device.

        H and W may be anything from 1 up, N may be 0. Memory is bounded: many images go through in batches, large ones
        in tiles, without seams, since their margins are wider than what the network sees.
        ensemble: test-time augmentation, the average over the 4 rotations of each image.
        progress: called after each batch with its number of images, after a tile with its share of one.
        """
        check_images('test_input', test_input)
        N, C, H, W = test_input.shape
        m, margin = self.net.multiple, self.MARGIN
        padded = (H + -H % m) * (W + -W % m)
        chunk = max(1, self.PIXELS // padded)                   # images at once
        side = max(H, W) if padded <= self.PIXELS else math.isqrt(self.PIXELS) // m * m     # of a tile
        corners = [(top, left) for top in range(0, H, side) for left in range(0, W, side)]
        output = torch.empty(N, C, H, W, device=test_input.device, dtype=torch.float32)
        for i in range(0, N, chunk):
            x = pad_to_multiple(to_unit(test_input[i:i + chunk], self.device), m)
            for top, left in corners:
                row, column = max(0, top - margin), max(0, left - margin)
                tile = self._denoise(x[:, :, row:top + side + margin, column:left + side + margin], ensemble)
                place = output[i:i + chunk, :, top:top + side, left:left + side]
                height, width = place.shape[2:]
                tile = tile[:, :, top - row:top - row + height, left - column:left - column + width]
                place.copy_(tile.clamp(0, 1) * 255)
                if progress is not None:
                    progress(len(x) / len(corners))
        return output

    @torch.no_grad()
    def _denoise(self, x: torch.Tensor, ensemble: bool) -> torch.Tensor:
        """The network's output; with `ensemble`, the mean over the 4 rotations."""
        turns = range(4 if ensemble else 1)             # quarter turns
        return sum(self._output(x.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in turns) / len(turns)

    def _output(self, x: torch.Tensor) -> torch.Tensor:
        """The network's output, in float32; its products are in bfloat16 with `mixed_precision`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision):
            return self.net(x.contiguous(memory_format=torch.channels_last)).float()
