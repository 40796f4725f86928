"""The circumstances in which a grader may run the submission, and the habits that keep it safe in them."""
import ast
import os
import shutil
import subprocess
import sys

import pytest

from others.common.storage import ROOT
from others.tests.conftest import PROJECTS

# Both projects in one process, imported, loaded, trained, used: as packages, or each from inside its folder.
SCRIPT = '''
import importlib, os, sys
import torch

root, order, way = sys.argv[1:]                 # root: relative, so that the checkpoint must be found all the same
names = {'1': 'Model', '2': 'Model, Module, Conv2d, TransposeConv2d, NearestUpsampling, Upsampling, ReLU, Sigmoid, '
                            'Sequential, MSE, SGD'}
here, home = os.getcwd(), os.path.realpath(root)


def all_globals():
    return [str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(), torch.cuda.is_initialized(),
            torch.backends.cudnn.benchmark, torch.get_rng_state().sum().item(), torch.initial_seed(),
            os.getcwd(), list(sys.path), dict(os.environ), sys.getrecursionlimit()]


def own_modules():
    return {name for name, module in sys.modules.items()
            if os.path.realpath(getattr(module, '__file__', None) or '/').startswith(home + os.sep)}


for k in order:
    for name in own_modules():
        del sys.modules[name]
    folder = f'Miniproject_{k}'
    sys.path[0], package, expected = ((root, folder, {folder, folder + '.model'}) if way == 'packages' else
                                      (os.path.join(root, folder), 'model', {'model'}))
    before = all_globals()
    exec(f'from {package} import {names[k]}')
    assert all_globals() == before and own_modules() == expected, own_modules()
    module = sys.modules[max(expected)]
    assert module.Model is Model
    print('imported')

    os.chdir('/')
    model = Model()
    model.load_pretrained_model()
    os.chdir(here)
    x = torch.randint(256, (3, 3, 10, 7)).byte()
    model.train(x, x.flip(0), 1)
    assert model.predict(x).shape == x.shape
print('done')
'''


def run(root, order: str, way: str, *options: str, cwd, env=None) -> None:
    """In a process without a terminal, with an input that has ended and with warnings that are errors. It prints
    nothing but what is asked for."""
    process = subprocess.run([sys.executable, '-B', '-W', 'error', *options, '-c', SCRIPT, os.path.relpath(root, cwd),
                              order, way], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                             start_new_session=True, text=True)
    assert (process.returncode, process.stderr) == (0, '')
    words = [line.split()[0] for line in process.stdout.splitlines()]
    assert words == 2 * ['imported', 'the', 'epoch'] + ['done']


@pytest.fixture
def untouched_copy(tmp_path):
    """The two mini-projects, in a folder with spaces and accents, to which nothing may be written."""
    folder = tmp_path / "un dépôt d'élève, (copie) 1"
    for k in PROJECTS:
        shutil.copytree(ROOT / f'Miniproject_{k}', folder / f'Miniproject_{k}',
                        ignore=shutil.ignore_patterns('__pycache__'))

    def changes() -> dict:
        return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob('*')]}

    before = changes()
    yield folder
    assert changes() == before


def test_in_one_process_without_home(tmp_path, tally):
    """With nothing in the environment but what finds Python, and an ASCII terminal."""
    env = {name: os.environ[name] for name in ('PATH', 'LD_LIBRARY_PATH', 'VIRTUAL_ENV') if name in os.environ}
    run(ROOT, '12', 'packages', cwd='/', env={**env, 'LC_ALL': 'C'})
    tally(5)


def test_with_accents_in_the_other_order(untouched_copy, tmp_path, tally):
    run(untouched_copy, '21', 'folders', cwd=tmp_path)
    tally(5)


@pytest.mark.slow
@pytest.mark.parametrize('order', ['12', '21'])
@pytest.mark.parametrize('way', ['packages', 'folders'])
@pytest.mark.parametrize('options', [('-O',), ('-OO',), ('-I',), ('-X', 'dev'), ('-X', 'utf8=0')])
def test_every_way_to_run(untouched_copy, tmp_path, tally, order, way, options):
    """Slow, since with -O all of torch is compiled anew."""
    run(untouched_copy, order, way, *options, cwd=tmp_path)
    tally()


# ----------------------------------------------------------------------------------------- habits

SOURCES = [path for path in sorted(ROOT.rglob('*.py')) if 'data' not in path.relative_to(ROOT).parts
           and not any(part.startswith('.') for part in path.relative_to(ROOT).parts)]


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path, tally):
    """Python 3.9 can read it; whatever torch loads is data, in words or not at all."""
    tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 9))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == 'torch.load']
    for node in loads:
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert options.get('weights_only') == 'True', f'{path}:{node.lineno}: torch.load without weights_only=True'
    tally()


def nodes(k: int, *kinds: type) -> list:
    """The nodes of these kinds in the syntax trees of mini-project k."""
    paths = (ROOT / f'Miniproject_{k}').rglob('*.py')
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
            if isinstance(node, kinds)]


def imports(k: int) -> set:
    """Pairs (module, name), name None for `import module`, of what is neither the project's own nor Python's."""
    found = {(alias.name, None) for node in nodes(k, ast.Import) for alias in node.names}
    found |= {('.' * node.level + (node.module or ''), alias.name)
              for node in nodes(k, ast.ImportFrom) for alias in node.names}
    return {(module, name) for module, name in found
            if module != '.model' and module.split('.')[0] not in sys.stdlib_module_names}


def test_imports_are_those_that_the_assignment_allows():
    assert {module.split('.')[0] for module, _ in imports(1)} == {'torch'}
    assert imports(2) <= {('torch', 'empty'), ('torch', 'cat'), ('torch', 'arange'),
                          ('torch.nn.functional', 'fold'), ('torch.nn.functional', 'unfold')}
    # No way around it either: what imports by name, or finds a module that is imported already.
    names = {node.id for node in nodes(2, ast.Name)} | {node.attr for node in nodes(2, ast.Attribute)}
    assert not names & {'__import__', 'importlib', 'eval', 'exec', 'requires_grad_'}


def test_project_2_creates_every_tensor_on_a_device():
    """A default device that a caller has set must not reach into the blocks."""
    calls = [node for node in nodes(2, ast.Call) if getattr(node.func, 'id', None) in ('empty', 'arange')]
    assert calls
    assert [ast.unparse(call) for call in calls if 'device' not in {word.arg for word in call.keywords}] == []
