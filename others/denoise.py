"""Denoise an image, or all the images of a folder, of any size.

    python -m others.denoise thumbnail.png
    python -m others.denoise renders cleaned --project 2
    python -m others.denoise exposures --weights runs/mine/best.pth --residual removed
    torchrun --nproc-per-node 2 -m others.denoise renders

What the shipped models are for: images that were point-sampled, each of whose pixels shows a single point of the area
that it stands for. Such are aliased thumbnails, made by skipping pixels (nearest-neighbour downscaling), and renders
with one sample per pixel: jagged and speckled. The models give what the mean over each pixel's area would have been.
Noise of other kinds, as of a microscope or a camera, wants a model that was trained on pairs of it: see others.data
pairs.

IN gives NAME_denoised beside it, or OUT, in the format that OUT ends in. Of a folder, the images in it, but not in
folders below, go to the folder IN_denoised, or OUT, as NAME, or, where two have the same NAME, as NAME.jpg.png and so
on; TIFF and .npy stay what they are, everything else becomes PNG. A result that is there already, is newer than its
image and was made with the same options stays, so that the same command resumes a folder that was interrupted;
OUT/.denoised.json holds the options. torchrun's processes share the images of a folder.

The depth is kept: 8 or 16 bits a channel (PNG, TIFF), floats (TIFF), arrays of (H, W) or (H, W, 3) (.npy). So are
transparency, colour profiles, resolution and EXIF (but for its thumbnail; TIFF of more than 8 bits has none); grey
images stay grey, photographs are turned upright. Of an animation or a stack, the first image is taken, which is said.
For each image a line tells how much was changed. With the shipped weights, another one warns if what was removed
hardly looks like the noise of single pixels; not every image that is harmed gets one. A file that cannot be used is
named with the reason; if it is one of a folder, the others are still done, and the exit status is 1.
"""
import filecmp
import hashlib
import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Optional, Union

import numpy
import torch
from torch.nn.functional import avg_pool2d, interpolate
from tqdm import tqdm

from others.common import cli, denoisers, images, processes, storage

SETTINGS = '.denoised.json'                     # in the folder of the results: what they were made with
STAYS = {'.npy': '.npy', '.tif': '.tif', '.tiff': '.tif'}       # the formats that are not written as PNG
MIDDLE = 128                                    # of 0..255: no difference, in a picture of what was removed
# See `is_noise`. By others/results/warned.json, with the shipped weights, 3 of 546 images with independent noise get a
# warning (all with Gaussian noise of sigma 10); of 435 clean photographs, JPEGs and images with correlated noise that
# are changed by 2 or more, 336 do.
LEAST_FINE, LEAST_CHANGE, LEAST_SIDE = 0.85, 2, 32


def say(line: str, file=None) -> None:
    """On stderr or in `file`, above the bar; as one write, so that the lines of several processes stay apart."""
    tqdm.write(f'{line}\n', file=file or sys.stderr, end='')


def fill(colours: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Give pixels of alpha 0 the mean colour of the nearest others, so that nothing invisible spreads.

    colours: float (1, 3, H, W); alpha: float (1, 1, H, W), not 0 everywhere.
    """
    if bool(alpha.all()):
        return colours
    coarse_alpha = avg_pool2d(alpha, 2, ceil_mode=True)     # half of H and W, rounded up
    coarse = avg_pool2d(colours * alpha, 2, ceil_mode=True) / coarse_alpha.clamp(min=1e-9)
    coarse = interpolate(fill(coarse, coarse_alpha), size=colours.shape[2:])
    return torch.where(alpha > 0, colours, coarse)


def denoise(image: images.Picture, model, options, progress: Optional[Callable] = None) -> tuple:
    """(The image denoised, a picture of what was removed, that as float (1, 3, H, W) of 0..255).

    The picture shows no difference as the middle of the range; of floats it is the difference. options: `ensemble`,
    `strength`, `range` as in `images.value_range`. progress: see `Model.predict`. UserError for floats that need a
    range.
    """
    low, high = images.value_range(image.values, options.range)
    noisy = seen = images.to_tensor(image.values, low, high)
    if image.alpha is not None and image.alpha.any():
        noisy = fill(noisy, torch.from_numpy(image.alpha.astype(numpy.float32))[None, None])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                     # a dark image looks as if its values were in 0..1
        denoised = model.predict(noisy, ensemble=options.ensemble, progress=progress)
    if bool((noisy == noisy[:, :1]).all()):                 # grey stays grey
        denoised = denoised.mean(1, keepdim=True).expand_as(denoised)
    removed = (seen - denoised) * options.strength
    values = images.from_tensor(seen - removed, low, high, like=image.values)
    middle, black = (MIDDLE, low) if values.dtype.kind == 'u' else (0, 0)
    shown = images.from_tensor((removed + middle).clamp(middle - 255, 255), black, black + high - low, like=values)
    return image._replace(values=values), image._replace(values=shown, alpha=None), removed


def fineness(removed: torch.Tensor) -> float:
    """How fine what was removed is: the mean square of its second differences across and down, 1 if pixels are
    independent. Lower for blurred detail, JPEG, and noise that correlates between neighbours."""
    removed = removed - removed.mean((2, 3), keepdim=True)
    fine = removed.diff(n=2, dim=2).diff(n=2, dim=3)
    return float(fine.square().mean() / (36 * removed.square().mean()).clamp(min=1e-9))


def is_noise(removed: torch.Tensor) -> bool:
    """False if what was removed, (1, 3, H, W) of 0..255, is so coarse that it is not independent noise."""
    changed = float(removed.square().mean().sqrt())
    return changed < LEAST_CHANGE or min(removed.shape[2:]) < LEAST_SIDE or fineness(removed) >= LEAST_FINE


def denoise_image(array, project: int = 1, weights: Optional[Path] = None, ensemble: bool = True, strength: float = 1.,
                  range: Union[None, str, tuple] = None) -> numpy.ndarray:
    """From Python: a NumPy image (H, W) or (H, W, 3), uint8, uint16 or floats, denoised, in the same type.

    range: as in `images.value_range`. ValueError for other arrays, UserError for weights that do not fit, and for
    floats outside 0..1 without a range.
    """
    model = load(project, weights or denoisers.checkpoint(project))
    options = SimpleNamespace(ensemble=ensemble, strength=strength, range=range)
    return denoise(images.picture(numpy.asarray(array)), model, options)[0].values


def load(project: int, weights: Path):
    """The model."""
    model = denoisers.trained_model(project, weights)
    denoisers.set_precision(model, None)
    return model


def plan(source: Path, out: Optional[Path]) -> dict:
    """{where to write: image to read}, of IN and OUT. UserError if that cannot be."""
    def name(path: Path, stem: str) -> str:
        return stem + STAYS.get(path.suffix.lower(), '.png')

    if not source.is_dir():
        if not source.exists():
            raise storage.UserError(f'IN: there is no {source}, expected an image or a folder of images')
        if out and out.is_dir():
            raise storage.UserError(f'OUT: {out} is a folder, expected a file, as IN is one: '
                                    f'{out / source.stem}.png, for example')
        return {out or source.with_name(name(source, f'{source.stem}_denoised')): source}
    if not out and not source.resolve().name:
        raise storage.UserError(f'OUT: expected a folder for the images of {source}, which has no name')
    out = out or source.resolve().parent / f'{source.resolve().name}_denoised'
    if out.resolve() == source.resolve() or out.exists() and not out.is_dir():
        raise storage.UserError(f'OUT: {out} is {"IN" if out.is_dir() else "a file"}, expected a folder of its own')
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith('.'))
    paths = [path for path in files if path.suffix.lower() in images.SUFFIXES]
    if not paths:
        raise storage.UserError(f'IN: {source} holds no images, expected {", ".join(sorted(images.SUFFIXES))}')
    for path in files:
        if path not in paths and processes.rank() == 0:
            say(f'left out {path}: none of {", ".join(sorted(images.SUFFIXES))}')
    # A short name, where no other one can be the same (nor differ in capitals alone).
    taken = Counter(word.lower() for path in paths for word in (path.stem, path.name))
    return {out / name(path, path.stem if taken[path.stem.lower()] == 1 else path.name): path for path in paths}


def claim(out: Path, options) -> float:
    """Keep in the folder what its results are made with; the time since when they are. UserError if it holds those
    of other settings."""
    path = out / SETTINGS
    made_with = {'project': options.project, 'weights': hashlib.sha256(options.weights.read_bytes()).hexdigest(),
                 'ensemble': options.ensemble, 'strength': options.strength, 'value_range': options.range}
    try:
        before = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    except ValueError:                                      # no results can be told from others
        before = {'project': None}
    other = [name for name in made_with if before.get(name) != made_with[name]]
    if before and other and not options.force:
        raise storage.UserError(f'OUT: {out} holds results that were made with another {", another ".join(other)}, '
                                'expected a new folder (--force replaces them)')
    processes.any_of(False)                                 # all have read it
    if other and processes.rank() == 0:
        storage.write_json(path, made_with)
    processes.any_of(False)
    return path.stat().st_mtime


def denoise_one(path: Path, target: Path, model, options, progress: Callable) -> None:
    """Read, denoise, write, say what was changed. UserError if that cannot be, before the work if possible."""
    image = images.read(path, options.max_pixels, say)
    images.check(target, image)
    residual = options.residual and options.residual / target.name
    if residual:
        images.check(residual, image._replace(alpha=None))
    if options.range is None and image.values.dtype == numpy.uint16 and image.values.max() < 2 ** 14:
        say(f'{path}: values up to {image.values.max()}, taken as of 0 to 65535 (--range 0 4095 for 12 bits)')
    try:
        image, shown, removed = denoise(image, model, options, progress)
    except storage.UserError as error:
        raise storage.UserError(f'{path}: {error}') from error
    if residual:
        images.write(residual, shown)
    images.write(target, image)
    say(f'{path}: changed by {removed.square().mean().sqrt():.1f} of 255 (root mean square)')
    # Other weights may have been trained for noise that correlates.
    if not is_noise(removed) and filecmp.cmp(options.weights, denoisers.checkpoint(options.project), shallow=False):
        say(f'{path}: warning: what was removed is correlated between neighbouring pixels: detail, traces of JPEG or '
            'correlated noise rather than the noise of single pixels (--residual shows it)')
    say(str(target), sys.stdout)


def denoise_all(pictures: dict, options) -> int:
    """The exit status. pictures: {where to write: image to read}. UserError for a single file that fails."""
    is_folder, failed, since, out = options.source.is_dir(), 0, 0., next(iter(pictures)).parent
    for folder, argument in ((out, 'OUT'), (options.residual, '--residual')):
        if folder:
            storage.check_folder(folder, argument)
    model = load(options.project, options.weights)
    if is_folder:
        since = claim(out, options)
    pictures = dict(list(pictures.items())[processes.rank()::processes.size()])
    with cli.progress_bar('', len(pictures),
                          bar_format='{desc} {percentage:.0f}%|{bar}| {elapsed}, {remaining} left') as bar:
        for number, (target, path) in enumerate(pictures.items()):
            bar.update(number - bar.n)
            bar.set_description_str(path.name)
            try:
                if target.is_dir() or target.exists() and not options.force:
                    if is_folder and target.is_file() and target.stat().st_mtime >= max(since, path.stat().st_mtime):
                        say(f'done before: {target} (--force replaces it)')
                        continue
                    raise storage.UserError(f'OUT: {target} exists, expected a new file for {path} '
                                            '(--force replaces it)')
                denoise_one(path, target, model, options, bar.update)
            except BrokenPipeError:                         # nobody reads on
                raise
            except Exception as error:                      # whatever it is, it is one file's
                if not is_folder:
                    raise
                words = str(error) or type(error).__name__
                say(f'skipped {words if str(path) in words else f"{path}: {words}"}')
                failed += 1
    return int(processes.any_of(failed > 0))             # waits for the others, which torchrun ends if one fails


def range_of(options) -> Union[None, str, list]:
    """That of --range, or the one that the run was trained with whose weights are used."""
    if options.range:
        return images.parse_range(options.range)
    try:
        trained = json.loads((options.weights.parent / 'settings.json').read_text(encoding='utf-8'))['range']
        return trained and images.parse_range([trained] if isinstance(trained, str) else trained)
    except (AttributeError, OSError, ValueError, KeyError, TypeError):      # no --weights, or not those of a run
        return None


def main(arguments=None) -> int:
    parser = cli.parser('denoise', __doc__)
    option = parser.add_argument
    option('source', type=Path, metavar='IN', help='an image file, or a folder of them')
    option('out', type=Path, metavar='OUT', nargs='?', help='a file; a folder for a folder')
    option('--project', type=int, choices=(1, 2), default=1,
           help='the mini-project whose model it is (default: 1, the better one)')
    option('--weights', type=Path, metavar='FILE',
           help='as others.train makes them (default: the bestmodel.pth of the project)')
    option('--range', nargs='+', metavar=('LOW', 'HIGH | data'),
           help='the values that are black and white, as 0 4095 for 12 bits in 16, or the word data: the smallest and '
                'the largest of each image; values outside are clipped (default: what the weights were trained with, '
                "else the type's range; of floats 0 1)")
    option('--strength', type=cli.share, default=1., metavar='0..1',
           help='how much of what the model removes is removed (default: 1, all)')
    option('--residual', type=Path, metavar='FOLDER',
           help='save what was removed, too, as pictures where the middle of the range is no difference')
    option('--no-ensemble', dest='ensemble', action='store_false',
           help='do not average over rotations and flips: 4 (project 1) or 8 times faster, a little worse')
    option('--max-pixels', type=cli.integer(1), default=images.MAX_PIXELS, metavar='N',
           help='refuse larger images, which take some 70 bytes of memory a pixel (default: %(default)s)')
    option('--force', action='store_true', help='replace files that are there')
    cli.add_options(parser, 'threads')
    options = parser.parse_args(arguments)

    options.range = range_of(options)
    options.weights = options.weights or denoisers.checkpoint(options.project)
    with cli.threads(options.threads), processes.joined():
        return denoise_all(plan(options.source, options.out), options)


if __name__ == '__main__':
    cli.run(main)
