"""`Model` of both mini-projects: every test runs on each, and states a property that both have.

Sizes are tiny and the weights mostly random: no property but that of learning depends on their values.
"""
import copy
import inspect
import io
import itertools
import math
import os
import pickle
import re
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from others.common import graphs, storage
from others.tests.conftest import PROJECTS, ROUNDING, bits, images, new_model, parameters, same


@pytest.fixture(autouse=True)
def batches_of_4(monkeypatch):
    for project in PROJECTS.values():
        monkeypatch.setitem(project.Model.train.__kwdefaults__, 'batch_size', 4)


@pytest.fixture(autouse=True)
def one_thread(threads):
    """With more, equal trainings differ in the last bits: oneDNN splits small work among the threads that are idle."""
    torch.set_num_threads(1)


@pytest.fixture
def untouched(model):
    """A model in which the test may change no weight, and train nothing."""
    before = bits(model)
    yield model
    assert same(bits(model), before) and not model.is_trained


def pairs(N, H=8, W=8) -> tuple:
    return images(N, 3, H, W, seed=1), images(N, 3, H, W, seed=2)


def steps_of(model, *arguments, **options) -> list:
    """A training's `Progress` after each step."""
    steps = []
    model.train(*arguments, verbose=False, callback=steps.append, **options)
    return steps


def broken(*arguments):
    raise OSError('a disk that is full, a window that is closed')


def reread(content):
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---------------------------------------------------------------------------------------- predict

@pytest.mark.parametrize('N, H, W, ensemble', [
    (7, 8, 8, True), (40, 1, 1, True), (1, 301, 19, False), (1, 6, 250, True)])
def test_chunks_and_tiles_are_small_and_have_no_seams(model, monkeypatch, N, H, W, ensemble):
    x, seen, denoise = images(N, 3, H, W), [], model._denoise
    whole = model.predict(x, ensemble=ensemble)
    monkeypatch.setattr(model, '_denoise', lambda x, ensemble: seen.append(x.shape) or denoise(x, ensemble))
    model.PIXELS = 16 ** 2 + 50                                 # no square of a multiple of 8
    torch.testing.assert_close(model.predict(x, ensemble=ensemble), whole, **ROUNDING)
    if N > 1:
        assert len(seen) > 1 and max(n * h * w for n, _, h, w in seen) <= model.PIXELS
    else:
        assert len(seen) > 8 and max(max(h, w) for _, _, h, w in seen) <= 16 + 2 * model.MARGIN
        model.MARGIN = 0                                        # now there are seams, so the test can fail
        assert (model.predict(x, ensemble=ensemble) - whole).abs().max() > 1


def test_widths_and_blocks_must_belong_together():
    with pytest.raises(ValueError, match='blocks must be one number less than widths, 3, got 3'):
        PROJECTS[1].SkipAutoencoder((8, 16, 32))


def test_the_margin_is_wider_than_what_the_network_sees(model):
    """Wherever a pixel stands in its block of 8 x 8 (project 2: 4 x 4); with tiles of whole blocks."""
    assert math.isqrt(model.PIXELS) % 8 == model.MARGIN % 8 == 0
    size, middle, reach = 280, 136, 0
    with torch.no_grad():
        x = images(1, 3, size, size).double() / 255
        if hasattr(model.net, 'infer'):
            network, x = model.net.infer, x.float()
        else:                           # narrow, and so that nothing that it sees is lost in rounding
            network, x = type(model.net)((1,) * len(model.net.widths)).double(), torch.full_like(x, 0.5)
            for weight in network.parameters():
                weight.fill_(weight.dim() > 1)
        y = network(x)
        for offset in range(8):
            changed = x.clone()
            changed[:, :, middle + offset, middle + offset] += 1e4
            places = (network(changed) != y).any(1).nonzero()[:, 1:]
            reach = max(reach, int((places - middle - offset).abs().max()))
    assert 1 < reach < model.MARGIN


@pytest.mark.parametrize('H, W', [(16, 16), (8, 24)])
def test_ensemble_is_the_mean_over_the_symmetries(project, model, H, W):
    """Project 2's over all 8 of the square, project 1's over the 4 rotations: so it turns with the image."""
    x = images(2, 3, H, W, low=112, high=144).float()           # mid-grey: nothing is clamped

    def plain(x):
        output = model.predict(x, ensemble=False)
        assert 0 < output.min() and output.max() < 255
        return output

    outputs = []
    for k, mirrored in itertools.product(range(4), (False, True) if project is PROJECTS[2] else (False,)):
        turned = x.rot90(k, (2, 3))
        output = plain(turned.flip(3)).flip(3) if mirrored else plain(turned)
        outputs.append(output.rot90(-k, (2, 3)))
    mean = torch.stack(outputs).mean(0)
    assert (plain(x) - mean).abs().max() > 1                    # so that the mean says something
    torch.testing.assert_close(model.predict(x), mean, **ROUNDING)
    torch.testing.assert_close(model.predict(x, ensemble=True), mean, **ROUNDING)


def test_mixed_precision(model):
    """bfloat16 keeps 8 bits: half a per cent of a correction of at most 255, through some ten layers."""
    x = images(2, 3, 8, 8)
    assert not model.mixed_precision
    exact = model.predict(x)
    model.mixed_precision = True
    assert model.to('cpu').mixed_precision, 'to() has undone it'
    output = model.predict(x)
    assert output.dtype is torch.float32 and 0 < (output - exact).abs().max() < 3
    assert steps_of(model, *pairs(4), 1)[0].loss.dtype is torch.float32
    assert all(weight.dtype is torch.float32 and weight.isfinite().all() for weight in parameters(model))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda(project):
    model, x = project.Model(), images(2, 3, 9, 8)
    assert torch.device(model.device).type == 'cuda'
    output = model.predict(x.cuda())
    assert output.is_cuda and not model.predict(x).is_cuda
    torch.testing.assert_close(output.cpu(), model.to('cpu').predict(x), rtol=0, atol=1)    # TF32 has 10 bits
    model.to('cuda').train(x, x.flip(0).cuda(), 1, verbose=False)
    states = []
    model.train(x.cuda(), x.flip(0), 1, verbose=False, callback=lambda progress: states.append(progress.state()))
    project.Model().train(x, x.flip(0), 1, verbose=False, resume=states[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('mixed', [False, True])
def test_a_recorded_step_gives_what_an_unrecorded_one_gives(project, mixed):
    """Also after a smaller batch, with other weights, and after a prediction that needs more memory."""
    model, recorded = project.Model(), project.Model()
    model.mixed_precision = recorded.mixed_precision = mixed
    graphs.accelerate(recorded)
    for i, N in enumerate((6, 6, 4, 6, 4)):
        torch.manual_seed(i)
        model.set_weights(project.Model().weights())
        recorded.set_weights(model.weights())
        recorded.predict(255 * torch.rand(40, 3, 20 + 4 * i, 24))
        noisy, target = torch.rand(2, N, 3, 8, 12, device='cuda')
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        (loss, gradients), (expected, witness) = (m.differentiate(noisy, target) for m in (recorded, model))
        for ours, theirs in zip((loss, *gradients), (expected, *witness)):          # TF32 has 10 bits, bfloat16 8
            torch.testing.assert_close(ours, theirs, rtol=0, atol=(5e-2 if mixed else 1e-2) * theirs.abs().max())


# --------------------------------------------------------------------------------------- training

@pytest.mark.parametrize('N, sizes', [(1, [1]), (3, [3]), (4, [4]), (6, [4, 2]), (32, 8 * [4])])
def test_train_takes_any_number_of_pairs(model, monkeypatch, N, sizes):
    """In batches of 4; each pair takes part once per epoch, input beside target, in an order of the epoch's own."""
    first, drawn, step = torch.arange(N).byte().view(N, 1, 1, 1).expand(N, 3, 8, 8), [], model.step
    second = first + 100                                        # flat images, each of its own value
    monkeypatch.setattr(model, 'step', lambda *batch: drawn.append(
        [x[:, 0, 0, 0].tolist() for x in batch[:2]]) or step(*batch))
    model.train(first, second, 2, verbose=False)
    assert [len(inputs) for inputs, _ in drawn] == 2 * sizes
    orders = [sum((inputs for inputs, _ in epoch), []) for epoch in (drawn[:len(sizes)], drawn[len(sizes):])]
    assert [sorted(order) for order in orders] == 2 * [list(range(N))]
    assert N < 32 or orders[0] != orders[1] and list(range(N)) not in orders
    assert all([i + 100 for i in inputs] == targets for inputs, targets in drawn)


def trained(project, first, second, seed=3, num_epochs=1, **options) -> list:
    """The weights' bits after a training."""
    model = new_model(project)
    torch.manual_seed(seed)
    model.train(first, second, num_epochs, verbose=False, **options)
    return bits(model)


def test_two_threads_change_nothing_but_rounding(project):
    """Adam, project 1's, makes a step of the same size of a gradient that is nothing but rounding: each weight tensor
    is compared as a whole, by how far the training moved it."""
    first, second = pairs(4, 16, 16)
    start, one = new_model(project), new_model(project)
    torch.manual_seed(3)
    one.train(first, second, 2, verbose=False)
    torch.set_num_threads(2)
    two = new_model(project)
    torch.manual_seed(3)
    two.train(first, second, 2, verbose=False)
    for old, a, b in zip(*map(parameters, (start, one, two))):
        assert float((a - b).detach().norm()) < 1e-3 * float((a - old).detach().norm())
    torch.testing.assert_close(two.predict(first), one.predict(first), rtol=0, atol=0.1)


def test_train_learns_from_noisy_pairs(project):
    """Flat images in noise: on images that were not trained on, three quarters of the noise's energy go, at least.
    The loss falls towards the noise of the targets, which nothing can predict. Autograd is off, as a grader has it."""
    generator = torch.Generator().manual_seed(0)
    clean = (torch.rand(96, 3, 1, 1, generator=generator) * 160 + 48).expand(96, 3, 8, 8)
    first, second = (clean + 40 * torch.randn(2, 96, 3, 8, 8, generator=generator)).clamp(0, 255)
    model = new_model(project)
    with torch.set_grad_enabled(False):
        losses = [float(step.loss) for step in steps_of(model, first[:64], second[:64], 6, batch_size=8)]
        output = model.predict(first[64:])
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
    noise, error = ((x - clean[64:]).pow(2).mean() for x in (first[64:], output))
    assert error < noise / 4


def test_the_loss_is_the_mean_squared_error(project, monkeypatch):
    """Of images in 0..1; those of 14 rows as padded with the last one to 16."""
    monkeypatch.setattr(project, 'swap_noise', lambda first, second, whole: (first, second))
    monkeypatch.setattr(project, 'turn', lambda first, second: (first, second))
    model, (first, second) = new_model(project), pairs(2, 14, 8)
    noisy, target = (F.pad(x.double() / 255, (0, 0, 0, 2), mode='replicate') for x in (first, second))
    with torch.no_grad():
        output = model.net(noisy.float() - (0.5 if project is PROJECTS[2] else 0)).double()
        (step,) = steps_of(model, first, second, 1)
    assert float(step.loss) == pytest.approx(float((output - target).square().mean()), rel=1e-5)


@pytest.mark.parametrize('in_target', [False, True])
def test_a_value_that_is_not_finite_ends_the_training(project, in_target):
    """It appears after the third step; the weights are those of the third one."""
    model, tensors, after = new_model(project), [x.float() for x in pairs(6)], []

    def callback(progress) -> None:
        after.append(bits(model))
        if progress.step == 3:
            tensors[in_target][:] = math.inf

    with pytest.raises(FloatingPointError, match='^epoch 2, step 4 of 6: .* not finite'):
        model.train(*tensors, 3, verbose=False, callback=callback)
    assert len(after) == 3 and same(bits(model), after[2])


def test_callback_and_rates(model, monkeypatch):
    """20 steps: 5 an epoch, 4 epochs. The rates that the optimizer has are those of torch's OneCycleLR, whose last
    point is at the end of the last step here: in the first tenth up from peak / 20, then down to peak / 1000."""
    used, step = [], model.step

    def spy(first, second, optimizer, *rest):
        used.extend(group['lr'] for group in getattr(optimizer, 'param_groups', [vars(optimizer)]))
        return step(first, second, optimizer, *rest)

    monkeypatch.setattr(model, 'step', spy)
    steps = steps_of(model, *pairs(18, 4, 4), 4)
    assert [(p.epoch, p.num_epochs, p.step, p.num_steps) for p in steps] == [
        (1 + k // 5, 4, k + 1, 20) for k in range(20)]
    assert all(p.loss.shape == () and p.loss.isfinite() and not p.loss.requires_grad for p in steps)
    assert len({float(p.loss) for p in steps}) == 20, 'a loss that is overwritten later'

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, model.PEAK_LR, total_steps=21, pct_start=3 / 21,
                                                   div_factor=20, final_div_factor=1000 / 20)
    expected = []
    for _ in steps:
        expected += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    rates = [p.lr for p in steps]
    assert rates == used and rates == pytest.approx(expected, rel=1e-9)


def test_verbose(model, capsys, monkeypatch):
    first, second = pairs(5, 4, 4)
    model.train(first, second, 2, verbose=False)
    model.predict(first)
    assert capsys.readouterr() == ('', '')

    losses = []
    model.train(first, second, 12, callback=lambda progress: losses.append(float(progress.loss)))
    out, err = capsys.readouterr()
    swapped, *lines = out.splitlines()
    assert err == '' and '\r' not in out and len(lines) == 12 and swapped.endswith('pixels are swapped')
    for i, line in enumerate(lines):
        mean = (4 * losses[2 * i] + losses[2 * i + 1]) / 5      # batches of 4 and 1
        assert re.fullmatch(rf'epoch +{i + 1}/12 +100% +loss {mean:.5f} +learning rate [\d.e+-]+ +\d+ pairs/s +'
                            r'left [\d:]+', line) and line.index('loss') == lines[0].index('loss')

    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)     # a live line, overwritten
    model.train(first, second, 2)
    out, err = capsys.readouterr()
    assert out.count('\n') == 3 and out.count('\r') > 2 and out.split('\n')[1].startswith('\r') and err == ''


def test_num_epochs_is_optional(project):
    noisy, other, epochs = list(inspect.signature(project.Model.train).parameters.values())[1:4]
    assert [noisy.name, other.name, epochs.name] == ['train_input', 'train_target', 'num_epochs']
    assert epochs.default == project.Model.NUM_EPOCHS and epochs.kind is epochs.POSITIONAL_OR_KEYWORD


def peak_rate(model, **options) -> float:
    """Of a training of 10 steps, one of which meets it."""
    return max(step.lr for step in steps_of(model, *pairs(10, 4, 4), 1, batch_size=1, **options))


def test_trained_weights_are_trained_on_gently(project, model, tmp_path, monkeypatch):
    full, lower = model.PEAK_LR, model.PEAK_LR * model.FINE_TUNING
    assert lower < full / 10
    model.save(tmp_path / 'untrained.pth')
    monkeypatch.setattr(project, 'CHECKPOINT', tmp_path / 'untrained.pth')
    with monkeypatch.context() as patch, pytest.raises(OSError):    # before its first step has trained anything
        patch.setattr(model, 'step', broken)
        model.train(*pairs(2), verbose=False)
    assert peak_rate(model) == pytest.approx(full)
    assert peak_rate(model) == pytest.approx(lower), 'after a training'
    assert peak_rate(model, peak_lr=1e-4) == pytest.approx(1e-4), 'as asked for'
    stopped, loaded, shipped = new_model(project), new_model(project), new_model(project)
    with pytest.raises(OSError):
        stopped.train(*pairs(2), verbose=False, callback=broken)
    loaded.load(tmp_path / 'untrained.pth')
    shipped.load_pretrained_model()
    assert [peak_rate(one) for one in (stopped, loaded, shipped)] == pytest.approx(3 * [lower])


# -------------------------------------------------------------------------------- stop and resume

@pytest.mark.parametrize('stop', [1, 3, 4, 6])
def test_resumed_training_is_the_uninterrupted_one(project, stop, capsys):
    """In mid-epoch, at the end of an epoch, or after the last step; from the state itself, which neither the training
    that goes on nor one from there changes, and from a file."""
    saved, steps = [], []

    def callback(progress) -> None:
        steps.append(progress)
        if progress.step == stop:
            saved.extend([progress.state(), torch.get_rng_state()])
        model.predict(images(1, 3, 8, 8))                       # nor does a look at the model change anything

    uninterrupted, model = trained(project, *pairs(6), num_epochs=3), new_model(project)
    torch.manual_seed(3)                                        # 2 steps an epoch
    model.train(*pairs(6), 3, verbose=False, callback=callback)
    assert same(bits(model), uninterrupted)
    for state, random_state in (saved, saved, reread(saved)):
        model, rest = new_model(project, seed=5), []            # with other weights at first
        torch.set_rng_state(random_state)
        model.train(*pairs(6), 3, resume=state, callback=rest.append)
        assert same(bits(model), uninterrupted)
        assert [(p.epoch, p.step, p.num_steps, p.lr) for p in rest] == [
            (p.epoch, p.step, 6, p.lr) for p in steps[stop:]]
        epochs = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
        assert epochs == ['1/3', '2/3', '3/3'][stop // 2:]


@pytest.fixture
def state(project) -> dict:
    """After 3 of 6 steps: 3 epochs of 6 pairs, in batches of 4."""
    states = []
    trained(project, *pairs(6), num_epochs=3, callback=lambda progress: states.append(progress.state()))
    return states[2]


def test_what_is_no_state_of_this_training_is_refused(untouched, state):
    """Before anything has changed, also where only the last part of it is wrong."""
    weights = {**state['weights'], list(state['weights'])[-1]: torch.zeros(2)}
    moved = [key for key in ('velocity', 'moments') if key in state][0]
    bad = [{}, [1], 'state', *({k: v for k, v in state.items() if k != key} for key in state),
           *({**state, key: None} for key in state), {**state, 'weights': weights}, {**state, 'more': 1},
           {**state, moved: state['weights']}, {**state, moved: [] if moved == 'velocity' else {}},
           *({**state, 'start': start} for start in (1.5, -1, 4)), {**state, 'order': state['order'] * 0},
           {**state, 'step': 7}, {**state, 'peak': math.nan}]
    before = torch.get_rng_state()
    for wrong in bad:
        with pytest.raises(ValueError, match='^resume: '):
            untouched.train(*pairs(6), 3, resume=wrong, verbose=False)
    for N, num_epochs, batch_size in (5, 3, 4), (10, 3, 4), (6, 2, 4), (6, 4, 4), (6, 3, 5):
        with pytest.raises(ValueError, match='^resume: .*(this one has|expected) '):
            untouched.train(*pairs(N), num_epochs, batch_size=batch_size, resume=state, verbose=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_lengthening_begins_another_cycle(project, state):
    """From the step that `start` names."""
    steps = steps_of(new_model(project), *pairs(6), 5, resume={**state, 'start': 3, 'num_steps': 10})
    assert [step.lr for step in steps] == [project.one_cycle(i / 7, project.Model.PEAK_LR) for i in range(7)]


# --------------------------------------------------------------------------- swapping and turning

@pytest.mark.parametrize('whole', [None, torch.arange(480) % 2 == 1], ids=['pixels', 'half of them whole'])
def test_swap_noise(project, whole):
    """Each pixel, all its colours, is the same pixel of one of the two versions, and that of the other the other."""
    torch.manual_seed(0)
    first, second = torch.rand(2, 480, 3, 4, 6)
    noisy, other = project.swap_noise(first, second, whole)
    swapped = (noisy == second).all(1)                          # (N, 4, 6)
    assert torch.equal(noisy, torch.where(swapped[:, None], second, first))
    assert torch.equal(other, torch.where(swapped[:, None], first, second))
    if whole is not None:                                       # bounds of 5 standard deviations
        share = swapped[whole].float().mean((1, 2))
        assert set(share.tolist()) == {0, 1} and 81 < share.sum() < 159
        swapped = swapped[~whole]
    share = swapped.float().mean((1, 2))
    assert abs(share.mean() - 0.5) < 4 * 0.5 / swapped.numel() ** 0.5
    assert ((share > 0) & (share < 1)).all() and len(share.unique()) > 5, 'pairs swapped as a whole'
    assert len(swapped.float().mean(0).unique()) > 5, 'places swapped in all pairs'


def noisy_pairs(r, N=1, size=32, seed=0, strength=20) -> tuple:
    """Flat images with noise that correlates by about r between neighbours: a square filter over three pixels."""
    a = (1 - (1 - 4 * r * r) ** 0.5) / (2 * r) if r else 0         # then a / (1 + a^2) = r
    noise = torch.randn(2, N, 3, size + 1, size + 1, generator=torch.Generator().manual_seed(seed))
    noise = noise[..., 1:] + a * noise[..., :-1]
    noise = (noise[..., 1:, :] + a * noise[..., :-1, :]) / (1 + a * a)
    return tuple((120 + strength * noise).clamp(0, 255).round().byte())


def joined(*sets) -> tuple:
    return tuple(map(torch.cat, zip(*sets)))


SAME = (images(1, 3, 32, 32),) * 2
FLAT = torch.full((1, 3, 32, 32), 9.), torch.full((1, 3, 32, 32), 12.)
SWAPS = {   # pairs -> which are swapped as whole images, and the words that say so
    'one': (noisy_pairs(0.45), [1], '0.4. in 1 of 1 pairs: there whole images are swapped'),
    'weak': (noisy_pairs(0.05), [0], '0.0.: pixels are swapped'),
    'sharpened': (noisy_pairs(-0.3), [1], '-0.[23]. in 1 of 1 pairs: there whole images'),
    'faint': (noisy_pairs(0.45, strength=2), [1], 'whole'),
    'the same': (SAME, [0], ': pixels'), 'flat': (FLAT, [0], ': pixels'),
    'brighter': ([SAME[0].float(), SAME[0] + 9.1], [0], ': pixels'),
    'mixed': (joined(noisy_pairs(0, 9), noisy_pairs(0.45), SAME, noisy_pairs(0.05)), 9 * [0] + [1, 0, 0],
              '0.4. in 1 of 12 pairs: there whole images are swapped'),
    '8 x 8': (noisy_pairs(0.45, 40, 8), None, 'whole images are swapped'),      # most of them
    'one of 8 x 8': (noisy_pairs(0.45, 1, 8, seed=1), [1], 'whole images'),
    'one pixel': (pairs(1, 1, 1), [0], ': pixels'), '512 x 512': (noisy_pairs(0.3, 1, 512), [1], 'whole images'),
}


@pytest.mark.parametrize('name', SWAPS)
def test_choose_swap(project, name):
    given, expected, words = SWAPS[name]
    whole, line = project.choose_swap(*given)
    assert re.search(words, line) and whole.dtype is torch.bool
    assert whole.tolist() == expected if expected else whole.float().mean() > 0.9


@pytest.mark.parametrize('size, N', [(8, 4000), (32, 1500)])
@pytest.mark.parametrize('kind', ['bytes', 'edges'])
def test_independent_noise_is_never_taken_for_correlated(project, size, N, kind):
    """Also where it is strong in few pixels alone; together with images that have none, in sets of any size."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, N, 3, size, size, generator=generator) * 20 + 120).clamp(0, 255)
    if kind == 'edges':
        keeps = torch.rand(N, 1, size, size, generator=generator) < torch.rand(N, 1, 1, 1, generator=generator)
        first = second.where(keeps, first)
    for n in (1, 2, 3, 10, N):
        for i in range(0, min(N, 200), n):
            assert not project.choose_swap(first[i:i + n], second[i:i + n])[0].any()


def test_what_is_swapped_in_a_training(project, monkeypatch, capsys):
    """'auto' measures and says so."""
    whole, swap_noise = [], project.swap_noise
    monkeypatch.setattr(project, 'swap_noise', lambda *batch: whole.append(batch[2]) or swap_noise(*batch))
    plain, correlated = noisy_pairs(0, 8), noisy_pairs(0.45, 8)
    both = joined(plain, correlated)
    for given, swap, share in ((plain, 'auto', 0), (correlated, 'auto', 1), (both, 'auto', 0.5), (both, 'pixels', 0),
                               (both, 'images', 1)):
        whole.clear()
        new_model(project).train(*given, 1, swap=swap)
        assert torch.cat(whole).float().mean() == share
        says = re.match('the noise of neighbouring pixels correlates by (0.4)?', capsys.readouterr().out)
        assert bool(says) == (swap == 'auto') and (not says or bool(says[1]) == (share > 0))


@pytest.mark.parametrize('H, W', [(4, 4), (4, 6)])
def test_turn(project, H, W):
    """A search over the symmetries, 8 of a square and 4 of a rectangle, finds the one that each pair went through."""
    N, kinds = 480, 8 if H == W else 4
    torch.manual_seed(0)
    first, second = torch.rand(2, N, 3, H, W)
    noisy, other = project.turn(first, second)
    seen = []
    for k, mirrored in itertools.product(range(0, 4, 8 // kinds), (False, True)):
        a, b = ((x.flip(3) if mirrored else x).rot90(k, (2, 3)) for x in (first, second))
        seen.append(int(((noisy == a) & (other == b)).flatten(1).all(1).sum()))
    assert sum(seen) == N, 'a pair that no symmetry explains'
    # Binomial counts: the bound is 4 standard deviations away, or more.
    assert len(seen) == kinds and all(abs(count - N / kinds) < 4.5 * (N / kinds) ** 0.5 for count in seen), seen


# --------------------------------------------------------------------------------- save and load

def test_round_trip_keeps_every_bit(project, model, tmp_path, monkeypatch):
    """Into the tensors that are there; also after another save to the same file has failed."""
    special = [0.0, -0.0, 1e-45, -1e-45, 1.17e-38, 3.4028235e38, -3.4028235e38, 1 / 3]
    with torch.no_grad():
        for weight in parameters(model):
            weight.normal_()
        parameters(model)[0][:len(special), 0, 0, 0] = torch.tensor(special)
    expected, path = bits(model), tmp_path / 'model.pth'
    assert expected[0][1:3, 0, 0, 0].tolist() == [-2 ** 31, 1], 'the special values are not there'
    model.save(path)
    assert path.stat().st_size < 10e6 and same(bits(model), expected)
    other = new_model(project, seed=5)
    own = parameters(other)
    monkeypatch.setattr(os, 'replace', broken)
    with pytest.raises(OSError, match='full'):
        other.save(path)
    other.load(str(path))
    assert same(bits(other), expected)
    assert all(a is b for a, b in zip(own, parameters(other))), 'other tensors than before'
    assert [entry.name for entry in tmp_path.iterdir()] == ['model.pth']


@pytest.mark.parametrize('write', ['save', 'storage.write'])
def test_save_removes_what_a_kill_left_a_while_ago(model, tmp_path, write):
    """And nothing else: not what another process is writing."""
    write = model.save if write == 'save' else lambda path: storage.write(path, b'all')
    old = ('model.pth.123.tmp', 'model.pth.tmp', 'model.pth.mine.tmp', 'model2.pth.5.tmp', 'm[o]del.pth.7.tmp')
    for name in (*old, 'model.pth.8.tmp'):
        (tmp_path / name).write_text('half')
        os.utime(tmp_path / name, (time.time() - 90 * (name in old),) * 2)
    write(tmp_path / 'model.pth')
    assert {path.name for path in tmp_path.iterdir()} == {*old[1:], 'model.pth', 'model.pth.8.tmp'}
    write(tmp_path / 'm[o]del.pth')
    assert not (tmp_path / 'm[o]del.pth.7.tmp').exists()


def test_weights_that_do_not_fit_are_named(model):
    weights, before = model.weights(), bits(model)
    name, weight = list(weights.items())[-1]
    for key, wrong, words in ((name, weight[:1], r'torch.float32 \(1,\), expected torch.float32 \(3,\)'),
                              (name, weight.double(), r'torch.float64 \(3,\), expected torch.float32 \(3,\)'),
                              (name, 3, '(int|3), expected'), (name, weight * math.nan, 'NaN'),
                              (name, None, 'None(Type)?, expected torch'), ('extra', weight, 'expected None')):
        with pytest.raises(ValueError, match=f"^weights: '{key}' .*{words}"):
            model.set_weights({name: value for name, value in {**weights, key: wrong}.items() if value is not None})
    assert same(bits(model), before)
    for value in weights.values():
        value.zero_()
    assert same(bits(model), before), 'not a copy'
    model.set_weights(weights)
    assert not any(weight.any() for weight in parameters(model))


def test_missing_files_raise_their_own_error(project, untouched, tmp_path, monkeypatch):
    monkeypatch.setattr(project, 'CHECKPOINT', tmp_path / 'missing.pth')
    for call in (untouched.load_pretrained_model, lambda: untouched.load(tmp_path / 'missing.pth'),
                 lambda: untouched.save(tmp_path / 'missing' / 'model.pth')):
        with pytest.raises(FileNotFoundError, match='missing'):
            call()


def test_a_copy_of_a_model_shares_nothing(project):
    model, x = project.Model(), images(2, 3, 8, 8)
    before = model.predict(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.predict(x), before)
        twin.train(x, x.flip(0), 1, verbose=False)
        assert torch.equal(model.predict(x), before) and not torch.equal(twin.predict(x), before)


# -------------------------------------------------------------------------------------- bad input

GOOD = images(2, 3, 8, 8)
BAD_IMAGES = {      # the error, and what it says
    'rank 3': (GOOD[0], ValueError, r' .*\(3, 8, 8\).* single image'), 'rank 0': (torch.tensor(1.0), ValueError),
    'channels last': (GOOD.permute(0, 2, 3, 1), ValueError), 'no columns': (GOOD[..., :0], ValueError),
    'NaN': (GOOD.float().index_fill(3, torch.tensor(5), math.nan), ValueError),
    'beyond 255': (GOOD.long() + 256, ValueError), 'negative': (GOOD.int() - 256, ValueError),
    'beyond float32': (GOOD.double() * 1e300, ValueError), '16 bits': (GOOD.float() * 257, ValueError, ' .*65'),
    'far below': (GOOD.float() - 600, ValueError, ' .*from -6'), 'sparse': (GOOD.float().to_sparse(), ValueError),
    'without values': (GOOD.to('meta'), ValueError), 'bool': (GOOD.bool(), ValueError),
    'complex': (GOOD.to(torch.complex64), ValueError), 'array': (GOOD.numpy(), TypeError),
}


@pytest.mark.parametrize('name', BAD_IMAGES)
def test_bad_images(untouched, name):
    bad, error, *words = BAD_IMAGES[name]
    for call, argument in ((lambda: untouched.predict(bad), 'test_input'),
                           (lambda: untouched.train(bad, GOOD, 1), 'train_input'),
                           (lambda: untouched.train(GOOD, bad, 1), 'train_target')):
        with pytest.raises(error, match=f'^{argument}{"".join(words)}'):
            call()


@pytest.mark.parametrize('first, second, shapes', [
    (GOOD, GOOD[:1], r'\(2, .* and \(1, '), (GOOD, images(2, 3, 8, 4), r'8\) and .* 4\)'),
    (GOOD[:0], GOOD[:0], r'\(0, .* and \(0, ')])
def test_bad_pairs(untouched, first, second, shapes):
    with pytest.raises(ValueError, match=f'^train_input and train_target must have one shape, N at least 1.*{shapes}'):
        untouched.train(first, second, 1)


@pytest.mark.parametrize('name, values', [
    ('num_epochs', [0, -1, 1.0, 1.5, '3', None, math.nan, np.int64(0), np.float32(1)]), ('batch_size', [0, 1.5, None]),
    ('peak_lr', [0, -1.0, math.nan, math.inf, '1', np.float32(-1)]), ('swap', ['pixel', None, True])])
def test_bad_options(untouched, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f'^{name}.*{re.escape(repr(value))}'):
            untouched.train(*pairs(2), **{'num_epochs': 1, name: value})


def test_numbers_of_numpy(project):
    """Its integers and floating point are as Python's, also in a state that is written and read."""
    weights = trained(project, *pairs(6), num_epochs=np.int32(2), batch_size=np.uint8(4), peak_lr=np.float32(2 ** -10),
                      callback=lambda progress: reread(progress.state()))
    assert same(weights, trained(project, *pairs(6), num_epochs=2, batch_size=4, peak_lr=2 ** -10))


def test_values_that_look_wrong_get_a_warning(model, recwarn):
    """In 0..1, or outside 0..255 by more than rounding, which noise may have done."""
    good = GOOD.float()
    for x in (good, GOOD // 255, good - 0.9, good + 0.9, torch.zeros(1, 3, 8, 8), torch.empty(0, 3, 8, 8)):
        model.predict(x)
    model.train(good, good.flip(0), 1, verbose=False)
    assert not recwarn.list
    for x in (good / 255, good - 20, good + 200, good / 128 - 1):
        for name, call in (('test_input', lambda x=x: model.predict(x)),
                           ('train_input', lambda x=x: model.train(x, good, 1, verbose=False)),
                           ('train_target', lambda x=x: model.train(good, x, 1, verbose=False))):
            with pytest.warns(UserWarning, match=f'^{name} is expected in 0..255, its values are from') as warned:
                call()
            assert len(warned) == 1 and warned[0].filename == __file__


def test_equal_versions_get_a_warning(model, recwarn):
    first, second = pairs(3)
    model.train(first, torch.cat([first[:2], second[:1]]), 1, verbose=False)    # some may be
    assert not recwarn.list
    for target in (first, first.clone(), first.float()):
        with pytest.warns(UserWarning, match='^train_target equals train_input'):
            model.train(first, target, 1, verbose=False)


# ------------------------------------------------------------------------------- circumstances

@pytest.mark.parametrize('how', ['without flush and isatty', 'none', 'broken'])
def test_any_stdout(model, monkeypatch, how):
    """What experiment trackers put in its place, none, or one that fails: a training goes on."""
    texts = []
    monkeypatch.setattr(sys, 'stdout', None if how == 'none' else SimpleNamespace(write=broken, isatty=broken)
                        if how == 'broken' else SimpleNamespace(write=texts.append))
    model.train(*pairs(6), 2)
    if how.startswith('without'):
        assert ''.join(texts).count('\n') == 3 and '\r' not in ''.join(texts)


def test_a_move_that_fails_changes_nothing(untouched):
    before, device = untouched.predict(GOOD), untouched.device
    with pytest.raises((RuntimeError, AssertionError)):
        untouched.to('cuda:99')
    assert untouched.device == device and torch.equal(untouched.predict(GOOD), before)


@pytest.mark.skipif(sys.platform == 'win32', reason='links need permission')
def test_save_follows_a_link(model, tmp_path):
    there, link = tmp_path / 'there' / 'model.pth', tmp_path / 'link.pth'
    there.parent.mkdir()
    link.symlink_to(there)
    for _ in range(2):                                          # first the file is not there
        model.save(link)
        assert link.is_symlink()
        model.load(there)
    assert len(list(tmp_path.rglob('*'))) == 3
