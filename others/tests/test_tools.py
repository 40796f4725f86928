"""What all the tools promise: a list of them, --help with an example, mistakes told in one line."""
import runpy
import subprocess
import sys

import pytest

from others import cli
from others.__main__ import tools


def run(*arguments) -> tuple:
    """`python -m ARGUMENTS`: exit status, stdout, stderr."""
    done = subprocess.run([sys.executable, '-m', *arguments], cwd=cli.ROOT,
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


def test_exit_status_of_a_process():
    status, out, error = run('others.denoise', 'no_such_file')
    assert (status, out) == (2, '')
    assert error == 'error: IN: there is no no_such_file, expected an image or a folder of images\n'
