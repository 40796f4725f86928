"""The framework of mini-project 2 against torch: what modules promise, beside what test_framework_properties tries."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from Miniproject_2.model import (MSE, SGD, Conv2d, NearestUpsampling, ReLU, Sequential, Sigmoid, TransposeConv2d,
                                 Upsampling)
from others.studies.variants import copy_weights, torch_twin
from others.tests.test_framework_properties import TWINS, distance, results


def twins(block: str, *arguments, dtype=torch.float64, **options):
    """Our block and torch's with the same parameters; torch's is always float64."""
    ours, theirs = (kind(*arguments, **options) for kind in TWINS[block])
    theirs.double()
    ours.to(dtype)
    copy_weights(ours, theirs)
    return ours, theirs


def assert_equal(got: dict, expected: dict, tolerance=1e-12) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert distance(got[name], expected[name]) <= tolerance, name


# ---------------------------------------------------------------------- what random configurations leave out

@pytest.mark.parametrize('block, arguments, shape', [
    ('ReLU', (), (3, 2, 5, 4)), ('Sigmoid', (), (3, 2, 5, 4)), ('Sigmoid', (), (7,)), ('Sigmoid', (), (2, 0, 3)),
    ('Tanh', (), (3, 2, 5, 4)), ('Tanh', (), (7,)), ('Tanh', (), (2, 0, 3)),
    ('NearestUpsampling', (2,), (2, 3, 5, 4)), ('NearestUpsampling', ((3, 1),), (2, 3, 1, 4))])
def test_blocks_without_parameters(block, arguments, shape):
    torch.manual_seed(0)
    for scale in 0.01, 1, 255:
        ours, theirs = twins(block, *arguments)
        x = torch.randn(shape, dtype=torch.float64) * scale
        gradient = torch.randn_like(theirs(x))
        assert_equal(results(ours, x, gradient), results(theirs, x, gradient))
        assert ours.param() == []


def test_relu_at_zero_and_beyond_numbers():
    x = torch.tensor([0., -0., -1., 2., float('inf'), float('-inf'), float('nan')])
    expected = results(nn.ReLU(), x, torch.ones(7))
    for name, value in results(ReLU(), x, torch.ones(7)).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_mse(reduction):
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, 5, 4, 2, dtype=torch.float64)[..., 0], torch.randn(2, 3, 5, 4).double()
    loss = MSE(reduction=reduction)
    twin = prediction.clone().requires_grad_()
    expected = F.mse_loss(twin, target, reduction=reduction)
    expected.backward()
    assert distance(loss(prediction, target), expected.detach()) <= 1e-12
    assert distance(loss.backward(), twin.grad) <= 1e-12


def test_the_courses_own_check():
    """One 32x32 image, allclose at its default tolerances, which only the very same sums pass."""
    for seed in range(200):
        torch.manual_seed(seed)
        conv, x = Conv2d(3, 3, 3), torch.randn(1, 3, 32, 32)
        assert torch.allclose(conv.forward(x), F.conv2d(x, conv.weight, conv.bias)), seed


# ------------------------------------------------------------------- what modules promise to their callers

def small_network():
    return Sequential(Conv2d(3, 4, 3, stride=2, padding=1), ReLU(), Upsampling(4, 2, 3, padding=1), Sigmoid())


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


@pytest.mark.parametrize('autograd', [False, True])
@pytest.mark.parametrize('build', [lambda: Conv2d(3, 4, 3, 2, 1), lambda: Conv2d(3, 4, (3, 2)),
                                   lambda: TransposeConv2d(3, 4, 3, 2, 1), small_network,
                                   lambda: Upsampling(3, 4, 3), lambda: NearestUpsampling(2), ReLU])
def test_any_layout_and_no_graph(build, autograd):
    """Views, expanded, not contiguous, requiring grad: the same result, which requires none."""
    torch.manual_seed(0)
    block = build()
    x = torch.randn(2, 3, 9, 7)
    gradient = torch.randn_like(block.infer(x))

    def layouts(t):
        yield t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
        yield t.to(memory_format=torch.channels_last)
        yield torch.stack([t, t], -1)[..., 1]
        yield t.clone().requires_grad_()

    expected = {name: value.clone() for name, value in results(block, x, gradient).items()}
    with torch.set_grad_enabled(autograd):
        for x_like in layouts(x):
            for gradient_like in layouts(gradient):
                for name, value in results(block, x_like, gradient_like).items():
                    assert not value.requires_grad
                    torch.testing.assert_close(value, expected[name])
        one = torch.ones(())
        expanded = results(block, one.expand(2, 3, 9, 7), one.expand(gradient.shape))
        dense = results(block, torch.ones(2, 3, 9, 7), torch.ones(gradient.shape))
        for name, value in expanded.items():
            torch.testing.assert_close(value, dense[name])


def test_a_convolution_outside_inference_mode_after_one_inside():
    conv, x = Conv2d(3, 200, 3, padding=1), torch.randn(2, 3, 40, 40)       # larger columns than any test's before
    with torch.inference_mode():
        inside = conv.infer(x)
    assert torch.equal(conv.forward(x), inside)
    assert conv.backward(torch.ones(2, 200, 40, 40)).shape == x.shape


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
    optimizer = SGD(pairs, lr=1)
    conv.backward(torch.ones_like(conv(x.double())))
    before = conv.weight.clone()
    optimizer.step()
    assert torch.equal(conv.weight, before - conv.grad_weight)
    conv.zero_grad()
    assert not pairs[0][1].any()


def test_a_parameter_that_was_made_to_require_grad():
    """A caller may ask torch to differentiate our weights; training ours still works."""
    conv, x = Conv2d(3, 4, 3), torch.randn(2, 3, 5, 6)
    conv.weight.requires_grad_()
    assert not conv(x).requires_grad
    conv.backward(torch.ones(2, 4, 3, 4))
    expected = conv.weight.detach() - conv.grad_weight
    SGD(conv.param(), lr=1).step()
    assert torch.equal(conv.weight, expected)


@pytest.mark.parametrize('block', ['Conv2d', 'TransposeConv2d'])
def test_initialisation_is_torchs(block):
    for arguments in (3, 8, 3), (4, 6, (5, 2)):
        torch.manual_seed(7)
        ours = TWINS[block][0](*arguments)
        torch.manual_seed(7)
        theirs = TWINS[block][1](*arguments)
        torch.testing.assert_close(ours.weight, theirs.weight.detach())
        torch.testing.assert_close(ours.bias, theirs.bias.detach())


def test_infer_keeps_nothing():
    network = small_network()
    network.infer(torch.randn(2, 3, 8, 8))
    for module in (network, *network):
        with pytest.raises(RuntimeError, match='before forward'):
            module.backward(torch.ones(1))


@pytest.mark.parametrize('block, arguments', [
    ('Conv2d', (4, 6, 3, 2, 1)), ('TransposeConv2d', (4, 6, 4, 2, 1)), ('Upsampling', (4, 6, 3, 1, 1))])
def test_mixed_precision(block, arguments):
    """Products in bfloat16, of 8 significant bits, sums and results in float32."""
    torch.manual_seed(0)
    ours, theirs = twins(block, *arguments, dtype=torch.float32)
    x = torch.randn(3, 4, 8, 6)
    gradient = torch.randn(theirs(x.double()).shape)
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
def test_sgd(options):
    torch.manual_seed(0)
    pairs = [(torch.randn(shape).double(), torch.zeros(shape).double()) for shape in ((4, 3, 2), (4,))]
    twins = [parameter.clone().requires_grad_() for parameter, _ in pairs]
    ours, theirs = SGD(pairs, lr=0.1, **options), torch.optim.SGD(twins, lr=0.1, **options)
    for step in range(20):
        ours.lr = theirs.param_groups[0]['lr'] = 0.1 / (step + 1)
        ours.zero_grad()
        for (_, gradient), twin in zip(pairs, twins):
            gradient += torch.randn_like(gradient)
            twin.grad = gradient.clone()
        ours.step()
        theirs.step()
        for (parameter, _), twin in zip(pairs, twins):
            torch.testing.assert_close(parameter, twin.detach(), rtol=1e-12, atol=1e-14)


def test_training_curve_is_torchs():
    """50 steps of a whole network from the same weights on the same batches, in float64."""
    torch.manual_seed(0)
    ours = Sequential(Conv2d(3, 8, 4, 2, 1), ReLU(), Conv2d(8, 12, 3, 2, 1), ReLU(),
                      Upsampling(12, 8, 3, padding=1), ReLU(), TransposeConv2d(8, 3, 4, 2, 1), Sigmoid())
    theirs = torch_twin(ours).double()
    ours.to(torch.float64)
    loss, optimizer = MSE(), SGD(ours.param(), lr=1, momentum=0.9, nesterov=True)
    twin_optimizer = torch.optim.SGD(theirs.parameters(), lr=1, momentum=0.9, nesterov=True)
    batches = torch.rand(5, 4, 3, 16, 12, dtype=torch.float64)
    first = None
    for step in range(50):
        x = batches[step % 5]
        target = 0.3 + 0.5 * x.mean((2, 3), keepdim=True).expand_as(x)
        value = loss(ours(x), target)
        ours.zero_grad()
        ours.backward(loss.backward())
        optimizer.step()
        twin_optimizer.zero_grad()
        expected = F.mse_loss(theirs(x), target)
        expected.backward()
        twin_optimizer.step()
        assert float(value) == pytest.approx(float(expected.detach()), rel=1e-9)
        first = first or float(value)
    assert float(value) < 0.5 * first


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('arguments, side', [((8, 12, 2), 9), ((3, 32, 2), 17), ((8, 12, 2, 1, 1), 7),
                                             ((8, 12, 4, 2), 10)])
def test_bias_where_nine_products_do_for_sixteen(arguments, side, batch):
    """Of one small image, too, for which the sums of the plain way begin with the bias."""
    names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding')
    ours, theirs = twins('Conv2d', **dict(zip(names, arguments)))
    x = torch.randn(batch, arguments[0], side, side, dtype=torch.float64)
    assert ours.window.at(ours.window.output_size((side, side)), ours.weight).tile == 2
    assert_equal(results(ours, x, gradient := torch.randn_like(theirs(x))), results(theirs, x, gradient))
