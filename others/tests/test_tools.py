"""What all the tools promise: a list of them, --help with an example, mistakes told in one line."""
import io
import os
import re
import runpy
import subprocess
import sys

import numpy
import pytest
import torch
from PIL import Image

from others.common import cli, storage
from others.__main__ import tools
from others.tests.conftest import images, noisy_set

pytestmark = pytest.mark.fast


@pytest.fixture
def run_here(monkeypatch, capsys, threads):
    """The same for `python -m others.NAME ARGUMENTS`, or of test.py, without a process of its own."""
    def call(name: str, *arguments) -> tuple:
        monkeypatch.setattr(sys, 'argv', [name, *arguments])
        monkeypatch.delitem(sys.modules, f'others.{name}', raising=False)
        with pytest.raises(SystemExit) as stop:
            if name == 'test':
                runpy.run_path(str(storage.ROOT / 'test.py'), run_name='__main__')
            else:
                runpy.run_module(f'others.{name}', run_name='__main__')
        return (stop.value.code or 0, *capsys.readouterr())
    return call


def test_list(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, 'others.__main__')
    runpy.run_module('others', run_name='__main__')
    listed = dict(line.split(maxsplit=3)[2:] for line in capsys.readouterr().out.splitlines() if line[:4] == 4 * ' ')
    assert listed.keys() >= {'others.data', 'others.train', 'others.denoise', 'others.studies.search'}
    assert len(set(listed.values())) == len(listed)


@pytest.mark.parametrize('name', {**tools(), **tools('studies')})
def test_help(name, run_here):
    status, out, error = run_here(name, '--help')
    assert (status, error) == (0, '')
    assert f'\n    python -m others.{name} ' in out


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """What mistakes are made with."""
    folder = tmp_path_factory.mktemp('mistakes')
    for name in ('data', 'broken', 'empty', 'half', 'old', 'photo', 'same'):
        (folder / name).mkdir()
    noisy_set(folder / 'data', 40, 8, val=40)
    torch.save((images(5, 3, 8, 8), images(5, 3, 8, 8)), folder / 'same' / 'val_data.pkl')
    for name in ('text.jpeg', 'broken/train_data.pkl', 'old/settings.json'):
        (folder / name).write_text('{}')
    (folder / 'half' / 'settings.json').write_text('{')
    numpy.save(folder / 'nan.npy', numpy.float32([[0, numpy.nan]]))
    for name, mode in (('a.png', 'RGB'), ('alpha.png', 'RGBA'), ('deep.png', 'I;16'), ('photo/a.png', 'RGB')):
        Image.new(mode, (64, 64), 200).save(folder / name)
    return folder


@pytest.mark.parametrize('command, words', [
    ('train --epochs 0', '--epochs'), ('train --projct 1', '--projct'), ('train --project 1', '--project and --out'),
    ('train --project 1 --out old', '--out: .* exists'),
    ('train --project 1 --out new --data none', '--data: .*No such file'),
    ('train --project 1 --out new --data data --pairs 41', '--pairs: .* holds 40'),
    ('train --project 1 --out new --data data --fresh-noise none', '--fresh-noise: '),
    ('train --resume none', '--resume: .* holds no run'), ('train --resume half', '--resume: half holds no run'),
    ('train --resume old', '--resume: .* no stages'), ('train --resume old --force', '--force needs --promote'),
    ('train --resume old --seed 1', '--resume: .* expected no --seed'),
    ('train --compare old --out new', '--compare: expected no --out'),
    ('evaluate --data none', '--data: .*No such file'), ('evaluate --real none', '--real: .*No such file'),
    ('evaluate --data same', '--data: .*same/val_data.pkl.*expected noisy and clean'),
    ('evaluate --floor high', '--floor'), ('evaluate --data data --submission none', '--submission: .* no model.py'),
    ('evaluate --data data --real data/../data/val_data.pkl --pictures new', '--pictures: two files are called'),
    ('denoise none.png', 'IN: there is no'), ('denoise /', 'OUT: .* images of /, which has no name'),
    ('denoise a.png new.xyz', 'OUT: .*new.xyz'), ('denoise a.png a.png', 'OUT: .*a.png exists'),
    ('denoise alpha.png new.jpg', 'OUT: .*RGBA'), ('denoise deep.png new.jpg', 'OUT: .*uint16'),
    ('denoise text.jpeg new.png', 'text.jpeg'), ('denoise empty new', 'IN: .*empty holds no images'),
    ('denoise nan.npy new.npy', 'nan.npy: values that are not finite'),
    *((f'denoise a.png new.png --range {words}', f'--range: {words}, expected two numbers')
      for words in ('1 1', '2 1', '0', '0 nan', '0 1 2', 'type')),
    ('denoise photo a.png', 'OUT: .*a.png is a file, expected'),
    ('denoise a.png empty', 'OUT: .*empty is a folder, expected a file, .*empty/a.png'),
    ('denoise photo photo', 'OUT: .*photo is IN, expected a folder of its own'),
    ('data', 'photos | demo'), ('data photos none --out new', 'FOLDER: .*none is not a folder'),
    ('data photos . --train many', "--train: expected an integer of at least 1, got 'many'"),
    ('data demo --seed 18446744073709551616', '--seed: expected an integer of at least 0'),
    ('data photos . --other-noise 1.01', '--other-noise'), ('data photos . --other-noise nan', '--other-noise'),
    ('data photos empty --out new', 'FOLDER: .*empty holds 0 usable photographs, expected at least 2$'),
    ('data photos photo --out new', 'FOLDER: .* holds 1 usable'),
    ('data demo --out a.png', '--out: .* is no folder to write to'),
    ('data demo --out a.png/new', '--out: .* is no folder to write to'),
    ('data demo --out new --train 1000000000000 --val 1', 'not enough memory: '),
    ('package --data none --scipers 1111111 222222 333333', '--scipers'),
    ('package --data none --scipers ٣٣٣٣٣٣ 222222 333333', '--scipers'),
    ('studies.readme_picture --out a.png', '--out'),
    ('studies.compare_torch --data data --pairs 41', '--pairs: .* holds 40, expected 41'),
    ('studies.search x --project 1 --kernel 3', '--kernel is of project 2'),
    ('studies.search x --project 2 --block plain', '--block is of project 1'),
    ('studies.search x --project 2 --without turn skips', '--without: skips is of the other project'),
    ('studies.search x --project 1 --without centring', '--without: centring is of the other project'),
    ('studies.search x --project 2 --lr nan', 'argument --lr: nan, expected '),
    ('studies.search x --project 2 --data data --batch 4 --lr 1e30', '--lr: the loss is not finite after'),
    ('studies.search x --project 2 --data data --oracle none', '--oracle'),
    ('studies.search x --project 2 --data data --also data/val_data.pkl', '--also'),
    ('studies.search x --project 1 --data data --widths 8', '--blocks: expected 0 numbers'),
    ('test -p none', '--project-path: none'), ('test -p empty', '--project-path: empty'),
    ('test -d none', '--data-path: '), ('test -d broken', 'train_data.pkl'), ('test --project 3', '--project'),
])
def test_mistakes(folder, run_here, monkeypatch, command, words):
    """Told in one line, after those of work that has ended; nothing is written."""
    def content() -> dict:
        return {path: path.is_file() and path.read_bytes() for path in folder.rglob('*')}

    monkeypatch.chdir(folder)
    before = content()
    status, out, error = run_here(*command.split())
    *progress, line = error.splitlines()
    assert (status, out) == (2, '') and line.startswith('error: ') and re.search(words, line)
    assert all(re.fullmatch(r'[a-z ]+: (\d+) of \1, \d+ s', line) for line in progress)
    assert content() == before


@pytest.mark.parametrize('tool, package, error, expected', [
    ('data', 'torch', 'ModuleNotFoundError("it is missing")', 2),
    ('denoise', 'PIL', 'ModuleNotFoundError("it is missing")', 2), ('data', 'torch', 'KeyboardInterrupt', 130)])
def test_a_package_that_is_missing_and_an_interrupt_at_once(tool, package, error, expected, tmp_path):
    (tmp_path / f'{package}.py').write_text(f'raise {error}')
    done = subprocess.run([sys.executable, '-m', f'others.{tool}', '--help'], cwd=storage.ROOT, capture_output=True,
                          env={**os.environ, 'PYTHONPATH': str(tmp_path)}, text=True)
    said = 'error: it is missing: pip install -r others/requirements.txt\n' if expected == 2 else ''
    assert (done.returncode, done.stdout, done.stderr) == (expected, '', said)


def test_nobody_reads_on(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, 'stdout', open(writer, 'w'))
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: print('a line'))
    sys.stdout.close()                                  # what is left in the buffer has somewhere to go
    assert (stop.value.code, capsys.readouterr().err) == (141, '')


@pytest.mark.parametrize('stream', [
    None, type('Tee', (), {'write': lambda self, text: None})(),
    io.TextIOWrapper(io.BytesIO(), encoding='cp1252')], ids=['none', 'tee', 'cp1252'])
def test_what_the_terminal_cannot_show_ends_nothing(monkeypatch, stream):
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, stream)
    cli.say('a line of a training')
    cli.progress_bar('training', 9).close()
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: print('写真.png') or print('café', file=sys.stderr))
    assert not stop.value.code
    if stream is None:
        sys.stdout.close(), sys.stderr.close()              # opened by `run`
    elif hasattr(stream, 'buffer'):
        assert stream.buffer.getvalue() == 'a line of a training\n\\u5199\\u771f.png\ncafé\n'.encode('cp1252')


def test_names_may_be_as_long_as_the_file_system_takes(tmp_path):
    for name in ('a' * 255, '写' * 85):
        storage.write(tmp_path / name, b'1')
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b'1'} and len(list(tmp_path.iterdir())) == 2


def test_a_process_of_torchrun_ends_whatever_its_threads_do():
    """With the status and all of its output."""
    code = ('import threading, time; from others.common import cli; '
            'threading.Thread(target=time.sleep, args=(99,)).start(); ')
    done = subprocess.run([sys.executable, '-c', code + 'cli.run(lambda: print("done") or 3)'], cwd=storage.ROOT,
                          env={**os.environ, 'WORLD_SIZE': '2'}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, 'done\n', '')
