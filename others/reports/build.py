"""How a report comes to be: its values and figures from the records, a digest of all that, and Typst.

The same records and sources give the same bytes. The digest stands in the PDF, as its keyword, for a test to compare.
"""
import hashlib
import json
import tempfile
from pathlib import Path

import torch
import typst
from skimage import data as photographs

from others import data
from others.common import storage
from others.common.metrics import psnr
from others.reports import values

SOURCES = Path(__file__).resolve().parent
RESULTS = storage.ROOT / 'others' / 'results'
PICTURES = storage.ROOT / 'others' / 'pictures'
REPORTS = {1: values.report_1, 2: values.report_2, 'predecessors': values.predecessors}


def target(k, out=None) -> Path:
    """Where report k goes: beside its mini-project or, of the predecessors, its source; or into a folder."""
    return Path(out or (SOURCES if k == 'predecessors' else storage.ROOT / f'Miniproject_{k}'), f'Report_{k}.pdf')


def photograph() -> torch.Tensor:
    """The square of `astronaut` that shows the noise, uint8 (3, 224, 224)."""
    return torch.tensor(photographs.astronaut()).permute(2, 0, 1)[:, :224, 110:334]


def pictures(name: str) -> list:
    """For each image of a file of readme_picture's, tiles or squares, [(a version of it, its PSNR as text)], the clean
    one last."""
    tiles = data.read_photo(PICTURES / f'{name}.png')
    side = tiles.shape[2] // len(values.VERSIONS)
    rows = [torch.stack(band.split(side, 2)) for band in tiles.split(side, 1)]              # (versions, 3, H, W)
    return [[*((image, f'{values.fixed(psnr(image[None], row[-1:]).item())} dB') for image in row[:-1]), (row[-1], '')]
            for row in rows]


def content(k, results: Path = RESULTS) -> tuple:
    """Of report k: the values, with the digest; {name: a function that draws it}; the names of missing records."""
    rec = values.Records(results)
    numbers, drawings = REPORTS[k](rec, photograph, pictures)
    missing = [path.stem for path in sorted(rec.asked) if not path.exists()]
    return {**numbers, 'digest': digest(k, rec)}, drawings, missing


def digest(k, rec: values.Records) -> str:
    """Of the report's sources, of the pictures and of the records that it was made from."""
    total = hashlib.sha256()
    own = [path for path in sorted(SOURCES.iterdir())
           if path.suffix == '.py' or path.name in ('style.typ', f'report_{k}.typ')]
    shown = [PICTURES / name for name in ('tiles.png', 'squares.png')]
    for path in (*own, *shown, *sorted(rec.asked)):
        content = path.read_bytes() if path.exists() else b''
        total.update(f'{path.name} {len(content)} '.encode() + content)
    return total.hexdigest()


def typeset(k, numbers: dict, drawings: dict, **options):
    """Compile report k -> the bytes of a PDF, or with format='png' a list of a picture's bytes for each page."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ('style.typ', f'report_{k}.typ'):
            Path(folder, name).write_bytes((SOURCES / name).read_bytes())
        for name, draw in drawings.items():
            Path(folder, f'{name}.svg').write_bytes(draw())
        Path(folder, 'values.json').write_text(json.dumps(numbers), encoding='utf-8')
        try:
            return typst.compile(Path(folder, f'report_{k}.typ'), root=folder, ignore_system_fonts=True, **options)
        except typst.TypstError as error:
            raise storage.UserError(f'report_{k}.typ: {error}') from error
