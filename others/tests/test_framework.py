"""The framework of mini-project 2 against torch: what modules promise, beside what test_framework_properties tries."""
import copy
import pickle
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from Miniproject_2.model import (MSE, SGD, Conv2d, NearestUpsampling, ReLU, Sequential, Sigmoid, TransposeConv2d,
                                 Upsampling)
from others.tests.test_framework_properties import TWINS, Square, assert_equal, distance, results, twins

pytestmark = pytest.mark.fast

X = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------- what random configurations leave out

@pytest.mark.parametrize('block, arguments, shape', [
    ('ReLU', (), (3, 2, 5, 4)), ('Sigmoid', (), (3, 2, 5, 4)), ('Sigmoid', (), (7,)), ('Sigmoid', (), (2, 0, 3)),
    ('Tanh', (), (3, 2, 5, 4)), ('Tanh', (), (7,)), ('Tanh', (), (2, 0, 3)),
    ('NearestUpsampling', (2,), (2, 3, 5, 4)), ('NearestUpsampling', ((3, 1),), (2, 3, 1, 4))])
def test_blocks_without_parameters(block, arguments, shape):
    torch.manual_seed(0)
    for scale in 0.01, 1, 255, 1e4:
        ours, theirs = (kind(*arguments) for kind in TWINS[block])
        x = (torch.randn(shape, dtype=torch.float64) * scale).requires_grad_()
        gradient = torch.randn_like(theirs(x)).requires_grad_()
        assert_equal(results(ours, x, gradient), results(theirs, x, gradient))
        assert ours.param() == []


def test_relu_at_zero_and_beyond_numbers():
    x = torch.tensor([0., -0., -1., 2., float('inf'), float('-inf'), float('nan')])
    expected = results(nn.ReLU(), x, torch.ones(7))
    for name, value in results(ReLU(), x, torch.ones(7)).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('gradient', [(), (2,), (torch.full((1,), 0.5),), (torch.tensor(0.5),)], ids=str)
def test_mse(dtype, reduction, gradient):
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, 5, 4, 2, dtype=dtype)[..., 0], torch.randn(2, 3, 5, 4, dtype=dtype)
    loss, twin = MSE(reduction=reduction), prediction.clone().requires_grad_()
    expected = F.mse_loss(twin, target, reduction=reduction)
    expected.backward(*(torch.tensor(float(value), dtype=dtype) for value in gradient))
    rounding = dict(rtol=16 * torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(loss(prediction, target), expected.detach(), **rounding)
    torch.testing.assert_close(loss.backward(*gradient), twin.grad, **rounding)


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize('prediction', FLOATS, ids=str)
@pytest.mark.parametrize('target', [*FLOATS, torch.uint8, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize('shape', [(), (70_000,)], ids=str)
def test_mse_of_types(prediction, target, shape):
    """The loss has the type that the two are promoted to, the gradient that of the prediction. (Some versions of
    torch do not differentiate a loss of two types.)"""
    a, b = torch.ones(shape).to(prediction), torch.zeros(shape).to(target)
    loss, twin, common = MSE(), a.clone().requires_grad_(), torch.promote_types(prediction, target)
    expected = F.mse_loss(twin.to(common), b.to(common))
    expected.backward()
    torch.testing.assert_close(loss(a, b), expected.detach())
    torch.testing.assert_close(loss.backward(), twin.grad)


def test_mse_beyond_float16():
    """300^2 overflows it, 300^2 / 4 does not."""
    loss, a, b = MSE(), torch.full((4,), 300.).half(), torch.tensor([300., 300, 300, 0]).half()
    assert loss(a, b) == 22500 and loss.backward().tolist() == [0, 0, 0, 150]


@pytest.mark.parametrize('build, theirs', [
    (Conv2d, F.conv2d), (TransposeConv2d, F.conv_transpose2d),
    (Upsampling, lambda x, *parameters: F.conv2d(F.interpolate(x, scale_factor=2), *parameters))])
def test_the_courses_own_check(build, theirs):
    """One 32x32 image, allclose at its default tolerances, which only the very same sums pass."""
    for seed in range(100):
        torch.manual_seed(seed)
        block, x = build(3, 3, 3), torch.randn(1, 3, 32, 32)
        assert torch.allclose(block.forward(x), theirs(x, block.weight, block.bias)), seed


# ------------------------------------------------------------------- what modules promise to their callers

def small_network():
    return Sequential(Conv2d(3, 32, 3, stride=2, padding=1), ReLU(), Upsampling(32, 2, 3, padding=1), Sigmoid())


def test_pending_closures_are_independent():
    torch.manual_seed(0)
    network = small_network().to(torch.float64)
    x = torch.randn(2, 2, 3, 8, 6, dtype=torch.float64)
    gradients = torch.randn(2, 2, 2, 8, 6, dtype=torch.float64)
    expected = [{name: value.clone() for name, value in results(network, *pair).items()} for pair in zip(x, gradients)]
    for order in (0, 1), (1, 0):
        network.zero_grad()
        pending = [network.forward_and_vjp(images) for images in x]
        for i in order:
            output, vjp = pending[i]
            assert distance(output, expected[i]['output']) <= 1e-14
            assert distance(vjp(gradients[i]), expected[i]['gradient of the input']) <= 1e-14
        for i, (_, total) in enumerate(network.param()):
            name = f'gradient of parameter {i}'
            assert distance(total, expected[0][name] + expected[1][name]) <= 1e-12


def test_an_empty_batch():
    block = small_network()
    assert block.forward(torch.zeros(0, 3, 8, 6)).shape == (0, 2, 8, 6)
    assert block.backward(torch.zeros(0, 2, 8, 6)).shape == (0, 3, 8, 6)
    assert all(not gradient.any() for _, gradient in block.param())


def test_parameters_stay_the_same_objects():
    conv = Conv2d(3, 4, 3)
    pairs = conv.param()
    for new in (torch.randn(4, 3, 3, 3), nn.Parameter(torch.randn(4, 3, 3, 3))):
        conv.weight = new
        assert conv.weight is pairs[0][0] is conv.param()[0][0]
        assert torch.equal(conv.weight, new) and not conv.weight.requires_grad
    conv.weight += 1
    pairs[1][0].fill_(3)
    assert torch.equal(conv.weight, new + 1) and bool((conv.bias == 3).all())
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(conv(x), F.conv2d(x, new.detach() + 1, torch.full((4,), 3.)))
    conv.to(torch.float64)
    assert conv.param()[0][1] is pairs[0][1] and pairs[0][1].dtype == torch.float64
    optimizer, y = SGD(pairs, lr=1), conv(x.double())
    conv.weight.requires_grad_()                                # as a caller may ask of torch
    assert torch.equal(conv(x.double()), y) and not conv(x.double()).requires_grad
    conv.backward(torch.ones_like(y))
    before = conv.weight.detach().clone()
    optimizer.step()
    assert torch.equal(conv.weight, before - conv.grad_weight)
    conv.zero_grad()
    assert not pairs[0][1].any()


@pytest.mark.parametrize('name, alive', [('forward', 1), ('forward_and_vjp', 1), ('infer', 0)])
def test_what_an_application_keeps(name, alive):
    """It is freed before the next one, and with the network, at once: there is no cycle of references."""
    class Watched(Sigmoid):
        def forward_and_vjp(self, x):
            before.append(sum(reference() is not None for reference in kept))
            kept.append(weakref.ref(x))
            return x, lambda gradient: gradient + 0 * x

    kept, before = [], []
    network = Sequential(Conv2d(3, 3, 3), Watched(), Upsampling(3, 32, 3), Watched())
    for _ in range(3):
        getattr(network, name)(X)
    assert before == [0, alive] * 3
    del network
    assert not any(reference() is not None for reference in kept)


@pytest.mark.parametrize('copies', [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_after_forward_has_the_weights_and_shares_nothing(copies):
    net = Sequential(Conv2d(3, 4, 3), ReLU(), Square())
    net(X)
    twin, before = copies(net), [tensor.clone() for tensor in sum(net.param(), ())]
    assert all(map(torch.equal, sum(twin.param(), ()), before))
    twin.backward(torch.ones_like(twin(X)))
    SGD(twin.param(), 1).step()
    assert all(map(torch.equal, sum(net.param(), ()), before))
    assert not any(map(torch.equal, sum(twin.param(), ()), before))


@pytest.mark.parametrize('block, out_channels, kernel_size, stride', [
    ('Conv2d', 6, 3, 2), ('TransposeConv2d', 6, 4, 2), ('Upsampling', 16, 3, 1)])
def test_mixed_precision(block, out_channels, kernel_size, stride):
    """Products in bfloat16, of 8 significant bits, sums and results in float32."""
    arguments = dict(in_channels=4, out_channels=out_channels, kernel_size=kernel_size, stride=stride, padding=1)
    ours, _, theirs, x, gradient = twins((block, arguments, (3, 4, 8, 6)))
    exact = results(theirs, x.double(), gradient.double())
    ours.mixed_precision = True
    for name, value in results(ours, x, gradient).items():
        assert value.dtype == torch.float32
        off = distance(value, exact[name])
        assert off < 2 ** -7, name
        if name != 'gradient of parameter 1':       # the bias has no products
            assert off > 2 ** -14, name             # of float32 it would be 2^-22


# -------------------------------------------------------------------------------- the optimizer and training

@pytest.mark.parametrize('options', [
    {}, dict(momentum=0.9), dict(momentum=0.9, dampening=0.5), dict(weight_decay=0.1),
    dict(momentum=0.9, nesterov=True), dict(momentum=0.9, nesterov=True, weight_decay=0.1),
    dict(momentum=0.5, dampening=0.1, weight_decay=0.01)])
@pytest.mark.parametrize('lr', [0.125, np.float32(0.125), torch.tensor(0.125)], ids=['float', 'numpy', 'tensor'])
def test_sgd(options, lr):
    torch.manual_seed(0)
    pairs = [(torch.randn(shape).double(), torch.zeros(shape).double()) for shape in ((4, 3, 2), (4,))]
    twins = [parameter.clone().requires_grad_() for parameter, _ in pairs]
    ours, theirs = SGD(iter(pairs), lr=lr, **options), torch.optim.SGD(twins, lr=0.125, **options)
    for step in range(20):
        ours.zero_grad()
        for (_, gradient), twin in zip(pairs, twins):
            gradient += torch.randn_like(gradient)
            twin.grad = gradient.clone()
        ours.step()
        theirs.step()
        for (parameter, _), twin in zip(pairs, twins):
            torch.testing.assert_close(parameter, twin.detach(), rtol=1e-12, atol=1e-14)
        ours.lr = theirs.param_groups[0]['lr'] = 0.125 / (step + 2)


def test_sgd_warns_of_a_parameter_that_it_is_given_twice():
    pairs = Conv2d(3, 4, 3).param()
    with pytest.warns(UserWarning, match='params holds a parameter twice'):
        SGD(pairs + pairs[:1], lr=1)


# ------------------------------------------------------------------ what an examiner types in a line or two

def trained(block, x=X) -> list:
    """Output, gradient of the input and of each parameter, ours or torch's, for a fixed gradient."""
    size = block(x).shape
    return list(results(block, x, torch.linspace(-1, 1, size.numel()).view(size)).values())


def overwritten(relu) -> torch.Tensor:
    x = X.clone()
    relu(x)
    return x


def one_by_one(net, forward=True, backward=True) -> list:
    """As `trained`, for a Sequential whose modules are called by themselves, not by it."""
    net.forward(Y)
    net.zero_grad()
    y = X
    for module in net if forward else [net]:
        y = module.forward(y)
    gradient = torch.linspace(-1, 1, y.numel()).view(y.shape)
    for module in reversed(net) if backward else [net]:
        gradient = module.backward(gradient)
    return [y, gradient, *(total for _, total in net.param())]


BEHAVIOURS = [       # a name, ours, and torch's with the same weights, or the values
    ('Conv2d by position', lambda: trained(Conv2d(3, 6, [3, 2], 2, 1, 2, 3, False)),
     lambda: trained(nn.Conv2d(3, 6, (3, 2), 2, 1, 2, 3, False))),
    ('TransposeConv2d by position', lambda: trained(TransposeConv2d(3, 6, 3, 2, 1, 1, 3, True, 2)),
     lambda: trained(nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, 3, True, 2))),
    ('Upsampling by position', lambda: trained(Upsampling(3, 6, 3, 2, 1, 2, 3, False, 2)),
     lambda: trained(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 6, 3, 2, 1, 2, 3, False)))),
    ('ReLU(inplace=True) overwrites', lambda: overwritten(ReLU(inplace=True)), lambda: overwritten(nn.ReLU(True))),
    ('ReLU does not', lambda: overwritten(ReLU()), X),
    ('nor after an upsampling by 1', lambda: overwritten(Sequential(NearestUpsampling(1), ReLU(inplace=True))), X),
    ('a part of a Sequential, with ReLU(inplace=True) after a convolution',
     lambda: trained(Sequential(Conv2d(3, 4, 3), ReLU(True), Sigmoid())[:2]),
     lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.Sigmoid())[:2])),
    ("NumPy's integers", lambda: trained(Conv2d(*np.array([3, 6]), np.array([3, 2]), np.int32(2), groups=np.int8(3))),
     lambda: trained(nn.Conv2d(3, 6, (3, 2), 2, groups=3))),
    *((f'one by one, {options}', lambda options=options: one_by_one(
        Sequential(Conv2d(3, 4, 3), ReLU(), Sequential(Sigmoid(), Conv2d(4, 3, 1))), **options),
       lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sigmoid(), nn.Conv2d(4, 3, 1))))
      for options in (dict(forward=False), dict(backward=False), dict())),
    ('leaf by leaf', lambda: [(net := Sequential(inner := Sequential(conv := Conv2d(3, 4, 3), ReLU()))), net(Y),
                              inner[1](conv(X)), net.backward(torch.linspace(-1, 1, 192).view(2, 4, 6, 4))][3],
     lambda: trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))[1]),
]


@pytest.mark.parametrize('ours, expected', [pytest.param(*rest, id=name) for name, *rest in BEHAVIOURS])
def test_as_torch_has_it(ours, expected):
    torch.manual_seed(0)
    found = ours()
    torch.manual_seed(0)
    torch.testing.assert_close(found, expected() if callable(expected) else expected, rtol=1e-4, atol=1e-5)
