"""Checkpoints that are damaged, wrong or hostile: refused in one sentence that names the file, before a library
warns, with nothing executed, every weight left to the last bit, and memory bounded."""
import copyreg
import io
import os
import pickle
import random
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from others.tests.conftest import PROJECTS, bits, new_model, same

MEMORY = 192 * 2 ** 20                          # bytes that a load may take beside what the process has


def peak_memory() -> int:
    """Of this process since the last reset, in bytes; 0 where the system does not tell."""
    status = Path('/proc/self/status')
    return 1024 * int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1]) if status.exists() else 0


@pytest.fixture
def good(project) -> bytes:
    """The checkpoint that is shipped."""
    return project.CHECKPOINT.read_bytes()


def assert_refused(model, path, files, tally, may_load=False) -> None:
    """files: (name, bytes), or (name, (bytes, words that the message must have)), made one by one if they are many."""
    for name, file in files:
        data, words = file if isinstance(file, tuple) else (file, ())
        path.write_bytes(data)
        before, weights, error = bits(model), model.weights(), None
        if sys.platform == 'linux':
            Path('/proc/self/clear_refs').write_text('5')
        start = peak_memory()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter('always')
            try:
                model.load(path)
            except Exception as caught:
                error = caught
        assert peak_memory() - start <= MEMORY, name
        assert not warned, f'{name}: {warned[0].message}'
        after, message = bits(model), str(error)
        changed = sum(not torch.equal(a, b) for a, b in zip(after, before))
        if error is None and may_load:
            assert changed <= 1 and all(bool(weight.view(torch.float32).isfinite().all()) for weight in after), name
            model.set_weights(weights)          # for the next file
        else:
            assert isinstance(error, ValueError) and not changed, f'{name}: {message[:200]}, {changed} weights changed'
            assert len(message) <= 600 and '\n' not in message, name
            assert all(word in message for word in (path.name, *words)), f'{name}: {message}'
        tally()


# ---------------------------------------------------------------------------------------- damaged

def flipped(good: bytes, rng: random.Random) -> bytes:
    """One bit of another value: anywhere, or among what is not weights, at the file's two ends."""
    place = rng.choice([rng.randrange(len(good)), rng.randrange(2000), len(good) - 1 - rng.randrange(8000)])
    return good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1:]


def noise(good: bytes, rng: random.Random) -> bytes:
    """Random bytes, with or without the beginning of a checkpoint."""
    return good[:rng.choice([0, 2, 4, 64, 500])] + rng.randbytes(rng.randrange(1, 20000))


@pytest.mark.parametrize('how', ['short', pytest.param('long', marks=pytest.mark.slow)])
def test_truncated(trained, good, tmp_path, tally, how):
    ends = range(0, len(good), 1000)
    ends = ends if how == 'long' else random.Random(0).sample(ends, 10)
    assert_refused(trained, tmp_path / 'x.pth', ((f'{end} bytes', good[:end]) for end in ends), tally)


@pytest.mark.parametrize('how', ['short', pytest.param('long', marks=pytest.mark.slow)])
@pytest.mark.parametrize('damage', [flipped, noise])
def test_random_damage(trained, good, tmp_path, tally, damage, how):
    """A bit of a weight may change; no more than that, and not to what is no number."""
    files = ((f'seed {seed}', damage(good, random.Random(seed))) for seed in range(200 if how == 'long' else 12))
    assert_refused(trained, tmp_path / 'x.pth', files, tally, may_load=damage is flipped)


# ---------------------------------------------------------------------------------------- hostile

def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def routes(trap: Path) -> dict:
    """How it comes by a function -> a pickle that creates the file `trap` when it is loaded."""
    path = text(str(trap))
    return {'GLOBAL': b'\x80\x02cos\nmkdir\n' + path + b'\x85R.',
            'STACK_GLOBAL': b'\x80\x04' + text('os') + text('mkdir') + b'\x93' + path + b'\x85R.',
            'INST': b'\x80\x02(' + path + b'ios\nmkdir\n.', 'EXT': b'\x80\x02\x82\xf0' + path + b'\x85R.',
            'in a dict': b'\x80\x02}' + text('weights') + b'cos\nmkdir\n' + path + b'\x85Rs.'}


def rezipped(good: bytes, changes: dict) -> bytes:
    """The archive of project 1, compressed, with other contents for some of its entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(
            file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in source.namelist():
            archive.writestr(name, changes.get(name.split('/', 1)[1], source.read(name)))
    return file.getvalue()


def test_nothing_is_executed(project, trained, good, tmp_path, tally):
    """As a file of its own and, for project 1, as the pickle inside of the archive."""
    trap = tmp_path / 'trap'
    files = routes(trap)
    copyreg.add_extension('os', 'mkdir', 0xf0)
    try:
        for name, data in routes(trap).items():
            pickle.loads(data)                          # the witness
            assert trap.exists(), f'{name} is harmless'
            trap.rmdir()
            if project is PROJECTS[1]:
                files[f'{name}, in an archive'] = rezipped(good, {'data.pkl': data})
        assert_refused(trained, tmp_path / 'x.pth', files.items(), tally)
    finally:
        copyreg.remove_extension('os', 'mkdir', 0xf0)
    assert not trap.exists()


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def laughs(kind, depth: int):
    """2^depth of something, told in few bytes."""
    value = kind([0])
    for _ in range(depth):
        value = kind([value, value])
    return value


def saved(project, content) -> bytes:
    """Content as the project's checkpoints are written."""
    if project is PROJECTS[2]:
        return pickle.dumps(content, protocol=4)
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def bombs(project, good: bytes) -> dict:
    """Small files that ask for 300 MB and more, in memory or in an error's message."""
    size = 3 * 10 ** 8
    files = {'memo of 2^26 places': b'\x80\x04}r\0\0\0\x02.', 'many dicts': b'\x80\x04' + b'}' * 10 ** 7 + b'.',
             'BINBYTES that are missing': b'\x80\x04B\xff\xff\xff\x7f.',
             'FRAME': b'\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.',
             'deep': b'\x80\x04' + b']' * 10 ** 5 + b'a' * (10 ** 5 - 1) + b'.'}
    if project is PROJECTS[2]:
        entry = {'shape': [2 ** 18], 'float32': bytes(2 ** 20)}
        contents = {'one entry 300 times': [entry] * 300,
                    'shapes of many': [{'shape': [0] * 9, 'float32': b''}] * 3000,
                    'a shape of many': [{'shape': [2 ** 31 - 1] * 9000, 'float32': b''}],
                    'laughs': [{'shape': laughs(list, 24), 'float32': b''}]}
        return {**files, **{name: saved(project, {'weights': weights}) for name, weights in contents.items()}}

    content = torch.load(io.BytesIO(good), weights_only=True)
    weights = content['weights']
    changes = {'bytearray': {'extra': Call(bytearray, size)}, 'laughs': {'widths': laughs(list, 22)},
               'laughs in a key': {'weights': {laughs(tuple, 22): torch.zeros(1)}},
               'a long name': {'weights': {**weights, 'x\n' * 10 ** 5: torch.zeros(1)}},
               'many widths': {'widths': [1] * 10 ** 5}}
    return {**files, **{name: saved(project, {**content, **change}) for name, change in changes.items()},
            'zip bomb, storage': rezipped(good, {'data/0': bytes(size)}),
            'zip bomb, pickle': rezipped(good, {'data.pkl': b'\x80\x02' + b'N0' * (size // 2) + b'N.'})}


def test_memory_is_bounded(project, trained, good, tmp_path, tally):
    assert_refused(trained, tmp_path / 'x.pth', bombs(project, good).items(), tally)


@pytest.mark.skipif(sys.platform != 'linux', reason='needs a file with a hole')
def test_a_file_of_terabytes(project, trained, good, tmp_path, tally, monkeypatch):
    path = tmp_path / 'x.pth'
    path.write_bytes(good)
    monkeypatch.setattr(project, 'LARGEST_CHECKPOINT', len(good))
    trained.load(path)
    for size in (len(good) + 1, 2 ** 40):
        os.truncate(path, size)
        with pytest.raises(ValueError, match='^path: .*x.pth .*it is larger'):
            trained.load(path)
    tally()


# ------------------------------------------------------------------------------------------ wrong

def wrong_contents_1(good: bytes) -> dict:
    """What is wrong -> the file, and what the message must name: the key, what was found, what was expected."""
    content = torch.load(io.BytesIO(good), weights_only=True)
    weights, name, shape = content['weights'], 'tail.weight', '(3, 24, 3, 3)'
    weight = weights[name]
    fewer = {key: value for key, value in weights.items() if key != name}
    values = {  # of this one weight
        'another type': (weight.double(), 'torch.float64', 'torch.float32'), 'no tensor': (3, shape),
        'another shape': (weight[:1], '(1, 24, 3, 3)', shape), 'sparse': (weight.to_sparse(),),
        'meta': (weight.to('meta'),), 'NaN': (weight.index_fill(0, torch.tensor(1), float('nan')),)}
    contents = {
        **{key: ({**content, 'weights': {**fewer, name: value}}, name, *words)
           for key, (value, *words) in values.items()},
        'a weight missing': ({**content, 'weights': fewer}, name, shape),
        'a weight too many': ({**content, 'weights': {**weights, 'extra': weight}}, 'extra'),
        'an extra key': ({**content, 'extra': 3}, 'extra'), 'no widths': ({'weights': weights}, 'widths'),
        'a number for a name': ({**content, 'weights': {**weights, 3: weight}}, '3'),
        'other widths': ({**content, 'widths': [8, 16]}, '[8, 16]', '[24, 48, 96, 192]'),
        'weights of no kind': ({**content, 'weights': 5},)}
    return {key: (saved(PROJECTS[1], wrong), words) for key, (wrong, *words) in contents.items()}


def wrong_contents_2(good: bytes) -> dict:
    """What is wrong -> the file, or that and what the message must name."""
    entries = pickle.loads(good)['weights']

    def saved_with(**changes) -> bytes:
        return saved(PROJECTS[2], {'weights': entries[:-1] + [{**entries[-1], **changes}]})     # of shape [3]

    return {'NaN': saved_with(float32=struct.pack('<3f', 0, float('nan'), 0)),
            'an extra key': (saved_with(extra=3), ('extra',)),
            'an extra key outside': (saved(PROJECTS[2], {'weights': entries, 'extra': 3}), ('extra',)),
            'no weights': (saved(PROJECTS[2], {}), ('weights',)), 'bytes behind the end': good + b'x',
            'a weight missing': saved(PROJECTS[2], {'weights': entries[:-1]}),
            'a weight too many': saved(PROJECTS[2], {'weights': entries + entries[:1]}),
            'another shape': (saved_with(shape=[1, 3]), ('[1, 3]', '[3]')), 'a shape of no kind': saved_with(shape=7),
            'too few bytes': saved_with(float32=bytes(11)), 'a string for bytes': saved_with(float32='0123456789ab'),
            'a stack underflow': b'\x80\x04}s.'}


def test_wrong_contents(project, good, tmp_path, tally):
    other = PROJECTS[1 if project is PROJECTS[2] else 2]
    files = {'empty': b'', 'text': b'weights: none\n', 'no dict': saved(project, [1, 2]),
             "the other project's": other.CHECKPOINT.read_bytes(), 'an empty archive': b'PK\5\6' + bytes(18),
             **(wrong_contents_1(good) if project is PROJECTS[1] else wrong_contents_2(good))}
    assert_refused(new_model(project, seed=5), tmp_path / 'x.pth', files.items(), tally)


def test_the_witness(project, trained, good, tmp_path):
    """What is right loads, also over other weights, also from a torch that writes its archive in another way."""
    model, path = new_model(project, seed=5), tmp_path / 'x.pth'
    for data in (good, *([rezipped(good, {})] if project is PROJECTS[1] else [])):
        path.write_bytes(data)
        model.load(path)
        assert same(bits(model), bits(trained))
