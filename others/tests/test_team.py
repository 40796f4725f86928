"""Several processes on one work, started by torchrun, against one process."""
import os
import re
import subprocess
import sys
import tempfile

import pytest
import torch
from PIL import Image

from others import train
from others.common import denoisers, storage
from others.tests.conftest import noisy_set

pytestmark = pytest.mark.usefixtures('no_cuda')
STEPS = 5                           # of an epoch: 33 pairs in batches of 8, the last one of a single pair

# Process 1 alone is told to stop, then everything goes on; with DIE it ends before a step of the second epoch.
SCRIPT = f'''
import contextlib, os, signal, sys
from others import train
from others.common import cli, denoisers, processes, storage
call = train.Run.__call__

def act(run, progress):
    if os.environ['RANK'] == '1' and progress.step == 3 and not stopped:
        signal.raise_signal(signal.SIGTERM)
    if os.environ['RANK'] == '1' and progress.step == {STEPS + 2} and 'DIE' in os.environ:
        os._exit(9)
    call(run, progress)

def main():
    with processes.joined():                     # as a process does once
        processes.joined = contextlib.nullcontext
        assert train.main() == 130
        stopped.append(True)
        return train.main(['--resume', sys.argv[-1]])

stopped, train.Run.__call__ = [], act
cli.run(main)
'''


def torchrun(*arguments, **environment) -> tuple:
    """With two processes: exit status, stdout and stderr."""
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    with tempfile.TemporaryDirectory() as logs:                 # which torchrun leaves behind
        environment = {**os.environ, 'PYTHONPATH': str(storage.ROOT), 'TMPDIR': logs, **environment}
        done = subprocess.run([*start, *map(str, arguments)], capture_output=True, text=True, timeout=500,
                              cwd=storage.ROOT, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small set without validation images, and the script."""
    folder = noisy_set(tmp_path_factory.mktemp('data'), 33, 8)
    (folder / 'script.py').write_text(SCRIPT)
    return folder


def options(folder, project: int, out) -> list:
    return ['--project', project, '--data', folder, '--epochs', 2, '--batch', 8, '--precision', 'float32',
            '--out', out]


def assert_same_weights(project: int, a, b) -> None:
    """To the rounding of ten steps. Adam, project 1's, makes a step of the same size of a gradient that is nothing but
    rounding: there a tensor is compared as a whole, by how far the training moved it."""
    ours, theirs = (denoisers.trained_model(project, run / 'last.pth').weights() for run in (a, b))
    torch.manual_seed(0)
    start = denoisers.new_model(project).weights()
    for name, weight in ours.items():
        if project == 1:
            moved = (weight - start[name]).norm()
            assert (weight - theirs[name]).norm() < 1e-3 * moved, name
        else:
            torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=1e-5, msg=lambda text: f'{name}: {text}')


@pytest.mark.parametrize('project, dies', [(1, False), (2, True)])
def test_two_processes_train_like_one(folder, tmp_path, project, dies):
    """Also if one dies, which ends the run: it then resumes from its last complete epoch, with one process."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    assert train.main([str(option) for option in options(folder, project, one)]) == 0
    status, out, error = torchrun(folder / 'script.py', *options(folder, project, two), **{'DIE': '1'} if dies else {})
    assert status == dies, error
    assert out == (two / 'log.txt').read_text() and out.count('stopped; to resume') == 1     # one process speaks
    if dies:
        again = f'--resume {two}'
        assert re.search(f'another process has ended .*; to resume: python -m others.train {again}', out), error
        assert train.main(again.split()) == 0
    assert_same_weights(project, one, two)


def test_two_processes_share_a_folder(tmp_path):
    """One of them has a file that fails, and the other one ends none the less."""
    denoisers.new_model(2).save(tmp_path / 'weights.pth')
    (tmp_path / 'in').mkdir()
    for i in range(1, 6):
        Image.effect_noise((9 + i, 8), 50).save(tmp_path / 'in' / f'{i}.png')
    (tmp_path / 'in' / '0.png').write_bytes(b'no picture')
    (tmp_path / 'in' / 'notes.txt').write_text('none, either')
    status, out, error = torchrun('-m', 'others.denoise', tmp_path / 'in', '--project', 2,
                                  '--weights', tmp_path / 'weights.pth')
    written = tmp_path / 'in_denoised'
    assert status == 1 and error.count('skipped') == 1 and error.count('left out') == 1
    assert sorted(out.splitlines()) == [str(written / f'{i}.png') for i in range(1, 6)]
