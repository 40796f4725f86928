"""Make the zip that is handed in, with exactly the two mini-projects, and check it as a grader would.

    python -m others.package --scipers 111111 222222 333333

It holds, of each Miniproject_K, __init__.py, model.py, bestmodel.pth and Report_K.pdf (at most 3 pages), and, to read,
a folder others/ with what the reports rest on: the tools, the studies and the records of their results. Before it is
written it is unpacked into an empty folder, where `test.py --quick` grades it in a fresh process. The same files give
the same bytes.
"""
import argparse
import contextlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from others.common import cli, storage

MOST_PAGES = 3
EVIDENCE = ('others/*.py', 'others/common/*.py', 'others/studies/*.py', 'others/results/*.json',
            'others/reports/*.pdf')
DATE = (2022, 5, 27, 0, 0, 0)                       # of every file in the zip


def sciper(text: str) -> str:
    if not re.fullmatch('[0-9]{6}', text):
        raise argparse.ArgumentTypeError(f'{text}, expected six digits')
    return text


def count_pages(pdf: bytes) -> int:
    """Of a PDF, also of one whose objects are compressed. 0 if it is none."""
    content = [pdf]
    for stream in re.findall(rb'stream\r?\n(.*?)endstream', pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):       # of one in another format; objects are never in those
            content.append(zlib.decompressobj().decompress(stream))
    return sum(len(re.findall(rb'/Type\s*/Page\b', part)) for part in content)


def collect(root: Path) -> dict:
    """{name in the zip: path} of the files to hand in. UserError if one is missing or a report too long."""
    paths = [Path(f'Miniproject_{k}', name) for k in (1, 2)
             for name in ('__init__.py', 'model.py', 'bestmodel.pth', f'Report_{k}.pdf')]
    for path in paths:
        if not (root / path).is_file():
            raise storage.UserError(f'{root} has no {path}'
                                    + ' (python -m others.reports makes it)' * (path.suffix == '.pdf'))
        pages = count_pages((root / path).read_bytes()) if path.suffix == '.pdf' else 1
        if not 1 <= pages <= MOST_PAGES:
            raise storage.UserError(f'{path} has {pages} pages, expected 1 to {MOST_PAGES}')
    evidence = [path.relative_to(root) for pattern in EVIDENCE for path in sorted(root.glob(pattern))]
    return {**{path.as_posix(): root / path for path in paths},
            **{f'Miniproject_{k}/{path.as_posix()}': root / path for k in (1, 2) for path in evidence}}


def pack(paths: dict) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, path in paths.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = 0o100644 << 16            # a file that all may read
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def check(archive: bytes, name: str, data=None) -> None:
    """Unpack and grade; UserError if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder, name)
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
        command = [sys.executable, storage.ROOT / 'test.py', '--quick', '-p', folder]
        if subprocess.run(command + (['-d', data] if data else [])).returncode:
            raise storage.UserError(f'{name}.zip was not written: it does not pass test.py --quick, as shown above')


def main(arguments=None) -> None:
    parser = cli.parser('package', __doc__)
    option = parser.add_argument
    option('--scipers', type=sciper, nargs=3, required=True, metavar='SCIPER', help='of the authors, six digits each')
    option('--out', type=Path, default=Path(), metavar='FOLDER', help='for the zip (default: this one)')
    option('--data', type=Path, metavar='FOLDER', help='to grade on (default: a demo set, made once)')
    option('--force', action='store_true', help='replace a zip that is there')
    options = parser.parse_args(arguments)

    name = '_'.join(['Proj', *options.scipers])
    path = options.out / f'{name}.zip'
    if path.exists() and not options.force:
        raise storage.UserError(f'--out: {path} exists, expected a new file (--force replaces it)')
    archive = pack(collect(storage.ROOT))
    check(archive, name, options.data)
    storage.write(path, archive)
    print(f'{path}: {len(archive) / 1e6:.1f} MB')


if __name__ == '__main__':
    cli.run(main)
