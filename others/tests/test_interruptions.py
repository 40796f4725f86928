"""Saving under fire: kills before random file operations of a training, full and read-only disks. What was saved still
loads, --resume ends where an uninterrupted run ends, to the last bit, and nothing else is left behind.

Run as a module, it trains, is killed, and resumes, as often as asked: each training is a fork of this process, which
has imported everything.
"""
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from others import data, train
from others.common import denoisers, plots, records, storage
from others.common.metrics import load_pairs
from others.tests.conftest import assert_same_run, bits, contents, metrics, new_model, noisy_set, same

EPOCHS, PAIRS, BATCH = 2, 24, 8     # 3 steps an epoch
pytestmark = pytest.mark.usefixtures('no_cuda')


def arguments(folder: Path, run: Path, project: int) -> list:
    """To begin the run, or to go on with it."""
    if (run / 'settings.json').exists():
        return ['--resume', str(run)]
    shutil.rmtree(run, ignore_errors=True)      # killed before there was anything to go on with
    return ['--project', str(project), '--data', str(folder), '--epochs', str(EPOCHS), '--batch', str(BATCH),
            '--threads', '1', '--out', str(run)]


def assert_same_result(a: Path, b: Path) -> None:
    """To the last bit, and no other files."""
    assert_same_run(a, b, EPOCHS)
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()}


# ------------------------------------------------------------------------------------------- kills

def train_in_a_fork(options: list, kill_at: int = -1) -> int:
    """Its exit status, or minus the signal that killed it. kill_at: the file operation (opened to write, renamed,
    removed) before which it kills itself. At its end, it writes how many there were."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    operations = []

    def watch(event: str, arguments: tuple) -> None:
        if event in ('os.rename', 'os.remove') or event == 'open' and str(arguments[1])[0] in 'wa':
            if len(operations) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            operations.append(event)

    try:
        sys.addaudithook(watch)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = train.main(options)
        Path('operations').write_text(str(len(operations)))
        os._exit(status)
    except BaseException as error:
        os.write(2, f'{error!r}\n'.encode())
        os._exit(1)


def loads(run: Path, project: int) -> None:
    """Whatever of a killed run is there is whole."""
    for path in run.glob('*.pth'):
        denoisers.trained_model(project, path)
    if (run / 'state.pt').exists():
        torch.load(run / 'state.pt', weights_only=True)
    if (run / 'metrics.jsonl').exists():
        metrics(run)


def survive(project: int, kills: int, seed: int) -> None:
    """In the working directory, which holds the data."""
    torch.set_num_threads(1)                    # a fork has no other threads
    records.revision()                          # one for all of them
    plots.training_curves = plots.montage = lambda *arguments, **options: None      # longer than the training
    here, rng = Path.cwd(), random.Random(seed)
    pairs = load_pairs(here / data.TRAIN_FILE)
    denoisers.new_model(project).train(*pairs, 1, batch_size=BATCH, verbose=False)  # compiled once, not in each fork
    assert train_in_a_fork(arguments(here, here / 'whole', project)) == 0
    operations, left_behind, run, many = int(Path('operations').read_text()), 0, here / 'run', kills > 10
    while kills > 0:
        for _ in range(rng.randint(1, 4)):
            status = train_in_a_fork(arguments(here, run, project), kill_at=rng.randrange(operations))
            assert status in (0, -signal.SIGKILL), status
            if status == 0:                     # fewer operations were left
                break
            kills -= 1
            loads(run, project)
            left_behind += len(list(run.glob('*.tmp')))
        assert train_in_a_fork(arguments(here, run, project)) == 0
        for leftover in run.glob('*.tmp'):      # a young one may be what another process is writing
            os.utime(leftover, (0, 0))
            saved = leftover.with_name(leftover.name.rsplit('.', 2)[0])
            storage.write(saved, saved.read_bytes())                        # the next save
        assert_same_result(run, here / 'whole')
        shutil.rmtree(run)
    assert left_behind or not many, 'no kill came while a file was written'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.parametrize('kills', [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize('project', [1, 2])
def test_kills(tmp_path, tally, project, kills):
    noisy_set(tmp_path, PAIRS, 8, val=4)
    process = subprocess.run([sys.executable, '-B', '-m', __name__, str(project), str(kills), '0'], cwd=tmp_path,
                             env={**os.environ, 'PYTHONPATH': str(storage.ROOT)}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    tally(kills)


# ------------------------------------------------------------------------------------------- disks

MEGABYTE = 2 ** 20


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own, of 64 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', folder]
    if not shutil.which('mount') or subprocess.run(command, capture_output=True).returncode:
        pytest.skip('no disk can be mounted here')
    yield folder
    subprocess.run(['umount', folder], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    filler = disk / 'filler'
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return filler


def test_saving_to_a_full_or_read_only_disk(project, disk, tally):
    old, new, path = new_model(project), new_model(project, seed=1), disk / 'model.pth'
    old.save(path)
    before = contents(disk)
    for left in (0, 1000, MEGABYTE, 3 * MEGABYTE):
        filler = fill(disk, left)
        with pytest.raises(OSError, match='No space left'):
            new.save(path)
        filler.unlink()
        assert contents(disk) == before
        tally()
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    with pytest.raises(OSError, match='Read-only'):
        new.save(path)
    new.load(path)
    assert same(bits(new), bits(old))
    subprocess.run(['mount', '-o', 'remount,rw', disk], check=True)
    tally()


@pytest.mark.parametrize('left', [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (20, 24))])
@pytest.mark.parametrize('k', [1, 2])
def test_a_training_whose_disk_is_full(tmp_path, disk, no_pictures, tally, k, left):
    """It ends in words; with room again, it goes on."""
    noisy_set(tmp_path, PAIRS, 8, val=4)
    assert train.main(arguments(tmp_path, tmp_path / 'whole', k)) == 0
    filler = fill(disk, left * MEGABYTE)
    with pytest.raises(OSError, match='No space left'):
        train.main(arguments(tmp_path, disk / 'run', k))
    assert not list((disk / 'run').glob('*.tmp'))
    loads(disk / 'run', k)
    filler.unlink()
    assert train.main(['--resume', str(disk / 'run')]) == 0
    assert_same_result(disk / 'run', tmp_path / 'whole')
    tally()


if __name__ == '__main__':
    survive(*map(int, sys.argv[1:]))
