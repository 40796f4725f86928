"""What all the tools promise: a list of them, --help with an example, mistakes told in one line."""
import os
import runpy
import subprocess
import sys

import pytest

from others import cli
from others.__main__ import tools


def run(*arguments, **environment) -> tuple:
    """`python -m ARGUMENTS`: exit status, stdout, stderr."""
    done = subprocess.run([sys.executable, '-m', *arguments], cwd=cli.ROOT, env={**os.environ, **environment},
                          capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The same for `python -m others.NAME ARGUMENTS`, without a process of its own."""
    def call(name: str, *arguments) -> tuple:
        monkeypatch.chdir(cli.ROOT)
        monkeypatch.setattr(sys, 'argv', [name, *arguments])
        monkeypatch.delitem(sys.modules, f'others.{name}', raising=False)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(f'others.{name}', run_name='__main__')
        return (stop.value.code or 0, *capsys.readouterr())
    return call


def test_list():
    status, out, error = run('others')
    assert (status, error) == (0, '')
    listed = dict(line.split(maxsplit=3)[2:] for line in out.splitlines() if line.startswith('    '))
    names = ('data', 'train', 'evaluate', 'denoise', 'studies.search', 'studies.readme_picture')
    assert listed.keys() >= {f'others.{name}' for name in names}
    assert len(set(listed.values())) == len(listed)


@pytest.mark.parametrize('name', {**tools(), **tools('studies')})
def test_help(name, run_here):
    status, out, error = run_here(name, '--help')
    assert (status, error) == (0, '')
    assert f'\n    python -m others.{name} ' in out


@pytest.mark.parametrize('name, arguments', [
    ('train', ['--epochs', '0']),
    ('train', ['--seed', '-1', '--project', '1']),
    ('train', ['--projct', '1']),
    ('train', ['--project', '3']),
    ('train', ['--resume', 'no_such_run']),
    ('evaluate', ['--real', 'no_such_file']),
    ('evaluate', ['--floor', 'high']),
    ('denoise', []),
    ('denoise', ['no_such_file']),
    ('studies.readme_picture', ['--out', 'requirements.txt']),
])
def test_mistakes(name, arguments, run_here):
    status, out, error = run_here(name, *arguments)
    assert (status, out) == (2, '')
    assert error.startswith('error: ') and error.count('\n') == 1
    assert all(argument in error for argument in arguments[:1])


@pytest.mark.parametrize('tool, package', [('data', 'torch'), ('denoise', 'PIL'), ('train', 'tqdm')])
def test_a_package_that_is_missing(tool, package, tmp_path):
    (tmp_path / f'{package}.py').write_text('raise ModuleNotFoundError("it is missing")')
    assert run(f'others.{tool}', '--help', PYTHONPATH=str(tmp_path)) == (
        2, '', 'error: it is missing: pip install -r others/requirements.txt\n')


def test_interrupted_at_once(tmp_path):
    (tmp_path / 'torch.py').write_text('raise KeyboardInterrupt')
    assert run('others.data', '--help', PYTHONPATH=str(tmp_path)) == (130, '', '')


def test_nobody_reads_on(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, 'stdout', open(writer, 'w'))
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: print('a line'))
    sys.stdout.close()                                  # what is left in the buffer has somewhere to go
    assert (stop.value.code, capsys.readouterr().err) == (141, '')


def test_a_process_of_torchrun_ends_whatever_its_threads_do():
    """With the status and all of its output."""
    code = 'import threading, time; from others import cli; threading.Thread(target=time.sleep, args=(99,)).start(); '
    done = subprocess.run([sys.executable, '-c', code + 'cli.run(lambda: print("done") or 3)'], cwd=cli.ROOT,
                          env={**os.environ, 'WORLD_SIZE': '2'}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, 'done\n', '')
