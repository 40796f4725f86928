"""Build the reports, one of each mini-project and one of the predecessors, from the records.

    python -m others.reports
    python -m others.reports --out out --png

The same records and sources give the same bytes. A record that does not exist yet is named, and what it would fill
stays empty.
"""
from pathlib import Path

from others.common import cli, storage
from others.reports import build


def main(arguments=None) -> None:
    parser = cli.parser('reports', __doc__)
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='(default: each beside what it is about)')
    parser.add_argument('--png', action='store_true', help='write the pages as pictures, too')
    options = parser.parse_args(arguments)
    for k in build.REPORTS:
        numbers, drawings, missing = build.content(k)
        for name in missing:
            print(f'report {k}: others/results/{name}.json does not exist yet, its figures are left out')
        path = build.target(k, options.out)
        pdf = build.typeset(k, numbers, drawings)
        storage.write(path, pdf)
        print(f'{path}: {len(pdf) / 1000:.0f} kB')
        if options.png:
            pages = build.typeset(k, numbers, drawings, format='png', ppi=110)
            for i, page in enumerate(pages if isinstance(pages, list) else [pages], 1):
                storage.write(path.with_name(f'{path.stem}_{i}.png'), page)


if __name__ == '__main__':
    cli.run(main)
