"""The studies measure what they say: noise and errors that are known beforehand are found."""
import pytest
import torch

from Miniproject_2 import model as framework
from others.studies import exactness, residual


def test_noise_of_independent_pixels():
    torch.manual_seed(0)
    clean = torch.randint(60, 180, (200, 3, 32, 32)).byte()
    grey = torch.randint(-9, 10, (200, 1, 32, 32))
    row = residual.describe((clean + grey).byte(), clean)
    around = torch.tensor(row['neighbours'])
    assert around[2, 2] == pytest.approx(1)
    around[2, 2] = 0
    assert around.abs().max() < 4 * row['neighbour_error'] < 0.01
    assert row['red_green'] == pytest.approx(1) and abs(row['mean']) < 4 * row['mean_error']
    assert row['rms'] == pytest.approx((sum(k * k for k in range(-9, 10)) / 19) ** 0.5, rel=0.01)


def test_noise_of_neighbours():
    """Each pixel's noise is the sum of two draws, one of which its right neighbour has, too."""
    torch.manual_seed(0)
    clean = torch.full((200, 3, 32, 32), 128).byte()
    draws = torch.randint(-9, 10, (200, 1, 32, 33))
    row = residual.describe((clean + draws[..., 1:] + draws[..., :-1]).byte(), clean)
    around = torch.tensor(row['neighbours'])
    assert around[2, 1] == pytest.approx(0.5, abs=0.01) and around[2, 3] == pytest.approx(0.5, abs=0.01)
    assert max(abs(around[1, 2]), abs(around[2, 4])) < 0.01


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
        monkeypatch.setattr(exactness.BLOCKS[block][0], 'forward_and_vjp', wrong)
        found = exactness.errors(block)
    assert found['output'][0] == pytest.approx(1e-3, rel=0.01)
    assert found['gradient of the input'][0] == pytest.approx(1e-3, rel=0.01)
    assert found['gradient of the input'][2] > 1e-7
