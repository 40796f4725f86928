"""How a report comes to be: its values and figures from the records, a digest of all that, and Typst.

The same records and sources give the same bytes. The digest stands in the PDF, as its keyword, for a test to compare.
"""
import hashlib
import json
import tempfile
from pathlib import Path

import typst

from others.common import storage
from others.reports import values

SOURCES = Path(__file__).resolve().parent
RESULTS = storage.ROOT / 'others' / 'results'
REPORTS = {1: values.report_1, 2: values.report_2, 'predecessors': values.predecessors}


def target(k, out=None) -> Path:
    """Where report k goes: beside its mini-project or, of the predecessors, its source; or into a folder."""
    return Path(out or (SOURCES if k == 'predecessors' else storage.ROOT / f'Miniproject_{k}'), f'Report_{k}.pdf')


def content(k, results: Path = RESULTS) -> tuple:
    """Of report k: the values, with the digest; {name: a function that draws it}."""
    rec = values.Records(results)
    numbers, drawings = REPORTS[k](rec)
    return {**numbers, 'digest': digest(k, rec)}, drawings


def digest(k, rec: values.Records) -> str:
    """Of the report's sources, of the pictures and of the records that it was made from."""
    total = hashlib.sha256()
    own = [path for path in sorted(SOURCES.iterdir())
           if path.suffix == '.py' or path.name in ('style.typ', f'report_{k}.typ')]
    shown = [values.PICTURES / name for name in ('tiles.png', 'squares.png')]
    for path in (*own, *shown, *sorted(rec.asked)):
        content = path.read_bytes()
        total.update(f'{path.name} {len(content)} '.encode() + content)
    return total.hexdigest()


def typeset(k, numbers: dict, drawings: dict) -> bytes:
    """Compile report k to a PDF."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ('style.typ', f'report_{k}.typ'):
            Path(folder, name).write_bytes((SOURCES / name).read_bytes())
        for name, draw in drawings.items():
            Path(folder, f'{name}.svg').write_bytes(draw())
        Path(folder, 'values.json').write_text(json.dumps(numbers), encoding='utf-8')
        try:
            return typst.compile(Path(folder, f'report_{k}.typ'), root=folder, ignore_system_fonts=True)
        except typst.TypstError as error:
            raise storage.UserError(f'report_{k}.typ: {error}') from error
