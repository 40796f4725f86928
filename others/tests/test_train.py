"""Training runs: what a folder holds, and that stopping and resuming change nothing."""
import json
import math
import re
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from others import data, train
from others.common import cli, datasets, denoisers, plots, records, storage
from others.tests.conftest import assert_same_run, images, metrics, noisy_set

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


def at_step(monkeypatch, number: int, action) -> None:
    """Call `action()` at the given step of what is trained next, counted from 1, and then no more."""
    show, steps = train.Run.show, iter(range(1, number + 1))

    def show_and_act(*arguments) -> None:
        show(*arguments)
        if next(steps, None) == number:
            action()

    monkeypatch.setattr(train.Run, 'show', show_and_act)


def rates(peak: float, *progress: float):
    """Of one cycle, after its first tenth."""
    return pytest.approx([peak * (0.001 + 0.999 * (1 + math.cos(math.pi * (x - 0.1) / 0.9)) / 2) for x in progress])


def test_best_stays_as_it_was_when_the_last_epoch_is_worse(folder, tmp_path, monkeypatch, no_pictures):
    scores = iter([1., 3., 2.])                         # of the noisy images, then after each epoch
    monkeypatch.setattr(datasets.Validation, 'psnr', lambda *images: (next(scores), None))
    assert new_run(folder, tmp_path) == 0
    assert [record['val_psnr'] for record in metrics(tmp_path)] == [3, 2]
    assert (tmp_path / 'best.pth').read_bytes() != (tmp_path / 'last.pth').read_bytes()


def test_run_folder(folder, tmp_path, capsys, monkeypatch):
    run, drawn, draw = tmp_path / 'runs' / 'first', [], plots.training_curves
    monkeypatch.setattr(plots, 'training_curves', lambda path, rows, *rest:
                        drawn.append(len(rows)) or draw(path, rows, *rest))
    assert new_run(folder, run, '--seed', '3', '--record', str(tmp_path / 'record.json')) == 0
    assert {path.name for path in run.iterdir()} == {
        'settings.json', 'log.txt', 'metrics.jsonl', 'curve.png', 'montage.png', 'last.pth', 'best.pth',
        'state.pt'}
    settings = json.loads((run / 'settings.json').read_text())
    assert (settings['project'], settings['epochs'], settings['seed'], settings['pairs']) == (1, 2, 3, 40)
    (stage,) = settings['stages']
    assert stage['versions']['torch'] == torch.__version__ and stage['command'].startswith('python -m ')
    for name in ('curve.png', 'montage.png'):
        with Image.open(run / name) as picture:
            assert picture.format == 'PNG' and min(picture.size) > 200
    log = (run / 'log.txt').read_text()
    assert capsys.readouterr().out == log
    assert re.findall(r'^ +(\d/\d) ', log, re.MULTILINE) == ['1/2', '2/2']

    assert drawn == [1, 2]
    history = metrics(run)
    (recorded,) = json.loads((tmp_path / 'record.json').read_text())['runs']
    assert [row['val_psnr'] for row in recorded['rows']] == [record['val_psnr'] for record in history]
    assert recorded['rows'][0]['project'] == 1 and recorded['rows'][0]['training'] == 'first'
    noisy, clean = torch.load(folder / data.VAL_FILE, weights_only=True)
    for name, expected in (('last.pth', history[-1]['val_psnr']),
                           ('best.pth', max(record['val_psnr'] for record in history))):
        error = denoisers.trained_model(1, run / name).predict(noisy, ensemble=False).double() - clean.double()
        decibels = -10 * (error / 255).square().mean((1, 2, 3)).log10()
        assert decibels.mean().item() == pytest.approx(expected, abs=1e-4)


def test_the_seed_decides(folder, whole, tmp_path, no_pictures):
    new_run(folder, tmp_path / 'same', '--seed', '0')
    new_run(folder, tmp_path / 'other', '--seed', '1')
    assert_same_run(whole, tmp_path / 'same', EPOCHS)
    assert metrics(whole) != metrics(tmp_path / 'other')


@pytest.mark.parametrize('project', [1, 2])
def test_stop_and_resume(folder, whole, tmp_path, no_pictures, monkeypatch, capsys, project):
    """Stopped within the first epoch and again within the second one."""
    if project == 2:
        whole = tmp_path / 'whole'
        new_run(folder, whole, project=2)
    at_step(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGINT))
    assert new_run(folder, tmp_path / 'parts', project=project) == 130
    hint = f"--resume {tmp_path / 'parts'}"
    assert hint in capsys.readouterr().out
    assert not (tmp_path / 'parts' / 'metrics.jsonl').exists()
    at_step(monkeypatch, 4, lambda: signal.raise_signal(signal.SIGTERM))
    assert train.main(hint.split()) == 130
    assert len(metrics(tmp_path / 'parts')) == 1
    assert train.main(hint.split()) == 0
    assert_same_run(whole, tmp_path / 'parts', EPOCHS)
    assert train.main(hint.split()) == 0            # there is nothing left to do
    assert_same_run(whole, tmp_path / 'parts', EPOCHS)


@pytest.mark.parametrize('project', [1, 2])
def test_batch_and_rate(folder, tmp_path, no_pictures, monkeypatch, project):
    """Those that were asked for, in 4 steps; also on another machine, where the model's own have changed."""
    run = tmp_path / 'run'
    at_step(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGINT))
    assert new_run(folder, run, '--batch', '20', '--lr', '5e-4', project=project) == 130
    monkeypatch.setattr(records, 'processor', lambda device: 'another')
    for name in ('BATCH_SIZE', 'PEAK_LR'):
        monkeypatch.setattr(type(denoisers.new_model(project)), name, 5)
    assert train.main(['--resume', str(run), '--record', str(tmp_path / 'record.json')]) == 0
    assert [record['lr'] for record in metrics(run)] == rates(5e-4, 1 / 4, 3 / 4)
    (recorded,) = json.loads((tmp_path / 'record.json').read_text())['runs']        # both epochs ended there
    assert recorded['machine']['processor'] == 'another' and recorded['command'].count('python -m ') == 2


def test_lengthened(folder, tmp_path, no_pictures, monkeypatch):
    """Stopped within the second epoch of two, lengthened to four and stopped once more."""
    def lengthen(run, *options) -> int:
        return train.main(['--resume', str(run), '--epochs', '4', *options])

    whole, parts, record = tmp_path / 'whole', tmp_path / 'parts', tmp_path / 'record.json'
    at_step(monkeypatch, 7, lambda: signal.raise_signal(signal.SIGINT))
    assert new_run(folder, whole, '--lr', '5e-4') == 130
    shutil.copytree(whole, parts)
    assert lengthen(whole, '--record', str(record)) == 0
    at_step(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGTERM))
    assert lengthen(parts) == 130
    assert lengthen(parts) == 0                                 # as another --resume without --epochs would
    assert metrics(whole) == metrics(parts) and len(metrics(whole)) == 4
    assert (whole / 'last.pth').read_bytes() == (parts / 'last.pth').read_bytes()

    rows = []
    for run, commands, epochs in zip(json.loads(record.read_text())['runs'], (1, 2), (1, 3)):
        assert run['command'].count('python -m ') == commands and len(run['rows']) == epochs
        rows += run['rows']
    assert [row['val_psnr'] for row in rows] == [row['val_psnr'] for row in metrics(whole)]
    assert [row['planned_epochs'] for row in rows] == [2, 4, 4, 4]
    assert (whole / 'log.txt').read_text().count('lengthened after 1.400 epochs') == 1
    before = record.read_bytes()
    assert train.main(['--resume', str(whole), '--record', str(record)]) == 0
    assert record.read_bytes() == before, 'recorded twice'
    # The last steps of the epochs: one of 10, and after 7 steps three of the other 13.
    assert [row['lr'] for row in rows] == rates(5e-4, 4 / 10, 2 / 13, 7 / 13, 12 / 13)
    with pytest.raises(storage.UserError, match='--epochs: 3, expected at least the 4 of the run'):
        train.main(['--resume', str(whole), '--epochs', '3'])


def content(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_state(run, change) -> None:
    state = torch.load(run / 'state.pt', weights_only=True)
    change(state)
    torch.save(state, run / 'state.pt')


@pytest.mark.parametrize('damage, words', [
    (lambda path: path.unlink(), 'is missing'), (lambda path: path.write_bytes(b''), 'damaged'),
    (lambda path: path.write_text('{}'), 'damaged'), (lambda path: torch.save([1], path), 'damaged'),
    (lambda path: path.write_bytes(path.read_bytes()[:-9999]), 'damaged'),
    (lambda path: change_state(path.parent, lambda state: state.pop('history')), 'damaged'),
    (lambda path: change_state(path.parent, lambda state: state['training'].pop('step')), 'damaged'),
    (lambda path: change_state(path.parent, lambda state: state['training']['weights'].popitem()), 'does not fit'),
    (lambda path: change_state(path.parent, lambda state: state['training'].pop('order')), 'does not fit'),
])
def test_a_run_that_has_lost_its_state_is_left_as_it_is(whole, tmp_path, damage, words):
    run = tmp_path / 'run'
    shutil.copytree(whole, run)
    damage(run / 'state.pt')
    before = content(run)
    with pytest.raises(storage.UserError, match=f'--resume: .*state.pt .*{words}'):
        train.main(['--resume', str(run), '--epochs', '3'])
    assert content(run) == before


def test_the_data_may_move_but_not_change(folder, whole, tmp_path, no_pictures):
    for name in ('run', 'other'):
        shutil.copytree(whole, tmp_path / name)
    run, moved, other = (tmp_path / name for name in ('run', 'moved', 'data'))
    shutil.copytree(folder, moved)
    before = content(run)

    def refused(data_folder, words: str) -> None:
        with pytest.raises(storage.UserError, match=f'--data: .*{words}, expected what the run began with'):
            train.main(['--resume', str(run), '--data', str(data_folder), '--epochs', '3'])
        assert content(run) == before

    other.mkdir()
    refused(noisy_set(other, PAIRS, SIDE, val=PAIRS, seed=1), 'val_data.pkl holds something else')
    shutil.copy(folder / data.VAL_FILE, other)
    refused(other, 'train_data.pkl holds something else')
    (other / data.VAL_FILE).unlink()
    refused(other, 'val_data.pkl is missing')
    assert train.main(['--resume', str(run), '--data', str(moved), '--epochs', '3']) == 0
    assert train.main(['--resume', str(tmp_path / 'other'), '--epochs', '3']) == 0
    assert metrics(run) == metrics(tmp_path / 'other') and len(metrics(run)) == 3
    assert json.loads((run / 'settings.json').read_text())['data'] == str(moved)


@pytest.mark.parametrize('stream', [None, type('Tee', (), {'write': lambda self, text: None})()])
def test_any_stdout_will_do(folder, tmp_path, no_pictures, monkeypatch, stream):
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, stream)
    assert new_run(folder, tmp_path / 'run', '--epochs', '1') == 0
    assert 'finished' in (tmp_path / 'run' / 'log.txt').read_text()


def test_the_loss_is_the_mean_over_pairs(folder, tmp_path, no_pictures, monkeypatch):
    """Though the second batch has 5 pairs, not 20."""
    sizes, losses = [], iter([1., 6.])
    monkeypatch.setattr(type(denoisers.new_model(1)), 'step', lambda model, first, *rest: sizes.append(len(first))
                        or torch.tensor(next(losses)))
    assert new_run(folder, tmp_path / 'run', '--epochs', '1', '--batch', '20', '--pairs', '25') == 0
    assert (sizes, metrics(tmp_path / 'run')[0]['loss']) == ([20, 5], 2)


@pytest.mark.parametrize('moment, step', [('show', 2), ('show', 8), ('save_state', 10)])
def test_a_killed_run_loses_its_epoch_alone(folder, whole, tmp_path, no_pictures, monkeypatch, moment, step):
    """Killed in the first epoch, in the middle of the second, or at its end before the state is written."""
    class Killed(BaseException):
        pass

    def kill(run, progress, *arguments, **options) -> None:
        if progress.step == step and not killed:
            killed.append(step)
            raise Killed
        original(run, progress, *arguments, **options)

    killed, original = [], getattr(train.Run, moment)
    monkeypatch.setattr(train.Run, moment, kill)
    with pytest.raises(Killed):
        new_run(folder, tmp_path / 'killed')
    assert train.main(['--resume', str(tmp_path / 'killed')]) == 0
    assert_same_run(whole, tmp_path / 'killed', EPOCHS)


def test_a_rate_that_is_too_high_is_named(folder, tmp_path, no_pictures):
    with pytest.raises(storage.UserError, match=r'--lr: 1e\+30 may be too high: epoch 1, step'):
        new_run(folder, tmp_path / 'run', '--lr', '1e30')


def test_a_second_process_is_kept_out(folder, tmp_path, no_pictures, monkeypatch):
    at_step(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGINT))
    assert new_run(folder, tmp_path / 'run') == 130
    before = (tmp_path / 'run' / 'state.pt').read_bytes()
    with storage.alone(tmp_path / 'run'), pytest.raises(storage.UserError, match='another process trains in it'):
        train.main(['--resume', str(tmp_path / 'run')])
    assert (tmp_path / 'run' / 'state.pt').read_bytes() == before


def test_a_run_killed_before_its_settings_leaves_its_folder_free(folder, whole, tmp_path, no_pictures):
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'settings.json.7.tmp').write_text('{')
    (run / 'notes.txt').write_text('of something else')
    with pytest.raises(storage.UserError, match='--out: .* exists'):
        new_run(folder, run)
    (run / 'notes.txt').unlink()
    assert new_run(folder, run) == 0
    assert_same_run(whole, run, EPOCHS)


def test_stop_request_lets_the_second_signal_kill():
    before = signal.getsignal(signal.SIGINT)
    with train.StopRequest() as stop:
        assert not stop.made
        signal.raise_signal(signal.SIGINT)
        assert stop.made and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with train.StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.made
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_validation_set(folder, tmp_path, no_pictures):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / data.TRAIN_FILE).write_bytes((folder / data.TRAIN_FILE).read_bytes())
    assert new_run(tmp_path / 'data', tmp_path / 'run', '--pairs', '9') == 0
    assert [record['val_psnr'] for record in metrics(tmp_path / 'run')] == [None, None]
    assert (tmp_path / 'run' / 'last.pth').exists() and not (tmp_path / 'run' / 'best.pth').exists()
    with pytest.raises(storage.UserError, match='--promote'):
        train.main(['--resume', str(tmp_path / 'run'), '--promote'])


# ---------------------------------------------------------------------------------------- promote

def test_promote_copies_only_what_scores_higher(folder, tmp_path, capsys):
    validation = train.read_validation(folder)
    model, shipped = denoisers.new_model(1), tmp_path / 'bestmodel.pth'
    model.save(tmp_path / 'random.pth')
    for parameter in model.net.tail.parameters():   # the correction is zero: output = input
        parameter.data.zero_()
    model.save(tmp_path / 'identity.pth')
    random, identity = ((tmp_path / name).read_bytes() for name in ('random.pth', 'identity.pth'))

    for weights, expected, force, copies in (
            ('random.pth', random, False, True), ('identity.pth', identity, False, True),
            ('random.pth', identity, False, False), ('identity.pth', identity, False, False),
            ('random.pth', random, True, True)):
        assert train.promote(1, tmp_path / weights, shipped, validation, force) == copies
        assert shipped.read_bytes() == expected
    shipped.write_text('no weights')
    assert train.promote(1, tmp_path / 'random.pth', shipped, validation, force=True)
    noisy = validation.noisy
    out = capsys.readouterr().out
    assert out.count(f'{validation.psnr(noisy)[0]:.3f} dB') == 4
    assert (out.count('copied to'), out.count('not better')) == (4, 2)


@pytest.mark.parametrize('project', [1, 2])
def test_fine_tuning(folder, tmp_path, no_pictures, monkeypatch, project):
    """It begins from the weights, at the lower rate."""
    torch.manual_seed(5)
    model, start = denoisers.new_model(project), tmp_path / 'start.pth'
    model.save(start)
    monkeypatch.setattr(denoisers, 'checkpoint', lambda project: start)
    began = []
    monkeypatch.setattr(type(model), 'train', lambda model, *images, **options: began.append(
        (model.weights(), options['peak_lr'])))
    for weights in ('pretrained', str(start)):
        new_run(folder, tmp_path / weights.replace('/', '_'), '--weights', weights, project=project)
    monkeypatch.undo()
    for weights, rate in began:
        assert all(torch.equal(weight, weights[name]) for name, weight in model.weights().items())
        assert rate == pytest.approx(model.PEAK_LR * model.FINE_TUNING)
    assert len(began) == 2 and json.loads((tmp_path / 'pretrained' / 'settings.json').read_text())['threads'] == 1


def test_promote_from_the_command_line(folder, tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr(denoisers, 'checkpoint', lambda project: tmp_path / f'shipped_{project}.pth')
    assert new_run(folder, tmp_path / 'run', '--promote', project=2) == 0
    assert (tmp_path / 'shipped_2.pth').read_bytes() == (tmp_path / 'run' / 'best.pth').read_bytes()


def test_fine_tuning_begins_with_epoch_0(folder, tmp_path, no_pictures, monkeypatch):
    """The best so far is better than that and than the noisy images."""
    start = denoisers.new_model(1)
    start.save(tmp_path / 'start.pth')
    scores = iter([5., 3., 4., 6.])                     # of the noisy images, of the start, after each epoch
    monkeypatch.setattr(datasets.Validation, 'psnr', lambda *images: (next(scores), None))
    begun = []
    monkeypatch.setattr(train.Run, 'draw_pairs', lambda run, epoch:
                        begun.append((run.folder / 'best.pth').read_bytes()))
    assert new_run(folder, tmp_path / 'run', '--weights', str(tmp_path / 'start.pth')) == 0
    assert begun[0] == (tmp_path / 'start.pth').read_bytes() != (tmp_path / 'run' / 'best.pth').read_bytes()
    history = metrics(tmp_path / 'run')
    assert [(row['epoch'], row['val_psnr']) for row in history] == [(0, 3), (1, 4), (2, 6)]
    assert history[0]['loss'] is history[0]['lr'] is None
    marked = [line for line in (tmp_path / 'run' / 'log.txt').read_text().splitlines() if 'best so far' in line]
    assert len(marked) == 1 and '2/2' in marked[0]


# -------------------------------------------------------------------------------- a user's own pairs

def test_without_clean_images_the_psnr_is_estimated(folder, tmp_path, monkeypatch, capsys):
    own, run, drawn = tmp_path / 'own', tmp_path / 'run', []
    own.mkdir()
    torch.save(tuple(images(2, 6, 3, 16, 16, low=90, high=160).float() + 0.25), own / datasets.VAL_PAIRS_FILE)
    shutil.copy(folder / data.TRAIN_FILE, own)
    (own / 'set.json').write_text('{"range": [0, 4095]}')
    monkeypatch.setattr(plots, 'montage', lambda path, versions, **options: drawn.append((list(versions), options)))
    monkeypatch.setattr(denoisers, 'checkpoint', lambda project: tmp_path / 'shipped.pth')
    denoisers.new_model(1).save(tmp_path / 'shipped.pth')
    assert new_run(own, run, '--epochs', '1', '--promote', '--force') == 0
    (row,) = metrics(run)
    validation = train.read_validation(own)
    model = denoisers.trained_model(1, run / 'best.pth')
    value, error = validation.psnr(model.predict(validation.noisy, ensemble=False))
    assert (row['val_psnr'], row['val_error']) == (pytest.approx(value, abs=1e-3), pytest.approx(error, rel=1e-2))
    assert drawn[0][0] == ['noisy', 'denoised', 'other shot'] and not drawn[0][1]['with_psnr']
    out = capsys.readouterr().out
    assert f"{row['val_psnr']:.3f} ± {row['val_error']:.3f} dB" in out and out.count('estimated') == 3
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


@pytest.mark.parametrize('kinds, cropped, asked, expected', [
    ('ii', False, 'auto', 'pixels'), ('cc', False, 'auto', 'images'), ('ic', False, 'auto', 'auto'),
    ('ic', True, 'auto', 'images'), ('ii', True, 'auto', 'pixels'), ('', False, 'auto', 'pixels'),
    ('cc', False, 'pixels', 'pixels'), ('ii', True, 'images', 'images'),
])
@pytest.mark.parametrize('project', [1, 2])
def test_what_is_swapped(project, kinds, cropped, asked, expected):
    """kinds: of the pairs, independent or correlated noise; none of them for fresh noise."""
    whole = None
    if kinds:
        noise = torch.randn(2, len(kinds), 3, 66, 66, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.avg_pool2d(noise.flatten(0, 1), 3, 1).view(2, len(kinds), 3, 64, 64)
        whole = tuple(128 + 20 * torch.stack([pair[i] if kind == 'c' else noise[k, i, :, :64, :64]
                                              for i, kind in enumerate(kinds)]) for k, pair in enumerate(smooth))
    pairs = SimpleNamespace(whole=whole, first=whole and whole[0][..., :9] if cropped else whole and whole[0])
    run = train.Run(None, {'swap': asked}, denoisers.new_model(project), pairs, None)
    swap, line = run.choose_swap()
    assert swap == expected
    assert bool(line) == (asked == 'auto' and bool(kinds)) and ('everywhere' in line) == (cropped and kinds == 'ic')


def test_compare(whole, folder, tmp_path, no_pictures, capsys):
    empty, other = tmp_path / 'empty', tmp_path / 'other'
    empty.mkdir()
    assert new_run(folder, other, '--epochs', '1', '--lr', '1e-9', '--swap', 'images') == 0
    capsys.readouterr()
    assert train.main(['--compare', str(whole), str(empty), str(other)]) == 0
    out, error = capsys.readouterr()
    (_, *rows), best = out.splitlines(), max(record['val_psnr'] for record in metrics(whole))
    assert [row.split()[0] for row in rows] == [str(other), str(whole)]         # the best last
    assert f'{best:.3f}' in rows[1] and '2/2' in rows[1] and 'images' in rows[0] and '1.0e-09' in rows[0]
    assert error.startswith(f'skipped {empty}: ') and error.count('\n') == 1
    with pytest.raises(storage.UserError, match='--compare: expected the folder of a run'):
        train.main(['--compare', str(empty)])


# ------------------------------------------------------------------------------------ fresh noise

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for i in range(12):
        Image.fromarray(images(70, 96, 3, seed=i).numpy()).save(folder / f'{i}.png')
    return folder


def test_fresh_pairs(photos):
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


def test_fresh_pairs_never_come_from_validation_photographs(photos, tmp_path, monkeypatch):
    sets = {}
    monkeypatch.setattr(data, 'make_set', lambda out, training, validation, *rest:
                        sets.update(t=training[0], v=validation[0]))
    data.make_from_photos(photos, tmp_path / 'data')
    assert sorted(train.FreshPairs(photos, 9, seed=5).photos) == sorted(sets['t'])
    assert not set(sets['t']) & set(sets['v'])


def test_fresh_noise_and_resume(folder, photos, tmp_path, no_pictures, no_cuda, monkeypatch):
    options = ['--fresh-noise', str(photos), '--pairs', '20']              # 3 steps an epoch
    new_run(folder, tmp_path / 'whole', *options)
    at_step(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    assert new_run(folder, tmp_path / 'parts', *options) == 130
    assert train.main(['--resume', str(tmp_path / 'parts')]) == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', EPOCHS)
