"""The studies: the search for a network, against torch, the speedrun, kinds of noise, exactness."""
import copy
import math
import types

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from Miniproject_1 import model as project_1
from Miniproject_2 import model as framework
from others import data
from others.common import datasets, denoisers, records
from others.common.metrics import psnr
from others.common.noise import gaussian_blur
from others.studies import compare_torch, deepen, defaults, exactness, noises, residual, search, speedrun, variants
from others.tests.conftest import ROUNDING, images, noisy_set, parameters, refused, save_photos


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    """The folder of a small set."""
    return noisy_set(tmp_path_factory.mktemp('data'), 48, 32, val=10)


# ------------------------------------------------------------------------------------------- search

@pytest.mark.parametrize('block', variants.BLOCKS)
def test_every_block_keeps_the_shape_and_begins_near_the_identity(block):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 10)
    y = variants.BLOCKS[block](8)(x)
    assert y.shape == x.shape
    assert torch.equal(y, x) if block == 'gated' else 0 < (y - x).norm() < 0.5 * x.norm()


def test_search_appends_to_a_record(pairs, tmp_path, threads, capsys):
    record = tmp_path / 'record.json'
    arguments = ['--batch', '4', '--data', str(pairs), '--also', str(pairs / data.TRAIN_FILE), '--record', str(record)]
    search.main(['tiny', '--project', '1', '--widths', '8', '16', '--blocks', '0', '--block', 'batchnorm',
                 '--epochs', '0.6', '--schedule', 'held', *arguments])
    search.main(['small', '--project', '2', '--channels', '4', '6', '--seed', '3', '--precision', 'float32',
                 '--seconds', '2', *arguments])
    (tiny,), (small,) = (run['rows'] for run in records.read(record))
    assert (tiny['name'], tiny['widths'], tiny['block'], tiny['seed']) == ('tiny', [8, 16], 'batchnorm', 0)
    assert (small['name'], small['channels'], small['precision'], small['seed']) == ('small', [4, 6], 'float32', 3)
    assert (tiny['pairs_seen'], tiny['seconds'], small['epochs']) == (32, None, None)       # 0.6 of 48, in batches
    for row, line in zip((tiny, small), capsys.readouterr().out.splitlines()):
        assert row['psnr'].keys() == {'val_data', 'train_data'} and not row['oracle']
        assert row['pairs_seen'] % 4 == 0 and len(row['loss_curve']) == row['pairs_seen'] // 400
        assert line.startswith(f'{row["name"]}: ') and f'{row["psnr"]["val_data"]:.3f} dB' in line
    assert [search.held(share, 2) for share in (0, 0.05, 0.7, 0.85)] == pytest.approx([0.1, 2, 2, 1])


def test_the_oracle_trains_towards_the_clean_images_turned_alike(tmp_path, threads, monkeypatch):
    for i in range(4):
        pixels = images(10, 13, 3, seed=i).repeat_interleave(7, 0).repeat_interleave(7, 1)
        Image.fromarray(pixels.numpy()).save(tmp_path / f'{i}.png')
    same, other = tmp_path / 'same', tmp_path / 'other'
    for folder, seed in (same, data.SPLIT_SEED), (other, data.SPLIT_SEED + 1):
        data.make_from_photos(tmp_path, folder, 12, 3, seed)
    seen, fit = [], search.Variant1.fit
    monkeypatch.setattr(search.Variant1, 'fit', lambda self, *pair: seen.append(pair) or fit(self, *pair))
    arguments = ['x', '--project', '1', '--seconds', '1', '--widths', '8', '--blocks', '--batch', '4',
                 '--oracle', str(tmp_path), '--data']
    search.main([*arguments, str(same)])
    first, second = (images / 255 for images in datasets.read_pairs('--data', same / data.TRAIN_FILE))
    noise = (first - second).square().mean() / 2                # of one version, from the two
    noisy, clean, _ = zip(*seen)
    noisy, clean = torch.cat(noisy), torch.cat(clean)
    assert (noisy - clean).square().mean() == pytest.approx(float(noise), rel=0.2)
    assert (clean - clean.flip(-1)).square().mean() > 4 * noise > 0     # turned otherwise, they would be far off
    with refused('--oracle'):
        search.main([*arguments, str(other)])


@pytest.mark.parametrize('network, parameters', [('dncnn', 558_403), ('unet', 991_203)])
def test_networks_of_others(network, parameters):
    """As many parameters as the tables of their papers give; the input's size, and all of it takes part."""
    net = search.Variant1(search.parse(['x', '--project', '1', '--network', network])).net
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    x = torch.rand(2, 3, 32, 64, requires_grad=True)
    y = net(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(weight.grad.any() for weight in net.parameters() if weight.dim() > 1) and x.grad.ne(0).all()


def test_batch_norm_is_measured_by_what_it_saw_in_training():
    options = search.parse(['x', '--project', '1', '--widths', '8', '--blocks', '--block', 'batchnorm',
                            '--epochs', '1'])
    variant, some = search.Variant1(options), images(2, 64, 3, 8, 8)
    search.train(variant, options, some.unbind())
    alone = variant.predict(some[0, :1], ensemble=False)
    torch.testing.assert_close(alone, variant.predict(some[0], ensemble=False)[:1], **ROUNDING)


@pytest.mark.parametrize('upsampling, kernel, up_kernel',
                         [('transposed', 4, 4), ('transposed', 3, 3), ('nearest', 4, 3), ('nearest', 3, 3)])
def test_variants_of_project_2(upsampling, kernel, up_kernel):
    options = search.parse(['x', '--project', '2', '--channels', '4', '6', '--kernel', str(kernel),
                            '--upsampling', upsampling, '--epochs', '1'])
    variant = search.Variant2(options)
    assert variant.predict(torch.zeros(2, 3, 12, 20)).shape == (2, 3, 12, 20)
    size = (3 * 4 + 4 * 6) * kernel ** 2 + (6 * 4 + 4 * 3) * up_kernel ** 2 + 4 + 6 + 4 + 3
    assert sum(weight.numel() for weight in variant.parameters()) == size
    before = [weight.clone() for weight in variant.parameters()]
    search.train(variant, options, images(2, 40, 3, 8, 8).unbind())
    assert all(not torch.equal(new, old) for new, old in zip(variant.parameters(), before))


@pytest.mark.parametrize('project', (1, 2))
def test_steps_of_the_default_variant_are_those_of_the_mean_squared_error(project):
    """Of the project's own network; against Adam or SGD of torch, on the loss as it is written down here. Project 1's
    first gradient is too long, the second one is not: Adam's second step tells whether the first was shortened."""
    torch.manual_seed(0)
    module, kind = search.VARIANTS[project]
    variant = kind(search.parse(['x', '--project', str(project)]))
    assert sorted(weight.shape for weight in variant.parameters()) == sorted(
        weight.shape for weight in parameters(denoisers.new_model(project)))
    noisy, target = torch.rand(2, 2, 3, 8, 8)
    if project == 1:
        twin, shift, longest = copy.deepcopy(variant.net), 0, module.Model.LONGEST_GRADIENT
        optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, betas=module.Model.BETAS)
    else:
        twin, shift, longest = variants.torch_twin(variant.net), 0.5, math.inf      # its input is centred
        optimizer = torch.optim.SGD(twin.parameters(), lr=1e-3, momentum=module.Model.MOMENTUM, nesterov=True)
    lengths = []
    for is_far in (True, False):
        output = twin(noisy - shift)
        goal = target if is_far else output.detach() + 0.005
        expected = (output - goal).square().mean()
        optimizer.zero_grad()
        expected.backward()
        lengths.append(torch.nn.utils.clip_grad_norm_(twin.parameters(), longest))
        optimizer.step()
        assert variant.fit(noisy, goal, 1e-3) == pytest.approx(expected.item(), rel=1e-5)
    assert project == 2 or lengths[0] > longest > lengths[1]
    for weight, other in zip(variant.parameters(), twin.parameters()):
        torch.testing.assert_close(weight.detach(), other.detach(), rtol=1e-4, atol=1e-5)


def test_parts_of_the_recipe_that_are_left_out_or_replaced():
    """The first step of plain gradient descent on the mean absolute error, without clipping, is its whole gradient."""
    torch.manual_seed(0)
    variant = search.Variant1(search.parse(['x', '--project', '1', '--loss', 'absolute', '--optimizer', 'sgd',
                                            '--without', 'residual', 'skips', '--clip', '1e9']))
    net, (noisy, target) = variant.net, torch.rand(2, 2, 3, 8, 8)
    variant.optimizer.param_groups[0].update(momentum=0, nesterov=False)
    y = net.head(noisy - 0.5)
    for blocks, down in zip(net.encoder, net.down):
        y = down(blocks(y))
    y = net.bottom(y)
    for up, blocks in zip(net.up, net.decoder):
        y = blocks(up(y))
    loss = (0.5 + net.tail(y) - target).abs().mean()
    gradients = torch.autograd.grad(loss, variant.parameters())
    assert torch.stack([gradient.norm() for gradient in gradients]).norm() > search.project_1.Model.LONGEST_GRADIENT
    expected = [(weight - 0.3 * gradient).detach() for weight, gradient in zip(variant.parameters(), gradients)]
    assert variant.fit(noisy, target, 0.3) == pytest.approx(loss.item(), rel=1e-5)
    for weight, other in zip(variant.parameters(), expected):
        torch.testing.assert_close(weight.detach(), other, rtol=1e-4, atol=1e-5)


def test_joined_skips_begin_as_the_sum_and_learn():
    torch.manual_seed(0)
    net = search.Variant1(search.parse(['x', '--project', '1', '--without', 'addition'])).net
    x = torch.rand(2, 3, 16, 24)
    expected = project_1.SkipAutoencoder.forward(net, x)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    net(x).square().sum().backward()
    for layer in net.join:                          # both halves: what comes from below, and the skip
        assert all(half.any() for half in layer.weight.grad.chunk(2, 1))


def test_other_halving_and_other_weights_at_the_start():
    """The maximum of 2 x 2 pixels, then a 1 x 1 convolution; blocks whose two convolutions begin alike."""
    torch.manual_seed(0)
    net = search.Variant1(search.parse(['x', '--project', '1', '--without', 'halving', 'small'])).net
    x = torch.randn(2, 24, 6, 10)
    weight, bias = net.down[0][1].parameters()
    largest = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    expected = torch.einsum('nchw,dc->ndhw', largest, weight[:, :, 0, 0]) + bias.view(-1, 1, 1)
    torch.testing.assert_close(net.down[0](x), expected, rtol=1e-4, atol=1e-5)
    for block in net.bottom, net.encoder[0][7], net.decoder[0][1]:
        assert block.conv2.weight.std().item() == pytest.approx(block.conv1.weight.std().item(), rel=0.05)
        assert block.conv2.bias.any()
    assert net(torch.rand(2, 3, 16, 24)).shape == (2, 3, 16, 24)


def test_momentum_and_the_last_layer_of_project_2():
    """Classical momentum (torch's SGD) for Nesterov's; the last layer's weights of He's variance, 2 / 512."""
    torch.manual_seed(0)
    variant = search.Variant2(search.parse(['x', '--project', '2', '--momentum', '0.7', '--without', 'nesterov',
                                            'last']))
    assert variant.parameters()[6].std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    twin = variants.torch_twin(variant.net)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5, momentum=0.7)
    noisy, target = torch.rand(2, 2, 3, 8, 12)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(twin(noisy - 0.5), target).backward()
        optimizer.step()
        variant.fit(noisy, target, 0.5)
    for weight, other in zip(variant.parameters(), twin.parameters()):
        torch.testing.assert_close(weight.detach(), other.detach(), rtol=1e-4, atol=1e-5)


def test_parts_of_project_2_that_are_left_out():
    """Two steps are plain gradient descent of a twin that sees 0..1; torch.nn's weights are drawn between bounds."""
    torch.manual_seed(0)
    variant = search.Variant2(search.parse(['x', '--project', '2', '--without', 'initialisation', 'centring',
                                            '--momentum', '0']))
    weights = [weight.clone().requires_grad_() for weight in variant.parameters()]
    assert all(0.9 < weight.abs().max() * math.prod(weight.shape[1:]) ** 0.5 <= 1 for weight in weights[::2])
    noisy, target = torch.rand(2, 2, 3, 8, 12)
    for _ in range(2):
        y = noisy
        for i, layer in enumerate((F.conv2d, F.conv2d, F.conv_transpose2d, F.conv_transpose2d)):
            y = layer(y.relu(), *weights[2 * i:2 * i + 2], stride=2, padding=1)
        loss = F.mse_loss(y.sigmoid(), target)
        gradients = torch.autograd.grad(loss, weights)
        assert variant.fit(noisy, target, 9.0) == pytest.approx(loss.item(), rel=1e-5)
        weights = [(weight - 9 * gradient).detach().requires_grad_() for weight, gradient in zip(weights, gradients)]
    for weight, other in zip(variant.parameters(), weights):
        torch.testing.assert_close(weight.detach(), other.detach(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------ against torch

def test_the_two_trainings_end_alike(pairs, tmp_path, threads, capsys):
    """They share their batches and differ in rounding: some 1e-7 a step, where a wrong gradient would show at once."""
    record = tmp_path / 'record.json'
    compare_torch.main(['--data', str(pairs), '--epochs', '3', '--threads', '3', '--record', str(record)])
    (run,) = records.read(record)
    (ours, theirs), psnrs = run['rows'], [row['psnr']['val_data'] for row in run['rows']]
    assert (ours['framework'], theirs['framework'], run['machine']['threads']) == ('ours', 'torch.nn', 3)
    assert psnrs[0] == pytest.approx(psnrs[1], abs=1e-3) and f'{psnrs[1]:.3f}' in capsys.readouterr().out
    torch.manual_seed(0)
    noisy, clean = datasets.read_pairs('--data', pairs / data.VAL_FILE)
    untrained = psnr(compare_torch.project.Model().predict(noisy, ensemble=False), clean).mean()
    assert abs(psnrs[0] - untrained) > 0.1


def test_weights_come_back_from_the_twin():
    """What the comparison rests on, which would else compare a network with itself."""
    torch.manual_seed(0)
    ours, twin, x = variants.network_2((4, 6)), variants.torch_twin(variants.network_2((4, 6))), torch.rand(2, 3, 8, 8)
    variants.copy_weights(ours, twin, back=True)
    torch.testing.assert_close(ours.infer(x), twin(x), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------- defaults, speedrun

def test_the_defaults_are_measured_on_the_set(pairs, tmp_path, threads, monkeypatch):
    for project in project_1, framework:
        monkeypatch.setattr(project.Model.train, '__defaults__', (1, *project.Model.train.__defaults__[1:]))
    defaults.main(['--data', str(pairs), '--threads', '1', '--record', str(tmp_path / 'record.json')])
    rows = records.read(tmp_path / 'record.json')[0]['rows']
    assert [(row['project'], row['pairs']) for row in rows] == [(1, 48), (2, 48)]
    assert all(row['seconds'] > 0 and 0 < row['pooled'] <= row['psnr'] + 1e-9 for row in rows)


def test_the_speedrun_takes_the_mean_of_the_last_three_epochs_as_its_goal(pairs, tmp_path, threads, monkeypatch):
    """Epochs have 3 steps; a training of the baseline may never end there. Ours trains ever longer until it does."""
    figures = iter([2., 3., 4., 26., 3., 27.])
    monkeypatch.setattr(speedrun, 'STEPS', 3)
    monkeypatch.setattr(denoisers, 'measure', lambda *_: {'val_data': next(figures)})
    system = {'system': 'skip', 'pairs': 17, 'batch': 8}
    trained = [{**system, 'seed': 0, 'by_epoch': [1., 1., 28., 20., 30., 40.]},
               {**system, 'seed': 1, 'by_epoch': [5., 8., 9., 19.]}, {'system': 'vjp', 'seed': 0, 'by_epoch': [90.]}]
    records.append(tmp_path / 'seeds.json', trained, 1)
    arguments = ['--data', str(pairs), '--threads', '1', '--record', str(tmp_path / 'record.json')]
    speedrun.main([*arguments, '--baseline', str(tmp_path / 'seeds.json'), '--seeds', '3', '1'])
    rows = records.read(tmp_path / 'record.json')[0]['rows']
    assert [(row['system'], row['seed'], row['epochs'], row['psnr']) for row in rows] == [
        ('project 1', 3, 0.1, 2), ('project 1', 3, 0.15, 3), ('project 1', 3, 0.2, 4), ('project 1', 3, 0.3, 26),
        ('project 1', 1, 0.1, 3), ('project 1', 1, 0.15, 27), ('Mery', 0, 3, 28), ('Mery', 1, None, None)]
    assert rows[6]['goal'] == 21 and rows[6]['seconds'] == pytest.approx(9 * rows[6]['step'])
    assert all(row['seconds'] > 0 for row in rows[:7]) and rows[7]['seconds'] is None
    records.append(tmp_path / 'empty.json', trained[2:], 1)
    with refused("--baseline: .*empty.json has no training of the system 'skip'"):
        speedrun.main([*arguments, '--baseline', str(tmp_path / 'empty.json')])


# ------------------------------------------------------------------------------------------- noises

def test_noises_as_a_command(pairs, tmp_path, threads, monkeypatch):
    """Of models that add 1, and with the weights that are given 2."""
    monkeypatch.setattr(denoisers, 'trained_model', lambda project, weights: types.SimpleNamespace(
        predict=lambda x: x + (2. if weights == tmp_path / 'weights' else 1.)))
    save_photos(tmp_path, 2, 70, 140)
    noises.main(['--photos', str(tmp_path), '--data', str(pairs), '--images', '3', '--weights-2',
                 str(tmp_path / 'weights'), '--record', str(tmp_path / 'record.json')])
    rows = records.read(tmp_path / 'record.json')[-1]['rows']
    assert [row['noise'] for row in rows][::len(rows) - 1] == ['no noise', 'impulses, 10 %']
    assert rows[0]['noisy input'] == pytest.approx(89.03, abs=0.01)
    assert rows[0]['project 1'] == rows[0]['project 2'] == pytest.approx(48.13, abs=0.01)       # an error of 1
    assert rows[0]['project 2, given'] == pytest.approx(42.11, abs=0.01)                        # of 2


def test_block_noise_is_of_the_photographs():
    photos = [torch.full((3, 64, 70), 10, dtype=torch.uint8), torch.full((3, 90, 64), 200, dtype=torch.uint8)]
    noisy, clean = noises.block_noise(photos, 2, 3, torch.Generator().manual_seed(0))
    assert clean.shape == noisy.shape == (3, 3, 32, 32)
    assert clean[:, 0, 0, 0].tolist() == [10, 200, 10] and torch.equal(noisy, clean)


def test_the_best_blur_is_the_best(pairs):
    noisy, clean = datasets.read_pairs('--data', pairs / data.VAL_FILE)
    row = noises.figures(noisy, clean, {})
    scores = [psnr(gaussian_blur(noisy, sigma), clean).mean().item() for sigma in noises.BLURS]
    assert row['best blur'] == max(scores) > row['noisy input']
    assert row['blur sigma'] == noises.BLURS[scores.index(max(scores))]


# --------------------------------------------------------------------- the noise, and exactness

def test_noise_of_neighbours():
    """Each pixel's noise is the sum of two draws, one of which its right neighbour has, too."""
    torch.manual_seed(0)
    clean = torch.randint(60, 180, (400, 3, 32, 32)).byte()
    draws = torch.randint(-9, 10, (400, 1, 32, 33))
    row = residual.describe((clean + draws[..., 1:] + draws[..., :-1]).byte(), clean)
    around = torch.tensor(row['neighbours'])
    assert around[2, 2] == pytest.approx(1) and around[2, 1:4].tolist() == pytest.approx([0.5, 1, 0.5], abs=0.01)
    around[2, 1:4] = 0
    assert around.abs().max() < 4 * row['neighbour_error'] < 0.01
    assert row['red_green'] == pytest.approx(1) and abs(row['mean']) < 4 * row['mean_error']
    assert row['rms'] == pytest.approx((2 * sum(k * k for k in range(-9, 10)) / 19) ** 0.5, rel=0.01)


def test_noise_grows_with_contrast():
    torch.manual_seed(0)
    clean = torch.full((20, 3, 32, 32), 128)
    clean[10:, :, :, ::2] = 28                                      # stripes
    noisy = clean + torch.randint(-1, 2, clean.shape) * torch.tensor([1] * 10 + [20] * 10).view(-1, 1, 1, 1)
    (flat, quiet), *_, (busy, loud) = residual.describe(noisy.byte(), clean.byte())['by_contrast']
    assert (flat, busy) == (0, 50)                                  # two of the four neighbours differ by 100
    assert loud == pytest.approx(20 * quiet, rel=0.05)


@pytest.mark.parametrize('block', exactness.BLOCKS)
def test_exactness_of_a_right_and_a_wrong_block(block, monkeypatch):
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(5):
            for ours, theirs, finite in exactness.errors(block).values():
                assert max(ours, theirs) < 2e-5 and (finite or 0) < 1e-8

        right = getattr(framework, block).forward_and_vjp

        def wrong(self, x):
            y, vjp = right(self, x)
            return 1.001 * y, lambda dy: 0.999 * vjp(dy)
        monkeypatch.setattr(getattr(framework, block), 'forward_and_vjp', wrong)
        found = [exactness.errors(block) for _ in range(5)]
    for name in ('output', 'gradient of the input'):
        assert [errors[name][0] for errors in found] == pytest.approx([1e-3] * 5, rel=0.01)
    assert max(errors['gradient of the input'][2] for errors in found) > 1e-6   # one direction alone may miss it


def test_a_deeper_network_computes_the_same(tmp_path, no_cuda):
    shallow, old, new = project_1.SkipAutoencoder(blocks=(1, 2, 1)), tmp_path / 'old.pth', tmp_path / 'new.pth'
    torch.save({'widths': list(shallow.widths), 'weights': shallow.state_dict()}, old)
    deepen.main([str(old), str(new)])
    deep, x = project_1.Model(), images(2, 3, 16, 24).float() / 255
    deep.load(new)
    with torch.no_grad():
        assert (shallow(x) - x).abs().max() > 0.01
        torch.testing.assert_close(deep.net(x), shallow(x))
    old.write_bytes(b'no archive')
    with refused('OLD: .*old.pth holds no weights'):
        deepen.main([str(old), str(tmp_path / 'other.pth')])
