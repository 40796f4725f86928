"""The circumstances in which a grader may run the submission, and the habits that keep it safe in them."""
import ast
import os
import shutil
import subprocess
import sys

import pytest

from others.cli import ROOT
from others.tests.conftest import PROJECTS

# Both projects in one process, loaded, trained, used: by the names of their packages, or each from inside its folder.
SCRIPT = '''
import importlib, sys
import torch

root, order, way = sys.argv[1:]
for k in order:
    if way == 'packages':
        sys.path[0] = root
        module = importlib.import_module(f'Miniproject_{k}.model')
    else:
        sys.path[0] = f'{root}/Miniproject_{k}'
        sys.modules.pop('model', None)
        module = importlib.import_module('model')
    model = module.Model()
    model.load_pretrained_model()
    x = torch.randint(256, (3, 3, 10, 7)).byte()
    model.train(x, x, 1)
    assert model.predict(x).shape == x.shape
print('done')
'''


def run(root, order: str, way: str, *options: str, cwd, env=None) -> None:
    """In a process without a terminal, with an input that has ended and with warnings that are errors."""
    process = subprocess.run([sys.executable, '-B', '-W', 'error', *options, '-c', SCRIPT, str(root), order, way],
                             cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
    assert process.returncode == 0, process.stderr.decode()[-2000:]
    assert process.stderr == b'' and process.stdout.endswith(b'done\n')


@pytest.fixture
def read_only_copy(tmp_path):
    """The two mini-projects, in a folder with spaces and accents, on a disk that cannot be written to if one can be
    mounted, without permission to write in any case."""
    folder = tmp_path / "un dépôt d'élève, (copie) 1"
    folder.mkdir()
    try:
        is_mounted = not subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', folder], capture_output=True).returncode
    except OSError:
        is_mounted = False
    for k in PROJECTS:
        shutil.copytree(ROOT / f'Miniproject_{k}', folder / f'Miniproject_{k}',
                        ignore=shutil.ignore_patterns('__pycache__'))
    entries = [folder, *folder.rglob('*')]
    for entry in entries:
        entry.chmod(entry.stat().st_mode & ~0o222)
    if is_mounted:
        subprocess.run(['mount', '-o', 'remount,ro', folder], check=True)
    yield folder
    if is_mounted:
        subprocess.run(['umount', folder], check=True)
    else:
        for entry in entries:
            entry.chmod(entry.stat().st_mode | 0o200)


def test_in_one_process_without_home(tmp_path, tally):
    """With nothing in the environment but what finds Python, and an ASCII terminal."""
    env = {name: os.environ[name] for name in ('PATH', 'LD_LIBRARY_PATH', 'VIRTUAL_ENV') if name in os.environ}
    run(ROOT, '12', 'packages', cwd='/', env={**env, 'LC_ALL': 'C'})
    tally(5)


def test_read_only_with_accents_in_the_other_order(read_only_copy, tmp_path, tally):
    run(read_only_copy, '21', 'folders', cwd=tmp_path)
    tally(5)


@pytest.mark.slow
@pytest.mark.parametrize('order', ['12', '21'])
@pytest.mark.parametrize('way', ['packages', 'folders'])
@pytest.mark.parametrize('options', [('-O',), ('-OO',), ('-I',), ('-X', 'dev'), ('-X', 'utf8=0')])
def test_every_way_to_run(read_only_copy, tmp_path, tally, order, way, options):
    """Slow, since with -O all of torch is compiled anew."""
    run(read_only_copy, order, way, *options, cwd=tmp_path)
    tally()


# ----------------------------------------------------------------------------------------- habits

SOURCES = [path for path in sorted(ROOT.rglob('*.py')) if 'data' not in path.relative_to(ROOT).parts
           and not any(part.startswith('.') for part in path.relative_to(ROOT).parts)]


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path, tally):
    """Python 3.9 can read it; whatever torch loads is data, in words or not at all."""
    tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'torch.load':
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert options.get('weights_only') == 'True', f'{path}:{node.lineno}: torch.load without weights_only=True'
    tally()


def test_linter():
    """The rules of others/ruff.toml, which CI checks, find what they are for."""
    ruff = shutil.which('ruff') or pytest.skip('ruff is not installed')
    command = [ruff, 'check', '--no-cache', '--config', ROOT / 'others' / 'ruff.toml', '--output-format', 'concise']
    bad = {'exec("1")': 'S102', 'eval("1")': 'S307', 'import pickle\npickle.loads(b"")': 'S301', 'import os': 'F401',
           'import subprocess\nsubprocess.run("ls", shell=True)': 'S602', 'import os\nos.system("ls")': 'S605',
           'import urllib.request\nurllib.request.urlopen': 'TID251', 'import torch\ntorch.hub.load': 'TID251',
           'match 1:\n    case 1:\n        pass': 'invalid-syntax', 'print(1)  #' + ' ' * 110 + 'x': 'E501'}
    for source, rule in bad.items():
        process = subprocess.run([*command, '-'], input=source, capture_output=True, text=True)
        assert process.returncode == 1 and rule in process.stdout, (source, process.stdout)
