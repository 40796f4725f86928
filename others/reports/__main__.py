"""Build the reports, one of each mini-project and one of the predecessors, from the records.

    python -m others.reports
    python -m others.reports --out out

The same records and sources give the same bytes.
"""
from pathlib import Path

from others.common import cli, storage
from others.reports import build


def main(arguments=None) -> None:
    parser = cli.parser('reports', __doc__)
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='(default: each beside what it is about)')
    options = parser.parse_args(arguments)
    for k in build.REPORTS:
        path, pdf = build.target(k, options.out), build.typeset(k, *build.content(k))
        storage.write(path, pdf)
        print(f'{path}: {len(pdf) / 1000:.0f} kB')


if __name__ == '__main__':
    cli.run(main)
