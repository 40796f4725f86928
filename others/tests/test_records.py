"""Records: what a run holds, that runs are appended, and that the committed ones have the shape."""
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from others.common import records, storage
from others.tests.conftest import refused

pytestmark = pytest.mark.fast

ROWS = [{'name': 'a', 'psnr': {'val_data': 25.5}}, {'name': 'b', 'psnr': None}]


def test_a_run_is_appended(tmp_path):
    path = tmp_path / 'new' / 'record.json'
    assert records.read(path) == []
    records.append(path, ROWS, 1.26)
    first = path.read_bytes()
    records.append(path, [], None)
    one, other = records.read(path)
    assert (one['rows'], one['seconds'], other['rows'], other['seconds']) == (ROWS, 1.3, [], None)
    assert one['versions']['torch'] == torch.__version__
    assert one['machine']['threads'] == torch.get_num_threads() and one['machine']['processor']
    assert path.read_bytes().startswith(first.rsplit(b'\n]}\n')[0] + b',\n')      # what was there stays as it was
    assert [path.name for path in path.parent.iterdir()] == ['record.json']


def test_json_has_neither_nan_nor_infinity(tmp_path):
    rows = [{'psnr': [math.inf, {'a': math.nan, 'b': (-math.inf, True, 'NaN'), 'c': 1.5}]}]
    records.append(tmp_path / 'record.json', rows, None)
    storage.write_json(tmp_path / 'other.json', rows)
    written = records.read(tmp_path / 'record.json')[0]['rows'], json.loads((tmp_path / 'other.json').read_text())
    assert written == 2 * ([{'psnr': [None, {'a': None, 'b': [None, True, 'NaN'], 'c': 1.5}]}],)


def test_what_computes_on_the_cpu_names_it_also_beside_a_gpu(monkeypatch):
    cpu = records.processor('cpu')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    assert records.machine('cpu')['processor'] == cpu != 'a GPU' == records.machine()['processor']


@pytest.mark.parametrize('module', ['package.tool', 'package'])
def test_the_command_knows_its_package(tmp_path, module):
    (tmp_path / 'package').mkdir()
    (tmp_path / 'torch.py').touch()             # not needed for this, and slow
    for name in ('__main__', 'tool'):
        (tmp_path / 'package' / f'{name}.py').write_text(
            'from others.common.records import command\nprint(command())\n')
    out = subprocess.run([sys.executable, '-m', module, '--name', 'a b'], check=True, capture_output=True, text=True,
                         cwd=tmp_path, env={'PYTHONPATH': str(storage.ROOT)}).stdout
    assert out == f"python -m {module} --name 'a b'\n"


def test_runs_that_end_at_once_are_all_there(tmp_path):
    path = tmp_path / 'record.json'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: records.append(path, [{'i': i}], 0), range(40)))
    assert sorted(run['rows'][0]['i'] for run in records.read(path)) == list(range(40))


@pytest.mark.parametrize('content', ['', '[]', '{"rows": []}', '{"runs": [{"rows": []}]}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / 'other.json'
    path.write_text(content)
    with refused('other.json'):
        records.append(path, ROWS, 1)
    assert path.read_text() == content


@pytest.mark.parametrize('path', sorted(storage.ROOT.glob('others/results/*')), ids=lambda path: path.name)
def test_the_committed_records_have_the_shape(path):
    runs = records.read(path)
    assert path.read_text() == records.text(runs)
    for run in runs:
        assert run['machine'].keys() == {'processor', 'platform', 'threads'}
        assert run['versions'].keys() == {'python', 'torch'} and run['rows']
