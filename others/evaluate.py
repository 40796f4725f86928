"""Compare models in one table: the noisy input, ours, and any other folder with a model.py.

    python -m others.evaluate --data data --pictures out
    python -m others.evaluate --data data --submission ../theirs/Miniproject_1
    python -m others.evaluate --data data --project 1 --weights runs/first/best.pth
    python -m others.evaluate --images clean.png denoised.png
    python -m others.evaluate --real real_val.pkl --project 1 --floor 26.0 --json

A submission is a folder with model.py and bestmodel.pth, whose `Model` has load_pretrained_model()
and predict(images in 0..255). Each model runs in a process of its own, where another's code cannot
come in by mistake. The figures, over the images of a file of (noisy, clean) pairs:

    PSNR    mean and its standard error; median, worst and best image; in dB
    gain    mean difference from the noisy input, image by image, and its standard error
    SSIM    mean structural similarity of the colour images
    ms      for an image, of predict in batches of 100

With --weights, a line after the table tells how much better they are than the shipped ones, image by
image, and the difference's standard error.

The exit status is 1 if a model fails, or has a lower mean than --floor on the last file.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

import torch

from others import data
from others.common import cli, datasets, denoisers, images, plots, records, storage
from others.common.metrics import psnr

WORKER = Path(__file__).with_name('common') / 'worker.py'
VARIANTS = {'': {}, ', no ensemble': {'ensemble': False}}      # what a row's name ends in: keywords
MONTAGE_IMAGES = 6


def predictions(folder: Path, sets: list, variants: list) -> dict:
    """Run the submission: {variant: [(predictions, seconds) for each of the sets]}.

    sets: of noisy images, uint8 (N, 3, H, W). RuntimeError, with its last words, if it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images, results = Path(scratch, 'images'), Path(scratch, 'results')
        torch.save(sets, images)
        keywords = json.dumps([VARIANTS[variant] for variant in variants])
        process = subprocess.run(
            [sys.executable, '-B', WORKER, folder.resolve(), images, results, keywords], cwd=scratch,
            env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors='replace')
        if process.returncode or not results.exists():
            said = [line for line in process.stderr.splitlines() if line.strip()]
            raise RuntimeError(said[-1] if said else f'it ended with status {process.returncode}')
        outputs = {variants[i]: result for i, result in torch.load(results, weights_only=True)}
    for result in outputs.values():
        for noisy, (denoised, _) in zip(sets, result):
            if denoised.shape != noisy.shape:
                raise RuntimeError(f'predict gave the shape {tuple(denoised.shape)}, '
                                   f'expected {tuple(noisy.shape)}')
            if not bool(denoised.isfinite().all()):
                raise RuntimeError('predict gave values that are not finite')
    return outputs


def ssim(images: torch.Tensor, clean: torch.Tensor) -> Optional[float]:
    """Mean structural similarity of (N, 3, H, W), 0..255; None for images of less than 7 pixels."""
    from skimage.metrics import structural_similarity

    if min(clean.shape[2:]) < 7:                        # the side of its window
        return None
    values = [structural_similarity(a, b, channel_axis=0, data_range=255)
              for a, b in zip(images.double().numpy(), clean.double().numpy())]
    return float(sum(values) / len(values))


def mean_and_error(values: torch.Tensor) -> tuple:
    """Mean of (N,) and its standard error, which is None for a single value."""
    N = len(values)
    return values.mean().item(), (values.std() / N ** 0.5).item() if N > 1 else None


def figures(images: torch.Tensor, clean: torch.Tensor, before: Optional[torch.Tensor] = None,
            seconds: float = 0) -> dict:
    """A row of the table. images, clean: (N, 3, H, W), 0..255.

    Of a model: before, (N,), the PSNR of the noisy images, and the seconds for one image.
    """
    values = psnr(images, clean)
    mean, error = mean_and_error(values)
    row = {'psnr': mean, 'psnr_error': error, 'median': values.median().item(),
           'worst': values.min().item(), 'best': values.max().item(), 'ssim': ssim(images, clean)}
    if before is not None:
        gain, gain_error = mean_and_error(values - before)
        row.update(gain=gain, gain_error=gain_error, ms=1000 * seconds)
    return row


def table(rows: list) -> str:
    """The rows of one file, aligned; '-' stands for what there is not."""
    def cell(row: dict, name: str, form: str) -> str:
        value, error = row.get(name), row.get(f'{name}_error')
        return '-' if value is None else f'{value:{form}}' + ('' if error is None else f' ± {error:.2f}')

    forms = {'psnr': '.2f', 'median': '.2f', 'worst': '.2f', 'best': '.2f', 'gain': '+.2f',
             'ssim': '.4f', 'ms': '.2f'}
    lines = [['', 'PSNR (dB)', 'median', 'worst', 'best', 'gain (dB)', 'SSIM', 'ms']]
    return cli.table(lines + [[row['model'], *(cell(row, *form) for form in forms.items())] for row in rows])


def psnr_of_files(paths: list) -> float:
    """In dB, of two image files, as RGB. UserError if they have not one size."""
    arrays = [images.read(path).values for path in paths]
    if arrays[0].shape[:2] != arrays[1].shape[:2]:
        found = (f'{path} is {array.shape[1]} x {array.shape[0]}' for path, array in zip(paths, arrays))
        raise storage.UserError(f"--images: {' and '.join(found)}, expected one size")
    return psnr(*(images.to_tensor(array, *images.value_range(array)) for array in arrays)).item()


def with_weights(project: int, weights: Path, scratch: Path) -> Path:
    """A submission made in `scratch`: the project with other weights. UserError if they do not fit."""
    denoisers.trained_model(project, weights)
    folder = scratch / f'Miniproject_{project}'
    shutil.copytree(storage.ROOT / folder.name, folder, ignore=shutil.ignore_patterns('bestmodel.pth', '__pycache__'))
    shutil.copy(weights, folder / 'bestmodel.pth')
    return folder


def prepare_pictures(folder: Path, names: list, force: bool) -> None:
    """Make the folder. UserError if a picture would replace another one."""
    for name in names:
        there = [path for path in pictures(folder, name) if path.exists() and not force]
        if there:
            raise storage.UserError(f'--pictures: {there[0]} exists, expected none (--force replaces it)')
        if names.count(name) > 1:
            raise storage.UserError(f'--pictures: two files are called {name}, expected different names')
    folder.mkdir(parents=True, exist_ok=True)


def pictures(folder: Path, name: str) -> tuple:
    """The paths of the montage and of the curve for a file of pairs."""
    return folder / f'{name}_montage.png', folder / f'{name}_psnr.png'


def draw(montage: Path, curve: Path, noisy: torch.Tensor, clean: torch.Tensor, denoised: dict) -> None:
    """denoised: {model: (N, 3, H, W)}."""
    some = plots.spread(noisy, clean, MONTAGE_IMAGES)
    versions = {'noisy': noisy, **denoised, 'clean': clean}
    plots.montage(montage, {name: images[some] for name, images in versions.items()},
                  scale=max(1, 160 // clean.shape[-1]))
    plots.psnr_in_out(curve, psnr(noisy, clean),
                      {name: psnr(images, clean) for name, images in denoised.items()})


def main(arguments=None) -> int:
    parser = cli.parser('evaluate', __doc__)
    cli.add_options(parser, data={'default': None,
                                  'help': 'with val_data.pkl (default: data, unless --real is given)'})
    parser.add_argument('--real', type=Path, nargs='+', default=[], metavar='FILE',
                        help='other files of (noisy, clean) pairs, with rows of their own')
    parser.add_argument('--project', type=int, choices=(1, 2), help='of ours, only this one')
    parser.add_argument('--submission', type=Path, nargs='+', default=[], metavar='FOLDER',
                        help='folders with model.py and bestmodel.pth, beside ours')
    parser.add_argument('--weights', type=Path, metavar='FILE',
                        help='of --project, as others.train makes them, beside the shipped ones')
    parser.add_argument('--images', type=Path, nargs=2, metavar=('A', 'B'),
                        help='print the PSNR between two image files, and no more')
    parser.add_argument('--no-ensemble', action='store_true',
                        help='a second row for each model whose predict can do without averaging over '
                             'flips and rotations')
    parser.add_argument('--pictures', type=Path, metavar='FOLDER',
                        help='for a montage and a curve of PSNR out against PSNR in, of each file')
    parser.add_argument('--force', action='store_true', help='replace pictures that are there')
    parser.add_argument('--floor', type=float, metavar='DB',
                        help='exit with status 1 if a model has a lower mean on the last file')
    parser.add_argument('--json', action='store_true', help='print a list of rows instead of the table')
    cli.add_options(parser, 'threads', 'record')
    options = parser.parse_args(arguments)
    if options.images:
        print(f'{psnr_of_files(options.images):.2f} dB')
        return 0
    if options.weights and not options.project:
        raise storage.UserError(f'--weights: {options.weights} needs a --project, expected 1 or 2')
    with cli.threads(options.threads), tempfile.TemporaryDirectory() as scratch:
        return evaluate(options, Path(scratch))


def evaluate(options, scratch: Path) -> int:
    """The exit status. scratch: an empty folder."""
    start = time.monotonic()
    folder = options.data or (None if options.real else Path('data'))
    files = [('--data', folder / data.VAL_FILE)] if folder else []
    files += [('--real', path) for path in options.real]
    sets = [datasets.read_validation(*file) for file in files]
    models = {f'project {k}': storage.ROOT / f'Miniproject_{k}'
              for k in (1, 2) if options.project in (None, k)}
    if options.weights:
        models[str(options.weights)] = with_weights(options.project, options.weights, scratch)
    for folder in options.submission:
        if not (folder / 'model.py').is_file():
            raise storage.UserError(f'--submission: {folder} holds no model.py')
        models[str(folder)] = folder
    names = [path.stem for _, path in files]
    if options.pictures:
        prepare_pictures(options.pictures, names, options.force)

    variants = list(VARIANTS) if options.no_ensemble else ['']
    outputs, failed = {}, {}                    # {row: [(predictions, seconds), ..]}, {row: words}
    for model, folder in cli.progress(models.items(), len(models), 'models'):
        try:
            results = predictions(folder, [noisy for noisy, _ in sets], variants)
            outputs.update({model + variant: result for variant, result in results.items()})
        except RuntimeError as error:
            failed[model] = str(error)

    rows = []
    for i, ((_, path), (noisy, clean)) in enumerate(zip(files, sets)):
        N, C, H, W = clean.shape
        before = psnr(noisy, clean)
        here = [{'model': 'noisy input', **figures(noisy, clean)}]
        here += [{'model': model, **figures(result[i][0], clean, before, result[i][1] / N)}
                 for model, result in outputs.items()]
        given, shipped = (outputs.get(model) for model in (str(options.weights), f'project {options.project}'))
        better = {}
        if given and shipped:
            mean, error = mean_and_error(psnr(given[i][0], clean) - psnr(shipped[i][0], clean))
            better = {'over_shipped': mean, 'over_shipped_error': error}
            next(row for row in here if row['model'] == str(options.weights)).update(better)
        rows += [{'file': str(path), 'images': N, **row} for row in here]
        if not options.json:
            print(f'{path}: {N} images, {H} x {W}\n{table(here)}\n')
            if better:
                error = '' if error is None else f' ± {error:.3f}'
                print(f'{options.weights}: {mean:+.3f}{error} dB over the shipped weights\n')
        if options.pictures:
            draw(*pictures(options.pictures, names[i]), noisy, clean,
                 {model: result[i][0] for model, result in outputs.items()})
    if options.json:
        print(storage.to_json(rows, indent=2))
    if options.record:
        records.append(options.record, rows, time.monotonic() - start)

    low = [row for row in here[1:] if options.floor is not None and not row['psnr'] >= options.floor]
    for model, words in failed.items():
        print(f'{model} failed: {words}', file=sys.stderr)
    for row in low:
        print(f"{row['model']}: {row['psnr']:.2f} dB on {path} is below the floor of {options.floor} dB",
              file=sys.stderr)
    return 1 if failed or low else 0


if __name__ == '__main__':
    cli.run(main)
