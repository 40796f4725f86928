"""Properties of `Model` of both mini-projects: any size, type, layout, values, any mode of autograd."""
import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from others.tests.conftest import ROUNDING, Stop, bits, images, new_model, parameters, same

FLOATING = ['float16', 'bfloat16', 'float32', 'float64', 'float8_e5m2', 'float8_e4m3fn']
FLOATING = [getattr(torch, name) for name in FLOATING if hasattr(torch, name)]
VALUES = ['bytes', 'constant', '0', '255', 'outside', 'huge', 'NaN', 'infinity']
# An image of a single dark pixel is warned of, rightly, and so are equal pairs.
pytestmark = pytest.mark.filterwarnings('ignore:.* is expected in 0..255', 'ignore:train_target equals')
given_a_model = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextlib.contextmanager
def outer_graph():
    """Within a differentiation of somebody else's."""
    x = torch.ones(3, requires_grad=True)
    with torch.enable_grad():
        y = (x * x).sum()
        yield
        y.backward()
    assert torch.equal(x.grad, torch.full((3,), 2.))


@contextlib.contextmanager
def default_type(dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {'on': torch.enable_grad, 'off': torch.no_grad, 'inference': torch.inference_mode, 'outer': outer_graph,
         'float64': lambda: default_type(torch.float64), 'float16': lambda: default_type(torch.float16)}


def filled(shape: tuple, values: str, seed: int) -> torch.Tensor:
    """float64; 'outside' are values as noise gives them, 'huge' ones that float32 has not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64) * 255
    if values in ('0', '255', 'constant'):
        return torch.full_like(x, seed % 256 if values == 'constant' else int(values))
    if values in ('bytes', 'outside', 'huge'):
        return x.floor() if values == 'bytes' else (x - 127) * (1.5 if values == 'outside' else 1e300)
    if x.numel():
        x.view(-1)[seed % x.numel()] = math.nan if values == 'NaN' else math.inf * (-1) ** seed
    return x


LAYOUTS = st.sampled_from([     # the same values in another order of memory
    lambda x: x, lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    lambda x: F.pad(x.float(), (1, 2, 3, 1)).to(x.dtype)[:, :, 3:-1, 1:-2] if x.numel() else x,
    lambda x: torch.stack([x, x], -1)[..., 0], lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    lambda x: x[:, :1].expand(x.shape)])


@st.composite
def image_batches(draw, N=st.integers(0, 3), side=st.integers(1, 70), values=st.sampled_from(VALUES)):
    """(N, 3, H, W)"""
    shape = (draw(N), 3, draw(side), draw(side))
    dtype = draw(st.sampled_from(FLOATING + [torch.uint8] * 3 + [torch.int16, torch.int32, torch.int64]))
    values = draw(values) if dtype.is_floating_point else 'bytes'
    x = draw(LAYOUTS)(filled(shape, values, draw(st.integers(0, 999))).to(dtype))
    return x.requires_grad_() if dtype.is_floating_point and draw(st.booleans()) else x


@pytest.fixture(autouse=True)
def one_thread(threads):
    """With more, equal trainings differ in the last bits: oneDNN splits small work among the threads that are idle."""
    torch.set_num_threads(1)


def exact_bits(x: torch.Tensor) -> torch.Tensor:
    """To compare with NaN."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x.detach()).view(torch.uint8)


# ---------------------------------------------------------------------------------------- predict

@given_a_model
@given(x=image_batches(), mode=st.sampled_from(list(MODES)), ensemble=st.booleans())
def test_predict(trained, tally, x, mode, ensemble):
    tally()
    before, strides, weights = exact_bits(x), x.stride(), bits(trained)
    random_state = torch.get_rng_state()
    plain = x.detach().float().contiguous()
    with MODES[mode]():
        if not bool(((plain >= -255) & (plain <= 510)).all()):      # NaN is not, nor is -448, float8's -infinity
            with pytest.raises(ValueError, match='^test_input must be finite'):
                trained.predict(x, ensemble=ensemble)
            return
        output = trained.predict(x, ensemble=ensemble)
    assert output.shape == x.shape and output.dtype is torch.float32 and output.device == x.device
    assert not output.requires_grad and x.grad is None and x.stride() == strides
    assert torch.equal(exact_bits(x), before), 'the input was changed'
    assert same(bits(trained), weights), 'the weights were changed'
    assert torch.equal(torch.get_rng_state(), random_state), 'it drew'
    assert output.isfinite().all() and bool(((output >= 0) & (output <= 255)).all())
    expected = trained.predict(plain, ensemble=ensemble)
    torch.testing.assert_close(expected, output, **ROUNDING, msg='it depends on the type, the layout or the mode')


@given_a_model
@given(x=image_batches(N=st.integers(1, 3), side=st.integers(1, 40), values=st.just('bytes')))
def test_predict_takes_each_image_by_itself(trained, tally, x):
    """Alone, and as within a larger image whose last row and column are repeated."""
    tally()
    H, W = x.shape[2:]
    whole = trained.predict(x, ensemble=False)
    singly = [trained.predict(image, ensemble=False) for image in x.detach().split(1)]
    torch.testing.assert_close(torch.cat(singly), whole, **ROUNDING)
    padded = F.pad(x.detach().float(), (0, -W % 4, 0, -H % 4), mode='replicate')
    torch.testing.assert_close(trained.predict(padded, ensemble=False)[:, :, :H, :W], whole, **ROUNDING)


def test_predict_by_threads(trained, tally):
    inputs = [images(4, 3, 16, 16 + i, seed=i) for i in range(4)]
    barrier = threading.Barrier(len(inputs))

    def work(x: torch.Tensor) -> list:
        barrier.wait()
        return [trained.predict(x) for _ in range(3)]

    with ThreadPoolExecutor(len(inputs)) as pool:
        for x, outputs in zip(inputs, pool.map(work, inputs)):
            torch.testing.assert_close(outputs, 3 * [trained.predict(x)], **ROUNDING)
            tally(3)


# ------------------------------------------------------------------------------------------ train

def train(model, pairs: tuple, seed: int, **options) -> None:
    torch.manual_seed(seed)
    model.train(*pairs, 1, batch_size=2, verbose=False, **options)


@st.composite
def pairs(draw):
    """Two batches of one shape."""
    N, side = st.just(draw(st.sampled_from([1, 2, 5]))), st.integers(1, 9)
    kinds = st.sampled_from(['bytes', 'constant', '0', '255', 'outside'])
    first = draw(image_batches(N, side, kinds))
    assume(bool(first.detach().float().isfinite().all()))       # beyond its range float8_e4m3fn is NaN in torch 2.11
    if draw(st.booleans()):
        return first, first
    second = filled(first.shape, draw(kinds), 1).to(draw(st.sampled_from([torch.float32, torch.bfloat16])))
    return first, draw(LAYOUTS)(second)


@given_a_model
@given(pairs=pairs(), mode=st.sampled_from(list(MODES)), is_loaded=st.booleans(), stop=st.sampled_from([None, 1, 2]))
def test_train(project, tally, pairs, mode, is_loaded, stop):
    """Any pairs, in any mode, after a load, resumed after an exception of the callback, on tensors made in the mode,
    then outside of it: as in plain circumstances. The callback finds the mode as it was, but with autograd."""
    tally()
    before, weights = [exact_bits(x) for x in pairs], new_model(project, seed=1).weights()
    is_inside = all(0 <= float(x.min()) and float(x.max()) <= 255 for x in (y.detach().float() for y in pairs))

    def weights_after(pairs: tuple, mode: str) -> list:
        states = []

        def callback(progress) -> None:
            assert torch.is_inference_mode_enabled() == (mode == 'inference') and torch.is_grad_enabled() == is_on
            assert progress.loss.dtype is torch.float32
            states.append(progress.state())
            if progress.step == stop:
                raise Stop

        with MODES[mode]():
            is_on, model = torch.is_grad_enabled(), project.Model().to('cpu')
            model.set_weights(weights)
            if is_loaded:
                model.load(project.CHECKPOINT)
            start = bits(model)
            with contextlib.suppress(Stop):
                train(model, pairs, seed=2, callback=callback)
            train(model, tuple(x.detach().clone() for x in pairs), seed=3, resume=states[-1])
            assert torch.is_grad_enabled() == is_on
        train(model, pairs, seed=4)
        assert not is_inside or not same(bits(model), start)        # far outside, project 2's sigmoid may saturate
        assert all(weight.dtype is torch.float32 and bool(weight.isfinite().all()) for weight in parameters(model))
        return bits(model)

    got = weights_after(pairs, mode)
    assert all(torch.equal(exact_bits(x), y) for x, y in zip(pairs, before)), 'the pairs were changed'
    assert all(x.grad is None for x in pairs)
    assert same(got, weights_after(tuple(x.detach().float().contiguous() for x in pairs), 'on'))


@pytest.mark.parametrize('rate', [1e3, 1e10, 1e20, 1e30])
def test_a_rate_that_is_far_too_high(project, rate, tally):
    """The training ends in words, or goes on with numbers."""
    model = new_model(project)
    try:
        model.train(images(6, 3, 8, 8), images(6, 3, 8, 8, seed=1), 3, batch_size=2, peak_lr=rate, verbose=False)
    except (ValueError, ArithmeticError) as error:
        assert 'epoch' in str(error) and 'step' in str(error)
    assert all(bool(weight.isfinite().all()) for weight in parameters(model))
    tally()
