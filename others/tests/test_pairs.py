"""Sets from noisy shots: crops whose places and shots can be read off their colours, and faults that must be found."""
import json
import os
import subprocess
import sys

import numpy
import pytest
import torch
from PIL import Image

from others import data
from others.common import pairs, storage
from others.common.metrics import load_pairs
from others.tests.conftest import contents, images, refused


def make(*arguments) -> None:
    data.main(['pairs', *map(str, arguments)])


def save(path, values) -> None:
    """(H, W), (3, H, W) or an array of any type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = numpy.asarray(values)
    values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    numpy.save(path, values) if path.suffix == '.npy' else Image.fromarray(values).save(path)


def summary(folder) -> dict:
    return json.loads((folder / 'set.json').read_text(encoding='utf-8'))


def uses(folder) -> dict:
    return {scene['name']: scene['use'] for scene in summary(folder)['scenes']}


def content(side: int = 64, seed: int = 0) -> torch.Tensor:
    """A picture in 60..195: squares of 8 x 8 pixels, (side, side)."""
    squares = images(side // 8, side // 8, seed=seed, low=60, high=196)
    return squares.repeat_interleave(8, 0).repeat_interleave(8, 1)


def noisy(clean: torch.Tensor, seed: int, sigma: float = 12., blurred: bool = False) -> torch.Tensor:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    if blurred:
        noise = noise + noise.roll(1, -1) + noise.roll(1, -2) + noise.roll((1, 1), (-1, -2))
    return (clean + sigma * noise).round().clamp(0, 255).byte()


def shots(folder, names: str, seed: int = 0, **options) -> list:
    """Two folders with a shot of each scene."""
    for i, name in enumerate(names):
        for k, shot in enumerate('AB'):
            save(folder / shot / f'{name}.png', noisy(content(seed=i), seed + 2 * i + k, **options))
    return [folder / 'A', folder / 'B']


@pytest.fixture
def skip_picture(monkeypatch):
    """From its call on: the picture takes longer than the set."""
    return lambda: monkeypatch.setattr(pairs, 'picture', lambda scenes, given: b'')


@pytest.fixture
def burst(tmp_path):
    """Five scenes k of different sizes in three folders j: red is 40 j + k, green is the row, blue the column."""
    for j, folder in enumerate('ABC'):
        for k in range(5):
            place = torch.meshgrid(torch.arange(24 + 3 * k), torch.arange(40 - 2 * k), indexing='ij')
            shot = torch.stack([torch.full_like(place[0], 40 * j + k), *place]).byte()
            save(tmp_path / folder / f'{k}.{"png" if j else "tif"}', shot)
    return [tmp_path / name for name in 'ABC']


def test_crops_show_one_place_in_two_shots_and_validation_shows_other_scenes(burst, tmp_path, skip_picture):
    options = '--size', 16, '--train', 300, '--holdout', 0.4
    make(*burst, '--out', tmp_path / 'out', *options)
    use, seen = uses(tmp_path / 'out'), {}
    grid = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing='ij'))
    for name, kind in ('train_data.pkl', 'training'), ('val_pairs.pkl', 'validation'):
        first, second = load_pairs(tmp_path / 'out' / name)
        places = first[:, 1:, 0, 0].long()
        assert first.dtype is torch.uint8 and first.shape[1:] == (3, 16, 16)
        assert torch.equal(first[:, 1:], second[:, 1:])                 # the same place
        assert torch.equal(first[:, 1:].long(), places[:, :, None, None] + grid)
        red = torch.stack([first[:, 0], second[:, 0]]).flatten(2)
        assert torch.equal(red, red[:, :, :1].expand_as(red))
        (one, other), scene = red[:, :, 0] // 40, red[0, :, 0].long() % 40
        assert torch.equal(scene, red[1, :, 0] % 40) and bool((one != other).all())
        assert {str(k) for k in scene.tolist()} == {name for name in use if use[name] == kind}
        seen[kind] = scene, places, set(zip(one.tolist(), other.tolist()))
    scene, places, combinations = seen['training']
    assert scene.bincount()[scene.unique()].tolist() == [100, 100, 100]
    assert combinations == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert bool((scene[1:] != scene[:-1]).float().mean() > 0.5)         # in random order
    for k in scene.unique().tolist():                                   # every place, to the edges
        assert places[scene == k].amin(0).tolist() == [0, 0]
        assert places[scene == k].amax(0).tolist() == [8 + 3 * k, 24 - 2 * k]
    make(*burst, '--out', tmp_path / 'again', *options)
    skip_picture()
    make(*burst, '--out', tmp_path / 'other', *options, '--seed', 1)
    out, again, other = (contents(tmp_path / name) for name in ('out', 'again', 'other'))
    assert out == again and not [name for name in out if name != 'pairs.png' and out[name] == other[name]]


def test_what_was_found_is_said_and_kept(tmp_path, capsys):
    A, B = shots(tmp_path, 'abcd', sigma=6)
    clean = content(seed=9)
    for name, first, second in (
            ('equal', noisy(clean, 0), noisy(clean, 0)), ('sizes', noisy(clean, 1), noisy(content(72), 2)),
            ('little', noisy(content(24), 3), noisy(content(24), 4)),
            ('moved', clean, noisy(clean.roll((2, -1), (0, 1)), 5)),
            ('dim', noisy(clean, 6), noisy(clean * 0.9, 7)), ('dark', noisy(clean - 100., 8), noisy(clean - 100., 9))):
        save(A / f'{name}.png', first)
        save(B / f'{name}.png', second)
    for name in 'alone', 'broken':
        save(A / f'{name}.png', clean)
    for path in B / 'broken.png', A / 'notes.txt':
        path.write_text('no picture')
    make(A, B, '--out', tmp_path / 'out', '--size', 32, '--train', 20)
    out, remarks = capsys.readouterr().out, {
        'alone': 'no partner in B', 'broken': 'cannot identify', 'equal': 'the same as A', 'sizes': 'B is 72 x 72',
        'little': 'smaller than --size 32', 'moved': 'B has to move by (-2.0, 1.0) pixels (down, right)',
        'dim': 'brightness differs', 'dark': 'of the values are 0 or 255 in one shot'}
    found = {scene['name']: scene for scene in summary(tmp_path / 'out')['scenes']}
    assert found.keys() == {*remarks, *'abcd'} and all(found[name]['remarks'] == [] for name in 'abcd')
    for name, words in remarks.items():
        remark = next(remark for remark in found[name]['remarks'] if words in remark)
        assert f'\n{name}: {remark}\n' in out
    assert {name for name in found if found[name]['use'] == 'left out'} == set(remarks) - {'moved', 'dim', 'dark'}
    assert found['a']['shift'] == [0, 0] and found['a']['noise'] == pytest.approx(6, rel=0.1)
    assert abs(found['a']['correlation']) < 0.1 and 0.2 < found['dark']['black'] < 0.4 and found['dark']['white'] == 0
    with Image.open(tmp_path / 'out' / 'pairs.png') as picture:
        assert picture.width == 1000


def test_names_that_no_terminal_or_font_can_spell(tmp_path):
    folders = shots(tmp_path, ['写真', 'a$b$^', os.fsdecode(b'\xff')])
    save(tmp_path / 'A' / '一.png', content())
    done = subprocess.run([sys.executable, '-m', 'others.data', 'pairs', *map(str, folders), '--out', tmp_path / 'out',
                           '--train', '2'], cwd=storage.ROOT, env={**os.environ, 'PYTHONIOENCODING': 'cp1252'},
                          capture_output=True)
    assert done.returncode == 0 and 'Warning' not in done.stderr.decode('cp1252')
    assert set(uses(tmp_path / 'out')) == {'写真', 'a$b$^', os.fsdecode(b'\xff'), '一'}


@pytest.mark.parametrize('independent, blurred, swap', [('abcd', '', 'pixels'), ('', 'abcd', 'images'),
                                                        ('cd', 'ab', 'auto')])
def test_what_will_be_swapped_is_measured(tmp_path, skip_picture, independent, blurred, swap):
    skip_picture()
    shots(tmp_path, independent)
    make(*shots(tmp_path, blurred, seed=50, blurred=True), '--out', tmp_path / 'out', '--train', 12, '--holdout', 0)
    found = summary(tmp_path / 'out')
    assert found['swap'] == swap
    assert {scene['name'] for scene in found['scenes'] if scene['swap'] == 'images'} == set(blurred)


def test_clean_images_only_measure(tmp_path, capsys, skip_picture):
    skip_picture()
    folders, out = shots(tmp_path, 'abcde'), tmp_path / 'out'
    options = '--out', out, '--size', 32, '--train', 10
    make(*folders, *options)
    for name, clean in (('a.png', content(seed=0)), ('b.png', content(72)), ('c.npy', content(seed=2) / 255),
                        ('d.npy', numpy.full((64, 64), 1.5))):
        save(tmp_path / 'clean' / name, clean)
    assert '(estimated)' in capsys.readouterr().out
    make(*folders, *options, '--clean', tmp_path / 'clean', '--holdout', 1, '--force',
         '--range', 0, 255)                             # of the shots, not of clean images of another type
    told = capsys.readouterr().out
    assert '(estimated)' not in told and 'd: the clean image: floats from 1.5 to 1.5' in told
    assert '\nb: the clean image: 72 x 72' in told and '\ne: no partner in --clean\n' in told
    assert set(contents(out)) == {'train_data.pkl', 'val_data.pkl', 'set.json', 'pairs.png'}
    assert uses(out) == {**dict.fromkeys('ac', 'validation'), **dict.fromkeys('bde', 'training')}
    first, clean = load_pairs(out / 'val_data.pkl')
    assert len(clean) == 8 and clean.min() >= 59.9
    assert all(square[0].unique().numel() <= 16 for square in clean)        # no noise
    assert all(square[0].unique().numel() > 16 for square in first)


@pytest.mark.parametrize('type, words, low, high', [
    ('uint16', '', 0, 65535), ('float32', '', 0, 1), ('uint16', '1000 2000', 1000, 2000), ('uint16', 'data', 9, 60000),
    ('uint8', '60 200', 60, 200), ('float32', '-1.5 2', -1.5, 2)])
def test_deep_images_become_floats_in_0_to_255(tmp_path, skip_picture, type, words, low, high):
    if words != 'data':
        skip_picture()
    generator, out = numpy.random.default_rng(0), tmp_path / 'out'
    for path in (tmp_path / shot / f'{name}.npy' for name in 'ab' for shot in 'AB'):
        values = low + (high - low) * generator.uniform(0.2, 0.8, (32, 32))
        if words == 'data':
            values[0, :2] = low, high
        save(path, values.astype(type))
    make(tmp_path / 'A', tmp_path / 'B', '--out', out, '--size', 32, '--train', 2,
         *(['--range', *words.split()] if words else []))
    first, second = load_pairs(out / 'train_data.pkl')
    assert first.dtype is second.dtype is load_pairs(out / 'val_pairs.pkl')[0].dtype is torch.float32
    training = next(name for name, use in uses(out).items() if use == 'training')
    values = numpy.load(tmp_path / 'A' / f'{training}.npy').astype('float64')
    wanted = torch.from_numpy((values - low) / (high - low) * 255).float()
    assert min((one - wanted).abs().max() for one in (first[0], second[0])) < 1e-3
    assert summary(out)['range'] == ([low, high] if words else None)


@pytest.mark.parametrize('names, options', [('a', ()), ('abc', ('--holdout', 0))])
def test_one_scene_has_no_validation_and_neither_has_a_share_of_0(tmp_path, capsys, names, options):
    out = tmp_path / 'out'
    make(*shots(tmp_path, names), '--out', out, '--train', 3, *options)
    assert 'none for validation, which takes a second scene' in capsys.readouterr().out
    assert set(contents(out)) == {'train_data.pkl', 'set.json', 'pairs.png'}
    assert set(uses(out).values()) == {'training'}


@pytest.mark.parametrize('words, message', [
    ('A', 'FOLDER: one folder, expected two or more'), ('A missing', 'FOLDER: .*missing is not a folder'),
    ('A empty', 'FOLDER: .*empty holds no images'), ('A other', 'FOLDER: no scene has two shots'),
    ('A A', 'FOLDER: no scene has two shots'), ('A B --clean missing', '--clean: .*missing is not a folder'),
    ('A B --clean other', '--clean: no scene has a clean image'), ('A B --size 65', 'FOLDER: no scene has two shots'),
    ('A B --range 9 2', '--range: 9 2, expected two numbers')])
def test_what_makes_no_set_is_refused_and_nothing_is_written(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    shots(tmp_path, 'a')
    save(tmp_path / 'other' / 'b.png', content())
    (tmp_path / 'empty').mkdir()
    with refused(f'^{message}'):
        make(*words.split(), '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('size, sigma, shift, tolerance', [
    (64, 5, (0, 0), 0), (64, 5, (3, -2), 0), (64, 40, (-1, 4), 0.5), (33, 5, (1, 1), 0.2)])
def test_the_shift_between_two_shots_is_found(size, sigma, shift, tolerance):
    scene = content(72)[None, :size, :size].float()
    first = noisy(scene, 0, sigma).float()
    second = noisy(scene.roll(shift, (1, 2)), 1, sigma).float()
    found = pairs.shift_between(first, second)
    assert max(abs(x + moved) for x, moved in zip(found, shift)) <= tolerance


def test_a_shift_in_a_burst_is_told_beside_shots_that_show_nothing():
    scene, flat = content().numpy(), numpy.full((64, 64), 128, numpy.uint8)
    moved = numpy.roll(scene, 2, 0)
    for arrays, label in ([scene, flat, moved], 'C'), ([scene, moved, flat], 'B'):
        remarks = []
        pairs.measure(dict(zip('ABC', arrays)), None, remarks)
        assert [line for line in remarks if line.startswith(f'{label} has to move by ')]
    assert pairs.measure({'A': scene, 'B': flat, 'C': scene}, None, [])['shift'] == [0, 0]


def test_no_shift_is_claimed_where_there_is_nothing_to_see():
    flat = torch.full((1, 64, 64), 128.)
    assert pairs.shift_between(noisy(flat, 0).float(), noisy(flat, 1, blurred=True).float()) is None
    assert pairs.shift_between(flat, flat) is None


def test_the_correlation_that_is_drawn_is_of_noise_with_itself():
    white = noisy(torch.full((1, 64, 65), 128.), 0).float()
    drawn, right = pairs.autocorrelation(white), pairs.autocorrelation(white + white.roll(1, 2))
    assert drawn.shape == (15, 15) and drawn[7, 7] == 1 and drawn[drawn < 1].abs().max() < 0.1
    assert right[7, 8].item() == pytest.approx(0.5, abs=0.05) and abs(right[8, 7]) < 0.1
