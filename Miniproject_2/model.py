"""Mini-project 2: Noise2Noise on a deep-learning framework of our own, without autograd and torch.nn.

To read it in half an hour:
1. `Module` and `Sequential`: a module has one primitive, `forward_and_vjp`, which returns the output y = f(x) and
   a function, the vector-Jacobian product. Given dL/dy it adds dL/dw to each parameter's gradient and returns dL/dx.
   (`differentiable(module)` is that primitive, also of a class that defines `forward` and `backward` instead.)
2. "A convolution and its two derivatives", `convolve` and `Window`: the rules, and the lines that apply them.
3. `Conv2d`, `ReLU`, `MSE` and `SGD`: the blocks, the loss and the optimizer around them.
4. `build_network`, `Model.step` and `Model.differentiate`: the denoiser of the assignment, and one training step.
To skip at first: `Tiles` and `Upsampling` (faster ways to the same results), the inside of `multiply`, `__setattr__`,
the checks, the checkpoints.

Users see tensors of the shape (N, C, H, W); in memory the order is C, H, W, N. With the batch as the last
dimension all images take part in one matrix product, and copying what a window sees moves N neighbouring numbers at a
time. Tensors may require gradients elsewhere; `detach` keeps autograd out of what is computed here.
"""
import contextlib
import datetime
import glob
import itertools
import math
import numbers
import os
import pickle
import pickletools
import reprlib
import struct
import sys
import time
import warnings
from functools import partial
from operator import index
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple, Optional

from torch import arange, cat, empty

CHECKPOINT = Path(__file__).resolve().parent / 'bestmodel.pth'
Tensor = type(empty(0, device='cpu'))           # torch.Tensor, which the assignment forbids importing


# ----------------------------------------------------------------------------------------- modules

_numbers = itertools.count(1)       # each application of a module gets the next one, which tells the later of two


class Module:
    """A differentiable function with parameters.

    A subclass defines either `forward_and_vjp`, as all modules here do, or, like torch.autograd.Function, `forward`
    and `backward`; the latter then differentiates the most recent `forward`. It lists its parameters by name in
    `parameter_names`: for each it has an attribute `<name>`, a tensor or None, and `grad_<name>`, a tensor of the same
    shape, to which the derivative is added.
    Tensors have the shape (N, C, H, W), need not be contiguous and must not be modified in place, except by
    ReLU(inplace=True)."""
    parameter_names = ()
    settings = {}                   # names of attributes that are an integer, or a pair of them -> the least integer
    fixed = ()                      # names of attributes that the shape of the weight depends on
    _last = (0, None, None)         # of the last application: its number, its vjp, the shape of its output

    def forward_and_vjp(self, *input) -> tuple:
        """Return the output and vjp(gradwrtoutput), which adds to the parameters' gradients and returns the gradient
        with respect to the input. The functions that several calls return are independent: any number may be
        pending. vjp may keep references to the input, output and weights: do not modify them before calling it, not
        even by an optimizer step."""
        raise NotImplementedError(f'{type(self).__name__} has no forward_and_vjp')

    def forward(self, *input) -> Tensor:
        """Return the output, contiguous as torch.nn's, and keep what `backward` needs."""
        self._last = Module._last                   # free what the previous application kept
        check_tensors(self, 'input', input)
        output, vjp = self.forward_and_vjp(*input)
        self._last = next(_numbers), vjp, output.shape
        return output.contiguous()

    def __call__(self, *input) -> Tensor:
        return self.forward(*input)

    def backward(self, *gradwrtoutput) -> Tensor:
        """Differentiate the last application, by `forward` or by a Sequential: accumulate the parameters' gradients,
        return the input's. ValueError unless the gradient has the shape of the output."""
        _, vjp, shape = self._last
        if vjp is None:
            raise RuntimeError(f'{type(self).__name__}: call forward before backward; '
                               'a module that defines forward must define backward, too')
        if len(gradwrtoutput) != 1:
            raise TypeError(f'{type(self).__name__}: backward takes one gradient, got {len(gradwrtoutput)}')
        check_tensors(self, 'gradient', gradwrtoutput)
        if gradwrtoutput[0].shape != shape:
            raise ValueError(f'{type(self).__name__}: the gradient must have the shape of the output, '
                             f'{tuple(shape)}, got {tuple(gradwrtoutput[0].shape)}')
        return vjp(*gradwrtoutput).contiguous()

    def infer(self, *input) -> Tensor:
        """Return the output and keep nothing: the modules of this file may do it in several threads at once."""
        return differentiable(self)(*input)[0]

    def param(self) -> list:
        """Pairs (parameter, gradient), always the same two tensor objects, so that an optimizer can keep them."""
        return [(getattr(self, name), getattr(self, f'grad_{name}'))
                for name in self.parameter_names if getattr(self, name) is not None]

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        for _, gradient in self.param():
            gradient.detach().zero_()

    def to(self, device_or_dtype) -> 'Module':
        """Move or convert every parameter and gradient; the tensor objects stay the same."""
        for tensor in itertools.chain(*self.param()):
            tensor.data = tensor.data.to(device_or_dtype)
        return self

    def last_number(self) -> int:
        """The number of the last application, counted over all modules; 0 if there is none, or none is kept."""
        return self._last[0]

    def __setattr__(self, name: str, value) -> None:
        """Settings become pairs; parameters and gradients are copied into the tensor that is there, which stays the
        same. TypeError, ValueError or AttributeError if the value does not fit."""
        if name in self.settings:
            value = integers(name, value, self.settings[name], pair=True)
        if name in vars(self) and name in self.fixed:
            raise AttributeError(f'{type(self).__name__}.{name} is fixed by the shape of the weight')
        if name not in vars(self) or name.removeprefix('grad_') not in self.parameter_names:
            return super().__setattr__(name, value)
        present = vars(self)[name]
        check_tensors(self, name, [] if value is None else [value])
        own, given = (None if tensor is None else tuple(tensor.shape) for tensor in (present, value))
        if own != given:
            raise ValueError(f'{type(self).__name__}.{name} has the shape {own}, got {given}')
        if value is not None:
            present.detach().copy_(value.detach())

    def __getstate__(self) -> dict:
        """For copies and pickles: without what `backward` would differentiate."""
        return {name: value for name, value in vars(self).items() if name not in ('_last', '_last_input')}


class Sequential(Module):
    """Modules one after the other. Indexable and iterable; a module may stand in it twice."""

    def __init__(self, *modules: Module) -> None:
        for module in modules:
            if not isinstance(module, Module):
                raise TypeError(f'modules must be of type Module, got {type(module).__name__}')
        if not modules:
            raise ValueError('modules must hold at least one module, got none')
        self.modules = modules

    def forward_and_vjp(self, x: Tensor) -> tuple:
        for module in self.modules:
            module._last = Module._last             # free what their previous applications kept
        vjps = []
        for module in self.modules:
            function = differentiable(module)
            x, vjp = function(x)
            if function == module.forward_and_vjp:  # else the module has a `forward`, which keeps what it needs
                module._last = next(_numbers), vjp, x.shape
            vjps.append(vjp)

        def backward(gradient):                     # the chain rule
            for vjp in reversed(vjps):
                gradient = vjp(gradient)
            return gradient

        return x, backward

    def backward(self, *gradwrtoutput) -> Tensor:
        """Differentiate the last `forward`; or, if all modules have been applied one by one since, these applications.
        RuntimeError if one of these is not kept: of a module that stands twice or has a `forward` of its own."""
        if self.last_number() == self._last[0]:
            return super().backward(*gradwrtoutput)
        if len({id(module) for module in self.modules if module.last_number()}) < len(self):
            raise RuntimeError('Sequential: its modules were applied one by one since, and not all of this is kept: '
                               'call its own forward, or the backward of each')
        for module in reversed(self.modules):
            gradwrtoutput = [module.backward(*gradwrtoutput)]
        return gradwrtoutput[0]

    def last_number(self) -> int:
        """Later than its own last application if all modules that keep theirs have been applied since."""
        return max(self._last[0], min(filter(None, (module.last_number() for module in self.modules)), default=0))

    def infer(self, x: Tensor) -> Tensor:
        for module in self.modules:
            x = differentiable(module)(x)[0]        # drops what each keeps, at once
        return x

    def param(self) -> list:
        pairs = [pair for module in self.modules for pair in module.param()]
        return list({id(parameter): (parameter, gradient) for parameter, gradient in pairs}.values())

    def __getitem__(self, index) -> Module:
        found = self.modules[index]
        return Sequential(*found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


# ------------------------------------------------------------- what modules of other people need, and checks

def differentiable(module: Module) -> Callable:
    """A module's `forward_and_vjp`, or what stands for it if a subclass overrides `forward` or `backward`."""
    for kind in type(module).__mro__:
        if 'forward_and_vjp' in vars(kind):
            return module.forward_and_vjp
        if 'forward' in vars(kind) or 'backward' in vars(kind):
            return partial(forward_then_backward, module)


def forward_then_backward(module: Module, *input) -> tuple:
    """The `forward` and `backward` of a subclass that defines these, as a `forward_and_vjp`: closures are
    independent as long as the two are not called directly in between."""
    output, module._last_input = module.forward(*input), input

    def vjp(*gradwrtoutput):
        if module._last_input is not input:         # applied again since: `backward` needs the state of this time
            module.forward(*input)
            module._last_input = input
        return module.backward(*gradwrtoutput)

    return output, vjp


def check_tensors(module: Module, name: str, values) -> None:
    """TypeError unless all values are tensors."""
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f'{type(module).__name__}: the {name} must be a tensor, got {type(value).__name__}')


def integers(name: str, value, least: int = 1, pair: bool = False):
    """`value`, an integer of Python's or NumPy's, as Python's; if `pair`, it or two of them, as a pair. ValueError if
    one is less than `least`."""
    try:
        found = tuple(map(index, value if pair and isinstance(value, Iterable) else (value, value)))
    except TypeError:                                   # of a string, too
        found = ()
    if len(found) != 2 or min(found) < least:
        raise ValueError(f'{name} must be an integer of at least {least}{", or a pair of them" * pair}, got {value!r}')
    return found if pair else found[0]


def number_of(name: str, value, least: float = 0) -> float:
    """`value`, a number of Python's or NumPy's or a tensor of shape (), as a float; ValueError if it is less."""
    is_real = isinstance(value, numbers.Real)
    if not (is_real or isinstance(value, Tensor) and value.numel() == 1) or not float(value) >= least:
        found = repr(value) if is_real else f'a {type(value).__name__}'
        raise ValueError(f'{name} must be a number of at least {least}, got {found}')
    return float(value)


# --------------------------------------------------------- a convolution and its two derivatives
#
# In one dimension, let the input x have 4 numbers and the kernel w 2 (its taps). Put what the window sees at each
# of its 3 places into a column. The convolution y is then a matrix product; `fold`, which adds each number in
# the columns back to where it came from, is the transpose of `unfold` as a matrix of zeros and ones (c_kp: tap k,
# place p):
#     unfold(x) = [[x0, x1, x2], [x1, x2, x3]]        fold(c) = c00,  c01 + c10,  c02 + c11,  c12
#     y = w @ unfold(x) = w0 x0 + w1 x1,  w0 x1 + w1 x2,  w0 x2 + w1 x3
# With several channels, k counts the taps of all input channels, and w is a matrix with a row for each output channel.
# Let u = unfold(x), so y_mp = sum_k w_mk u_kp: output channel m, tap k, place p. w_mk takes part in y_mp at
# every place p, with the factor u_kp; u_kp in y_mp of every channel m, with the factor w_mk. The chain rule sums them:
#     dL/dw_mk = sum_p dL/dy_mp u_kp        dL/dw = dL/dy @ u^T
#     dL/du_kp = sum_m w_mk dL/dy_mp        dL/du = w^T @ dL/dy
# A pixel of x stands in u once for each tap that sees it, and its gradient is the sum of theirs:
#     dL/dx = fold(dL/du) = fold(w^T @ dL/dy)
# With a fixed w the convolution is y = A x, so dL/dx = A^T dL/dy. A transposed convolution is y = A^T x, so its
# dL/dx = A dL/dy; and in dL/dw, x and dL/dy change places:
#     y = fold(w^T @ x)       dL/dw = x @ unfold(dL/dy)^T       dL/dx = w @ unfold(dL/dy)
#
# In the code, the window slides over the large side, (C, H, W, N), and has a place for each pixel of the small side,
# (M, Ho, Wo, N): a convolution maps the large side to the small one, a transposed convolution the small side to the
# large one. The weight is (M, C / groups, kh, kw) for both, its matrix W (B, M / groups, K). X, Y and dY are the
# matrices of x, y and dL/dy, for some rows of places at a time, which bounds their memory: of the large side the
# columns, (B, K, P), of the small side (B, M / groups, P). B = groups, each of which has a product of its own; K
# counts the taps of a group's channels, P the places in all images. `multiply(a, b)` is a @ b, and `multiply(a, b,
# out)` adds it to `out`.

def convolve(window: 'Window', x: Tensor, weight: Tensor, bias: Tensor, shape: tuple) -> tuple:
    """y = weight @ unfold(x) + bias: x (C, H, W, N), weight (M, C / groups, kh, kw), bias (M, 1, 1, 1) or zero,
    shape (M, Ho, Wo) -> y (M, Ho, Wo, N), and vjp(dy, dw), which adds to the weight's gradient dw and returns dx."""
    window = window.at(shape[1:], weight)
    W, padded = window.matrix(weight), window.padded(x)             # (B, M / groups, K), (C, Hp, Wp, N)
    y = x.new_empty(*shape, x.shape[3]).copy_(bias)
    for rows in window.rows(W, padded):
        window.add_product(y, rows, W, window.unfold(padded, rows))     # y += W @ X

    def vjp(dy, dw):
        dW, dx = dw.new_zeros(W.shape), padded.new_zeros(padded.shape)
        for rows in window.rows(W, padded):
            X, dY = window.unfold(padded, rows), window.split(dy, rows)     # (B, K, P), (B, M / groups, P)
            multiply(dY, X.transpose(1, 2), dW)                     # dW += dY @ X^T
            del X                                                   # its memory serves W^T @ dY
            window.fold(dx, rows, multiply(W.transpose(1, 2), dY))  # dx += fold(W^T @ dY)
        window.add_to_weight(dw, dW)
        return window.middle(dx)                                    # (C, H, W, N)

    return y, vjp


def convolve_transposed(window: 'Window', x: Tensor, weight: Tensor, bias: Tensor, shape: tuple) -> tuple:
    """y = fold(weight^T @ x) + bias: x (M, H, W, N), weight (M, C / groups, kh, kw), bias (C, 1, 1, 1) or zero,
    shape (C, Ho, Wo) -> y (C, Ho, Wo, N), and vjp(dy, dw), as above. Here y is the large side."""
    window, (C, Ho, Wo), (ph, pw) = window.at(x.shape[1:3], weight), shape, window.padding
    W, y = window.matrix(weight), x.new_zeros(C, Ho + 2 * ph, Wo + 2 * pw, x.shape[3])      # (C, Hp, Wp, N)
    for rows in window.rows(W, y):
        X = window.split(x, rows)                                   # (B, M / groups, P)
        window.fold(y, rows, multiply(W.transpose(1, 2), X))        # y += fold(W^T @ X)
    y += bias

    def vjp(dy, dw):
        padded, dW, dx = window.padded(dy), dw.new_zeros(W.shape), x.new_zeros(x.shape)
        for rows in window.rows(W, padded):
            dY, X = window.unfold(padded, rows), window.split(x, rows)      # (B, K, P), (B, M / groups, P)
            multiply(X, dY.transpose(1, 2), dW)                     # dW += X @ dY^T
            window.add_product(dx, rows, W, dY)                     # dx += W @ dY
        window.add_to_weight(dw, dW)
        return dx                                                   # (M, H, W, N)

    return window.middle(y), vjp


class Window(NamedTuple):
    """A sliding window, and the matrices of a convolution with it. The first four fields are pairs (vertical,
    horizontal); `at` gives it the places (Ho, Wo) that it has on an image."""
    kernel_size: tuple
    stride: tuple
    padding: tuple
    dilation: tuple
    products: int                       # B, of matrices
    mixed: bool                         # products take and give bfloat16
    places: tuple = (0, 0)

    @property
    def extent(self) -> tuple:
        """Pixels from the window's first tap to its last, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation))

    def output_size(self, size: tuple) -> tuple:
        """How many places the window has on a large side of size (H, W): (Ho, Wo)."""
        return tuple((n + 2 * p - e) // s + 1 for n, p, e, s in zip(size, self.padding, self.extent, self.stride))

    def at(self, places: tuple, weight: Tensor) -> 'Window':
        """This window for Ho x Wo places; as `Tiles` where that is possible and pays."""
        possible = (self.kernel_size == (2 * self.stride[0], 2 * self.stride[1]) and self.dilation == (1, 1)
                    and self.products == 1 and places[0] % 2 == places[1] % 2 == 0)
        if possible and weight.shape[0] * weight.shape[1] >= FEW:
            return Tiles(*self._replace(products=9, places=(places[0] // 2, places[1] // 2)))    # the same fields
        return self._replace(places=tuple(places))

    def rows(self, W: Tensor, padded: Tensor) -> Iterator[slice]:
        """The rows of places, as many at a time as make 2^22 values of X or Y (16 MB; a GPU: 2^28), at least one."""
        (B, M, K), (height, width), N = W.shape, self.places, padded.shape[3]
        step = max(1, 2 ** (28 if W.is_cuda else 22) // max(1, B * max(M, K) * width * N))
        return (slice(top, min(top + step, height)) for top in range(0, height, step))

    def padded(self, x: Tensor) -> Tensor:
        """(C, H, W, N) -> (C, Hp, Wp, N), Hp = H + 2 ph, Wp = W + 2 pw: a copy with zeros around."""
        (ph, pw), (C, H, W, N) = self.padding, x.shape
        padded = x.new_zeros(C, H + 2 * ph, W + 2 * pw, N)
        self.middle(padded).copy_(x)
        return padded

    def middle(self, padded: Tensor) -> Tensor:
        """(C, Hp, Wp, N) -> (C, H, W, N), a view."""
        (ph, pw), (_, Hp, Wp, _) = self.padding, padded.shape
        return padded[:, ph:Hp - ph, pw:Wp - pw]

    def seen(self, padded: Tensor, rows: slice) -> Iterator[tuple]:
        """Each tap i, j with the pixels of (C, Hp, Wp, N) that it sees from some rows of places, (C, rows, Wo, N)."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        for i, j in itertools.product(range(kh), range(kw)):
            top, left = i * dh, j * dw
            yield i, j, padded[:, top + sh * rows.start:top + sh * rows.stop:sh, left:left + sw * self.places[1]:sw]

    def matrices(self, values: Tensor) -> Tensor:
        """As (B, rest, K) or (B, rest, P): the last three dimensions are what K or P counts."""
        return values.flatten(-3).flatten(0, -2).unflatten(0, (self.products, -1))

    def factors(self, values: Tensor) -> Tensor:
        """`matrices`, for a product; in mixed precision, a copy in bfloat16."""
        return self.matrices(values).bfloat16() if self.mixed else self.matrices(values)

    def matrix(self, weight: Tensor) -> Tensor:
        """W: (M, C / groups, kh, kw) -> (B, M / groups, K)."""
        return self.factors(weight)

    def add_to_weight(self, dw: Tensor, dW: Tensor) -> None:
        """The transpose of `matrix`: add (B, M / groups, K) to (M, C / groups, kh, kw)."""
        dw += dW.view(dw.shape)

    def columns_shape(self, padded: Tensor, rows: slice) -> tuple:
        """Of the columns of some rows of (C, Hp, Wp, N): (C, kh, kw, rows, Wo, N)."""
        return len(padded), *self.kernel_size, rows.stop - rows.start, self.places[1], padded.shape[3]

    def unfold(self, padded: Tensor, rows: slice) -> Tensor:
        """The columns: (C, Hp, Wp, N) -> (B, K, P)."""
        columns = padded.new_empty(self.columns_shape(padded, rows))
        for i, j, pixels in self.seen(padded, rows):
            columns[:, i, j] = pixels
        return self.factors(columns)

    def fold(self, padded: Tensor, rows: slice, X: Tensor) -> None:
        """The transpose of `unfold`: add (B, K, P) to (C, Hp, Wp, N)."""
        columns = X.view(self.columns_shape(padded, rows))
        for i, j, pixels in self.seen(padded, rows):
            pixels += columns[:, i, j]

    def split(self, y: Tensor, rows: slice) -> Tensor:
        """Of the small side, (M, Ho, Wo, N) -> (B, M / groups, P)."""
        return self.factors(y[:, rows])

    def add_product(self, y: Tensor, rows: slice, W: Tensor, X: Tensor) -> None:
        """y += W @ X, in place, for some rows of a contiguous (M, Ho, Wo, N)."""
        multiply(W, X, self.matrices(y[:, rows]))


# Fewer products. Two neighbouring outputs of two taps need three products, not four (Winograd's minimal filtering
# F(2, 2); Lavin and Gray 2016, arxiv.org/abs/1509.09308):
#     y0 = x0 w0 + x1 w1 = m0 + m1      with m0 = (x0 - x1) w0,  m1 = x1 (w0 + w1),  m2 = (x2 - x1) w1
#     y1 = x1 w0 + x2 w1 = m1 + m2
# m1 is shared: it has x1 w1, which y0 needs, and x1 w0, which y1 needs; the other one cancels in each sum, as in
# m0 + m1 = x0 w0 - x1 w0 + x1 w0 + x1 w1. The next two outputs use x2, x3, x4. A kernel of 2 s taps at stride s
# reduces to this case: read x0, x1, x2 as blocks of s pixels, w0, w1 as blocks of s taps, and the pixels of a block as
# channels. With s = 2, x = 1 2 3 4 5 6 and w = 1 0 2 1:
#     y0 = 1 + 0 + 6 + 4 = 11,  y1 = 3 + 0 + 10 + 6 = 19
#     m0 = (-2 -2).(1 0) = -2,  m1 = (3 4).(3 1) = 13,  m2 = (2 2).(2 1) = 6,  m0 + m1 = 11,  m1 + m2 = 19
# Applied along both dimensions of an image, one after the other, four outputs of 2 x 2 taps (or blocks of taps), a
# tile, need 3 x 3 = 9 products instead of 4 x 4 = 16. So `unfold` takes differences of blocks, `matrix` sums of taps
# and `add_product` sums of products; between them stand 9 matrix products, each 1/16 of the one that they replace (K
# and P are a quarter of its). All are linear, and the derivatives use their transposes: `fold`, `add_to_weight` and
# `split`. Along one dimension, the differences and their transpose are
#     x0 - x1,  x1,  x2 - x1     and     c0,  c1 - c0 - c2,  c2     (x1 stands in all three, with the signs - + -).

FEW = 64        # below so many (input, output) channel pairs, tiles cost more than they save (measured on a CPU)


class Tiles(Window):
    """For a kernel of (2 sh, 2 sw) taps at stride (sh, sw), without groups: a tile is 2 x 2 outputs, from 3 x 3 blocks
    of pixels and 2 x 2 blocks of taps. B = 9; K counts the taps of a block and the channels, P the tiles in all
    images; `places` are those of the tiles, (Th, Tw)."""

    def seen(self, padded: Tensor, rows: slice) -> Iterator[tuple]:
        """Each i, j with the blocks i, j of (C, Hp, Wp, N) in some rows of tiles, (sh, sw, C, rows, Tw, N)."""
        (Th, Tw), (sh, sw) = self.places, self.stride
        blocks = padded[:, :(2 * Th + 1) * sh, :(2 * Tw + 1) * sw].unflatten(2, (-1, sw)).unflatten(1, (-1, sh))
        blocks = blocks.permute(2, 4, 0, 1, 3, 5)               # (sh, sw, C, 2 Th + 1, 2 Tw + 1, N)
        for i, j in itertools.product(range(3), range(3)):
            yield i, j, blocks[:, :, :, i + 2 * rows.start:i + 2 * rows.stop:2, j:j + 2 * Tw:2]

    def matrix(self, weight: Tensor) -> Tensor:
        taps = weight.unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(2, 4, 0, 3, 5, 1)     # (2, 2, M, sh, sw, C)
        return self.factors(sums_transposed(taps))              # (9, M, K)

    def add_to_weight(self, dw: Tensor, dW: Tensor) -> None:
        (M, C, kh, kw), (sh, sw) = dw.shape, self.stride
        taps = sums(dW.view(3, 3, M, sh, sw, C))                # (2, 2, M, sh, sw, C)
        by_tap = taps.permute(0, 3, 1, 4, 2, 5).reshape(kh, kw, M, C)       # this order copies fastest
        dw += by_tap.permute(2, 3, 0, 1)

    def columns_shape(self, padded: Tensor, rows: slice) -> tuple:
        return 3, 3, *self.stride, len(padded), rows.stop - rows.start, self.places[1], padded.shape[3]

    def unfold(self, padded: Tensor, rows: slice) -> Tensor:
        columns = padded.new_empty(self.columns_shape(padded, rows))    # (3, 3, sh, sw, C, rows, Tw, N)
        for i, j, blocks in self.seen(padded, rows):
            columns[i, j] = blocks
        columns[::2] -= columns[1]                              # x0 - x1, x1, x2 - x1, vertically
        columns[:, ::2] -= columns[:, 1:2]                      # and horizontally
        return self.factors(columns)

    def fold(self, padded: Tensor, rows: slice, X: Tensor) -> None:
        columns = X.view(self.columns_shape(padded, rows))
        columns[1].sub_(columns[0]).sub_(columns[2])            # c0, c1 - c0 - c2, c2, vertically
        columns[:, 1].sub_(columns[:, 0]).sub_(columns[:, 2])   # and horizontally
        for i, j, blocks in self.seen(padded, rows):
            blocks += columns[i, j]

    def tiles(self, y: Tensor, rows: slice) -> Tensor:
        """(M, Ho, Wo, N) -> the four outputs of some rows of tiles, (2, 2, M, rows, Tw, N), a view."""
        return y.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(2, 4, 0, 1, 3, 5)[:, :, :, rows]

    def split(self, y: Tensor, rows: slice) -> Tensor:
        return self.factors(sums_transposed(self.tiles(y, rows)))

    def add_product(self, y: Tensor, rows: slice, W: Tensor, X: Tensor) -> None:
        tiles = self.tiles(y, rows)
        tiles += sums(multiply(W, X).view(3, 3, *tiles.shape[2:]))      # nine products make four outputs


def sums(m: Tensor) -> Tensor:
    """(3, 3, ..), overwritten -> (2, 2, ..): m0 + m1, m1 + m2, along both."""
    m[::2] += m[1]
    m[::2, ::2] += m[::2, 1:2]
    return m[::2, ::2]


def sums_transposed(a: Tensor) -> Tensor:
    """(2, 2, ..) -> (3, 3, ..): a0, a0 + a1, a1, along both."""
    m = a.new_empty(3, 3, *a.shape[2:])
    m[::2, ::2] = a
    m[::2, 1].copy_(m[::2, 0]).add_(m[::2, 2])
    m[1].copy_(m[0]).add_(m[2])
    return m


def multiply(a: Tensor, b: Tensor, out: Optional[Tensor] = None) -> Tensor:
    """a @ b, (B, M, K) @ (B, K, P), or out + a @ b, written to `out`.

    The error of a float32 sum grows with its length: runs of 512 terms are summed apart. Where the result is small
    (dL/dw of few channels: K is all places) these would be many tiny products: there the runs are longer and are
    multiplied at once, as long as they make at most 2^18 sums. bfloat16 operands give a product that is rounded to
    bfloat16 and kept as float32."""
    (B, M, K), P, run, beta = a.shape, b.shape[2], 512, int(out is not None)
    runs = min(K // run, 2 ** 18 // max(1, M * P)) if B == 1 else 1
    if a.element_size() == 2:
        return (a @ b).float() if out is None else out.copy_(out + a @ b)
    if out is None:     # zeros where PyTorch 1.13 multiplies what is there by beta = 0, so that NaN would stay NaN
        out = a.new_zeros(B, M, P) if M * P < 400 else a.new_empty(B, M, P)
    if runs > 1:
        rest = K % runs
        out.baddbmm_(a[:, :, :rest], b[:, :rest], beta=beta)
        parts = a[:, :, rest:].unflatten(2, (runs, -1)).transpose(1, 2) @ b[:, rest:].unflatten(1, (runs, -1))
        return out.add_(parts.sum(1))                   # (B, runs, M, P) -> (B, M, P)
    for k in range(0, max(1, K), run):                  # an empty sum still needs one run, to write zeros
        out.baddbmm_(a[:, :, k:k + run], b[:, k:k + run], beta=beta if k == 0 else 1)
    return out


# ------------------------------------------------------------------------------------- the blocks

class _Convolution(Module):
    """What the convolutions share: their arguments, weight and bias, as torch.nn has them.

    mixed_precision: products take and give bfloat16; parameters, activations and what is added up stay float32."""
    parameter_names = ('weight', 'bias')
    settings = {'kernel_size': 1, 'stride': 1, 'padding': 0, 'dilation': 1}
    fixed = ('in_channels', 'out_channels', 'groups', 'kernel_size')
    mixed_precision = False
    is_transposed = False       # whether the input is the small side

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1,
                 groups=1, bias=True, *, device=None, dtype=None) -> None:
        in_channels, out_channels = integers('in_channels', in_channels), integers('out_channels', out_channels)
        groups = integers('groups', groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f'groups must divide in_channels and out_channels, '
                             f'got {groups} for {in_channels} and {out_channels}')
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation

        small, large = (in_channels, out_channels) if self.is_transposed else (out_channels, in_channels)
        shape = (small, large // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))         # torch.nn's default: U(+-1 / sqrt(fan_in))
        self.weight = empty(shape, device='cpu' if device is None else device, dtype=dtype).uniform_(-bound, bound)
        self.grad_weight = self.weight.new_zeros(shape)
        self.bias = self.weight.new_empty(out_channels).uniform_(-bound, bound) if bias else None
        self.grad_bias = self.weight.new_zeros(out_channels) if bias else None
        # Fresh memory is slow: Linux maps it page by page, on first touch. glibc keeps what is freed, up to twice the
        # largest block ever freed, not counting those of over 32 MB (mallopt(3), M_MMAP_THRESHOLD): free one of 31 MB.
        empty(31 * 2 ** 18, device='cpu')

    @property
    def window(self) -> Window:
        return Window(self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.mixed_precision)

    def _check(self, x: Tensor, size: tuple) -> None:
        """ValueError unless x is (N, in_channels, H, W), H and W at least 1, of the weight's type and on its
        device, and the output's (Ho, Wo) = `size` at least 1."""
        if (x.dtype, x.device) != (self.weight.dtype, self.weight.device):
            raise ValueError(f'{type(self).__name__}: the input must be {self.weight.dtype} on {self.weight.device} '
                             f'as the weight is, got {x.dtype} on {x.device}')
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(f'{type(self).__name__}: the input must have the shape (N, {self.in_channels}, '
                             f'H, W), H and W at least 1, got {tuple(x.shape)}'
                             + '; for a single image pass image[None]' * (x.dim() == 3))
        if min(size) < 1:
            raise ValueError(f'{type(self).__name__}: an input of {tuple(x.shape[2:])} is too small, '
                             f'the output would be {size}')

    def _apply(self, function: Callable, x: Tensor, size: tuple) -> tuple:
        """`convolve`, or a function with its arguments and results, as a `forward_and_vjp`; size: (Ho, Wo)."""
        self._check(x, size)
        bias = self.weight.new_zeros(1) if self.bias is None else self.bias.detach()
        y, inner_vjp = function(self.window, x.detach().movedim(0, 3), self.weight.detach(), bias.view(-1, 1, 1, 1),
                                (self.out_channels, *size))
        dw, db = self.grad_weight, self.grad_bias       # not self, which keeps vjp: a cycle is freed late

        def vjp(gradient):
            dy = gradient.detach().movedim(0, 3)        # (out_channels, Ho, Wo, N)
            if db is not None:                          # the bias enters every pixel of its channel: the sum of theirs
                db.detach().add_(dy.sum(3).double().sum((1, 2)))    # a long sum: doubles round less
            return inner_vjp(dy, dw.detach()).movedim(3, 0)

        return y.movedim(3, 0), vjp


class Conv2d(_Convolution):
    """Two-dimensional convolution, as torch.nn.Conv2d with zero padding.

    Shapes: input (N, in_channels, H, W), output (N, out_channels, Ho, Wo) with
    Ho = floor((H + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1, likewise Wo;
    weight (out_channels, in_channels / groups, kh, kw), bias (out_channels,).
    kernel_size, stride, padding, dilation: an integer or a pair. ValueError for anything else."""

    def forward_and_vjp(self, x: Tensor) -> tuple:
        return self._apply(convolve, x, self.window.output_size(x.shape[2:]))


class TransposeConv2d(_Convolution):
    """Transposed convolution, as torch.nn.ConvTranspose2d: forward it is a convolution's dL/dx, and vice versa.

    Shapes: input (N, in_channels, H, W), output (N, out_channels, Ho, Wo) with
    Ho = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1, likewise Wo;
    weight (in_channels, out_channels / groups, kh, kw), bias (out_channels,)."""
    settings = {**_Convolution.settings, 'output_padding': 0}
    is_transposed = True

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0,
                 groups=1, bias=True, dilation=1, *, device=None, dtype=None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
                         device=device, dtype=dtype)
        self.output_padding = output_padding
        self._output_size((1, 1))                       # checks it

    def _output_size(self, size: tuple) -> tuple:
        if any(extra >= max(s, d) for extra, s, d in zip(self.output_padding, self.stride, self.dilation)):
            raise ValueError(f'output_padding must be less than stride or dilation, got {self.output_padding} '
                             f'for stride {self.stride} and dilation {self.dilation}')
        return tuple((n - 1) * s - 2 * p + e + extra for n, s, p, e, extra in zip(
            size, self.stride, self.padding, self.window.extent, self.output_padding))

    def forward_and_vjp(self, x: Tensor) -> tuple:
        return self._apply(convolve_transposed, x, self._output_size(x.shape[2:]))


class NearestUpsampling(Module):
    """Repeat every pixel: (N, C, H, W) -> (N, C, H sh, W sw), (sh, sw) = scale_factor, integers.
    ValueError unless the input has four dimensions."""
    settings = {'scale_factor': 1}

    def __init__(self, scale_factor) -> None:
        self.scale_factor = scale_factor

    def forward_and_vjp(self, x: Tensor) -> tuple:
        if x.dim() != 4:
            raise ValueError(f'NearestUpsampling: the input must have the shape (N, C, H, W), got {tuple(x.shape)}')
        (sh, sw), x = self.scale_factor, x.detach().movedim(0, 3)
        C, H, W, N = x.shape
        y = x.view(C, H, 1, W, 1, N).expand(C, H, sh, W, sw, N).clone().reshape(C, H * sh, W * sw, N)

        def vjp(gradient):
            dy = gradient.detach().movedim(0, 3).reshape(C, H, sh, W, sw, N)
            return dy.sum((2, 4)).movedim(3, 0)             # sum over the copies of each pixel

        return y.movedim(3, 0), vjp


class Upsampling(Conv2d):
    """NearestUpsampling, then Conv2d: the weights, the values and the gradients of the two in a row.

    Repeating each pixel s times and convolving with w is a transposed convolution of stride s: a pixel of the input
    reaches the output through w at each of its s places, that is, through the sum of s shifted copies of w, flipped.
    So it is computed, with no upsampled image: at s = 2 a 3x3 kernel becomes one of 4x4 at stride 2, which needs 9
    products for four outputs instead of 36."""
    settings = {**Conv2d.settings, 'scale_factor': 1}

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1,
                 groups=1, bias=True, scale_factor=2, *, device=None, dtype=None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
                         device=device, dtype=dtype)
        self.scale_factor = scale_factor

    def merged(self, weight: Tensor) -> tuple:
        """(M, C / groups, kh, kw) -> the transposed convolution's window; its weight, (C, M / groups, k'h, k'w); and
        the transpose, from the gradient of this weight to that of ours."""
        extent, scale, (dh, dw), groups = self.window.extent, self.scale_factor, self.dilation, self.groups
        # Copies of `extent` taps, shifted by 0 .. s - 1, cover k' = extent + s - 1. Tap t of copy a takes pixel i to
        # the output s i + a + t - (extent - 1 - p): the padding is p' = extent - 1 - p.
        window = Window(tuple(e + s - 1 for e, s in zip(extent, scale)), scale,
                        tuple(e - 1 - p for e, p in zip(extent, self.padding)), (1, 1), groups, self.mixed_precision)

        def copies(merged: Tensor) -> Iterator[Tensor]:     # the places at which w stands, each as large as w
            for a, b in itertools.product(*map(range, scale)):
                yield merged[:, :, a:a + extent[0]:dh, b:b + extent[1]:dw]

        def swap(weight: Tensor) -> Tensor:                 # flipped, the channels swapped in each group
            return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)

        swapped = swap(weight)
        merged = weight.new_zeros(*swapped.shape[:2], *window.kernel_size)
        for copy in copies(merged):
            copy += swapped
        return window, merged, lambda gradient: swap(sum(copies(gradient)))

    def forward_and_vjp(self, x: Tensor) -> tuple:
        size = self.window.output_size([n * s for n, s in zip(x.shape[2:], self.scale_factor)])
        self._check(x, size)
        window, merged, unmerge = self.merged(self.weight.detach())
        few = self.in_channels * self.out_channels // self.groups < FEW     # nothing to save: sum in PyTorch's order
        if self.stride != (1, 1) or min(window.padding) < 0 or few:         # or it is no transposed convolution
            x, nearest_vjp = NearestUpsampling(self.scale_factor).forward_and_vjp(x)
            y, convolution_vjp = super().forward_and_vjp(x)
            return y, lambda gradient: nearest_vjp(convolution_vjp(gradient))

        def convolve_merged(_, x, weight, bias, shape):
            y, merged_vjp = convolve_transposed(window, x, merged, bias, shape)

            def vjp(dy, dw):
                dw_merged = merged.new_zeros(merged.shape)
                dx = merged_vjp(dy, dw_merged)
                dw += unmerge(dw_merged)
                return dx

            return y, vjp

        return self._apply(convolve_merged, x, size)


class ReLU(Module):
    """max(x, 0), any shape. inplace: overwrite the input; not allowed after Sigmoid or Tanh, whose vjp needs it."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def forward_and_vjp(self, x: Tensor) -> tuple:
        y = x.detach().clamp_(min=0) if self.inplace else x.detach().clamp(min=0)
        return y, lambda gradient: y.clone().ne_(0).mul_(gradient.detach())     # 1 where y > 0, times the gradient


class Sigmoid(Module):
    """1 / (1 + exp(-x)), any shape; y' = y (1 - y)."""

    def forward_and_vjp(self, x: Tensor) -> tuple:
        y = x.detach().sigmoid()
        return y, lambda gradient: (1 - y).mul_(y).mul_(gradient.detach())


class Tanh(Module):
    """tanh(x), any shape; y' = 1 - y^2."""

    def forward_and_vjp(self, x: Tensor) -> tuple:
        y = x.detach().tanh()
        return y, lambda gradient: gradient.detach() * (1 - y * y)


# ------------------------------------------------------------------------ the loss and the optimizer

class MSE(Module):
    """The mean squared error: mean((prediction - target)^2), or the sum; a tensor of shape ().

    forward(prediction, target): two tensors of one shape, real, the prediction floating point; the loss has the wider
    of their types. backward() returns the gradient with respect to the prediction, in its type, scaled by the optional
    argument, a number or one-element tensor. ValueError if the shapes do not fit, if there is nothing to average or
    of another type, or if `reduction` is neither 'mean' nor 'sum'."""

    def __init__(self, *, reduction: str = 'mean') -> None:
        self.reduction = reduction
        self._scale(1)                                  # checks it

    def _scale(self, count: int) -> float:
        if self.reduction not in ('mean', 'sum'):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}")
        return 1 / count if self.reduction == 'mean' else 1.0

    def forward_and_vjp(self, prediction: Tensor, target: Tensor) -> tuple:
        if prediction.shape != target.shape:
            raise ValueError(f'MSE: prediction and target must have one shape, got {tuple(prediction.shape)} '
                             f'and {tuple(target.shape)}')
        if not prediction.is_floating_point() or target.is_complex() or not prediction.numel():
            raise ValueError(f'MSE: prediction must be floating point and hold a value at least, got '
                             f'{prediction.dtype} of shape {tuple(prediction.shape)}, and a {target.dtype} target')
        kind, wider = prediction.dtype, (prediction.new_empty(0) + target.new_empty(0)).dtype
        # float16 and bfloat16 (and bool) are computed in float32: a square overflows float16 from 256 on.
        a, b = (t.detach().float() if t.element_size() < 4 else t.detach() for t in (prediction, target))
        difference, scale = a - b, self._scale(prediction.numel())

        def vjp(gradient=1.0):
            return (difference * (2 * scale * gradient)).to(kind)

        return ((difference * difference).sum() * scale).to(wider), vjp

    def backward(self, gradient=1.0) -> Tensor:
        if not isinstance(gradient, Tensor):
            gradient = empty(1, device='cpu').double().fill_(gradient)
        gradient = gradient.detach().double()
        return super().backward(gradient.view(()) if gradient.numel() == 1 else gradient)


class SGD:
    """Stochastic gradient descent, as torch.optim.SGD.

    params: pairs (parameter, gradient), as `Module.param()` gives them; ValueError for anything else. `lr` may be
    changed at any time. weight_decay adds weight_decay w to the gradient g.
    With momentum m: v <- m v + (1 - dampening) g, w <- w - lr v; with Nesterov's, w <- w - lr (g + m v).
    v begins as g."""

    def __init__(self, params, lr: float, momentum: float = 0, dampening: float = 0,
                 weight_decay: float = 0, nesterov: bool = False) -> None:
        self.lr, self.momentum = number_of('lr', lr), number_of('momentum', momentum)
        self.weight_decay, self.nesterov = number_of('weight_decay', weight_decay), nesterov
        self.dampening = number_of('dampening', dampening, -math.inf)
        if nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(f'nesterov needs a momentum and no dampening, got {momentum!r} and {dampening!r}')
        self.params = list(params) if isinstance(params, Iterable) else [params]
        wrong = [pair for pair in self.params if not (
            isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(tensor, Tensor) for tensor in pair)
            and pair[0].shape == pair[1].shape)]
        if wrong or not self.params:
            raise ValueError('params must be pairs (parameter, gradient) of two tensors of one shape, got '
                             + (f'a {type(wrong[0]).__name__}' if wrong else 'none'))
        if len({id(parameter) for parameter, _ in self.params}) < len(self.params):
            warnings.warn('params holds a parameter twice: each step updates it twice', stacklevel=2)
        self.velocity = [None] * len(self.params)

    def zero_grad(self) -> None:
        for _, gradient in self.params:
            gradient.detach().zero_()

    def step(self) -> None:
        for i, (parameter, gradient) in enumerate(self.params):
            w, g = parameter.detach(), gradient.detach()
            if self.weight_decay:
                g = g + self.weight_decay * w
            if self.momentum:
                v = self.velocity[i]
                v = g.clone() if v is None else v.mul_(self.momentum).add_(g, alpha=1 - self.dampening)
                self.velocity[i] = v
                if self.nesterov:
                    w.sub_(v, alpha=self.lr * self.momentum)
                else:
                    g = v
            w.sub_(g, alpha=self.lr)


# ------------------------------------------------------------------------------------ the network

def build_network() -> Sequential:
    """The assignment's network. Shape: (N, 3, H, W) -> the same, H and W multiples of 4.
    Values: centred, -0.5..0.5, in; 0..1 out."""
    return initialise(Sequential(Conv2d(3, 128, 4, stride=2, padding=1), ReLU(inplace=True),
                                 Conv2d(128, 256, 4, stride=2, padding=1), ReLU(inplace=True),
                                 TransposeConv2d(256, 128, 4, stride=2, padding=1), ReLU(inplace=True),
                                 TransposeConv2d(128, 3, 4, stride=2, padding=1), Sigmoid()))


def initialise(network: Sequential) -> Sequential:
    """Draw new weights for such a network, in place: normal with the variance 2 / fan_in, where fan_in counts what one
    output adds up (He et al. 2015, arxiv.org/abs/1502.01852), the biases zero. The last layer's are smaller, so that
    the sigmoid begins near 1/2, where it learns fastest."""
    for layer in network[0], network[2], network[4], network[6]:
        taps = math.prod(layer.window.kernel_size)          # that reach one output pixel
        if isinstance(layer, TransposeConv2d):
            taps /= math.prod(layer.window.stride)
        layer.weight.normal_(0, math.sqrt(2 / (layer.in_channels * taps)))
        layer.bias.zero_()
    network[6].weight.mul_(0.3)
    return network


# ----------------------------------------------------------------------------- operations on images

def is_dense(tensor: Tensor) -> bool:
    """Whether the tensor stores all its values, unlike a sparse or meta tensor."""
    return str(tensor.layout) == 'torch.strided' and tensor.device.type != 'meta'


def check_images(name: str, images: Tensor) -> None:
    """TypeError or ValueError unless `images` is (N, 3, H, W), integers in 0..255 or floating point in -255..510, as
    noise may make it. Warns of values outside -1..256, and of floating point that looks like 0..1."""
    if not isinstance(images, Tensor):
        raise TypeError(f'{name} must be a tensor of shape (N, 3, H, W), got {type(images).__name__}')
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        hint = '; for a single image pass image[None]' * (len(shape) == 3)
        raise ValueError(f'{name} must have the shape (N, 3, H, W), H and W at least 1, got {shape}{hint}')
    if images.is_complex() or str(images.dtype) == 'torch.bool' or not is_dense(images):
        raise ValueError(f'{name} must be a dense tensor of integers or floating point, in 0..255, '
                         f'got {images.dtype}, {images.layout} on {images.device}')
    if str(images.dtype) == 'torch.uint8' or not images.numel():
        return
    values, slack = images.detach().float(), 255 * images.is_floating_point()
    low, high = values.min().item(), values.max().item()
    if not -slack <= low <= high <= 255 + slack:            # a comparison with NaN is False
        raise ValueError(f'{name} must be finite and in 0..255, got values from {low:g} to {high:g}')
    if low < -1 or high > 256 or (slack and 0 < high <= 1):
        warnings.warn(f'{name} is expected in 0..255, its values are from {low:g} to {high:g}', stacklevel=3)


def to_unit(images: Tensor, device: str) -> Tensor:
    """0..255 of any type -> float32 in 0..1, on `device`."""
    return images.detach().to(device).float() / 255


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and the last column until H and W are multiples of `multiple`."""
    H, W = x.shape[2:]
    rows = arange(H + -H % multiple, device=x.device).clamp(max=H - 1)
    columns = arange(W + -W % multiple, device=x.device).clamp(max=W - 1)
    return x[:, :, rows][:, :, :, columns]


def coins(*shape: int) -> Tensor:
    """Fair coin flips from the global generator of the CPU, so that every device sees the same."""
    return empty(*shape, device='cpu').float().uniform_() < 0.5


def swap_noise(first: Tensor, second: Tensor, whole: Optional[Tensor] = None) -> tuple:
    """Turn each pair, (N, C, H, W), into a new one: the two versions swap a random half of their pixels.

    Every pixel of the two is an independent draw of one kind of noise, so this gives a new input and a new target,
    again with independent noise. If the noise of neighbours correlates, the target would reveal some of the input's
    noise: for such pairs `whole`, a bool tensor (N,), is True, and the two images are swapped as a whole, or not, at
    random."""
    N, C, H, W = first.shape
    swap = coins(N, 1, H, W)
    if whole is not None:
        swap = swap[:, :, :1, :1].where(whole.view(N, 1, 1, 1), swap)       # the first pixel's coin is for all
    swap = swap.to(first.device)
    return second.where(swap, first), first.where(swap, second)


CORRELATED = 0.1        # noise that correlates more between neighbours is not swapped pixel by pixel


def neighbour_correlation(first: Tensor, second: Tensor) -> tuple:
    """How strongly the noise of vertical and horizontal neighbours correlates in each pair, two tensors (N, C, H, W).

    The difference of the two versions holds nothing but noise. Returns its correlation r, (N,), and the sum of the
    neighbours' products over the root of the sum of their squares, z, (N,): about standard normal if the noise is
    independent, however unevenly it spreads over the image."""
    d = to_unit(first, 'cpu') - to_unit(second, 'cpu')
    d = d - d.mean((2, 3), keepdim=True)                                # a difference in brightness is no noise
    products = cat([(d[:, :, 1:] * d[:, :, :-1]).sum(1).flatten(1),
                    (d[..., 1:] * d[..., :-1]).sum(1).flatten(1)], 1)   # (N, neighbours), colours pooled
    variance = d.square().sum(1).mean((1, 2)).clamp(min=1e-10)          # below, it is rounding
    total, spread = products.sum(1), products.square().sum(1).sqrt().clamp(min=1e-20)
    return total / max(1, products.shape[1]) / variance, total / spread


def choose_swap(first: Tensor, second: Tensor) -> tuple:
    """Which pairs, of two tensors (N, C, H, W), `swap_noise` has to swap as whole images: a bool tensor (N,), and a
    line that says what was found and what follows.

    Each image is judged by itself, since a set may be mixed: its noise must correlate by more than CORRELATED, and by
    |z| > 6 (of 100,000 images with independent noise none reached 4.5). Small images, whose |z| is at most the root of
    the number of neighbours, need not where the set's mean of r is above CORRELATED, and that of z significant."""
    chunk = max(1, 2 ** 18 // math.prod(first.shape[2:]))
    parts = [neighbour_correlation(*pair) for pair in zip(first.split(chunk), second.split(chunk))]
    r, z = (cat(part) for part in zip(*parts))
    noisy = z != 0                                                      # 0 if the two versions are equal
    n = max(1, int(noisy.sum()))
    is_common = bool(r.sum().abs() > CORRELATED * n) and bool(z.sum().abs() > 4 * math.sqrt(n))
    whole = (r.abs() > CORRELATED) & ((z.abs() > 6) | is_common)
    count = int(whole.sum())
    mean = float(r[whole if count else noisy].sum()) / (count or n)
    follows = f' in {count} of {len(r)} pairs: there whole images' if count else ': pixels'
    return whole, f'the noise of neighbouring pixels correlates by {mean:.2f}{follows} are swapped'


def turn(first: Tensor, second: Tensor) -> tuple:
    """Mirror and transpose (only square images) each pair, (N, C, H, W), at random, both images alike."""
    N, C, H, W = first.shape
    pairs = cat([first, second], 1)                                         # (N, 2 C, H, W)
    mirror, flip, transpose = coins(3, N, 1, 1, 1).to(first.device)
    pairs = pairs.flip(-1).where(mirror, pairs)
    pairs = pairs.flip(-2).where(flip, pairs)
    if H == W:
        pairs = pairs.transpose(-1, -2).where(transpose, pairs)
    return pairs[:, :C], pairs[:, C:]


# ------------------------------------------------------------------------------------- checkpoints

LARGEST_CHECKPOINT = 2 ** 24        # bytes
MOST_OPERATIONS = 2 ** 11           # of its pickle
OPCODES = {'PROTO', 'FRAME', 'STOP', 'MARK', 'MEMOIZE', 'BINGET', 'LONG_BINGET', 'EMPTY_DICT', 'SETITEM', 'SETITEMS',
           'EMPTY_LIST', 'APPEND', 'APPENDS', 'SHORT_BINUNICODE', 'BINUNICODE', 'BININT', 'BININT1', 'BININT2',
           'SHORT_BINBYTES', 'BINBYTES'}


def write_pickle(path, content: dict) -> None:
    """Pickle plain data to `path`, or to the file that it links to, atomically: on an error an older file stays as it
    was. Temporary files older than a minute, left by a killed process, are removed; younger ones may be in use."""
    path = Path(path).resolve()
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(pickle.dumps(content, protocol=4))
        os.replace(temporary, path)
    finally:
        for rest in path.parent.glob(f'{glob.escape(path.name)}.[0-9]*.tmp'):
            with contextlib.suppress(FileNotFoundError):        # another process has renamed its own
                if rest == temporary or time.time() - rest.stat().st_mtime > 60:
                    rest.unlink()


def read_pickle(data: bytes):
    """Undo pickle.dumps of dicts, lists, strings, integers and bytes. A pickle can run any code and take any memory:
    its opcodes are checked before any of them is executed. ValueError if there are others, or too many."""
    if len(data) > LARGEST_CHECKPOINT:
        raise ValueError(f'it is larger than {LARGEST_CHECKPOINT} bytes')
    for k, (opcode, _, position) in enumerate(pickletools.genops(data)):
        if opcode.name not in OPCODES or k == MOST_OPERATIONS:
            raise ValueError(f'it holds {opcode.name}, which plain data does not need, or needs less often')
    if position + 1 != len(data):
        raise ValueError('it has trailing bytes')
    return pickle.loads(data)


def check_keys(name: str, content, keys: list) -> None:
    """ValueError unless `content` is a dict of these keys."""
    found = list(content) if isinstance(content, dict) else type(content).__name__
    if found != keys:
        raise ValueError(f'{name} holds {reprlib.repr(found)[:60]}, expected {keys}')


def check_weights(own: dict, given) -> None:
    """ValueError unless `given` has the names, shapes and types of `own`, {name: tensor}, and is dense and finite."""
    def kind(weight) -> str:
        if not isinstance(weight, Tensor):
            return type(weight).__name__
        return f'{weight.dtype} {tuple(weight.shape)}' + ', not dense' * (not is_dense(weight))

    if not isinstance(given, dict):
        raise ValueError(f'weights must be a dict {{name: tensor}}, got {type(given).__name__}')
    for name in {**own, **given}:
        expected, found = kind(own.get(name)), kind(given.get(name))
        if name not in own or expected != found:
            raise ValueError(f'weights: {reprlib.repr(name)[:60]} is {found}, expected {expected}')
        if not bool(given[name].isfinite().all()):
            raise ValueError(f'weights: {name!r} holds NaN or infinity')


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
    loss: Tensor                    # of this step; shape (), on the model's device
    lr: float                       # the learning rate of this step
    state: Callable[[], dict]       # called in the callback: the state for `train(.., resume=)`, copies on the CPU


def say(line: str, is_live: bool = False) -> None:
    """Print a line; a live one, which the next one overwrites, on a terminal alone. Where printing fails (stdout has
    no `flush`, is full or closed), it is no reason to end a training."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        is_terminal = getattr(sys.stdout, 'isatty', bool)()
        if is_terminal or not is_live:
            print('\r' * is_terminal + line, end='' if is_live else '\n', flush=True)


class EpochLog:
    """Prints one aligned line per epoch, and a live one in between. done: the steps that were done before."""

    def __init__(self, N: int, done: int) -> None:
        self.N, self.done, self.begun, self.shown = N, done, time.monotonic(), 0.0
        self.total = self.images = 0                    # of this epoch: sum of losses, images seen

    def step(self, progress: Progress, images: int) -> None:
        """Count a step on `images` pairs: an epoch's last batch may be smaller, and its loss weighs less."""
        self.total, self.images = self.total + progress.loss * images, self.images + images
        ends, now = progress.step * progress.num_epochs % progress.num_steps == 0, time.monotonic()
        if ends or now - self.shown > 0.5:
            pace = (progress.step - self.done) / max(now - self.begun, 1e-3)       # steps a second
            speed = pace * self.N * progress.num_epochs / progress.num_steps
            left = datetime.timedelta(seconds=int((progress.num_steps - progress.step) / pace))
            say(f'epoch {progress.epoch:3d}/{progress.num_epochs}  {self.images / self.N:4.0%}  '
                f'loss {float(self.total) / self.images:.5f}  learning rate {progress.lr:.1e}  {speed:6.0f} pairs/s  '
                f'left {left}', is_live=not ends)
            self.shown = now
        if ends:
            self.total = self.images = 0


# ---------------------------------------------------------------------------------------- the model

def default_device() -> str:
    """'cuda' where it works, else 'cpu' (torch.cuda may not be imported)."""
    try:
        empty(1, device='cuda').zero_()
        return 'cuda'
    except Exception:
        return 'cpu'


class Model:
    """The denoiser: `load_pretrained_model()` or `train(..)`, then `predict(..)`.

    Attributes: `device` (CUDA if there is one; `to(device)` moves it), `net`, `mixed_precision`
    (products in bfloat16; off unless it is set), `is_trained` (False while the weights are random;
    `set_weights` keeps it)."""
    NUM_EPOCHS = 8                  # of 50,000 pairs, within 45 minutes of float32 on 2 slow cores
    BATCH_SIZE = 16
    PEAK_LR = 12.0                  # high, as the loss is a mean over all values, and its gradients are small
    FINE_TUNING = 0.02              # fraction of PEAK_LR for weights that are already trained
    MOMENTUM = 0.9
    MULTIPLE = 4                    # of H and W in the network
    PIXELS = 2 ** 18                # pixels that predict processes at once; bounds its memory
    MARGIN = 32                     # pixels around a tile, more than the network's receptive radius; a multiple of 4

    def __init__(self) -> None:
        self.net = build_network().to(empty(0, device='cpu').float().dtype)     # whatever the default type is
        self.loss = MSE()
        self.mixed_precision = self.is_trained = False
        self.to(default_device())

    def to(self, device) -> 'Model':
        """Move to `device`; where that fails, the model stays where it was."""
        empty(1, device=device)
        self.net.to(device)
        self.device = device
        return self

    @property
    def mixed_precision(self) -> bool:
        return self.net[0].mixed_precision

    @mixed_precision.setter
    def mixed_precision(self, value: bool) -> None:
        for layer in self.net:
            layer.mixed_precision = value

    # -- checkpoints

    def load_pretrained_model(self) -> None:
        """Load `bestmodel.pth`, which lies beside this file."""
        self.load(CHECKPOINT)

    def save(self, path) -> None:
        """Write the weights to `path`: a pickle of a list of {'shape': list, 'float32': bytes, little-endian}."""
        write_pickle(path, {'weights': [
            {'shape': list(weight.shape), 'float32': struct.pack(f'<{weight.numel()}f', *weight.flatten().tolist())}
            for weight in self.weights().values()]})

    def load(self, path) -> None:
        """Load what `save` wrote. ValueError if it is something else; the model is then as before."""
        with open(path, 'rb') as file:
            data = file.read(LARGEST_CHECKPOINT + 1)
        try:
            content, own, weights = read_pickle(data), self._parameters(), {}
            check_keys('it', content, ['weights'])
            if len(content['weights']) != len(own):
                raise ValueError(f"it holds {len(content['weights'])} weights, expected {len(own)}")
            for entry, (name, weight) in zip(content['weights'], own.items()):
                check_keys(name, entry, ['shape', 'float32'])
                if entry['shape'] != list(weight.shape):
                    found = reprlib.repr(entry['shape'])[:60]
                    raise ValueError(f'{name} is of shape {found}, expected {list(weight.shape)}')
                values = struct.unpack(f'<{weight.numel()}f', entry['float32'])
                weights[name] = weight.new_tensor(values, device='cpu').view(weight.shape)
            self.set_weights(weights)
        except Exception as error:
            reason = error if type(error) in (ValueError, struct.error) else f'{type(error).__name__} while reading it'
            raise ValueError(f'path: {path} is not a checkpoint of mini-project 2 ({reason})') from error
        self.is_trained = True

    def _parameters(self) -> dict:
        """The network's parameters: {'0.weight': tensor, '0.bias': .., '2.weight': .., ..}."""
        return {f'{i}.{name}': weight for i, layer in enumerate(self.net)
                for name, (weight, _) in zip(('weight', 'bias'), layer.param())}

    def weights(self) -> dict:
        """A copy of the weights on the CPU: {name: tensor}."""
        return {name: weight.detach().to('cpu', copy=True) for name, weight in self._parameters().items()}

    def set_weights(self, weights: dict) -> None:
        """Copy `weights`, as `weights()` gives them, into the network; ValueError if they do not fit."""
        self._leave_inference_mode()
        parameters = self._parameters()
        check_weights(parameters, weights)
        for name, parameter in parameters.items():
            parameter.detach().copy_(weights[name])

    def _leave_inference_mode(self) -> None:
        """Outside torch's inference mode, copies replace parameters made in it, which cannot be changed there."""
        for layer in self.net:
            for name, value in list(vars(layer).items()):
                if isinstance(value, Tensor) and value.is_inference() and not empty(0, device='cpu').is_inference():
                    vars(layer)[name] = value.clone()

    # -- training

    def train(self, train_input: Tensor, train_target: Tensor, num_epochs: int = NUM_EPOCHS, *,
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
        if a gradient is not finite; the weights are then those from before the step."""
        check_images('train_input', train_input)
        check_images('train_target', train_target)
        N = len(train_input)
        if train_input.shape != train_target.shape or N < 1:
            raise ValueError('train_input and train_target must have one shape, N at least 1, '
                             f'got {tuple(train_input.shape)} and {tuple(train_target.shape)}')
        num_epochs, batch_size = integers('num_epochs', num_epochs), integers('batch_size', batch_size)
        if peak_lr is None:
            peak_lr = self.PEAK_LR * (self.FINE_TUNING if self.is_trained else 1)
        if not (isinstance(peak_lr, numbers.Real) and 0 < peak_lr < math.inf):
            raise ValueError(f'peak_lr must be a number above 0, got {peak_lr!r}')
        peak_lr = float(peak_lr)
        if swap not in ('auto', 'pixels', 'images'):
            raise ValueError(f"swap must be 'auto', 'pixels' or 'images', got {swap!r}")

        if all(to_unit(a, 'cpu').equal(to_unit(b, 'cpu'))
               for a, b in zip(train_input.split(1000), train_target.split(1000))):
            warnings.warn('train_target equals train_input: the model learns to change nothing', stacklevel=2)
        whole = empty(N, device='cpu').fill_(swap == 'images').bool()
        if swap == 'auto':
            whole, line = choose_swap(train_input, train_target)
            if verbose:
                say(line)

        steps_per_epoch = math.ceil(N / batch_size)
        num_steps = num_epochs * steps_per_epoch
        self._leave_inference_mode()
        optimizer = SGD(self.net.param(), peak_lr, self.MOMENTUM, nesterov=True)
        done = start = 0        # steps already done; the step at which the learning rate's cycle began
        if resume is not None:
            done, start, order, peak_lr = self._resume(resume, optimizer, N, batch_size, num_steps)

        def state() -> dict:
            return {'weights': self.weights(), 'velocity': [v.to('cpu', copy=True) for v in optimizer.velocity],
                    'peak': peak_lr, 'step': step + 1, 'start': start, 'num_steps': num_steps,
                    'batch_size': batch_size, 'order': order.clone()}

        log = EpochLog(N, done)
        for step in range(done, num_steps):
            epoch, k = divmod(step, steps_per_epoch)
            if k == 0:
                order = empty(N, device='cpu').double().uniform_().argsort()
            batch = order[k * batch_size:(k + 1) * batch_size]
            optimizer.lr = lr = one_cycle((step - start) / (num_steps - start), peak_lr)
            try:
                loss = self.step(train_input[batch.to(train_input.device)],
                                 train_target[batch.to(train_target.device)], optimizer, whole[batch])
            except FloatingPointError as error:
                raise FloatingPointError(f'epoch {epoch + 1}, step {step + 1} of {num_steps}: {error}; '
                                         'the weights are those from before this step') from None
            self.is_trained = True
            progress = Progress(epoch + 1, num_epochs, step + 1, num_steps, loss, lr, state)
            if verbose:
                log.step(progress, len(batch))
            if callback is not None:
                callback(progress)

    def step(self, first: Tensor, second: Tensor, optimizer: SGD, whole: Optional[Tensor] = None) -> Tensor:
        """One step of the optimizer on a batch of pairs, two tensors (N, 3, H, W), 0..255; `whole` as in `swap_noise`.
        Returns the loss, shape (). FloatingPointError, before any weight has changed, if a gradient is not finite."""
        pair = turn(*swap_noise(to_unit(first, self.device), to_unit(second, self.device), whole))
        loss, gradients = self.differentiate(*(pad_to_multiple(images, self.MULTIPLE) for images in pair))
        if not bool((loss + sum(gradient.sum() for gradient in gradients)).isfinite()):
            raise FloatingPointError('the loss or a gradient is not finite')
        optimizer.step()
        return loss

    def differentiate(self, noisy: Tensor, target: Tensor) -> tuple:
        """Return the loss on a batch, two tensors (N, 3, H, W), 0..1, and the list of its gradients with respect to
        the parameters, those of `net.param()`. Tools replace this method, to share a batch among processes or to
        record it as a CUDA graph."""
        loss = self.loss.forward(self.net.forward(noisy - 0.5), target)
        self.net.zero_grad()
        self.net.backward(self.loss.backward())
        return loss, [gradient for _, gradient in self.net.param()]

    def _resume(self, state: dict, optimizer: SGD, N: int, batch_size: int, num_steps: int) -> tuple:
        """Take over the weights of `state` and the optimizer's velocity. Return the steps done, the step at which the
        learning rate's cycle began, the order of the pairs and the highest learning rate. ValueError, before anything
        has changed, if the state is of another training."""
        try:
            check_keys('it', state, 'weights velocity peak step start num_steps batch_size order'.split())
            weights, velocity, peak, step, start, *sizes, order = state.values()
            found, expected = [*sizes, len(order)], [num_steps, batch_size, N]
            if found != expected:
                raise ValueError(f'its steps, batch size and pairs are {found}, this one has {expected}')
            if not (isinstance(start, int) and isinstance(step, int) and 0 <= start <= step <= num_steps
                    and 0 < peak < math.inf and order.sort().values.equal(arange(N, device='cpu'))):
                raise ValueError("'start' must be an integer from 0 to 'step', 'peak' a rate, 'order' all pairs")
            check_weights(self._parameters(), dict(zip(self._parameters(), velocity)))
            optimizer.velocity = [moved.to(self.device, copy=True) for moved in velocity]
            self.set_weights(weights)
        except Exception as error:
            raise ValueError(f'resume: no state of this training: {error}') from error
        return step, start, order, peak

    # -- prediction

    def predict(self, test_input: Tensor, *, ensemble: bool = True,
                progress: Optional[Callable[[float], None]] = None) -> Tensor:
        """Denoise (N, 3, H, W), 0..255, integers or floating point -> float32 in 0..255, on the same device.

        H and W may be anything from 1 up, N may be 0. Memory is bounded: many images go through in batches, large ones
        in tiles, without seams, since their margins are wider than what the network sees.
        ensemble: test-time augmentation, the average over the 8 flips and rotations of each image.
        progress: called after each batch with its number of images, after a tile with its share of one."""
        check_images('test_input', test_input)
        N, C, H, W = test_input.shape
        m, margin = self.MULTIPLE, self.MARGIN
        padded = (H + -H % m) * (W + -W % m)
        chunk = max(1, self.PIXELS // padded)                   # images at once
        side = max(H, W) if padded <= self.PIXELS else math.isqrt(self.PIXELS) // m * m     # of a tile
        corners = [(top, left) for top in range(0, H, side) for left in range(0, W, side)]
        output = empty(N, C, H, W, device=test_input.device).float()
        for i in range(0, N, chunk):
            x = pad_to_multiple(to_unit(test_input[i:i + chunk], self.device), m)
            for top, left in corners:
                row, column = max(0, top - margin), max(0, left - margin)
                tile = self._denoise(x[:, :, row:top + side + margin, column:left + side + margin], ensemble)
                place = output[i:i + chunk, :, top:top + side, left:left + side]
                height, width = place.shape[2:]
                place.copy_(tile[:, :, top - row:top - row + height, left - column:left - column + width] * 255)
                if progress is not None:
                    progress(len(x) / len(corners))
        return output

    def _denoise(self, x: Tensor, ensemble: bool) -> Tensor:
        """The network's output; with `ensemble`, the mean over the 8 symmetries of the square."""
        turns, total = range(8 if ensemble else 1), 0       # k % 4 quarter turns, mirrored first if k >= 4
        for k in turns:
            y = self.net.infer(((x - 0.5).flip(-1) if k >= 4 else x - 0.5).rot90(k % 4, (-2, -1)))
            y = y.rot90(-(k % 4), (-2, -1))
            total = total + (y.flip(-1) if k >= 4 else y)
        return total / len(turns)
