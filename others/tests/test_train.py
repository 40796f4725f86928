"""Training runs: what a folder holds, and that stopping and resuming change nothing."""
import json
import math
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from others import data, train
from others.common import cli, datasets, denoisers, plots, records, storage
from others.tests.conftest import assert_same_run, contents, images, metrics, noisy_set, refused, save_photos

EPOCHS, PAIRS, BATCH, SIDE = 2, 40, 8, 8    # 5 steps an epoch
pytestmark = pytest.mark.usefixtures('threads')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return noisy_set(tmp_path_factory.mktemp('data'), PAIRS, SIDE, val=PAIRS)


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
    """The folder of an uninterrupted run of project 1."""
    run = tmp_path_factory.mktemp('runs') / 'whole'
    with cli.threads(1):
        assert new_run(folder, run) == 0
    return run


def new_run(folder, out, *options, project=1) -> int:
    """By one thread: several share sums among them as time has it, so that the last bits differ."""
    return train.main(['--project', str(project), '--data', str(folder), '--epochs', str(EPOCHS), '--threads', '1',
                       '--batch', str(BATCH), '--precision', 'float32', '--out', str(out), *options])


def stop_at(monkeypatch, step: int, number: int = signal.SIGINT) -> None:
    """Send the signal once, at the given step of what is trained next, counted from 1."""
    show, steps = train.Run.show, iter(range(1, step + 1))

    def show_and_stop(*arguments) -> None:
        show(*arguments)
        if next(steps, None) == step:
            signal.raise_signal(number)

    monkeypatch.setattr(train.Run, 'show', show_and_stop)


def resume(run, *options) -> int:
    return train.main(['--resume', str(run), *map(str, options)])


def rates(peak: float, *progress: float):
    """Of one cycle, after its first tenth."""
    return pytest.approx([peak * (0.001 + 0.999 * (1 + math.cos(math.pi * (x - 0.1) / 0.9)) / 2) for x in progress])


def test_run_folder(folder, whole, tmp_path, capsys, monkeypatch):
    run, drawn, draw = tmp_path / 'runs' / 'first', [], plots.training_curves
    monkeypatch.setattr(plots, 'training_curves', lambda path, rows, *rest:
                        drawn.append(len(rows)) or draw(path, rows, *rest))
    assert new_run(folder, run, '--seed', '3', '--record', str(tmp_path / 'record.json')) == 0
    assert {path.name for path in run.iterdir()} == {
        'settings.json', 'log.txt', 'metrics.jsonl', 'curve.png', 'montage.png', 'last.pth', 'best.pth', 'state.pt'}
    settings = json.loads((run / 'settings.json').read_text())
    assert (settings['project'], settings['epochs'], settings['seed'], settings['pairs']) == (1, 2, 3, 40)
    (stage,) = settings['stages']
    assert stage['versions']['torch'] == torch.__version__ and stage['command'].startswith('python -m ')
    for name in ('curve.png', 'montage.png'):
        with Image.open(run / name) as picture:
            assert picture.format == 'PNG' and min(picture.size) > 200
    assert capsys.readouterr().out == (run / 'log.txt').read_text() and drawn == [1, 2]
    history = metrics(run)
    assert history != metrics(whole)                    # of another seed
    (recorded,) = json.loads((tmp_path / 'record.json').read_text())['runs']
    assert [row['val_psnr'] for row in recorded['rows']] == [record['val_psnr'] for record in history]
    assert recorded['rows'][0]['project'] == 1 and recorded['rows'][0]['training'] == 'first'
    noisy, clean = torch.load(folder / data.VAL_FILE, weights_only=True)
    for name, expected in (('last.pth', history[-1]['val_psnr']),
                           ('best.pth', max(record['val_psnr'] for record in history))):
        error = denoisers.trained_model(1, run / name).predict(noisy, ensemble=False).double() - clean.double()
        decibels = -10 * (error / 255).square().mean((1, 2, 3)).log10()
        assert decibels.mean().item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('project', [1, 2])
def test_stop_and_resume(folder, whole, tmp_path, no_pictures, monkeypatch, capsys, project):
    """Stopped within the first epoch and again within the second one."""
    parts = tmp_path / 'parts'
    if project == 2:
        whole = tmp_path / 'whole'
        new_run(folder, whole, project=2)
    stop_at(monkeypatch, 3)
    assert new_run(folder, parts, project=project) == 130
    assert f'--resume {parts}' in capsys.readouterr().out and not (parts / 'metrics.jsonl').exists()
    stop_at(monkeypatch, 4, signal.SIGTERM)
    assert resume(parts) == 130
    assert len(metrics(parts)) == 1
    for _ in range(2):                              # the second time there is nothing left to do
        assert resume(parts) == 0
        assert_same_run(whole, parts, EPOCHS)


@pytest.mark.parametrize('project', [1, 2])
def test_batch_and_rate(folder, tmp_path, no_pictures, monkeypatch, project):
    """Those that were asked for, in 4 steps; also on another machine, where the model's own have changed."""
    run, record = tmp_path / 'run', tmp_path / 'record.json'
    stop_at(monkeypatch, 1)
    assert new_run(folder, run, '--batch', '20', '--lr', '5e-4', project=project) == 130
    monkeypatch.setattr(records, 'processor', lambda device: 'another')
    for name in ('BATCH_SIZE', 'PEAK_LR'):
        monkeypatch.setattr(type(denoisers.new_model(project)), name, 5)
    assert resume(run, '--record', record) == 0
    assert [row['lr'] for row in metrics(run)] == rates(5e-4, 1 / 4, 3 / 4)
    (recorded,) = json.loads(record.read_text())['runs']                # both epochs ended there
    assert recorded['machine']['processor'] == 'another' and recorded['command'].count('python -m ') == 2


def test_lengthened(folder, tmp_path, no_pictures, monkeypatch):
    """Stopped within the second epoch of two, lengthened to four and stopped once more."""
    whole, parts, record = tmp_path / 'whole', tmp_path / 'parts', tmp_path / 'record.json'
    stop_at(monkeypatch, 7)
    assert new_run(folder, whole, '--lr', '5e-4') == 130
    shutil.copytree(whole, parts)
    assert resume(whole, '--epochs', 4, '--record', record) == 0
    stop_at(monkeypatch, 5)
    assert resume(parts, '--epochs', 4) == 130
    assert resume(parts) == 0
    assert metrics(whole) == metrics(parts) and len(metrics(whole)) == 4
    assert (whole / 'last.pth').read_bytes() == (parts / 'last.pth').read_bytes()

    first, second = json.loads(record.read_text())['runs']
    rows = first['rows'] + second['rows']
    assert len(first['rows']) == 1 and [run['command'].count('python -m ') for run in (first, second)] == [1, 2]
    assert [row['val_psnr'] for row in rows] == [row['val_psnr'] for row in metrics(whole)]
    assert [row['planned_epochs'] for row in rows] == [2, 4, 4, 4]
    # The last steps of the epochs: one of 10, and after 7 steps three of the other 13.
    assert [row['lr'] for row in rows] == rates(5e-4, 4 / 10, 2 / 13, 7 / 13, 12 / 13)
    before = record.read_bytes()
    assert resume(whole, '--record', record) == 0
    assert record.read_bytes() == before, 'recorded twice'
    with refused('--epochs: 3, expected at least the 4 of the run'):
        resume(whole, '--epochs', 3)


def without(*keys):
    """Damage to a state: it lacks a value."""
    def damage(path) -> None:
        state = torch.load(path, weights_only=True)
        part = state
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        torch.save(state, path)
    return damage


@pytest.mark.parametrize('damage, words', [
    (lambda path: path.unlink(), 'is missing'), (lambda path: path.write_bytes(path.read_bytes()[:-9999]), 'damaged'),
    (lambda path: torch.save([1], path), 'damaged'), (without('history'), 'damaged'),
    (without('training', 'step'), 'damaged'), (without('training', 'order'), 'does not fit'),
    (without('training', 'weights', 'tail.weight'), 'does not fit'),
])
def test_a_run_that_has_lost_its_state_is_left_as_it_is(whole, tmp_path, damage, words):
    run = shutil.copytree(whole, tmp_path / 'run')
    damage(run / 'state.pt')
    before = contents(run)
    with refused(f'--resume: .*state.pt .*{words}'):
        resume(run, '--epochs', 3)
    assert contents(run) == before


def test_the_data_may_move_but_not_change(folder, whole, tmp_path, no_pictures):
    run, same = (shutil.copytree(whole, tmp_path / name) for name in ('run', 'same'))
    moved, other = shutil.copytree(folder, tmp_path / 'moved'), tmp_path / 'other'
    other.mkdir()
    before = contents(run)

    def refuse(words: str) -> None:
        with refused(f'--data: .*{words}, expected what the run began with'):
            resume(run, '--data', other, '--epochs', 3)
        assert contents(run) == before

    noisy_set(other, PAIRS, SIDE, val=PAIRS, seed=1)
    refuse('val_data.pkl holds something else')
    shutil.copy(folder / data.VAL_FILE, other)
    refuse('train_data.pkl holds something else')
    (other / data.VAL_FILE).unlink()
    refuse('val_data.pkl is missing')
    assert resume(run, '--data', moved, '--epochs', 3) == resume(same, '--epochs', 3) == 0
    assert metrics(run) == metrics(same) and len(metrics(run)) == 3
    assert json.loads((run / 'settings.json').read_text())['data'] == str(moved)


def test_the_loss_is_the_mean_over_pairs(folder, tmp_path, no_pictures, monkeypatch):
    """Though the second batch has 5 pairs, not 20."""
    sizes, losses = [], iter([1., 6.])
    monkeypatch.setattr(type(denoisers.new_model(1)), 'step', lambda model, first, *rest: sizes.append(len(first))
                        or torch.tensor(next(losses)))
    assert new_run(folder, tmp_path / 'run', '--epochs', '1', '--batch', '20', '--pairs', '25') == 0
    assert (sizes, metrics(tmp_path / 'run')[0]['loss']) == ([20, 5], 2)


def test_a_rate_that_is_too_high_is_named(folder, tmp_path, no_pictures):
    with refused(r'--lr: 1e\+30 may be too high: epoch 1, step'):
        new_run(folder, tmp_path / 'run', '--lr', '1e30')


def test_a_second_process_is_kept_out(whole):
    before = contents(whole)
    with storage.alone(whole), refused('another process trains in it'):
        resume(whole, '--epochs', 3)
    assert contents(whole) == before


def test_a_run_killed_before_its_settings_leaves_its_folder_free(folder, tmp_path, no_pictures):
    (tmp_path / 'settings.json.7.tmp').write_text('{')
    (tmp_path / 'notes.txt').write_text('of something else')
    with refused('--out: .* exists'):
        new_run(folder, tmp_path)
    (tmp_path / 'notes.txt').unlink()
    assert new_run(folder, tmp_path) == 0


@pytest.mark.parametrize('before, after', [(signal.default_int_handler, signal.SIG_DFL),
                                           (signal.SIG_IGN, signal.SIG_IGN)], ids=['usual', 'ignored'])
def test_the_second_signal_kills_and_an_ignored_one_stays_ignored(before, after):
    usual = signal.signal(signal.SIGINT, before)
    try:
        with train.StopRequest() as stop:
            assert not stop.made
            signal.raise_signal(signal.SIGINT)
            assert stop.made == (after is signal.SIG_DFL) and signal.getsignal(signal.SIGINT) is after
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, usual)


def test_without_validation_set(folder, tmp_path):
    shutil.copy(folder / data.TRAIN_FILE, tmp_path)
    run = tmp_path / 'run'
    assert new_run(tmp_path, run, '--pairs', '9') == 0
    assert [row['val_psnr'] for row in metrics(run)] == [None, None]
    assert (run / 'last.pth').exists() and (run / 'curve.png').exists() and not (run / 'best.pth').exists()
    with refused('--promote'):
        resume(run, '--promote')


# ---------------------------------------------------------------------------------------- promote

def test_promote_copies_only_what_scores_higher(folder, tmp_path):
    validation, model = datasets.read_measured('--data', folder / data.VAL_FILE), denoisers.new_model(1)
    random, identity, shipped = (tmp_path / f'{name}.pth' for name in ('random', 'identity', 'shipped'))
    model.save(random)
    for parameter in model.net.tail.parameters():   # the correction is zero: output = input
        parameter.data.zero_()
    model.save(identity)
    shipped.write_text('no weights')
    for weights, force, copies in ((random, True, True), (identity, False, True), (random, False, False),
                                   (identity, False, False), (random, True, True)):
        before = shipped.read_bytes()
        assert train.promote(1, weights, shipped, validation, force) == copies
        assert shipped.read_bytes() == (weights.read_bytes() if copies else before)
    shipped.unlink()
    assert train.promote(1, random, shipped, validation, force=False)


@pytest.mark.parametrize('project', [1, 2])
def test_fine_tuning(folder, tmp_path, no_pictures, monkeypatch, project):
    """It begins from the weights, at the lower rate, which is ten times as high if the noise is found to correlate."""
    torch.manual_seed(5)
    model, start = denoisers.new_model(project), tmp_path / 'start.pth'
    model.save(start)
    monkeypatch.setattr(denoisers, 'checkpoint', lambda project: start)
    began = []
    monkeypatch.setattr(type(model), 'train', lambda model, *images, **options: began.append(
        (model.weights(), options['peak_lr'])))
    for k, weights in enumerate(('pretrained', str(start))):
        new_run(folder, tmp_path / str(k), '--weights', weights, project=project)
    new_run(folder, tmp_path / 'asked', '--weights', 'pretrained', '--swap', 'images', project=project)
    monkeypatch.setattr(f'Miniproject_{project}.model.choose_swap', lambda *pairs: (torch.tensor([True]), 'why'))
    new_run(folder, tmp_path / 'found', '--weights', 'pretrained', project=project)
    new_run(folder, tmp_path / 'fresh', project=project)
    lower = model.PEAK_LR * model.FINE_TUNING
    assert [rate for _, rate in began] == pytest.approx([lower, lower, lower, 10 * lower, model.PEAK_LR])
    for weights, _ in began[:-1]:
        assert all(torch.equal(weight, weights[name]) for name, weight in model.weights().items())


def test_fine_tuning_begins_with_epoch_0(folder, tmp_path, no_pictures, monkeypatch):
    """The best so far is better than that and than the noisy images."""
    start, run = tmp_path / 'start.pth', tmp_path / 'run'
    denoisers.new_model(1).save(start)
    scores, begun = iter([5., 3., 6., 4.]), []          # of the noisy images, of the start, after each epoch
    monkeypatch.setattr(datasets.Validation, 'psnr', lambda *images: (next(scores), None))
    monkeypatch.setattr(train.Run, 'draw_pairs', lambda run, epoch:
                        begun.append((run.folder / 'best.pth').read_bytes()))
    assert new_run(folder, run, '--weights', str(start)) == 0
    assert begun[0] == start.read_bytes()
    assert (run / 'best.pth').read_bytes() not in (begun[0], (run / 'last.pth').read_bytes())
    assert [(row['epoch'], row['val_psnr']) for row in metrics(run)] == [(0, 3), (1, 6), (2, 4)]
    marked = [line for line in (run / 'log.txt').read_text().splitlines() if 'best so far' in line]
    assert len(marked) == 1 and '1/2' in marked[0]


# -------------------------------------------------------------------------------- a user's own pairs

def test_without_clean_images_the_psnr_is_estimated(folder, tmp_path, monkeypatch, capsys):
    run, drawn, shipped = tmp_path / 'run', [], tmp_path / 'shipped.pth'
    torch.save(tuple(images(2, 6, 3, 16, 16, low=90, high=160).float() + 0.25), tmp_path / datasets.VAL_PAIRS_FILE)
    shutil.copy(folder / data.TRAIN_FILE, tmp_path)
    (tmp_path / 'set.json').write_text('{"range": [0, 4095]}')
    monkeypatch.setattr(plots, 'montage', lambda path, versions, **options: drawn.append((list(versions), options)))
    monkeypatch.setattr(denoisers, 'checkpoint', lambda project: shipped)
    denoisers.new_model(1).save(shipped)
    assert new_run(tmp_path, run, '--epochs', '1', '--promote', '--force') == 0
    assert shipped.read_bytes() == (run / 'best.pth').read_bytes()
    (row,) = metrics(run)
    validation = datasets.read_measured('--data', tmp_path / datasets.VAL_PAIRS_FILE)
    model = denoisers.trained_model(1, run / 'best.pth')
    value, error = validation.psnr(model.predict(validation.noisy, ensemble=False))
    assert (row['val_psnr'], row['val_error']) == (pytest.approx(value, abs=1e-3), pytest.approx(error, rel=1e-2))
    assert drawn[0][0] == ['noisy', 'denoised', 'other shot'] and not drawn[0][1]['with_psnr']
    out = capsys.readouterr().out
    assert f"{row['val_psnr']:.3f} ± {row['val_error']:.3f} dB" in out and 'estimated' in out
    settings = json.loads((run / 'settings.json').read_text())
    assert (settings['range'], settings['estimated'], settings['swap']) == ([0, 4095], True, 'auto')


def test_large_images_are_cropped(tmp_path):
    """At random, the same in both versions, enough of each to cover it."""
    first = torch.arange(150).view(150, 1) + torch.zeros(2, 3, 150, 20) + torch.tensor([0., 100.]).view(2, 1, 1, 1)
    torch.save((first, first + 0.5), tmp_path / 'pairs.pkl')

    def drawn(seed: int, epoch: int) -> torch.Tensor:
        pairs = train.FixedPairs(tmp_path / 'pairs.pkl', None, seed)
        pairs.draw(epoch, train.StopRequest())
        assert pairs.first.shape == (4, 3, train.CROP, 20) and torch.equal(pairs.first + 0.5, pairs.second)
        tops = pairs.first[:, 0, 0, 0] - torch.tensor([0, 0, 100, 100])
        assert bool(((0 <= tops) & (tops <= 150 - train.CROP)).all())
        assert torch.equal(pairs.first - pairs.first[:, :, :1], torch.arange(128.).view(128, 1).expand(4, 3, 128, 20))
        return pairs.first

    assert torch.equal(drawn(1, 2), drawn(1, 2))
    assert not any(torch.equal(drawn(1, 2), other) for other in (drawn(1, 3), drawn(2, 2)))


@pytest.mark.parametrize('correlated, cropped, asked, expected', [
    ([0, 0], False, 'auto', 'pixels'), ([1, 1], False, 'auto', 'images'), ([0, 1], False, 'auto', 'auto'),
    ([0, 1], True, 'auto', 'images'), ([0, 0], True, 'auto', 'pixels'), (None, False, 'auto', 'pixels'),
    ([1, 1], False, 'pixels', 'pixels'), ([0, 0], True, 'images', 'images'),
])
@pytest.mark.parametrize('project', [1, 2])
def test_what_is_swapped(project, correlated, cropped, asked, expected, monkeypatch):
    """Of pairs whose noise was found to be correlated or not; None for fresh noise."""
    whole = correlated and images(2, 2, 3, 8, 8).unbind()
    monkeypatch.setattr(f'Miniproject_{project}.model.choose_swap', lambda *pairs: (torch.tensor(correlated), 'why'))
    pairs = SimpleNamespace(whole=whole, first=whole and (whole[0][..., :4] if cropped else whole[0]))
    run = train.Run(None, {'swap': asked}, denoisers.new_model(project), pairs, None)
    assert run.choose_swap()[0] == expected


def test_compare(whole, folder, tmp_path, no_pictures, capsys):
    empty, other = tmp_path / 'empty', tmp_path / 'other'
    empty.mkdir()
    assert new_run(folder, other, '--epochs', '1', '--lr', '1e-9', '--swap', 'images') == 0
    capsys.readouterr()
    assert train.main(['--compare', str(whole), str(empty), str(other)]) == 0
    out, error = capsys.readouterr()
    (_, *rows), best = out.splitlines(), max(record['val_psnr'] for record in metrics(whole))
    assert [row.split()[0] for row in rows] == [str(other), str(whole)]         # the best last
    assert f'{best:.3f}' in rows[1] and 'images' in rows[0] and '1.0e-09' in rows[0]
    assert error.startswith(f'skipped {empty}: ')
    with refused('--compare: expected the folder of a run'):
        train.main(['--compare', str(empty)])


# ------------------------------------------------------------------------------------ fresh noise

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    save_photos(folder, 12, 70, 96)
    return folder


def test_fresh_pairs(photos, tmp_path, monkeypatch):
    """They depend on the seed and the epoch, and never come from photographs that a set keeps for validation."""
    def drawn(seed: int, *epochs: int) -> tuple:
        pairs = train.FreshPairs(photos, 9, seed)
        first = pairs.first
        for epoch in epochs:
            pairs.draw(epoch, stop=train.StopRequest())
        assert pairs.first is first                 # Model.train keeps reading the same tensors
        return pairs.first, pairs.second

    epoch_1 = drawn(1, 1)
    assert all(map(torch.equal, drawn(1, 1, 2), drawn(1, 2))) and not torch.equal(*epoch_1)
    for other in (drawn(1, 2), drawn(2, 1)):
        assert not any(map(torch.equal, epoch_1, other))

    sets = []
    monkeypatch.setattr(data, 'make_set', lambda out, *kinds: sets.extend(set(photos) for photos, _ in kinds[:2]))
    data.make_from_photos(photos, tmp_path / 'data')
    assert set(train.FreshPairs(photos, 9, seed=5).photos) == sets[0] and not sets[0] & sets[1]


def test_fresh_noise_and_resume(folder, photos, tmp_path, no_pictures, no_cuda, monkeypatch):
    options = ['--fresh-noise', str(photos), '--pairs', '20']              # 3 steps an epoch
    new_run(folder, tmp_path / 'whole', *options)
    stop_at(monkeypatch, 5)
    assert new_run(folder, tmp_path / 'parts', *options) == 130
    assert resume(tmp_path / 'parts') == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', EPOCHS)
