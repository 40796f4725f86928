"""Checkpoints that are damaged, wrong or hostile: refused in one sentence that names the file, before a library
warns, with nothing executed, every weight left to the last bit, and memory bounded."""
import codecs
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
EXECUTING = ('os.', 'subprocess.', 'exec', 'compile', 'pickle.find_class', 'socket.', 'shutil.', 'ctypes.')

executed = []                                   # audit events of what a checkpoint has no business to do
is_watching = False


def watch(event: str, arguments: tuple) -> None:
    if is_watching and (event.startswith(EXECUTING) or event == 'open' and str(arguments[1] or 'r')[0] in 'wax'):
        executed.append((event, arguments[:1]))


@pytest.fixture(scope='module', autouse=True)
def audit():
    sys.addaudithook(watch)                     # there is no way to remove one
    codecs.lookup('cp437')                      # of names in an archive
    for k in PROJECTS:                          # what a first load imports is no event of a later one
        PROJECTS[k].Model().load_pretrained_model()


def peak_memory() -> int:
    """Of this process since the last reset, in bytes; 0 where the system does not tell."""
    status = Path('/proc/self/status')
    return 1024 * int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1]) if status.exists() else 0


def load(model, path: Path, data: bytes, words: tuple = (), may_load=False) -> str:
    """What is wrong with the way in which `model` takes the file, '' if nothing is."""
    global is_watching
    path.write_bytes(data)
    before, weights, error = bits(model), model.weights(), None
    executed.clear()
    if sys.platform == 'linux':
        Path('/proc/self/clear_refs').write_text('5')
    start = peak_memory()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter('always')
        is_watching = True
        try:
            model.load(path)
        except Exception as caught:
            error = caught
        finally:
            is_watching = False
    memory = peak_memory() - start
    after = bits(model)
    changed = sum(int((a != b).any()) for a, b in zip(before, after))
    model.set_weights(weights)                  # for the next file
    if executed:
        return f'it did {executed}'
    if warned:
        return f'a library warned: {str(warned[0].message)[:80]}'
    if memory > MEMORY:
        return f'it took {memory // 2 ** 20} MiB'
    if error is None:
        is_finite = all(bool(weight.view(torch.float32).isfinite().all()) for weight in after)
        return '' if may_load and changed <= 1 and is_finite else f'loaded, {changed} weights changed'
    if changed:
        return f'{changed} weights changed before {type(error).__name__}'
    message = str(error)
    if not isinstance(error, ValueError) or len(message) > 600 or '\n' in message or path.name not in message:
        return f'{type(error).__name__} of {len(message)} characters: {message[:150]!r}'
    return next((f'{message!r} lacks {word}' for word in words if word not in message), '')


@pytest.fixture
def good(project) -> bytes:
    """The checkpoint that is shipped."""
    return project.CHECKPOINT.read_bytes()


def assert_refused(model, path, files, tally, may_load=False) -> None:
    """files: (name, bytes), or (name, (bytes, words that the message must have)), made one by one if they are many."""
    faults = {}
    for name, file in files:
        data, words = file if isinstance(file, tuple) else (file, ())
        faults[name] = load(model, path, data, words, may_load)
        tally()
    assert not any(faults.values()), '\n'.join(f'{name}: {fault}' for name, fault in faults.items() if fault)


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
    """Opcode -> a pickle that creates the file `trap` when it is loaded, protocol 2."""
    path, call = text(str(trap)), b'cos\nmkdir\n'
    return {'REDUCE': b'\x80\x02' + call + path + b'\x85R.',
            'STACK_GLOBAL': b'\x80\x04' + text('os') + text('mkdir') + b'\x93' + path + b'\x85R.',
            'INST': b'\x80\x02(' + path + b'ios\nmkdir\n.',
            'OBJ': b'\x80\x02(' + call + path + b'o.',
            'EXT': b'\x80\x02\x82\xf0' + path + b'\x85R.',
            'BUILD': b'\x80\x02' + call + path + b'\x85R}b.',
            'in a dict': b'\x80\x02}' + text('weights') + call + path + b'\x85Rs.',
            'shell': b'\x80\x02cos\nsystem\n' + text(f'mkdir {trap}') + b'\x85R.',
            'eval': b'\x80\x02cbuiltins\neval\n' + text(f'__import__("os").mkdir({str(trap)!r})') + b'\x85R.',
            'getattr': b'\x80\x02cbuiltins\ngetattr\ncos\npath\n' + text('os') + b'\x86R0' + call + path + b'\x85R.'}


def rezipped(good: bytes, change, compression=zipfile.ZIP_STORED) -> bytes:
    """The archive of project 1 with every entry changed by `change(name, content)`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(
            file, 'w', compression, compresslevel=1) as archive:
        for name in source.namelist():
            archive.writestr(name, change(name.split('/', 1)[1], source.read(name)))
    return file.getvalue()


def test_nothing_is_executed(project, trained, good, tmp_path, tally):
    """As a file of its own and, for project 1, as the pickle inside of the archive."""
    trap = tmp_path / 'trap'
    copyreg.add_extension('os', 'mkdir', 0xf0)
    try:
        for name, data in routes(trap).items():
            try:
                pickle.loads(data)                      # the witness
            except AttributeError:                      # of None, which BUILD has no state for
                pass
            assert trap.exists(), f'{name} is harmless'
            trap.rmdir()
        files = routes(trap)
        if project is PROJECTS[1]:
            for name, data in routes(trap).items():
                files[f'{name}, in an archive'] = rezipped(
                    good, lambda entry, content, data=data: data if entry == 'data.pkl' else content)
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
    files = {'memo of 2^31 places': b'\x80\x04Nr\xff\xff\xff\x7f.', 'PUT': b'\x80\x04Np2147483647\n.',
             'BINBYTES that are missing': b'\x80\x04B\xff\xff\xff\x7f.',
             'BINBYTES8': b'\x80\x04\x8e\xff\xff\xff\x7f\0\0\0\0' + bytes(8) + b'.',
             'FRAME': b'\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.',
             'a long integer': b'\x80\x04\x8b\xff\xff\xff\x7f.',
             'deep': b'\x80\x04' + b']' * 10 ** 5 + b'a' * (10 ** 5 - 1) + b'.'}
    if project is PROJECTS[2]:
        entry = {'shape': [2 ** 18], 'float32': bytes(2 ** 20)}
        files.update({
            'one entry 300 times': saved(project, {'weights': [entry] * 300}),
            'shapes of many': saved(project, {'weights': [{'shape': [0] * 9, 'float32': b''}] * 3000}),
            'a shape of many': saved(project, {'weights': [{'shape': [2 ** 31 - 1] * 9000, 'float32': b''}]}),
            'laughs': saved(project, {'weights': [{'shape': laughs(list, 24), 'float32': b''}]})})
        return files

    def content(**changes) -> bytes:
        return saved(project, {**torch.load(io.BytesIO(good), weights_only=True), **changes})

    def bomb(entry: str, data: bytes) -> bytes:
        return rezipped(good, lambda name, content: data if name == entry else content, zipfile.ZIP_DEFLATED)

    files.update({
        'bytearray': content(extra=Call(bytearray, size)), 'laughs': content(widths=laughs(list, 22)),
        'laughs in a key': content(weights={laughs(tuple, 22): torch.zeros(1)}),
        'a long name': content(weights={'x\n' * 10 ** 5: torch.zeros(1)}),
        'many widths': content(widths=[1] * 10 ** 5),
        'zip bomb, storage': bomb('data/0', bytes(size)),
        'zip bomb, pickle': bomb('data.pkl', b'\x80\x02' + b'N0' * (size // 2) + b'N.')})
    return files


def test_memory_is_bounded(project, trained, good, tmp_path, tally):
    assert_refused(trained, tmp_path / 'x.pth', bombs(project, good).items(), tally)


@pytest.mark.skipif(sys.platform != 'linux', reason='needs a file with a hole')
def test_a_file_of_terabytes(project, trained, good, tmp_path, tally, monkeypatch):
    path = tmp_path / 'x.pth'
    path.write_bytes(good)
    assert len(good) < 10e6
    before = bits(trained)
    monkeypatch.setattr(project, 'LARGEST_CHECKPOINT', len(good))
    trained.load(path)
    for size in (len(good) + 1, 2 ** 40):
        os.truncate(path, size)
        with pytest.raises(ValueError, match='^path: .*x.pth .*it is larger'):
            trained.load(path)
    assert same(bits(trained), before)
    tally()


# ------------------------------------------------------------------------------------------ wrong

def wrong_contents_1(good: bytes) -> dict:
    """What is wrong -> the file, and what the message must name: the key, what was found, what was expected."""
    content = torch.load(io.BytesIO(good), weights_only=True)
    weights, name, shape = content['weights'], 'tail.weight', '(3, 24, 3, 3)'
    weight = weights[name]

    def changed(value) -> dict:
        return {**content, 'weights': {**weights, name: value}}

    def without(key, entries: dict) -> dict:
        return {k: v for k, v in entries.items() if k != key}

    table = [*((f'a weight of {dtype}', changed(weight.to(dtype)), name, str(dtype), 'torch.float32')
               for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.complex64)),
             ('sparse', changed(weight.to_sparse()), name), ('meta', changed(weight.to('meta')), name),
             ('no tensor', changed(3), name, shape),
             ('another shape', changed(weight[:1]), name, '(1, 24, 3, 3)', shape),
             ('another rank', changed(weight.flatten()), name, '(648,)', shape),
             ('NaN', changed(weight.index_fill(0, torch.tensor(1), float('nan'))), name),
             ('infinity', changed(weight.index_fill(0, torch.tensor(1), float('inf'))), name),
             ('a weight missing', {**content, 'weights': without(name, weights)}, name, shape),
             ('a weight too many', {**content, 'weights': {**weights, 'extra': weight}}, 'extra'),
             ('a number for a name', {**content, 'weights': {3: weight}}),
             ('an extra key', {**content, 'extra': 3}, 'extra'),
             ('no weights', without('weights', content), 'weights'),
             ('no widths', without('widths', content), 'widths'),
             ('other widths', {**content, 'widths': [8, 16]}, '[8, 16]', '[24, 48, 96, 192]'),
             ('widths of no kind', {**content, 'widths': 5}), ('weights of no kind', {**content, 'weights': 5})]
    return {key: (saved(PROJECTS[1], wrong), words) for key, wrong, *words in table}


def wrong_contents_2(good: bytes) -> dict:
    entries = pickle.loads(good)['weights']

    def saved_with(**changes) -> bytes:
        return saved(PROJECTS[2], {'weights': entries[:-1] + [{**entries[-1], **changes}]})     # of shape [3]

    def floats(*values) -> bytes:
        return struct.pack(f'<{len(values)}f', *values)

    return {'NaN': saved_with(float32=floats(0, float('nan'), 0)), 'infinity': saved_with(float32=floats(0, 1e999, 0)),
            'an extra key': (saved_with(extra=3), ('extra',)),
            'an extra key outside': (saved(PROJECTS[2], {'weights': entries, 'extra': 3}), ('extra',)),
            'bytes behind the end': good + b'x', 'a weight missing': saved(PROJECTS[2], {'weights': entries[:-1]}),
            'a weight too many': saved(PROJECTS[2], {'weights': entries + entries[:1]}),
            'a shape missing': saved(PROJECTS[2], {'weights': [{'float32': b''}]}),
            'no weights': (saved(PROJECTS[2], {}), ('weights',)),
            'another shape': (saved_with(shape=[1, 3]), ('[1, 3]', '[3]')),
            'a shape for more': saved_with(shape=[4]), 'a negative shape': saved_with(shape=[-1, -3]),
            'a shape of no kind': saved_with(shape=7), 'a nested shape': saved_with(shape=[[3]]),
            'a string for a shape': saved_with(shape='abc'), 'too few bytes': saved_with(float32=bytes(11)),
            'a string for bytes': saved_with(float32='0123456789ab'), 'an integer for bytes': saved_with(float32=12),
            'a persistent id': b'\x80\x04Pname\n.', 'a stack underflow': b'\x80\x04}s.',
            'an unknown memo': b'\x80\x04h\x05.', 'a list for a key': b'\x80\x04}(]]u.'}


def test_wrong_contents(project, good, tmp_path, tally):
    other = PROJECTS[1 if project is PROJECTS[2] else 2]
    files = {'empty': b'', 'text': b'weights: none\n', 'no dict': saved(project, [1, 2]),
             'a number': saved(project, 5),
             "the other project's": other.CHECKPOINT.read_bytes(), 'an empty archive': b'PK\5\6' + bytes(18),
             **(wrong_contents_1(good) if project is PROJECTS[1] else wrong_contents_2(good))}
    assert_refused(new_model(project, seed=5), tmp_path / 'x.pth', files.items(), tally)


def test_the_witness(project, trained, good, tmp_path):
    """What is right loads, also over other weights, also from a torch that writes its archive in another way."""
    model, path = new_model(project, seed=5), tmp_path / 'x.pth'
    for data in (good, *([rezipped(good, lambda name, content: content)] if project is PROJECTS[1] else [])):
        path.write_bytes(data)
        model.load(path)
        assert same(bits(model), bits(trained))
