"""What an examiner or a student types in a line or two, and what must come of it: mostly what torch does.

A row is a name, ours, and torch's with the same weights, or, instead of torch's, the values. What is refused stands in
test_framework_properties.
"""
import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import Miniproject_1
import Miniproject_2
from Miniproject_2 import (MSE, SGD, Conv2d, Module, NearestUpsampling, ReLU, Sequential, Sigmoid, TransposeConv2d,
                           Upsampling)
from others.tests.test_framework_properties import Square, results

WINDOW = ('kernel_size', 'stride', 'padding', 'dilation')
X = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


class Scale(Module):
    parameter_names = ('factor',)

    def __init__(self):
        self.factor, self.grad_factor = torch.full((1,), 3.), torch.zeros(1)

    def forward_and_vjp(self, x):
        def vjp(gradient):
            self.grad_factor += (gradient * x).sum()
            return gradient * self.factor

        return x * self.factor, vjp


class Residual(Module):
    """x + inner(x), of other modules."""

    def __init__(self, *modules):
        self.inner = Sequential(*modules)

    def forward(self, x):
        return x + self.inner(x)

    def backward(self, gradient):
        return gradient + self.inner.backward(gradient)

    def param(self):
        return self.inner.param()


class Doubled(Conv2d):
    """The block's forward, its own backward."""

    def backward(self, gradient):
        return super().backward(2 * gradient)


class Twin(nn.Module):
    """A function of x and of layers, for torch to differentiate."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x):
        return self.function(x, *self.layers)


def trained(block, x=X) -> list:
    """Output, gradient of the input and of each parameter, ours or torch's, for a fixed gradient."""
    size = block(x).shape
    return list(results(block, x, torch.linspace(-1, 1, size.numel()).view(size)).values())


def weights_of(block) -> list:
    return [weight for weight, _ in block.param()]


def loss_gradient(*gradient, reduction='mean') -> list:
    """Loss and its gradient, of ours."""
    loss = MSE(reduction=reduction)
    return [loss(X, Y), loss.backward(*gradient)]


def torch_gradient(gradient=1.0, reduction='mean') -> list:
    x = X.clone().requires_grad_()
    loss = F.mse_loss(x, Y, reduction=reduction)
    loss.backward(torch.tensor(gradient))
    return [loss.detach(), x.grad]


def one_step(lr, **options) -> torch.Tensor:
    """The parameter 1, of gradient 2, after a step of ours."""
    parameter = torch.ones(1)
    SGD([(parameter, torch.full((1,), 2.))], lr, **options).step()
    return parameter


def overwritten(relu) -> torch.Tensor:
    x = X.clone()
    relu(x)
    return x


def copied(copies, net) -> list:
    """Of a copy made after forward: its weights' difference; those of the first that are the copy's too, though it was
    trained on; the gradient that it computes by itself."""
    net(X)
    twin = copies(net)
    difference = [a - b for a, b in zip(weights_of(net), weights_of(twin))]
    twin.backward(torch.ones_like(twin(X)))
    SGD(twin.param(), 1).step()
    shared = {a.data_ptr() for a in sum(net.param(), ())} & {b.data_ptr() for b in sum(twin.param(), ())}
    unchanged = [bool(gradient.any()) for _, gradient in net.param()]
    return [*difference, torch.tensor(len(shared) + sum(unchanged))]


def through_pickle(net):
    return pickle.loads(pickle.dumps(net))


def attributes(block, *names) -> list:
    return [getattr(block, name) for name in names]


BEHAVIOURS = [
    # As torch has it: the layers.
    ('Conv2d by position', lambda: trained(Conv2d(3, 6, [3, 2], 2, 1, 2, 3, False)),
     lambda: trained(nn.Conv2d(3, 6, (3, 2), 2, 1, 2, 3, False))),
    ('TransposeConv2d by position', lambda: trained(TransposeConv2d(3, 6, 3, 2, 1, 1, 3, True, 2)),
     lambda: trained(nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, 3, True, 2))),
    ('Upsampling by position', lambda: trained(Upsampling(3, 6, 3, 2, 1, 2, 3, False, 2)),
     lambda: trained(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 6, 3, 2, 1, 2, 3, False)))),
    ('NearestUpsampling', lambda: trained(NearestUpsampling(scale_factor=(2, 3))),
     lambda: trained(nn.UpsamplingNearest2d(scale_factor=(2, 3)))),
    ('attributes of Conv2d', lambda: attributes(Conv2d(3, 4, 3, 2, (1, 0)), *WINDOW, 'in_channels', 'groups'),
     lambda: attributes(nn.Conv2d(3, 4, 3, 2, (1, 0)), *WINDOW, 'in_channels', 'groups')),
    ('attributes of TransposeConv2d', lambda: attributes(TransposeConv2d(3, 4, (3, 2), 2), *WINDOW, 'output_padding'),
     lambda: attributes(nn.ConvTranspose2d(3, 4, (3, 2), 2), *WINDOW, 'output_padding')),
    ('no bias', lambda: [Conv2d(3, 4, 3, bias=False).bias, len(Conv2d(3, 4, 3, bias=False).param())], [None, 1]),
    ('dtype', lambda: Conv2d(3, 4, 3, dtype=torch.float64)(X.double()).dtype, torch.float64),
    ('to', lambda: Conv2d(3, 4, 3).to(torch.float64).to('cpu')(X.double()).dtype, torch.float64),
    ('ReLU(inplace=True) overwrites', lambda: overwritten(ReLU(inplace=True)), lambda: overwritten(nn.ReLU(True))),
    ('ReLU does not', lambda: overwritten(ReLU()), X),
    ('ReLU(inplace=True) after a convolution', lambda: trained(Sequential(Conv2d(3, 4, 3), ReLU(True))),
     lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True)))),
    ('Sigmoid of large numbers', lambda: Sigmoid()(torch.tensor([-1e4, 0, 1e4])), torch.tensor([0, 0.5, 1])),
    ('a layer alone, twice forward', lambda: [(net := Conv2d(3, 4, 3))(Y), trained(net)][1],
     lambda: trained(nn.Conv2d(3, 4, 3))),
    ('a part of a Sequential', lambda: trained(Sequential(Conv2d(3, 4, 3), ReLU(), Sigmoid())[:2]),
     lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sigmoid())[:2])),

    # The loss and the optimizer.
    ('MSE.backward(2)', lambda: loss_gradient(2), lambda: torch_gradient(2.0)),
    ('MSE.backward of shape (1,)', lambda: loss_gradient(torch.full((1,), 0.5)), lambda: torch_gradient(0.5)),
    ('MSE.backward of shape ()', lambda: loss_gradient(torch.tensor(0.5), reduction='sum'),
     lambda: torch_gradient(0.5, reduction='sum')),
    ('lr of 0 dimensions', lambda: one_step(torch.tensor(0.25)), torch.tensor([0.5])),
    ("lr of NumPy's", lambda: one_step(np.float32(0.25), momentum=np.float64(0.5)), torch.tensor([0.5])),
    ('params from a generator', lambda: len(SGD(iter(Conv2d(3, 4, 3).param()), 0.1).params), 2),

    # Copies.
    ('a copy after forward', lambda: copied(copy.deepcopy, Sequential(Conv2d(3, 4, 3), ReLU(), Square())),
     [torch.zeros(4, 3, 3, 3), torch.zeros(4), torch.tensor(0)]),
    ('a pickle after forward', lambda: copied(through_pickle, Sequential(Conv2d(3, 4, 3), ReLU(), Square())),
     [torch.zeros(4, 3, 3, 3), torch.zeros(4), torch.tensor(0)]),
    ('a copy of a loss', lambda: [(loss := MSE())(X, Y), copy.deepcopy(loss)(X, Y)][1], lambda: F.mse_loss(X, Y)),

    # Modules of one's own.
    ('forward_and_vjp with a parameter, twice', lambda: trained(Sequential(scale := Scale(), Sigmoid(), scale)),
     lambda: trained(Twin(lambda x, a: a.weight * (a.weight * x).sigmoid(), nn.PReLU(init=3)))),
    ('a residual block in a Sequential', lambda: trained(Sequential(Residual(Conv2d(3, 3, 1)), Sigmoid())),
     lambda: trained(Twin(lambda x, a: (x + a(x)).sigmoid(), nn.Conv2d(3, 3, 1)))),
    ('a subclass that overrides backward', lambda: trained(Sequential(Doubled(3, 4, 3), Sigmoid()))[1:],
     lambda: [2 * gradient for gradient in trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid()))[1:]]),
]


@pytest.mark.parametrize('ours, expected', [pytest.param(*rest, id=name) for name, *rest in BEHAVIOURS])
def test_as_torch_has_it(ours, expected):
    torch.manual_seed(0)
    found = ours()
    torch.manual_seed(0)
    expected = expected() if callable(expected) else expected
    if any(isinstance(value, torch.Tensor) for value in (expected if isinstance(expected, list) else [expected])):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert found == expected


IMAGES = torch.randint(0, 128, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
MODELS = pytest.mark.parametrize('package', [Miniproject_1, Miniproject_2], ids=lambda package: package.__name__)


@MODELS
@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_every_integer_is_as_uint8(package, dtype):
    """In predict and in train."""
    found = []
    for images in (IMAGES, IMAGES.to(dtype)):
        torch.manual_seed(0)
        model = package.Model()
        model.train(images, images.flip(0), 1, verbose=False)
        found.append(model.predict(images))
    assert torch.equal(*found)


@MODELS
def test_a_copy_of_a_model_shares_nothing(package):
    model = package.Model()
    before = model.predict(IMAGES)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.predict(IMAGES), before)
        twin.train(IMAGES, IMAGES, 1, verbose=False)
        assert torch.equal(model.predict(IMAGES), before) and not torch.equal(twin.predict(IMAGES), before)
