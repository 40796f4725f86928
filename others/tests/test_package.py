"""The zip: what is in it, what is refused, and that it is graded before it is written."""
import subprocess
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from others import package
from others.common import storage
from others.tests.conftest import noisy_set, refused

SCIPERS = ['--scipers', '111111', '222222', '333333']
PAGE = b'1 0 obj\n<</Type /Page /Parent 2 0 R>>\nendobj\n'


def report(pages: int, compressed: bool = False) -> bytes:
    """What matters here of a PDF with so many pages."""
    objects = b'<</Type /Pages /Count 9>>' + pages * PAGE
    if compressed:
        objects = b'<</Type /ObjStm>> stream\n' + zlib.compress(objects) + b'\nendstream'
    return b'%PDF-1.7\n' + objects


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The root of a project with all that is handed in, and with more."""
    for k in (1, 2):
        folder = tmp_path / f'Miniproject_{k}'
        (folder / '__pycache__').mkdir(parents=True)
        for name in '__pycache__/model.pyc', 'notes.txt', '__init__.py', 'model.py', 'bestmodel.pth':
            (folder / name).write_text(f'{name} of {k}')
        (folder / f'Report_{k}.pdf').write_bytes(report(3))
    for name in ('train.py', 'studies/search.py', 'results/search.json', 'results/notes.txt', 'tests/test_train.py'):
        path = tmp_path / 'others' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(storage, 'ROOT', tmp_path)
    return tmp_path


@pytest.fixture
def graded(monkeypatch) -> list:
    """Stands for test.py: what was unpacked for it, {path: content} for each call."""
    seen = []

    def run(command):
        *_, option, folder = command
        assert command[1:3] == [storage.ROOT / 'test.py', '--quick'] and option == '-p'
        seen.append({path.relative_to(folder).as_posix(): path.read_bytes()
                     for path in Path(folder).rglob('*') if path.is_file()})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(package.subprocess, 'run', run)
    return seen


def test_exactly_the_two_folders(project, graded):
    command, path = [*SCIPERS, '--out', str(project)], project / 'Proj_111111_222222_333333.zip'
    package.main(command)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    expected = {f'Miniproject_{k}/{name}': (project / f'Miniproject_{k}' / name).read_bytes() for k in (1, 2)
                for name in ('__init__.py', 'model.py', 'bestmodel.pth', f'Report_{k}.pdf')}
    for k in (1, 2):
        expected.update((f'Miniproject_{k}/others/{name}', name.encode())
                        for name in ('train.py', 'studies/search.py', 'results/search.json'))
    assert content == expected
    assert graded == [content]
    first = path.read_bytes()
    (project / 'Miniproject_1' / 'model.py').touch()
    with refused('exists.*--force'):
        package.main(command)
    package.main([*command, '--force'])
    assert path.read_bytes() == first


@pytest.mark.parametrize('name', ['Miniproject_1/Report_1.pdf', 'Miniproject_2/bestmodel.pth'])
def test_a_file_is_missing(name, project, graded):
    (project / name).unlink()
    with refused(name):
        package.main([*SCIPERS, '--out', str(project)])
    assert not graded and not list(project.glob('*.zip'))


@pytest.mark.parametrize('compressed', [False, True])
def test_a_report_is_too_long(compressed, project):
    for pages in (3, 4, 0):
        (project / 'Miniproject_2' / 'Report_2.pdf').write_bytes(report(pages, compressed))
        with nullcontext() if pages == 3 else refused(f'Report_2.pdf has {pages} pages, expected 1 to 3'):
            package.collect(project)


def test_what_fails_is_not_written(project, tmp_path_factory, monkeypatch):
    """By the real test.py, in a process of its own: a model.py that cannot be imported."""
    archive = package.pack(package.collect(project))
    monkeypatch.undo()                                          # of storage.ROOT
    with refused('does not pass'):
        package.check(archive, 'Proj_111111_222222_333333', noisy_set(tmp_path_factory.mktemp('data'), 4, 32, val=4))
