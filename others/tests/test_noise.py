"""Kinds of noise against closed forms, SciPy and Pillow."""
import math

import numpy
import pytest
import torch
from PIL import Image
from scipy import ndimage

from others import data
from others.common import denoisers, noise, records
from others.common.metrics import psnr
from others.studies import warned
from others.tests.conftest import images, refused

pytestmark = pytest.mark.fast

SIGMAS = 4              # a correct sampler fails a check with a probability of 1 in 16,000


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize('kind, strength, variance', [
    ('gaussian', 20, lambda clean: 400), ('gaussian', 0, lambda clean: 0),
    ('poisson', 300, lambda clean: clean * 0.85)])                      # 255 / 300
def test_independent_noise_has_its_mean_and_variance(kind, strength, variance):
    clean = images(3, 64, 64, low=100, high=156)
    noisy = getattr(noise, f'{kind}_noise')(clean, strength, seeded())
    residual, expected = noisy.double() - clean, variance(clean.double()) + (strength > 0) / 12       # of rounding
    n = residual.numel()
    assert noisy.dtype is torch.uint8 and noisy.shape == clean.shape
    assert (residual ** 2 - expected).mean().abs() <= SIGMAS * (2 * residual ** 4 / 3).mean().div(n).sqrt()
    assert residual.mean().abs() <= SIGMAS * residual.std() / n ** 0.5


@pytest.mark.parametrize('shape, reach', [((5, 3, 40, 50), 1.), ((3, 160, 190), 2.)])
def test_correlated_noise_correlates_as_two_blurred_pixels_do(shape, reach):
    clean = images(*shape, low=100, high=110)
    added = noise.correlated_noise(clean, 15, reach, seeded()).double() - clean
    rows = (added[..., 1:] * added[..., :-1]).mean(), (added[..., 1:, :] * added[..., :-1, :]).mean()
    assert added.std().item() == pytest.approx(15, rel=0.02)
    assert [x / added.var() for x in rows] == pytest.approx([math.exp(-0.25 / reach ** 2)] * 2, abs=0.03)


def test_impulses_hit_whole_pixels():
    clean = images(5, 3, 40, 40, low=100, high=110)
    impulses = noise.impulse_noise(clean, 10, seeded())
    hit = impulses != clean
    assert torch.equal(hit.all(1), hit.any(1)) and hit.double().mean() == pytest.approx(0.1, abs=0.01)
    assert set(impulses[hit].tolist()) == {0, 255} and impulses[hit].double().mean() == pytest.approx(127, abs=15)


def test_jpeg_is_what_a_file_gives_and_depends_on_where_its_blocks_begin(tmp_path):
    clean = images(3, 40, 50, low=100, high=140)
    Image.fromarray(clean.permute(1, 2, 0).numpy()).save(tmp_path / 'file.jpg', quality=70)
    assert noise.jpeg(clean, 70).permute(1, 2, 0).tolist() == numpy.asarray(Image.open(tmp_path / 'file.jpg')).tolist()
    moved = noise.jpeg(clean, 70, (3, 9))
    assert moved.shape == clean.shape and not torch.equal(moved, noise.jpeg(clean, 70))
    fine, coarse = (psnr(noise.jpeg(clean, quality, (3, 9))[None], clean[None]).item() for quality in (90, 30))
    assert 20 < coarse < fine                                           # the image lies where it lay


def test_gaussian_blur_against_scipy():
    x = torch.rand(2, 3, 20, 25) * 255
    ours = noise.gaussian_blur(x, 1.3).numpy()
    theirs = ndimage.gaussian_filter(x.double().numpy(), (0, 0, 1.3, 1.3), mode='mirror', radius=(0, 0, 6, 6))
    numpy.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_how_often_denoise_warns(tmp_path, threads, monkeypatch):
    """Of a model that gives black, so that the image itself was removed: a smooth one gets a warning, noise none. Of
    one that changes nothing, no image does."""
    smooth = numpy.linspace(120, 130, 192)[:, None, None].repeat(200, 1).repeat(3, 2)
    for i in range(20):
        Image.fromarray((smooth + i % 2).astype(numpy.uint8)).save(tmp_path / f'{i}.png')

    class Model:
        def __init__(self, project, weights):
            self.kept = project - 1

        def predict(self, noisy):
            return noisy * self.kept

    monkeypatch.setattr(denoisers, 'trained_model', Model)
    monkeypatch.setattr(warned, 'SIDE', 97)                     # larger than half of any
    with refused('--photos: none .* 194 pixels'):
        warned.main(['--photos', str(tmp_path)])
    monkeypatch.setattr(warned, 'SIDE', 96)
    warned.main(['--photos', str(tmp_path), '--record', str(tmp_path / 'record.json')])
    rows = {row['kind']: row for row in records.read(tmp_path / 'record.json')[-1]['rows']}
    assert all(row['project 2'] == {'changed': 0, 'warned': 0} for row in rows.values())
    assert all(row['project 1']['changed'] == row['images'] == 2 for row in rows.values())
    independent = ('Gaussian', 'Poisson', 'impulses')
    assert all(row['project 1']['warned'] == 2 * (not kind.startswith(independent)) for kind, row in rows.items())


def test_point_sampled_images_are_drawn_from_the_blocks_that_they_stand_for():
    photo = images(3, 200, 300)
    noisy, clean = warned.sample(data.centre_square(photo, warned.SIDE), seeded())
    blocks = photo[:, 4:196, 54:246].double().unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert noisy.shape == clean.shape == (3, 96, 96)
    assert (clean - blocks.mean(3)).abs().max() <= 0.5 and (noisy[..., None] == blocks).any(3).all()
