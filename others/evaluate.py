"""Compare models in one table: the noisy input, ours, and any other folder with a model.py; or image files.

    python -m others.evaluate --data data --pictures out
    python -m others.evaluate --data data --submission ../theirs/Miniproject_1 --baselines
    python -m others.evaluate --data data --project 1 --weights runs/first/best.pth runs/second/best.pth
    python -m others.evaluate --real real_val.pkl --project 1 --floor 26.0 --json
    python -m others.evaluate --images clean denoised noisy

A submission is a folder with model.py and bestmodel.pth, whose `Model` has load_pretrained_model()
and predict(images in 0..255). Each model runs in a process of its own, where another's code cannot
come in by mistake. The numbers, over the images of a file of (noisy, clean) pairs:

    PSNR    mean and its standard error; median, worst and best image; in dB. An image without any
            error counts with the bound that an error of half a grey level in one value gives
    pooled  the PSNR of the mean squared error over all images, as the assignment's function has it
    gain    mean difference from the noisy input, image by image, and its standard error
    SSIM    mean structural similarity of the colour images, as papers have it: a Gaussian window
            of sigma 1.5 (11 x 11 pixels), no sample covariance
    ms      for an image, of predict in batches of 100

Where --data has val_pairs.pkl, two noisy shots of each scene, and no val_data.pkl, PSNR and gain
are estimated from the other shot: of all images together, with a standard error, without the rest.

With --weights, a line after the table says how much better they are than the shipped ones, image by
image, and the difference's standard error.

--images compares two or three files, or folders of files with the same names (or names that differ
in what follows the last dot), of any depth: a table with a line for each name, and the mean. It
ignores transparency. Values of floats are expected in 0..1, or as --range says.

--baselines adds a Gaussian blur, total variation and non-local means of scikit-image, each at the
strength that is best for the middles of the first 50 images, which needs their clean images.

The exit status is 1 if a model fails, or has a lower mean than --floor on the last file, or if an
image of a folder cannot be compared.
"""
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

import torch

from others.common import baselines, cli, datasets, images, plots, records, storage
from others.common.datasets import Validation
from others.common.metrics import pooled_psnr, psnr
from others.common.submissions import VARIANTS, predictions, with_weights

COLUMNS = {'psnr': ('PSNR (dB)', '.2f'), 'pooled': ('pooled', '.2f'), 'median': ('median', '.2f'),
           'worst': ('worst', '.2f'), 'best': ('best', '.2f'), 'gain': ('gain (dB)', '+.2f'), 'ssim': ('SSIM', '.4f'),
           'ms': ('ms', '.2f')}


# ---------------------------------------------------------------------------------- what is measured

def ssim(denoised: torch.Tensor, clean: torch.Tensor) -> Optional[float]:
    """Mean structural similarity of (N, 3, H, W), 0..255; None for images of less than 11 pixels."""
    from skimage.metrics import structural_similarity

    if min(clean.shape[2:]) < 11:                       # the side of its window
        return None
    values = [structural_similarity(a, b, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5,
                                    use_sample_covariance=False)
              for a, b in zip(denoised.double().numpy(), clean.double().numpy())]
    return float(sum(values) / len(values))


def figures(measured: Validation, denoised: torch.Tensor, seconds: Optional[float] = None) -> dict:
    """The numbers of a row of the table. denoised: (N, 3, H, W), 0..255; seconds: of a model, for all images."""
    mean, error = measured.psnr(denoised)
    row = {'psnr': mean, 'psnr_error': error}
    if measured.estimated:
        row['estimated'] = True
    else:
        values = psnr(denoised, measured.target)
        row.update(median=values.median().item(), worst=values.min().item(), best=values.max().item(),
                   pooled=pooled_psnr(denoised, measured.target), ssim=ssim(denoised, measured.target))
    if seconds is not None:
        gain, gain_error = measured.gain(denoised, measured.noisy)
        row.update(gain=gain, gain_error=gain_error, ms=1000 * seconds / len(denoised))
    return row


def table(rows: list) -> str:
    """The rows of one file, aligned; '-' stands for what there is not."""
    def cell(row: dict, name: str, form: str) -> str:
        value, error = row.get(name), row.get(f'{name}_error')
        return '-' if value is None else f'{value:{form}}' + ('' if error is None else f' ± {error:.2f}')

    lines = [['', *(title for title, _ in COLUMNS.values())]]
    return cli.table(lines + [[row['model'], *(cell(row, name, form) for name, (_, form) in COLUMNS.items())]
                              for row in rows])


# ----------------------------------------------------------------------------------------- pictures

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


# -------------------------------------------------------------------------------------- sets of pairs

def chosen_files(options) -> dict:
    """{path: the option that named it} of the files of pairs."""
    folder = options.data or (None if options.real else Path('data'))
    files = {datasets.validation_file(folder): '--data'} if folder else {}
    return {**files, **{path: '--real' for path in options.real}}


def chosen_models(options, scratch: Path) -> dict:
    """{name: folder} of the submissions to run, ours first."""
    models = {f'project {k}': storage.ROOT / f'Miniproject_{k}'
              for k in (1, 2) if options.project in (None, k)}
    for i, weights in enumerate(options.weights):
        models[str(weights)] = with_weights(options.project, weights, scratch / str(i))
    for folder in options.submission:
        if not (folder / 'model.py').is_file():
            raise storage.UserError(f'--submission: {folder} holds no model.py')
        models[str(folder)] = folder
    return models


def run_models(models: dict, sets: list, variants: dict) -> tuple:
    """({row: [(denoised, seconds) for each set]}, {model that failed: its last words})."""
    outputs, failed = {}, {}
    for model, folder in cli.progress(models.items(), len(models), 'models'):
        try:
            results = predictions(folder, [measured.noisy for measured in sets], variants)
            outputs.update({model + variant: result for variant, result in results.items()})
        except RuntimeError as error:
            failed[model] = str(error)
    return outputs, failed


def run_baselines(measured: Validation) -> dict:
    """{row: (denoised, seconds)}"""
    tuned = [baselines.middle(part[:baselines.TUNED_ON]) for part in measured[:2]]
    tuned = Validation(*tuned, measured.estimated)
    found = baselines.best(list(measured.noisy), lambda denoised: tuned.psnr(torch.stack(denoised))[0])
    return {name: (torch.stack(denoised), seconds)
            for name, denoised, seconds in cli.progress(found, len(baselines.methods()), 'baselines')}


def compare_with_shipped(rows: list, measured: Validation, outputs: dict, shipped: str, weights: list) -> list:
    """Add the difference from the row `shipped` to the rows of `weights`; the lines that say it."""
    lines = []
    for row in rows:
        if row['model'] in weights and shipped in outputs:
            mean, error = measured.gain(outputs[row['model']][0], outputs[shipped][0])
            row.update(over_shipped=mean, over_shipped_error=error)
            uncertain = '' if error is None else f' ± {error:.3f}'
            lines.append(f'{row["model"]}: {mean:+.3f}{uncertain} dB over the shipped weights')
    return lines


def evaluate(options, scratch: Path) -> int:
    """The exit status. scratch: an empty folder."""
    start = time.monotonic()
    files = chosen_files(options)
    sets = [datasets.read_measured(argument, path) for path, argument in files.items()]
    models = chosen_models(options, scratch)
    if options.pictures:
        prepare_pictures(options.pictures, [path.stem for path in files], options.force)
    outputs, failed = run_models(models, sets, VARIANTS if options.no_ensemble else {'': {}})

    rows = []
    for i, (path, measured) in enumerate(zip(files, sets)):
        results = {model: result[i] for model, result in outputs.items()}
        here = [{'model': 'noisy input', **figures(measured, measured.noisy)}]
        here += [{'model': model, **figures(measured, *result)} for model, result in results.items()]
        if options.baselines:
            here += [{'model': name, **figures(measured, *result)}
                     for name, result in run_baselines(measured).items()]
        lines = compare_with_shipped(here, measured, results, f'project {options.project}',
                                     list(map(str, options.weights)))
        N, _, H, W = measured.noisy.shape
        rows += [{'file': str(path), 'images': N, **row} for row in here]
        if not options.json:
            how = ', PSNR and gain estimated without clean images' if measured.estimated else ''
            print('\n'.join([f'{path}: {N} images, {H} x {W}{how}', table(here), '', *lines, *[''] * bool(lines)]))
        if options.pictures:
            montage, curve = pictures(options.pictures, path.stem)
            denoised = {model: output for model, (output, _) in results.items()}
            plots.comparison(montage, measured, denoised)
            if not measured.estimated:
                plots.psnr_in_out(curve, measured.noisy, measured.target, denoised)
    if options.json:
        print(storage.to_json(rows, indent=2))
    if options.record:
        records.append(options.record, rows, time.monotonic() - start)

    low = [row for row in here if row['model'] in outputs
           and options.floor is not None and not row['psnr'] >= options.floor]
    for model, words in failed.items():
        print(f'{model} failed: {words}', file=sys.stderr)
    for row in low:
        print(f"{row['model']}: {row['psnr']:.2f} dB on {path} is below the floor of {options.floor} dB",
              file=sys.stderr)
    return 1 if failed or low else 0


# --------------------------------------------------------------------------------------- image files

def partner(folder: Path, path: Path) -> Path:
    """The file in `folder` that is called as `path` is, but for what follows the last dot. UserError if none is, or
    several are."""
    found = [other for other in folder.iterdir() if other.suffix.lower() in images.SUFFIXES]
    same = ([other for other in found if path.name in (other.name, other.stem)]
            or [other for other in found if other.stem == path.stem])
    if len(same) != 1:
        raise storage.UserError(f'--images: {folder} holds {len(same)} files that are called as {path}, expected 1')
    return same[0]


def read_versions(paths: list, given) -> list:
    """The images of some files, each float32 (3, H, W) in 0..255. given: see `images.value_range`; 'data' is of the
    first file. UserError if one cannot be read or they have not one size."""
    found = []
    for path in paths:
        image = images.read(path)
        if image.alpha is not None:
            print(f'{path}: its transparency is ignored', file=sys.stderr)
        try:
            low, high = images.value_range(image.values, given)
        except storage.UserError as error:
            raise storage.UserError(f'{path}: {error}') from error
        given = (low, high) if given else None
        found.append(images.to_tensor(image.values, low, high)[0])
    sizes = [f'{path} is {image.shape[2]} x {image.shape[1]}' for path, image in zip(paths, found)]
    if len({image.shape for image in found}) > 1:
        raise storage.UserError(f"--images: {' and '.join(sizes)}, expected one size")
    return found


def read_images(paths: list, given) -> tuple:
    """({name: its versions}, how many could not be had, which are named), of two or three files or folders."""
    if not any(path.is_dir() for path in paths):
        return {paths[1].name: read_versions(paths, given)}, 0
    for path in paths:
        if not path.is_dir():
            raise storage.UserError(f'--images: {path} is no folder, expected files or folders only')
    found, failed = {}, 0
    for path in sorted(paths[0].iterdir()):
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith('.'):
            try:
                found[path.name] = read_versions([path, *(partner(folder, path) for folder in paths[1:])], given)
            except storage.UserError as error:
                print(f'left out {path}: {error}', file=sys.stderr)
                failed += 1
    if not found:
        raise storage.UserError(f'--images: {paths[0]} holds no image that can be compared')
    return found, failed


def mean(values: list) -> Optional[float]:
    return None if None in values else sum(values) / len(values)


def compare_images(options) -> int:
    """The exit status."""
    start = time.monotonic()
    if not 2 <= len(options.images) <= 3 or options.baselines and len(options.images) < 3:
        expected = 'CLEAN DENOISED NOISY for --baselines' if options.baselines else 'CLEAN DENOISED [NOISY]'
        raise storage.UserError(f'--images: {len(options.images)} names, expected {expected}')
    found, failed = read_images(options.images, options.range and images.parse_range(options.range))
    clean, denoised, *noisy = map(list, zip(*found.values()))
    versions = {'noisy': noisy[0]} if noisy else {}
    versions['denoised'] = denoised
    if options.baselines:
        middles = [baselines.middle(image[None]) for image in clean]
        methods = baselines.best(noisy[0], lambda denoised: mean(
            [psnr(one[None], middle).item() for one, middle in zip(denoised, middles)]))
        versions.update((name, result) for name, result, _ in cli.progress(
            methods, len(baselines.methods()), 'baselines'))

    rows = [{'image': name, 'version': version, 'psnr': psnr(image[None], target[None]).item(),
             'ssim': ssim(image[None], target[None])}
            for version, result in versions.items() for name, image, target in zip(found, result, clean)]
    rows += [{'image': 'mean', 'version': version,
              **{key: mean([row[key] for row in rows if row['version'] == version]) for key in ('psnr', 'ssim')}}
             for version in versions if len(found) > 1]
    if options.json:
        print(storage.to_json(rows, indent=2))
    else:
        lines = {name: [name] for name in [row['image'] for row in rows]}
        for row in rows:
            lines[row['image']] += [f"{row['psnr']:.2f}", '-' if row['ssim'] is None else f"{row['ssim']:.4f}"]
        print(cli.table([['', *(title for version in versions for title in (f'{version} (dB)', 'SSIM'))],
                         *lines.values()]))
    if options.record:
        records.append(options.record, rows, time.monotonic() - start)
    return 1 if failed else 0


# -------------------------------------------------------------------------------------- command line

def main(arguments=None) -> int:
    parser = cli.parser('evaluate', __doc__)
    cli.add_options(parser, data={'default': None, 'help': 'folder with val_data.pkl or, without clean images, '
                                  'val_pairs.pkl (default: data, unless --real is given)'})
    option = parser.add_argument
    option('--real', type=Path, nargs='+', default=[], metavar='FILE',
           help='other files of (noisy, clean) pairs, with rows of their own')
    option('--project', type=int, choices=(1, 2), help='compare only this one of our two models')
    option('--submission', type=Path, nargs='+', default=[], metavar='FOLDER',
           help='folders with model.py and bestmodel.pth, to compare with ours')
    option('--weights', type=Path, nargs='+', default=[], metavar='FILE',
           help='weights of --project, as others.train makes them, to compare with the shipped ones')
    option('--baselines', action='store_true', help='add classical denoisers, each at its best strength')
    option('--images', type=Path, nargs='+', metavar='PATH',
           help='compare CLEAN DENOISED [NOISY], files or folders, and nothing else')
    option('--range', nargs='+', metavar='VALUE',
           help='of --images: LOW HIGH, the values of black and white; or data, for the least and greatest of CLEAN')
    option('--no-ensemble', action='store_true',
           help='a second row, without test-time augmentation, for each model whose predict takes ensemble=False')
    option('--pictures', type=Path, metavar='FOLDER',
           help='write a montage and a plot of PSNR after against before, for each file')
    option('--force', action='store_true', help='replace pictures that are there')
    option('--floor', type=float, metavar='DB',
           help='exit with status 1 if a model has a lower mean on the last file')
    option('--json', action='store_true', help='print a list of rows instead of the table')
    cli.add_options(parser, 'threads', 'record')
    options = parser.parse_args(arguments)
    if options.weights and not options.project:
        raise storage.UserError(f'--weights: {options.weights[0]} needs a --project, expected 1 or 2')
    with cli.threads(options.threads), tempfile.TemporaryDirectory() as scratch:
        return compare_images(options) if options.images else evaluate(options, Path(scratch))


if __name__ == '__main__':
    cli.run(main)
