"""The grading script refuses what is wrong, names it, and accepts what is right.

Each submission is written here, for the test. Right answers come from torch.nn and autograd, which
share no code with our blocks; a wrong one is the right one with a single thing changed.
"""
import importlib.util
import re
import signal
import subprocess
import sys

import pytest
import torch

from others.common.storage import ROOT
from others.tests.conftest import refused

# Mini-project 2 on top of autograd: all but the import check must accept it.
BLOCKS = '''
import torch
from torch import nn


class Module:
    """A torch.nn module behind forward, backward and param."""
    weight, bias = (property(lambda self, name=name: getattr(self.net, name).detach(),
                             lambda self, value, name=name: getattr(self.net, name).data.copy_(value.detach()))
                    for name in ('weight', 'bias'))

    def __init__(self, net):
        self.net = net
        for p in net.parameters():
            p.grad = torch.zeros_like(p)

    def param(self):
        return [(p.detach(), p.grad) for p in self.net.parameters()]

    def forward(self, *inputs):
        with torch.enable_grad():
            self.inputs = [x.detach().requires_grad_() for x in inputs]
            self.output = self.net(*self.inputs)
        return self.output.detach()

    def backward(self, *upstream):
        self.output.backward(*(gradient.detach() for gradient in upstream))
        return self.inputs[0].grad


def block(twin):
    class Block(Module):
        def __init__(self, *arguments, **options):
            super().__init__(twin(*arguments, **options))

    return Block


Conv2d, TransposeConv2d = map(block, (nn.Conv2d, nn.ConvTranspose2d))
NearestUpsampling = block(lambda scale_factor: nn.Upsample(scale_factor=scale_factor))
ReLU, Sigmoid, MSE = map(block, (nn.ReLU, nn.Sigmoid, nn.MSELoss))


class Sequential(Module):
    def __init__(self, *modules):
        super().__init__(nn.Sequential(*(module.net for module in modules)))


class SGD:
    def __init__(self, params, *arguments, **options):
        self.params = params
        self.optimizer = torch.optim.SGD([p for p, _ in params], *arguments, **options)

    def step(self):
        for p, g in self.params:
            p.grad = g
        self.optimizer.step()
'''

# The mean of 3 x 3 pixels is better than a noisy one; training moves it by half a grey level.
MODEL = '''
import torch
from pathlib import Path


class Model:
    offset = 0

    def load_pretrained_model(self):
        self.offset = float(Path(__file__).with_name('bestmodel.pth').read_text())

    def train(self, train_input, train_target, num_epochs):
        self.offset += 0.5

    def predict(self, test_input):
        x = torch.nn.functional.avg_pool2d(test_input.float(), 3, 1, 1, count_include_pad=False)
        return (x + self.offset).clamp(0, 255)
'''


@pytest.fixture(scope='module')
def grader():
    spec = importlib.util.spec_from_file_location('grader', ROOT / 'test.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Smooth images with noise of standard deviation 25, a few more than --quick takes."""
    folder = tmp_path_factory.mktemp('data')
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    clean = torch.nn.functional.interpolate(128 + 40 * normal(2010, 3, 4, 4), size=32, mode='bilinear')
    noisy = [(clean + 25 * normal(*clean.shape)).clamp(0, 255).byte() for _ in range(2)]
    torch.save(tuple(noisy), folder / 'train_data.pkl')
    torch.save((noisy[0][:210].clone(), clean[:210].clamp(0, 255).byte()), folder / 'val_data.pkl')
    return folder


@pytest.fixture
def grade(grader, data, capfd):
    """Grade a folder. Returns (exit status, {(project, check): (result, figures)})."""
    def grade(folder, *options):
        status = grader.main(['-p', str(folder), '-d', str(data), *options])
        rows, project = {}, None
        for line in capfd.readouterr().out.splitlines():
            print(line)                         # pytest shows the table if the test fails
            if line.startswith('Miniproject_'):
                project = int(line[len('Miniproject_')])
            elif row := re.fullmatch(r'(\S.*?) +(ok|FAIL|warn|skip) +[0-9.]+  (.*)', line):
                rows[project, row[1]] = row[2], row[3]
        return status, rows
    return grade


def write(root, k, code, offset=0):
    """A mini-project without a report; `offset` is all that its checkpoint holds."""
    folder = root / f'Miniproject_{k}'
    folder.mkdir()
    (folder / '__init__.py').touch()
    (folder / 'model.py').write_text(code)
    (folder / 'bestmodel.pth').write_text(str(offset))
    return folder


def change(code, old, new):
    assert code.count(old) == 1, old
    return code.replace(old, new)


def failed(rows):
    """{(project, check): figures} of the checks that failed."""
    return {key: figures for key, (result, figures) in rows.items() if result == 'FAIL'}


def test_right_answers_are_accepted(grade, tmp_path, monkeypatch):
    monkeypatch.delenv('PYTHONDONTWRITEBYTECODE', raising=False)
    write(tmp_path, 1, MODEL)
    (write(tmp_path, 2, BLOCKS + MODEL) / 'Report_2.pdf').touch()
    files = sorted(tmp_path.rglob('*'))
    (status_1, rows), (status_2, rows_2) = (grade(tmp_path, '--project', k) for k in '12')
    rows.update(rows_2)
    assert (status_1, status_2) == (0, 1)
    others = {key: result for key, (result, _) in rows.items() if result != 'ok'}
    assert others == {(1, 'report'): 'warn', (2, 'Upsampling'): 'skip', (2, 'allowed imports'): 'FAIL'}
    assert 'model.py:2: import torch' in rows[2, 'allowed imports'][1]      # autograd: right, but forbidden
    assert rows[1, 'train, one epoch'][1] == '2010 pairs'
    assert sorted(tmp_path.rglob('*')) == files                 # not even a __pycache__


# One fault in each block, of the kind that submissions have, and what is told of the first case.
FAULTS = {
    'Conv2d': ("""
    def backward(self, upstream):               # overwrites the gradients
        for _, gradient in self.param():
            gradient.zero_()
        return super().backward(upstream)
""", 'autograd off: gradient of weight in a second pass is wrong'),
    'TransposeConv2d': ("""
    def backward(self, upstream):               # the mean over the batch: right for one image
        found = super().backward(upstream)
        self.param()[0][1].div_(len(upstream))
        return found
""", 'autograd off: gradient of weight is wrong'),
    'NearestUpsampling': ("""
    def backward(self, upstream):               # the mean, where the sum is due
        return super().backward(upstream) / 4
""", 'autograd off: gradient of the input is wrong'),
    'ReLU': ("""
    def forward(self, x):                       # keeps the graph of its input
        super().forward(x)
        return x.clamp(min=0)
""", 'autograd on: output drags a graph'),
    'Sigmoid': ("""
    def forward(self, x):                       # overflows
        super().forward(x)
        return x.detach().exp() / (1 + x.detach().exp())
""", 'autograd off: output is wrong'),
    'MSE': ("""
    def backward(self):                         # of the sum, also where the mean was asked for
        return 2 * (self.inputs[0] - self.inputs[1]).detach()
""", 'autograd off: gradient of the input is wrong'),
    'Sequential': ("""
    def param(self):                            # the last layer first
        return super().param()[::-1]
""", 'autograd off: 0.weight has the shape (5,), expected (5, 3, 3, 3)'),
    'SGD': ("""
    def step(self):                             # binds a name, changes no tensor
        for p, g in self.params:
            p = p - 0.1 * g
""", 'autograd off: parameter 0 after step 1 is wrong'),
}


def test_wrong_blocks_and_a_wrong_predict_are_named(grade, tmp_path):
    unclamped = change(MODEL, '.clamp(0, 255)', '.clamp(0, 255) - (torch.arange(x.shape[-1]) < 1) * 99')
    faults = ''.join(f'\nclass {name}({name}):{body}' for name, (body, _) in FAULTS.items())
    write(tmp_path, 2, BLOCKS + faults + unclamped)
    status, rows = grade(tmp_path, '--project', '2', '--quick')
    assert status == 1
    verdicts = {check: figures for (_, check), figures in failed(rows).items()}
    assert set(verdicts) == set(FAULTS) | {'allowed imports', 'predict 1x3x512x512'}
    for name, (_, words) in FAULTS.items():
        assert re.match(rf'\d+ of \d+ cases, first {name}\(.*\) on .*, {re.escape(words)}', verdicts[name])
    assert 'expected floating point (1, 3, 512, 512) in 0..255' in verdicts['predict 1x3x512x512']
    assert rows[2, 'train, one epoch'][1] == '2000 pairs'


def test_ours_cannot_stand_in_for_what_is_missing(grade, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    write(tmp_path, 1, 'try:\n    import others\n'
                       'except ImportError as error:\n    import sys; sys.exit(str(error))\n')
    (write(tmp_path, 2, '') / 'model.py').unlink()
    status, rows = grade(tmp_path)
    assert status == 1
    assert rows[1, 'package import'] == ('FAIL', "SystemExit: No module named 'others' (model.py:4)")
    assert rows[2, 'structure'] == ('FAIL', 'no model.py') and rows[2, 'package import'][0] == 'FAIL'
    assert {rows[k, check][0] for k in (1, 2) for check in ('Model()', 'PSNR, loaded')} == {'skip'}


def test_a_submission_that_dies_or_never_ends_is_a_failed_check(grade, tmp_path):
    write(tmp_path, 1, change(MODEL, 'self.offset += 0.5',
                              'print("no luck", flush=True); import os; os._exit(7)'))
    write(tmp_path, 2, 'while True:\n    print("again", flush=True)\n')
    status, rows = grade(tmp_path, '--time-limit', '2')
    assert status == 1
    (died, why_died), (hung, why_hung) = failed(rows).items()
    assert died == (1, 'train, one epoch') and hung == (2, 'from model import ..')
    assert why_died.startswith('the process ended with status 7') and why_died.endswith('no luck')
    assert why_hung.startswith('stopped after 2 seconds') and why_hung.endswith('again')


def test_a_model_must_beat_its_noisy_input_and_be_importable_both_ways(grade, tmp_path):
    idle = change(MODEL, 'self.offset += 0.5', 'pass')
    (write(tmp_path, 1, 'from helper import Model\n', offset=120) / 'helper.py').write_text(idle)
    (write(tmp_path, 2, 'from .helper import *\n') / 'helper.py').write_text(BLOCKS + idle)
    status, rows = grade(tmp_path)
    assert status == 1
    assert set(failed(rows)) == {
        (1, 'package import'), (1, 'PSNR, loaded'), (1, 'PSNR, after training'),
        (2, 'from model import ..'), (2, 'allowed imports')}
    assert 'helper.py:2: import torch' in rows[2, 'allowed imports'][1]
    result, figures = rows[2, 'PSNR, after training']
    assert result == 'warn' and figures.endswith('training changed nothing')


def test_ctrl_c_ends_it_in_silence(data, tmp_path):
    write(tmp_path, 1, 'import time\ntime.sleep(999)\n')
    process = subprocess.Popen([sys.executable, '-u', ROOT / 'test.py', '-p', tmp_path, '-d', data, '--project', '1'],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert next(line for line in process.stdout if line.startswith('report'))
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == '' and process.returncode == 130


def test_a_submission_may_be_called_and_print_anything(grade, tmp_path, monkeypatch):
    """In a folder with a dot and a module's name, on a terminal that lacks letters; with a module called torch."""
    monkeypatch.setenv('PYTHONIOENCODING', 'ascii')
    project = tmp_path / '写真' / 'json.v2'
    project.mkdir(parents=True)
    (write(project, 2, 'print("写真")\n' + BLOCKS + MODEL) / 'torch.py').touch()
    status, rows = grade(project, '--project', '2', '--quick')
    assert status == 1 and set(failed(rows)) == {(2, 'allowed imports')}


def test_a_training_that_makes_it_worse_is_told(grade, tmp_path):
    write(tmp_path, 1, change(MODEL, 'self.offset += 0.5', 'self.offset += 5'))
    status, rows = grade(tmp_path, '--project', '1')
    result, figures = rows[1, 'PSNR, after training']
    assert (status, result) == (0, 'warn') and figures.endswith('training made it worse')


def test_a_demo_set_that_cannot_be_made_is_told_in_words(grader, tmp_path, monkeypatch):
    write(tmp_path, 1, MODEL)
    (tmp_path / 'file').touch()
    monkeypatch.setattr(grader, 'ROOT', tmp_path / 'file')
    with refused('--data-path: not given, .*demo'):
        grader.main(['-p', str(tmp_path)])
