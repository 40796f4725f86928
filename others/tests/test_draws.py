"""The study of the error's parts, on outputs whose parts are known."""
import pytest
import torch
from PIL import Image

from others.common import denoisers, records
from others.studies import draws
from others.tests.conftest import images, noisy_set

pytestmark = pytest.mark.fast


def test_the_parts_of_the_error_are_those_that_the_outputs_were_made_of():
    generator = torch.Generator().manual_seed(0)
    clean = 100 * torch.rand(400, 3, 8, 8, generator=generator, dtype=torch.double)
    outputs = clean + 2 + 3 * torch.randn(4, *clean.shape, generator=generator, dtype=torch.double)
    variance, bias = draws.split(outputs, clean)
    assert (variance, bias) == (pytest.approx(9, rel=0.02), pytest.approx(4, rel=0.02))
    assert variance + bias == pytest.approx((outputs - clean).square().mean().item())


def test_draws_as_a_command(tmp_path, threads, monkeypatch):
    """A model that returns its input: the mean of draws gains what their number gives, and nothing is bias."""
    class Identity:
        def predict(self, noisy, ensemble):
            return noisy.float()

    monkeypatch.setattr(denoisers, 'trained_model', lambda project, weights: Identity())
    for i in range(20):
        Image.fromarray(images(224, 230, 3, seed=i, low=60, high=196).numpy()).save(tmp_path / f'{i}.png')
    folder, record = noisy_set(tmp_path, 16, 32), tmp_path / 'record.json'
    draws.main(['--photos', str(tmp_path), '--data', str(folder), '--pairs', '16', '--draws', '5',
                '--record', str(record)])
    means, *blurs, first, second = records.read(record)[-1]['rows']
    models = first, second
    assert list(means['psnr']) == ['1', '2', '4']
    assert means['psnr']['4'] - means['psnr']['1'] == pytest.approx(6.02, abs=0.3)
    for row in models:
        assert row['psnr'] == row['psnr_of_outputs'] == means['psnr']
        assert abs(row['squared_bias']) < 0.05 * row['variance']
        assert row['validation_error'] == row['validation_noise'] == pytest.approx(row['variance'], rel=0.05)
        assert row['training_error'] == pytest.approx(row['training_noise'])
    for row in (*blurs, *models):
        assert abs(row['pooled'] - row['estimated']) < 4 * row['estimated_error']
    assert max(row['pooled'] for row in blurs) > models[0]['pooled'] + 1, 'a blur takes noise away'
