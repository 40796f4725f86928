"""The tools that compare: the search for a network, the speedrun, and other kinds of noise."""
import json
import math

import numpy
import pytest
import torch
from PIL import Image
from scipy import ndimage

from others import bench_speedrun, cli, compare_torch, data, noises, search
from others.metrics import psnr


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    """The folder of a small set: flat images with noise."""
    folder = tmp_path_factory.mktemp('data')
    generator = torch.Generator().manual_seed(0)

    def noisy(clean: torch.Tensor) -> torch.Tensor:
        return (clean + 20 * torch.randn(clean.shape, generator=generator)).clamp(0, 255).byte()

    clean = torch.randint(60, 190, (48, 3, 1, 1), generator=generator).expand(48, 3, 32, 32)
    torch.save((noisy(clean), noisy(clean)), folder / data.TRAIN_FILE)
    torch.save((noisy(clean[:10]), clean[:10].byte()), folder / data.VAL_FILE)
    return folder


# ------------------------------------------------------------------------------------------- search

@pytest.mark.parametrize('block', search.BLOCKS)
def test_every_block_keeps_the_shape_and_begins_near_the_identity(block):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 10)
    y = search.BLOCKS[block](8)(x)
    assert y.shape == x.shape
    assert 0 < (y - x).norm() < 0.5 * x.norm()


def test_attention_reaches_every_pixel():
    torch.manual_seed(0)
    layer, x = search.Attention(8), torch.randn(1, 8, 4, 6, requires_grad=True)
    layer(x)[0, :, 0, 0].sum().backward()
    assert bool((x.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize('project', (1, 2))
def test_the_default_variant_is_the_project_s_network(project):
    variant = {1: search.Variant1, 2: search.Variant2}[project](search.parse(['x', '--project', str(project)]))
    net = cli.new_model(project).net
    weights = net.parameters() if project == 1 else [weight for weight, _ in net.param()]
    assert sorted(weight.shape for weight in variant.parameters()) == sorted(weight.shape for weight in weights)


def test_search_writes_a_record(pairs, tmp_path, capsys):
    record = tmp_path / 'new' / 'record.json'
    threads = torch.get_num_threads()
    try:
        status = search.main(['tiny', '--project', '1', '--seconds', '2', '--widths', '8', '16', '--encoder', '1', '2',
                              '--decoder', '0', '--attention', '--batch', '4', '--average', '0.5', '--block', 'batchnorm', '--ensemble',
                              '--data', str(pairs), '--also', str(pairs / data.TRAIN_FILE), '--record', str(record)])
    finally:
        torch.set_num_threads(threads)
    assert status == 0
    written = json.loads(record.read_text())
    assert written['psnr'].keys() == written['psnr_ensembled'].keys() == {'val_data', 'train_data'}
    assert written['psnr'] != written['psnr_ensembled']
    assert written['pairs_seen'] % 4 == 0 and len(written['loss_curve']) == written['pairs_seen'] // 400
    assert f'psnr: val_data {written["psnr"]["val_data"]:.3f} dB' in capsys.readouterr().out


def test_the_oracle_trains_towards_the_clean_images_turned_alike(tmp_path, monkeypatch):
    photos = tmp_path / 'photos'
    photos.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(4):
        tiles = torch.randint(256, (10, 13, 3), dtype=torch.uint8, generator=generator)
        pixels = tiles.repeat_interleave(7, 0).repeat_interleave(7, 1)
        Image.fromarray(pixels.numpy()).save(photos / f'{i}.png')
    folder = tmp_path / 'data'
    data.main(['photos', str(photos), '--out', str(folder), '--train', '12', '--val', '3'])
    inputs, seen, forward, distance = [], [], search.Network.forward, search.Variant1.distance

    def spy_on_forward(net, x):
        if net.training:
            inputs.append(x)
        return forward(net, x)

    def spy_on_distance(model, output, target):
        seen.append((target, model.clean))
        return distance(model, output, target)

    monkeypatch.setattr(search.Network, 'forward', spy_on_forward)
    monkeypatch.setattr(search.Variant1, 'distance', spy_on_distance)
    threads = torch.get_num_threads()
    arguments = ['x', '--project', '1', '--seconds', '1', '--widths', '8', '--encoder', '1', '--decoder',
                 '--batch', '4', '--data', str(folder)]
    try:
        search.main([*arguments, '--oracle', str(photos)])
        data.main(['photos', str(photos), '--out', str(tmp_path / 'other'), '--train', '12', '--val', '3', '--seed', '1'])
        with pytest.raises(cli.UserError, match='--oracle'):
            search.main([*arguments[:-1], str(tmp_path / 'other'), '--oracle', str(photos)])
    finally:
        torch.set_num_threads(threads)
    noisy, target, clean = (torch.cat(images) for images in (inputs, *zip(*seen)))
    noise = (noisy - target).square().mean() / 2                # of one version, from the two
    for images in noisy, target:
        assert (images - clean).square().mean() == pytest.approx(float(noise), rel=0.2)
    assert (clean - clean.flip(-1)).square().mean() > 4 * noise > 0     # turned otherwise, they would be far off


@pytest.mark.parametrize('upsampling, kernel, up_kernel',
                         [('transposed', 4, 4), ('transposed', 3, 6), ('nearest', 4, 3), ('nearest', 3, 5)])
def test_variants_of_project_2(upsampling, kernel, up_kernel):
    options = search.parse(['x', '--project', '2', '--channels', '4', '6', '--kernel', str(kernel),
                            '--upsampling', upsampling, '--up-kernel', str(up_kernel)])
    variant = search.Variant2(options)
    assert variant.predict(torch.zeros(2, 3, 12, 20)).shape == (2, 3, 12, 20)
    size = (3 * 4 + 4 * 6) * kernel ** 2 + (6 * 4 + 4 * 3) * up_kernel ** 2 + 4 + 6 + 4 + 3
    assert sum(weight.numel() for weight in variant.parameters()) == size
    before = [weight.clone() for weight in variant.parameters()]
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    variant.train_for(0.2, images, images)
    assert all(not torch.equal(new, old) for new, old in zip(variant.parameters(), before))


@pytest.mark.parametrize('options', [['1', '--widths', '8', '--encoder', '0', '--decoder'],
                                     ['2', '--channels', '4', '6']])
def test_the_loss_and_that_towards_clean_images(options):
    torch.manual_seed(0)
    output, target, clean = torch.rand(3, 2, 3, 4, 5)
    options = search.parse(['x', '--project', *options])
    model = {1: search.Variant1, 2: search.Variant2}[options.project](options)
    assert float(model.loss(output, target)) == pytest.approx(float((output - target).square().mean()))
    model.clean = clean
    assert float(model.loss(clean, target)) == 0


def test_search_refuses_what_belongs_to_the_other_project():
    with pytest.raises(cli.UserError, match='--kernel is of project 2'):
        search.parse(['x', '--project', '1', '--kernel', '3'])
    with pytest.raises(cli.UserError, match='--up-kernel: 4, expected an odd one'):
        search.parse(['x', '--project', '2', '--upsampling', 'nearest', '--up-kernel', '4'])


@pytest.mark.parametrize('option, value', [('--lr', '0'), ('--lr', 'nan'), ('--average', '1'), ('--average', '-0.5')])
def test_search_refuses_numbers_out_of_range(option, value, capsys):
    with pytest.raises(SystemExit):
        search.parse(['x', '--project', '2', option, value])
    assert f'argument {option}: {value}, expected ' in capsys.readouterr().err


def test_tools_name_what_they_cannot_use(pairs, tmp_path):
    with pytest.raises(cli.UserError, match='--oracle'):
        search.main(['x', '--project', '2', '--data', str(pairs), '--oracle', str(tmp_path / 'nowhere')])
    with pytest.raises(cli.UserError, match='--pairs: .* holds 48, expected 49'):
        compare_torch.main(['--data', str(pairs), '--pairs', '49'])


def test_search_names_a_wrong_number_of_levels(pairs):
    with pytest.raises(cli.UserError, match='--encoder'):
        search.main(['x', '--project', '1', '--widths', '8', '--data', str(pairs)])
    with pytest.raises(cli.UserError, match='--attention: .* 18, expected a multiple of 4'):
        search.parse(['x', '--project', '1', '--widths', '8', '18', '--encoder', '1', '1', '--decoder', '1', '--attention'])


def test_search_refuses_two_sets_of_one_name(pairs):
    with pytest.raises(cli.UserError, match='--also'):
        search.main(['x', '--project', '2', '--data', str(pairs), '--also', str(pairs / data.VAL_FILE)])


# ------------------------------------------------------------------------------------ against torch

def test_the_two_trainings_end_alike(pairs, tmp_path, capsys):
    """They share their batches and differ in rounding: some 1e-7 a step, where a wrong gradient would show at once."""
    record = tmp_path / 'record.json'
    assert compare_torch.main(['--data', str(pairs), '--epochs', '3', '--record', str(record)]) == 0
    written = json.loads(record.read_text())
    ours, theirs = (written[name]['psnr']['val_data'] for name in ('ours', 'torch.nn'))
    assert ours == pytest.approx(theirs, abs=1e-3)
    torch.manual_seed(0)
    noisy, clean = cli.read_pairs('--data', pairs / data.VAL_FILE)
    untrained = psnr(compare_torch.project.Model().predict(noisy, ensemble=False), clean).mean()
    assert abs(ours - untrained) > 0.1
    assert 'torch.nn' in capsys.readouterr().out


# ----------------------------------------------------------------------------------------- speedrun

def test_the_baseline_has_the_size_that_its_report_gives():
    assert sum(weight.numel() for weight in bench_speedrun.Baseline().parameters()) == 188403


def test_the_speedrun_goes_on_where_it_was_stopped(pairs, tmp_path, monkeypatch, capsys):
    images = cli.read_pairs('--data', pairs / data.TRAIN_FILE)
    validation = cli.read_pairs('--data', pairs / data.VAL_FILE)

    def train(epochs: int, name: str) -> list:
        return [row['psnr'] for row in bench_speedrun.train_baseline(images, validation, epochs, tmp_path / name)]

    torch.manual_seed(0)
    whole = train(3, 'whole.pt')
    torch.manual_seed(0)
    assert train(1, 'parts.pt') == whole[:1]
    torch.manual_seed(1)
    assert train(3, 'parts.pt') == whole


def test_the_speedrun_writes_a_record_and_refuses_other_settings(pairs, tmp_path, capsys):
    arguments = ['--data', str(pairs), '--out', str(tmp_path / 'out'), '--epochs', '1', '--pairs', '16']
    assert bench_speedrun.main([*arguments, '--record', str(tmp_path / 'record.json')]) == 0
    record = json.loads((tmp_path / 'record.json').read_text())
    assert len(record['baseline']) == 1 and record['ours'][0]['epochs'] == 1 / 4
    assert all(run['seconds'] > 0 for run in record['ours'])
    with pytest.raises(cli.UserError, match='--out'):
        bench_speedrun.main([*arguments, '--seed', '1'])


# ------------------------------------------------------------------------------------------- noises

def test_gaussian_blur_against_scipy():
    images = torch.rand(2, 3, 20, 25) * 255
    ours = noises.gaussian_blur(images, 1.3).numpy()
    theirs = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 1.3, 1.3), mode='mirror', radius=(0, 0, 6, 6))
    numpy.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize('make, level, variance', [
    (noises.gaussian_noise, 12, 144),
    (noises.poisson_noise, 100, 100 * 255 / 100),       # of a value of 100: 100 / 255 of the photons
])
def test_added_noise_has_its_mean_and_variance(make, level, variance):
    clean = torch.full((4, 3, 64, 64), 100, dtype=torch.uint8)
    noisy = make(clean, level, torch.Generator().manual_seed(0))
    assert noisy.dtype is torch.uint8
    assert abs(noisy.double().mean() - 100) < 0.5
    assert abs(noisy.double().var() / variance - 1) < 0.05


def test_block_noise_is_of_the_photographs():
    photos = [torch.full((3, 64, 70), 10, dtype=torch.uint8), torch.full((3, 90, 64), 200, dtype=torch.uint8)]
    noisy, clean = noises.block_noise(photos, 2, 3, torch.Generator().manual_seed(0))
    assert clean.shape == noisy.shape == (3, 3, 32, 32)
    assert clean[:, 0, 0, 0].tolist() == [10, 200, 10] and torch.equal(noisy, clean)


def test_images_without_noise_are_left_out(pairs):
    noisy, clean = cli.read_pairs('--data', pairs / data.VAL_FILE)
    expected = noises.figures(noisy[1:], clean[1:], {})
    assert noises.figures(torch.cat([clean[:1], noisy[1:]]), clean, {}) == expected
    assert expected['images'] == 9 and math.isfinite(expected['noisy input'])


def test_the_best_blur_is_the_best(pairs):
    noisy, clean = cli.read_pairs('--data', pairs / data.VAL_FILE)
    row = noises.figures(noisy, clean, {})
    scores = [psnr(noises.gaussian_blur(noisy, sigma), clean).mean().item() for sigma in noises.BLURS]
    assert row['best blur'] == max(scores) > row['noisy input']
    assert row['blur sigma'] == noises.BLURS[scores.index(max(scores))]
