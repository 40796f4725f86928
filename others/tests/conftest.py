"""What the tests share: models with small settings, images, the bits of weights; how many inputs were tried.

    python -m pytest others/tests                                       the short ones
    python -m pytest others/tests -m "slow or not slow" --hypothesis-profile=long --record

The second command runs kills, every truncation and thousands of random inputs, and appends what it tried to
others/results/reliability.json. Up to four processes share the tests; -n 0 runs them all in this one.
"""
import collections
import json
import os
import signal
import time

import pytest
import torch
from hypothesis import Phase, settings
from PIL import Image

import Miniproject_1.model
import Miniproject_2.model
from others import data
from others.common import records
from others.common.storage import ROOT, UserError

signal.signal(signal.SIGINT, signal.default_int_handler)     # what runs the tests may have had it ignored

PROJECTS = {1: Miniproject_1.model, 2: Miniproject_2.model}
RECORD = ROOT / 'others' / 'results' / 'reliability.json'

common = dict(deadline=None, database=None)     # a machine's speed and its earlier runs decide nothing
settings.register_profile('short', derandomize=True, max_examples=20, phases=[Phase.explicit, Phase.generate],
                          **common)
settings.register_profile('drawn', max_examples=20, **common)         # other inputs, by --hypothesis-seed
settings.register_profile('long', max_examples=500, **common)


# ------------------------------------------------------------------------------ models and images

# Another split of the work changes the order of sums in float32. Project 1's shipped network is off from float64 by up
# to 1.4e-4 in 60 images of random pixels, so two orders differ by up to 2.8e-4 there, and by somewhat more elsewhere.
ROUNDING = dict(rtol=0, atol=6e-4)


class Stop(Exception):
    """Raised by a callback."""


@pytest.fixture(scope='module', params=PROJECTS, ids='project {}'.format)
def project(request):
    """The module model.py."""
    return PROJECTS[request.param]


@pytest.fixture(scope='module')
def trained(project):
    """A model with the weights that are shipped."""
    model = project.Model().to('cpu')
    model.load_pretrained_model()
    return model


@pytest.fixture
def model(project):
    return new_model(project)


def new_model(project, seed=0):
    torch.manual_seed(seed)
    return project.Model().to('cpu')


def images(*shape, seed=0, low=0, high=256) -> torch.Tensor:
    """uint8 in low..high - 1, without a draw from the global generator."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).byte()


def save_photos(folder, count: int, H: int, W: int) -> None:
    """PNG files of random colours."""
    for i in range(count):
        Image.fromarray(images(H, W, 3, seed=i).numpy()).save(folder / f'{i}.png')


def parameters(model) -> list:
    """The tensors themselves."""
    if isinstance(model.net, torch.nn.Module):
        return list(model.net.parameters())
    return [weight for weight, _ in model.net.param()]


def bits(model) -> list:
    """A copy of every weight's bits: unlike the values they tell -0 from 0."""
    return [weight.detach().cpu().clone().contiguous().view(torch.int32) for weight in parameters(model)]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def contents(folder) -> dict:
    """{name: bytes} of the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(words: str):
    """Inside `with`, an error whose line the words, a regular expression, describe."""
    return pytest.raises(UserError, match=words)


@pytest.fixture
def no_cuda(monkeypatch):
    """For what is the same to the last bit on the CPU alone, and for processes that share a machine of one GPU."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(PROJECTS[2], 'default_device', lambda: 'cpu')


@pytest.fixture
def threads():
    """What a tool sets for its process is set back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------ trainings of the tools

def noisy_set(folder, N, side, val=0, seed=0):
    """The files of a set, in a folder that is there: N pairs of flat images, and `val` of them beside the clean ones.
    Returns the folder."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(60, 190, (N, 3, 1, 1), generator=generator).expand(N, 3, side, side)
    noisy = [(clean + 20 * torch.randn(clean.shape, generator=generator)).clamp(0, 255).byte() for _ in range(3)]
    torch.save(tuple(noisy[:2]), folder / data.TRAIN_FILE)
    if val:
        torch.save((noisy[2][:val], clean[:val].byte()), folder / data.VAL_FILE)
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """They take longer than the training."""
    for name in ('training_curves', 'montage'):
        monkeypatch.setattr(f'others.common.plots.{name}', lambda *arguments, **options: None)


def metrics(run) -> list:
    """The lines of metrics.jsonl, without the times."""
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != 'seconds'} for line in lines]


def assert_same_run(a, b, epochs: int) -> None:
    """The same measurements, weights bit for bit."""
    assert metrics(a) == metrics(b) and len(metrics(a)) == epochs
    for name in ('last.pth', 'best.pth'):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


# ---------------------------------------------------- the processes that share the tests, and what was tried

tried = collections.Counter()       # name of a test function -> inputs
failed = set()                      # names of test functions


@pytest.fixture
def tally(request):
    """tally() counts an input, or a kill, that the test has tried: part of the report of its teardown, which comes to
    the process that writes the record."""
    total = []
    yield lambda inputs=1: total.append(inputs)
    request.node.user_properties.append(('inputs', sum(total)))


def pytest_addoption(parser) -> None:
    parser.addoption('--record', action='store_true', help=f'append what was tried to {RECORD.name}')


def pytest_xdist_setupnodes(specs) -> None:
    """Each of the processes has its part of the threads, and so has what it starts."""
    os.environ['OMP_NUM_THREADS'] = str(max(1, torch.get_num_threads() // len(specs)))


def is_recorded(session) -> bool:
    """By the process that was called, not by those that it started."""
    return session.config.getoption('--record') and not hasattr(session.config, 'workerinput')


def pytest_sessionstart(session) -> None:
    session.config.started = time.monotonic()
    if is_recorded(session):
        records.revision()                      # of what is run, whatever is written meanwhile


def pytest_runtest_logreport(report) -> None:
    name = report.nodeid.split('[')[0].split('/')[-1]           # FILE::NAME, without the parameters
    if report.failed:
        failed.add(name)
    if report.when == 'teardown':
        tried.update({name: sum(value for key, value in report.user_properties if key == 'inputs')})


def pytest_sessionfinish(session) -> None:
    if is_recorded(session):
        rows = [{'test': name, 'inputs': inputs, 'passed': name not in failed}
                for name, inputs in sorted(tried.items()) if inputs]
        records.append(RECORD, rows, time.monotonic() - session.config.started)
