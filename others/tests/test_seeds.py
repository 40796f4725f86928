"""The seeds: their systems are those that the documents describe, and one trainer trains them all."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from others import data
from others.common import records, storage
from others.common.metrics import load_pairs
from others.studies import seeds
from others.tests.conftest import noisy_set, refused

SYSTEMS = {system.name: system for study in seeds.STUDIES.values() for system in study}
REPORTED = {'skip': 188_403, 'skip, 4 layers': 20_259, 'skip, 6 layers': 20_533, 'skip, 8 layers': 20_729,
            'skip, 10 layers': 20_131, 'skip, 12 layers': 20_253, 'nearest': 161_827, 'nearest, kernel 3': 161_827,
            'nearest, kernel 5': 448_547, 'nearest, kernel 7': 878_627}


@pytest.fixture
def pairs(tmp_path):
    """Two versions of flat images with noise, uint8 (24, 3, 32, 32)."""
    return load_pairs(noisy_set(tmp_path, 24, 32) / data.TRAIN_FILE)


pytestmark = pytest.mark.usefixtures('threads', 'no_cuda')


@pytest.mark.parametrize('name, count', REPORTED.items())
def test_networks_have_as_many_parameters_as_their_authors_report(name, count):
    assert sum(weight.numel() for weight in seeds.build(SYSTEMS[name]).weights()) == count


def test_every_system_has_a_name_of_its_own_and_keeps_the_shape():
    assert len(SYSTEMS) == sum(map(len, seeds.STUDIES.values()))
    for system in SYSTEMS.values():
        if max(layer[1] for layer in system.layers if len(layer) > 1) <= 128:       # the wide ones differ in nothing
            assert seeds.build(system).infer(torch.rand(2, 3, 32, 32)).shape == (2, 3, 32, 32), system.name


def test_a_skip_joins_the_first_activation_to_the_last_input():
    runner = seeds.build(seeds.SKIP)
    w = [weight.detach() for weight in runner.weights()]
    x = torch.rand(2, 3, 9, 7)
    first = F.conv2d(x, w[0], w[1]).relu()
    third = F.conv_transpose2d(F.conv2d(first, w[2], w[3]).relu(), w[4], w[5]).relu()
    expected = F.conv_transpose2d(torch.cat([third, first], 1), w[6], w[7]).sigmoid()
    torch.testing.assert_close(runner.infer(x), expected)


def test_ours_and_torch_train_alike(pairs):
    """From the same seed: the same weights to begin with, the same batches, and so the same network in the end."""
    ours, theirs = (seeds.train(replace(system, epochs=2), 3, pairs, pairs)
                    for system in (seeds.VJP, seeds.VJP_TORCH))
    start = seeds.build(seeds.VJP).weights()
    for before, a, b in zip(start, ours[0].weights(), theirs[0].weights()):
        assert not torch.equal(before, a)
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-5)
    for one, other in zip(ours[1], theirs[1]):
        assert one['psnr'] == pytest.approx(other['psnr'], abs=1e-3)
        assert one['loss'] == pytest.approx(other['loss'], rel=1e-4)


def test_the_loss_of_an_epoch_is_the_mean_over_its_pairs(pairs):
    """Also where the last batch is smaller; of a network that does not learn."""
    system = replace(seeds.VJP, lr=0, epochs=1, batch=7)
    runner, (epoch,) = seeds.train(system, 0, pairs, pairs)
    noisy, other = (images.float() / 255 for images in pairs)
    assert len(noisy) % 7 and epoch['loss'] == pytest.approx(F.mse_loss(runner.infer(noisy), other).item(), rel=1e-5)


@pytest.mark.parametrize('name', ['vjp', 'skip, with'])
def test_a_stopped_training_goes_on_to_the_same_end(name, pairs, tmp_path, monkeypatch):
    system, state = replace(SYSTEMS[name], epochs=3, batch=10), tmp_path / 'state'
    whole, history = seeds.train(system, 1, pairs, pairs)
    write, written = storage.write_tensors, []

    def stop_after_two(*arguments):
        write(*arguments)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, 'write_tensors', stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        seeds.train(system, 1, pairs, pairs, state)
    resumed, again = seeds.train(system, 1, pairs, pairs, state)
    assert len(written) == 3 and [row['psnr'] for row in history] == [row['psnr'] for row in again]
    assert all(map(torch.equal, whole.weights(), resumed.weights()))
    with refused('--out: .* other settings'):
        seeds.train(replace(system, lr=2), 1, pairs, pairs, state)


def test_all_runs_are_recorded_once(pairs, tmp_path, monkeypatch):
    torch.save(tuple(images[:4] for images in pairs), tmp_path / data.VAL_FILE)
    record, arguments = tmp_path / 'seeds.json', ['all', '--quick', '--data', str(tmp_path)]
    seeds.main([*arguments, '--seeds', '0', '1', '--record', str(record)])
    rows = [row for run in records.read(record) for row in run['rows']]
    headlines = [system for name, study in seeds.STUDIES.items() if '.' not in name for system in study]
    assert [(row['system'], row['seed']) for row in rows] == [(s.name, seed) for s in headlines for seed in (0, 1)]
    assert all(row['full'] is False and row['pairs'] == 8 for row in rows)
    monkeypatch.setattr(seeds, 'run', None)                     # what is recorded is not run again
    seeds.main([*arguments, '--seeds', '0', '1', '--record', str(record)])
    with refused('--record: seeds.json holds no rows of --quick'):
        seeds.main(arguments)


def test_pooled_is_the_assignments_own_function(pairs):
    noisy, clean = (images.float() / 255 for images in pairs)
    error = (F.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False) - clean).square()
    row = seeds.measure(seeds.build(SYSTEMS['course, box of 3 x 3']), {'x': pairs})
    each = -10 * error.mean((1, 2, 3)).log10()
    assert row['x_pooled'] == pytest.approx(-10 * float(error.mean().log10()), abs=1e-4)
    assert row['x'] == pytest.approx(float(each.mean()), abs=1e-4)
    assert row['x_error'] == pytest.approx(float(each.std()) / 24 ** 0.5, abs=1e-5)
