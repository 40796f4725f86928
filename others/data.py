"""Make noisy pairs in the course's format: from photographs, from noisy shots of your own, or from nothing at all.

    python -m others.data photos FOLDER --out data --train 50000 --val 1000 --seed 0
    python -m others.data photos FOLDER --out data/mixed --other-noise 0.2
    python -m others.data pairs A B --out mine
    python -m others.data demo --out data/demo
    python -m others.data centre FOLDER --out data/centre.pkl

`photos` and `demo` write two files for `torch.load`, each a pair of uint8 tensors (N, 3, 32, 32): in `train_data.pkl`
two noisy versions of the same images, in `val_data.pkl` (noisy, clean). No photograph serves both.

`pairs` takes two or more folders with noisy shots of the same scenes, under the same name in each, of 8 bits or
more. It writes random crops of them to `train_data.pkl` and, of other scenes, `val_data.pkl` if there are clean
images, else `val_pairs.pkl`, (noisy, other noisy); what it found in each scene to the screen and to `set.json`;
and a picture of the noise, `pairs.png`.

`centre` writes (noisy, clean) of the largest square in the middle of each photograph that `photos` (with its default
seed) keeps for validation.
"""
import collections
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import torch

from others.common import cli, noise, storage
from others.common.datasets import PICTURE_FILE, SUMMARY_FILE, TRAIN_FILE, VAL_FILE, VAL_PAIRS_FILE
from others.common.dead_leaves import dead_leaves
from others.common.metrics import psnr

OF_A_SET = TRAIN_FILE, VAL_FILE, VAL_PAIRS_FILE, SUMMARY_FILE, PICTURE_FILE
PICTURES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm'}

SIZE = 32               # pixels on a side of the images that are made
SMALLEST_SQUARE = 224   # of a photograph, where the photograph is large enough
SMALLEST_PHOTO = 64     # below, a block would be a single pixel: no noise at all
VAL_SHARE = 0.1         # of the photographs, kept for validation
OTHER_BLOCKS = (2, 6)   # pixels on a side of a block of other noise: smaller than the course's
LARGEST_SIGMA = 50      # of Gaussian noise, on the scale 0..255
REACHES = (0.4, 2)      # pixels: of the blur that correlates it
PHOTONS = (8, 2000)     # of a white pixel, on average: Poisson noise
QUALITIES = (20, 95)    # of JPEG files
JPEG_BLOCK = 16         # pixels on a side, of a JPEG file whose colours have half the resolution
ALIKE = 0.4             # correlation of noisy shots of a scene: .45 to 1 in microscopes' and renders'
SPLIT_SEED = 0          # of that choice, where a set is to go with others: the default seed of a set
SQUARES_PER_CANVAS = 10 # of dead leaves, a picture


# ---------------------------------------------------------------------------------------- the noise

def point_sample(square: torch.Tensor, generator: torch.Generator) -> tuple:
    """The course's noise: (noisy, noisy, clean), each uint8 (3, 32, 32).

    square: uint8 (3, 32 b, 32 b), divided into 32 x 32 blocks of b x b pixels. The clean image is the mean of each
    block, rounded; a noisy one takes one random pixel of each block.
    """
    C, H, W = square.shape
    b = H // SIZE
    blocks = square.reshape(C, SIZE, b, SIZE, b).permute(0, 1, 3, 2, 4).reshape(C, SIZE, SIZE, b * b)
    clean = blocks.float().mean(-1).round().byte()

    def draw() -> torch.Tensor:
        chosen = torch.randint(b * b, (1, SIZE, SIZE, 1), generator=generator)
        return blocks.gather(-1, chosen.expand(C, -1, -1, -1)).squeeze(-1)

    return draw(), draw(), clean


def other_sample(photo: torch.Tensor, generator: torch.Generator) -> tuple:
    """A square of (3, H, W) with noise that is not the course's: (noisy, noisy, clean), each uint8 (3, 32, 32).

    With equal chances one of six kinds: the course's, but with smaller blocks; none; Gaussian, sigma = 50 u^2 with u
    uniform in 0..1, so that weak noise is frequent; the same, correlated by a blur; Poisson, its photons log-uniform;
    JPEG, whose error is the same in each file of an image, but not in files whose blocks begin elsewhere, as the two
    versions' do. The two versions' noise is independent; it is clipped to 0..255.
    """
    kind, strength = uniform(0, 5, generator), float(torch.rand((), generator=generator))
    if kind == 0:
        low, high = OTHER_BLOCKS
        blocks = low, min(high, min(photo.shape[1:]) // SIZE)
        return point_sample(random_square(photo, generator, blocks), generator)
    clean = point_sample(random_square(photo, generator), generator)[2]
    sigma = LARGEST_SIGMA * strength ** 2
    reach = REACHES[0] + (REACHES[1] - REACHES[0]) * float(torch.rand((), generator=generator))
    quality = uniform(*QUALITIES, generator)

    def version() -> torch.Tensor:
        corner = uniform(0, JPEG_BLOCK - 1, generator), uniform(0, JPEG_BLOCK - 1, generator)
        if kind == 1:
            return clean
        if kind == 2:
            return noise.gaussian_noise(clean, sigma, generator)
        if kind == 3:
            return noise.correlated_noise(clean, sigma, reach, generator)
        if kind == 4:
            return noise.poisson_noise(clean, PHOTONS[0] * (PHOTONS[1] / PHOTONS[0]) ** strength, generator)
        return noise.jpeg(clean, quality, corner)

    return version(), version(), clean


def uniform(low: int, high: int, generator: Optional[torch.Generator] = None) -> int:
    """A random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def random_square(photo: torch.Tensor, generator: torch.Generator, blocks: Optional[tuple] = None) -> torch.Tensor:
    """A square of (3, H, W) at a uniform position. -> (3, 32 b, 32 b)

    b is uniform between the two numbers `blocks`; by default between min(224, m) / 32 and m / 32 rounded down,
    m the short side.
    """
    H, W = photo.shape[1:]
    m = min(H, W)
    side = SIZE * uniform(*(blocks or (min(SMALLEST_SQUARE, m) // SIZE, m // SIZE)), generator)
    top, left = uniform(0, H - side, generator), uniform(0, W - side, generator)
    return photo[:, top:top + side, left:left + side]


def centre_square(photo: torch.Tensor, multiple: int = SIZE) -> torch.Tensor:
    """The largest square of (3, H, W) whose side is a multiple of that, in the middle."""
    H, W = photo.shape[1:]
    side = min(H, W) // multiple * multiple
    top, left = (H - side) // 2, (W - side) // 2
    return photo[:, top:top + side, left:left + side]


def read_photo(path: Path) -> torch.Tensor:
    """uint8 (3, H, W), colours; of more than 8 bits, scaled. ValueError if it is too small or floating point,
    OSError if it is no image, UserError if its depth cannot be read."""
    from others.common import images                # not every machine that trains has Pillow

    with images.opened(path) as image:
        images.check_size(*image.size, images.MAX_PIXELS)
        if min(image.size) < SMALLEST_PHOTO:
            raise ValueError(f'{image.width} x {image.height} pixels, expected at least {SMALLEST_PHOTO} on each side')
        # Of more than 8 bits, `convert` makes white or black, or takes one byte.
        if image.mode[0] in 'IF' or image.format == 'PPM' or ';16' in str(image.tile):
            values = images.read(path).values
            if values.dtype.kind == 'f':
                raise ValueError('floating point, expected 8 or 16 bits')
            return images.to_tensor(values, *images.value_range(values))[0].round().byte()
        image = image.convert('RGB')
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


# ----------------------------------------------------------------------------------------- the sets

def usable_photos(folder: Path, argument: str = 'FOLDER') -> list:
    """The photographs in the folder of `argument` and below it, sorted; what cannot be used is named on stderr, with
    the reason. UserError if there are fewer than two."""
    if not folder.is_dir():
        raise storage.UserError(f'{argument}: {folder} is not a folder, expected one with photographs')
    paths, refused = pictures_below(folder)
    shots = shots_of_one_scene(paths)
    if shots:
        raise storage.UserError(
            f'{argument}: {shots[0]} and {shots[1]} show the same scenes; if they are noisy shots, they are for '
            f'`python -m others.data pairs {shots[0]} {shots[1]}`; if not, name the one folder to take')
    usable = []
    for path in cli.progress(paths, len(paths), 'checking photographs'):
        try:
            read_photo(path)
            usable.append(path)
        except ImportError:
            raise
        except Exception as error:                  # Pillow's readers raise almost anything
            refused.append(f'skipped {path}: {error}')
    for line in refused:
        print(line, file=sys.stderr)
    if len(usable) < 2:
        raise storage.UserError(f'{argument}: {folder} holds {len(usable)} usable photographs, expected at least 2')
    return usable


def pictures_below(folder: Path) -> tuple:
    """(the picture files in the folder and below it, sorted; lines that name the folders that cannot be read).

    Links are followed, once: a file that can be reached in several ways, which would otherwise serve both training and
    validation, is taken once."""
    found, refused = {}, {}
    for follow in False, True:                      # what is there itself goes before what links lead to
        seen = set()
        for here, folders, names in os.walk(
                folder, onerror=lambda error: refused.update({error.filename: error.strerror}), followlinks=follow):
            folders[:] = sorted(folders) if os.path.realpath(here) not in seen else []
            seen.add(os.path.realpath(here))
            for path in (Path(here, name) for name in sorted(names)):
                if path.suffix.lower() in PICTURES and path.is_file():
                    found.setdefault(path.resolve(), path)
    return sorted(found.values()), [f'skipped {name}: {reason}' for name, reason in refused.items()]


def shots_of_one_scene(paths: list) -> Optional[tuple]:
    """Two folders whose files have the same names and show the same: (Path, Path), or None."""
    parents = collections.defaultdict(list)
    for path in paths:
        parents[path.name].append(path.parent)
    pairs_of_folders = collections.Counter(tuple(folders[:2]) for folders in parents.values() if len(folders) > 1)
    for (first, second), count in pairs_of_folders.most_common(1):
        names = [name for name, folders in parents.items() if folders[:2] == [first, second]]
        alike = [likeness(first / name, second / name) for name in names[::math.ceil(count / 8)]]
        if 2 * count >= sum(path.parent == first for path in paths) and sum(alike) > ALIKE * len(alike):
            return first, second
    return None


def likeness(first: Path, second: Path) -> float:
    """How far the pixels of two photographs correlate; 0 if they cannot be compared."""
    try:
        pixels = [read_photo(path).float().mean(0).flatten() for path in (first, second)]
        return float(torch.corrcoef(torch.stack(pixels))[0, 1].nan_to_num())
    except ImportError:
        raise
    except Exception:                               # what cannot be read is told later; or the sizes differ
        return 0.


def split_photos(folder: Path, generator: torch.Generator, argument: str = 'FOLDER') -> tuple:
    """The usable photographs in random order, (for training, for validation)."""
    paths = usable_photos(folder, argument)
    paths = [paths[i] for i in torch.randperm(len(paths), generator=generator).tolist()]
    split = max(1, round(VAL_SHARE * len(paths)))
    return paths[split:], paths[:split]


def make_from_photos(folder, out, train: int = 50000, val: int = 1000, seed: int = 0,
                     force: bool = False, other_noise: float = 0.) -> None:
    """Write the two files to the folder `out`, from the photographs in `folder`.

    other_noise: the share of the training pairs that get noise of other kinds (see `other_sample`); validation pairs
    have the course's noise. UserError if there are fewer than two photographs, if `out` cannot be written to, or,
    without `force`, if it holds one of the files.
    """
    prepare([Path(out, name) for name in OF_A_SET], force)
    generator = torch.Generator().manual_seed(seed)
    train_photos, val_photos = split_photos(Path(folder), generator)
    make_set(Path(out), (train_photos, train), (val_photos, val), read_photo, generator, other_noise)


def make_demo(out, train: int = 2000, val: int = 200, seed: int = 0, force: bool = False) -> None:
    """Write the two files to the folder `out`, from dead leaves. UserError if it cannot be written to, or, without
    `force`, if it holds one of the files."""
    prepare([Path(out, name) for name in OF_A_SET], force)
    generator = torch.Generator().manual_seed(seed)
    canvases = (range(math.ceil(n / SQUARES_PER_CANVAS)) for n in (train, val))
    make_set(Path(out), *zip(canvases, (train, val)), lambda _: dead_leaves(generator), generator)


@cli.threads(1)
def make_from_pairs(folders, out, clean=None, size: int = 64, train: int = 5000, holdout: float = 0.1, seed: int = 0,
                    range: Optional[Sequence] = None, force: bool = False) -> None:
    """Write the files of a set to the folder `out`, from noisy shots of the same scenes in two or more folders; the
    rest as `main` says. UserError if no scene has two usable shots, or as `make_from_photos`."""
    from others.common import pairs                 # not every machine that trains has Pillow

    prepare([Path(out, name) for name in OF_A_SET], force)
    files, told = pairs.make_set(list(map(Path, folders)), clean and Path(clean), size, train, holdout, seed, range)
    save_set(Path(out), files, OF_A_SET)
    print(f'{out}: {told} (see {Path(out, PICTURE_FILE)})')


@cli.threads(1)
def make_centre(folder, out, pairs: int = 1000, seed: int = 0, seen: bool = False, force: bool = False) -> None:
    """Write (noisy, clean) of centre squares to the file `out`, the photographs in turn, the noise anew; with `seen`
    of the photographs for training. Errors as `make_from_photos`."""
    out = Path(out)
    prepare([out], force)
    train_photos, val_photos = split_photos(Path(folder), torch.Generator().manual_seed(SPLIT_SEED))
    photos = train_photos if seen else val_photos
    generator = torch.Generator().manual_seed(seed)
    noisy, clean = torch.empty(2, pairs, 3, SIZE, SIZE, dtype=torch.uint8)
    for i in range(min(len(photos), pairs)):
        square = centre_square(read_photo(photos[i]))
        for k in range(i, pairs, len(photos)):
            noisy[k], _, clean[k] = point_sample(square, generator)
    save_set(out.parent, {out.name: (noisy, clean)})
    print(f'{out}: {pairs} pairs of {min(len(photos), pairs)} photographs, '
          f'noisy against clean {psnr(noisy, clean).mean():.2f} dB')


def ensure_demo(folder):
    """Make the demo set in `folder`, unless both its files are there. Returns `folder`."""
    if not all(Path(folder, name).exists() for name in (TRAIN_FILE, VAL_FILE)):
        make_demo(folder, force=True)
    return folder


def make_set(out: Path, train: tuple, val: tuple, read: Callable, generator: torch.Generator,
             other: float = 0.) -> None:
    """Make both files, each from (sources, n), and say so. `read`, `n`, `other`: see `make_pairs`."""
    noisy, _, clean = make_pairs(*val, 'validation pairs', read, generator)
    first, second, _ = make_pairs(*train, 'training pairs', read, generator, other)
    save_set(out, {VAL_FILE: (noisy, clean), TRAIN_FILE: (first, second)}, OF_A_SET)
    print(f'{out}: {len(first)} training and {len(noisy)} validation pairs, '
          f'noisy against clean {psnr(noisy, clean).mean():.2f} dB')


@cli.threads(1)     # many small operations, in which threads wait for each other, most of all beside other work
def make_pairs(sources: Sequence, n: int, label: str, read: Callable, generator: torch.Generator,
               other: float = 0.) -> tuple:
    """n squares in random order: (noisy, noisy, clean), each uint8 (n, 3, 32, 32).

    Every source gives as many, give or take one, from the image that `read(source)` returns, uint8 (3, H, W); one is
    in memory at a time. other: the probability of `other_sample` instead of the course's noise.
    """
    def samples() -> Iterator:
        for i, source in enumerate(sources):
            count = n * (i + 1) // len(sources) - n * i // len(sources)
            image = read(source) if count else None
            for _ in range(count):
                if other and float(torch.rand((), generator=generator)) < other:
                    yield other_sample(image, generator)
                else:
                    yield point_sample(random_square(image, generator), generator)

    pairs = tuple(torch.empty(n, 3, SIZE, SIZE, dtype=torch.uint8) for _ in range(3))
    order = torch.randperm(n, generator=generator).tolist()
    for k, drawn in zip(order, cli.progress(samples(), n, label)):
        for images, image in zip(pairs, drawn):
            images[k] = image
    return pairs


def prepare(files: list, force: bool) -> None:
    """UserError, before any work is done, if the files cannot be written to their folder."""
    for path in files:
        if path.exists() and not force:
            raise storage.UserError(f'--out: {path} exists, only others.data with --force replaces it')
    storage.check_folder(files[0].parent, '--out')


def save_set(folder: Path, files: dict, replaced: Sequence = ()) -> None:
    """Write {name: tensors, or bytes} to the folder, which is made, all or none: older files stay on an error.
    replaced: names of files that do not belong to the set unless it writes them."""
    with tempfile.TemporaryDirectory(dir=storage.existing(folder)) as temporary:
        for name, content in files.items():
            write = storage.write if isinstance(content, bytes) else storage.write_tensors
            write(Path(temporary, name), content)
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            os.replace(Path(temporary, name), folder / name)
        for name in set(replaced).difference(files):
            (folder / name).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- command line

def main(arguments: Optional[Sequence] = None) -> None:
    parser = cli.parser('data', __doc__)
    commands = parser.add_subparsers(required=True, metavar='photos | pairs | demo | centre')

    def add(name: str, make: Callable, out: str, text: str, example: str) -> Callable:
        """A command, with the options that all have; returns what adds others."""
        command = commands.add_parser(name, help=text, epilog=f'example: python -m others.data {name} {example}')
        command.set_defaults(make=make)
        command.add_argument('--out', default=out, help='the file, or the folder for the files (%(default)s)')
        command.add_argument('--force', action='store_true', help='replace files that are there')
        cli.add_options(command, 'seed')
        return command.add_argument

    photos = add('photos', make_from_photos, 'data', 'from a folder of photographs', 'Pictures --out data')
    photos('folder', metavar='FOLDER', help='searched with all the folders in it')
    photos('--other-noise', type=cli.share, default=0., metavar='SHARE',
           help='give this share of the training pairs, 0 to 1, other noise than the course: none, Gaussian, '
                'correlated, Poisson, JPEG, smaller blocks (%(default)s)')
    demo = add('demo', make_demo, 'data/demo', 'from random shapes, without photographs', '--out data/demo')
    for option, train, val in (photos, 50000, 1000), (demo, 2000, 200):
        option('--train', type=cli.integer(1), default=train, help='training pairs (%(default)s)')
        option('--val', type=cli.integer(1), default=val, help='validation pairs (%(default)s)')
    option = add('pairs', make_from_pairs, 'data/pairs', 'from noisy shots of the same scenes, in two or more folders',
                 'shots/A shots/B --out mine')
    option('folders', nargs='+', metavar='FOLDER', help='two or more; the shots of a scene have the same name in each')
    option('--clean', metavar='FOLDER', help='clean images of the same names, only to measure on')
    option('--size', type=cli.integer(8), default=64, help='pixels on a side of the crops (%(default)s)')
    option('--train', type=cli.integer(1), default=5000, help='training pairs (%(default)s)')
    option('--holdout', type=cli.share, default=0.1, metavar='SHARE',
           help='of the scenes, for validation, at least one (%(default)s; 0: none)')
    option('--range', nargs='+', metavar='VALUE', help='LOW HIGH, the values of black and white, or the word data: '
           "the smallest and the largest value of all shots (default: the range of the files' type, for floats 0 1)")
    option = add('centre', make_centre, 'data/centre.pkl', '(noisy, clean) of centre squares, for measuring',
                 'Pictures --out data/centre.pkl')
    option('folder', metavar='FOLDER', help='the one that the training set was made from')
    option('--pairs', type=cli.integer(1), default=1000, help='(%(default)s)')
    option('--seen', action='store_true', help='use the training photographs instead')
    options = vars(parser.parse_args(arguments))
    make = options.pop('make')
    make(**options)


if __name__ == '__main__':
    cli.run(main)
