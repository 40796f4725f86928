"""Noisy shots of the same scenes: which files belong together, what the shots are like, crops of them.

Images are read by `others.common.images`, in any depth; inside, they are (1, 3, H, W) in 0..255.
"""
import collections
import contextlib
import io
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

import numpy
import torch
from matplotlib.figure import Figure
from skimage.registration import phase_cross_correlation

from Miniproject_1.model import choose_swap, neighbour_correlation
from others.common import cli, datasets, images, storage

TRAINING, VALIDATION, LEFT_OUT = 'training', 'validation', 'left out'

MOST_SQUARES = 1000     # for validation
CROP = 128              # pixels on a side of what the picture shows
SHIFTED = 0.5           # pixels: more than that between two shots blurs what is learnt
REGISTERED = 0.3        # correlation of two shots; below, noise decides where they seem to lie
BRIGHTNESS = 0.2        # of the noise's standard deviation: half of it is the bias of a target
CLIPPED = 0.05          # of the values, where one shot is at an end of the range and the other is not


@dataclass
class Scene:
    """Files of one name, and what was found in them."""
    name: str
    paths: dict                             # {name of a folder: path} of the shots, the usable ones once inspected
    clean: Optional[Path] = None
    use: str = LEFT_OUT
    remarks: list = field(default_factory=list)
    found: dict = field(default_factory=dict)   # see `measure`; empty if the scene is left out


# ---------------------------------------------------------------------------------------- files

def find(folders: list, clean: Optional[Path]) -> list:
    """The scenes: one for each name, without suffix, of the images in the folders. UserError if one has no images."""
    labels = [folder.name if [other.name for other in folders].count(folder.name) == 1 else str(folder)
              for folder in folders]
    named = {label: images_in(folder) for label, folder in zip(labels, folders)}
    names = sorted(set().union(*named.values()))
    if clean:
        named['--clean'] = images_in(clean, '--clean')
    scenes = [Scene(name, {}) for name in names]
    for scene in scenes:
        for label, files in named.items():
            if len(files[scene.name]) == 1:
                scene.paths[label], = files[scene.name]
            else:
                several = ' and '.join(path.name for path in files[scene.name])
                scene.remarks.append(f'{label} holds {several}, expected one' if several else f'no partner in {label}')
        scene.clean = scene.paths.pop('--clean', None)
    return scenes


def images_in(folder: Path, argument: str = 'FOLDER') -> dict:
    """{name without suffix: paths} of the image files that lie directly in a folder."""
    if not folder.is_dir():
        raise storage.UserError(f'{argument}: {folder} is not a folder, expected one with images')
    files = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in images.SUFFIXES and path.is_file():
            files[path.stem].append(path)
    if not files:
        raise storage.UserError(f'{argument}: {folder} holds no images (folders in it are not searched)')
    return files


def read(path: Path) -> numpy.ndarray:
    """The values of an image about which everything has been said before."""
    return images.read(path, say=lambda line: None).values


def to_tensor(values: numpy.ndarray, given: Optional[tuple]) -> torch.Tensor:
    """float32 (1, 3, H, W) in 0..255. given: (low, high), or None for the type's range."""
    return images.to_tensor(values, *images.value_range(values, given))


def data_range(scenes: list) -> tuple:
    """The smallest and the largest value of all the shots that can be read."""
    low, high = math.inf, -math.inf
    for path in (path for scene in scenes for path in scene.paths.values()):
        with contextlib.suppress(storage.UserError):            # `inspect` tells
            values = read(path)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high if high > low else low + 1


def read_shots(scene: Scene, given: Optional[tuple]) -> list:
    """The usable shots, each as `to_tensor` gives it."""
    return [to_tensor(read(path), given) for path in scene.paths.values()]


def read_clean(scene: Scene, dtype, given: Optional[tuple]) -> torch.Tensor:
    """As `to_tensor`; a clean image of another type than the shots', `dtype`, has its own type's range."""
    values = read(scene.clean)
    return to_tensor(values, given if values.dtype == dtype else None)


# ----------------------------------------------------------------------------------- what they are like

def inspect(scene: Scene, size: int, given: Optional[tuple]) -> None:
    """Keep of a scene what can be used, and write down what was found. size: of the crops; given: see `to_tensor`."""
    arrays = {}
    for label, path in scene.paths.items():
        try:
            picture = images.read(path, say=scene.remarks.append)
            images.value_range(picture.values, given)
        except storage.UserError as error:
            scene.remarks.append(str(error) if str(path) in str(error) else f'{path}: {error}')
            continue
        if picture.alpha is not None:
            scene.remarks.append(f'the transparency in {label} is ignored')
        reference = next(iter(arrays), None)
        if reference and outline(picture.values) != outline(arrays[reference]):
            scene.remarks.append(f'{label} is {outline(picture.values)}, {reference} {outline(arrays[reference])}')
            continue
        same = next((other for other, values in arrays.items() if (values == picture.values).all()), None)
        if same:
            scene.remarks.append(f'{label} is byte for byte the same as {same}')
        else:
            arrays[label] = picture.values
    scene.paths = {label: scene.paths[label] for label in arrays}
    if len(arrays) < 2:
        return
    first, *_ = arrays.values()
    if min(first.shape[:2]) < size:
        scene.remarks.append(f'{outline(first)}, smaller than --size {size}')
        return
    if scene.clean:
        try:
            H, W = read_clean(scene, first.dtype, given).shape[2:]
            if (H, W) != first.shape[:2]:
                raise storage.UserError(f'{W} x {H}, the shots are {outline(first)}')
        except storage.UserError as error:
            scene.remarks.append(f'the clean image: {error}')
            scene.clean = None
    scene.found = measure(arrays, given, scene.remarks)


def outline(values) -> str:
    """'640 x 480 grey uint16'"""
    H, W = values.shape[:2]
    return f'{W} x {H} {"grey" if values.ndim == 2 else "RGB"} {values.dtype}'


def measure(arrays: dict, given: Optional[tuple], remarks: list) -> dict:
    """What is found in two or more shots of a scene, {label: array}; warnings go to `remarks`.

    noise: its standard deviation, on the scale 0..255, and its correlation with its neighbour; of the differences of
    shots, which hold nothing else if the shots are aligned. white, black: the shares of values at the ends of the
    range. shift: see `shift_between`, the largest.
    """
    labels, values = list(arrays), list(arrays.values())
    low, high = images.value_range(values[0], given)
    shots = torch.cat([to_tensor(one, given) for one in values])    # (K, 3, H, W)
    a, b = shots[:-1], shots[1:]
    noise = ((a - b).var((2, 3)).mean() / 2).sqrt().item()
    white, black = shots >= 255, shots <= 0
    clipped = (white[:-1] ^ white[1:] | black[:-1] ^ black[1:]).float().mean().item()
    brightness = shots.mean((1, 2, 3)).tolist()
    shifts = [shift_between(shots[0], other) for other in shots[1:]]
    k, shift = max(enumerate(shifts, 1), key=lambda item: max(map(abs, item[1])) if item[1] else -1)
    if shift and max(map(abs, shift)) >= SHIFTED:
        remarks.append(f'{labels[k]} has to move by ({shift[0]:.1f}, {shift[1]:.1f}) pixels (down, right) to lie on '
                       f'{labels[0]}: what is shifted is learnt as blur and looks like correlated noise')
    (darkest, dark), (brightest, bright) = min(zip(brightness, labels)), max(zip(brightness, labels))
    if brightest - darkest > BRIGHTNESS * noise:
        remarks.append(f'brightness differs: {darkest:.1f} in {dark}, {brightest:.1f} in {bright} (of 255), beside '
                       f'noise of {noise:.1f}')
    if clipped > CLIPPED:
        remarks.append(f'{clipped:.1%} of the values are {low:g} or {high:g} in one shot and not in the other: if '
                       'noise is cut off there, the mean of shots is not the clean image')
    H, W = shots.shape[2:]
    return {'width': W, 'height': H, 'type': str(values[0].dtype), 'shots': labels, 'noise': noise,
            'correlation': neighbour_correlation(a, b)[0].mean().item(), 'brightness': brightness,
            'white': white.float().mean().item(), 'black': black.float().mean().item(), 'clipped': clipped,
            'shift': shift, 'swap': 'images' if choose_swap(a, b)[0].any() else 'pixels'}


def shift_between(reference: torch.Tensor, moved: torch.Tensor) -> Optional[list]:
    """By how many pixels (down, right) `moved` has to move to lie on `reference`, (3, H, W), to a tenth; None if they
    are too unlike to tell.

    By scikit-image's phase correlation (Guizar-Sicairos et al. 2008), not normalised, which bears more noise.
    """
    a, b = ((image.mean(0) - image.mean()).double().numpy() for image in (reference, moved))
    if not (a.any() and b.any()):
        return None
    shift, error, _ = phase_cross_correlation(a, b, upsample_factor=10, normalization=None)
    return [round(float(x), 1) + 0. for x in shift] if error ** 2 < 1 - REGISTERED ** 2 else None


# --------------------------------------------------------------------------------------- the set

def make_set(folders: list, clean: Optional[Path], size: int, train: int, holdout: float, seed: int,
             words: Optional[list] = None) -> tuple:
    """({name of a file: its tensors or bytes}, a line that tells what they are), of `train` training pairs. What is
    found in each scene is printed. words: of --range. UserError if nothing can be made."""
    if len(folders) < 2:
        raise storage.UserError('FOLDER: one folder, expected two or more, with shots of the same scenes')
    scenes, given = find(folders, clean), None
    if words is not None:
        given = images.parse_range(list(words))
        given = data_range(scenes) if given == 'data' else given
    for scene in cli.progress(scenes, len(scenes), 'looking at scenes'):
        inspect(scene, size, given)
    generator = torch.Generator().manual_seed(seed)
    split(scenes, holdout, generator)
    print(cli.table(rows(scenes)))
    for line in (f'{scene.name}: {remark}' for scene in scenes for remark in scene.remarks):
        print(line)
    usable = [scene for scene in scenes if scene.found]
    if not usable:
        raise storage.UserError('FOLDER: no scene has two shots that can be used, for the reasons above')
    if clean and not any(scene.clean for scene in usable):
        raise storage.UserError('--clean: no scene has a clean image that fits, for the reasons above')
    is_shallow = given is None and all(scene.found['type'] == 'uint8' for scene in usable)
    crops = Crops(scenes, size, given, torch.uint8 if is_shallow else torch.float32, generator)
    first, second = crops.for_training(train)
    whole, swap = choose_swap(first, second)
    summary = {'folders': list(map(str, folders)), 'clean': clean and str(clean), 'size': size, 'seed': seed,
               'range': given, 'swap': 'auto' if whole.any() > whole.all() else 'images' if whole.any() else 'pixels',
               'found': swap,
               'scenes': [{'name': scene.name, 'use': scene.use, 'remarks': scene.remarks, **scene.found}
                          for scene in scenes]}
    files = {datasets.TRAIN_FILE: (first, second), datasets.PICTURE_FILE: picture(usable, given),
             datasets.SUMMARY_FILE: (storage.to_json(summary, indent=2) + '\n').encode()}
    training, validation = (f'{n} scene{"s" * (n > 1)}' for n in
                            (sum(scene.use == use for scene in scenes) for use in (TRAINING, VALIDATION)))
    told = f'{train} training pairs of {size} x {size} from {training}, '
    measured = crops.for_validation(clean is not None)
    if measured is None:
        return files, f'{told}none for validation, which takes a second scene and --holdout above 0; {swap}'
    files[datasets.VAL_PAIRS_FILE if measured.estimated else datasets.VAL_FILE] = measured[:2]
    decibels, _ = measured.psnr(measured.noisy)
    return files, (f'{told}{len(measured.noisy)} validation pairs from {validation} held out, noisy against clean '
                   f'{decibels:.2f} dB{" (estimated)" * measured.estimated}; {swap}')


def split(scenes: list, holdout: float, generator: torch.Generator) -> None:
    """Set the `use` of the scenes that were found usable: that share of them, at least one, is for validation; of a
    single scene none. Where there are clean images, a scene without one is for training."""
    usable = [scene for scene in scenes if scene.found]
    order = [usable[i] for i in torch.randperm(len(usable), generator=generator).tolist()]
    order.sort(key=lambda scene: scene.clean is None)
    with_clean = sum(scene.clean is not None for scene in order) or len(order)
    held_out = max(1, round(holdout * len(order))) if holdout else 0
    held_out = min(held_out, with_clean, len(order) - 1)
    for k, scene in enumerate(order):
        scene.use = VALIDATION if k < held_out else TRAINING


class Crops(NamedTuple):
    """How images for a set are cut: (3, size, size), of a type; `given` as in `to_tensor`."""
    scenes: list
    size: int
    given: Optional[tuple]
    dtype: torch.dtype
    generator: torch.Generator

    def two(self, shots: list) -> list:
        """Two of them at random."""
        return [shots[k] for k in torch.randperm(len(shots), generator=self.generator)[:2].tolist()]

    def convert(self, images: torch.Tensor) -> torch.Tensor:
        return (images.round() if self.dtype is torch.uint8 else images).to(self.dtype)

    def for_training(self, n: int) -> tuple:
        """(first, second), each (n, 3, size, size), in random order: the same random square of two shots of a scene,
        as many of each scene, give or take one."""
        scenes = [scene for scene in self.scenes if scene.use == TRAINING]
        pairs = torch.empty(2, n, 3, self.size, self.size, dtype=self.dtype)
        order = torch.randperm(n, generator=self.generator).tolist()

        def squares() -> Iterator[torch.Tensor]:
            for i, scene in enumerate(scenes):
                count = n * (i + 1) // len(scenes) - n * i // len(scenes)
                shots = list(map(self.convert, read_shots(scene, self.given))) if count else []
                for _ in range(count):
                    top, left = (int(torch.randint(side - self.size + 1, (), generator=self.generator))
                                 for side in shots[0].shape[2:])
                    yield torch.cat(self.two(shots))[..., top:top + self.size, left:left + self.size]

        for k, square in zip(order, cli.progress(squares(), n, 'training pairs')):
            pairs[:, k] = square
        return tuple(pairs)

    def for_validation(self, with_clean: bool) -> Optional[datasets.Validation]:
        """Squares that lie side by side, some 1,000 in all: of a shot, and of the clean image or another shot."""
        scenes, squares = [scene for scene in self.scenes if scene.use == VALIDATION], []
        for scene in scenes:
            first, second = self.two(read_shots(scene, self.given))
            second = read_clean(scene, scene.found['type'], self.given) if with_clean else second
            top, left = (side % self.size // 2 for side in first.shape[2:])
            tiles = self.convert(torch.cat([first, second]))[..., top:, left:]
            tiles = tiles.unfold(2, self.size, self.size).unfold(3, self.size, self.size)
            tiles = tiles.permute(2, 3, 0, 1, 4, 5).flatten(0, 1)               # (squares, 2, 3, size, size)
            most = max(1, MOST_SQUARES // len(scenes))
            squares.append(tiles[torch.randperm(len(tiles), generator=self.generator)[:most]])
        return datasets.Validation(*torch.cat(squares).unbind(1), not with_clean) if squares else None


# ------------------------------------------------------------------------------------- what is said

def rows(scenes: list) -> list:
    """A table's rows, the header first."""
    lines = ['scene pixels shots noise correlation brightness white black shift swap use'.split()]
    for scene in scenes:
        found = scene.found
        cells = (f"{found['width']} x {found['height']}", str(len(found['shots'])), f"{found['noise']:.2f}",
                 f"{found['correlation']:.3f}", ' '.join(f'{value:.1f}' for value in found['brightness'][:2]),
                 f"{found['white']:.1%}", f"{found['black']:.1%}",
                 '{:.1f} {:.1f}'.format(*found['shift']) if found['shift'] else '?',
                 found['swap']) if found else 9 * ['']
        lines.append([scene.name, *cells, scene.use])
    return lines


def picture(scenes: list, given: Optional[tuple]) -> bytes:
    """A PNG with up to four of the scenes, from the least to the most correlated noise: a crop of two shots, their
    difference, and its correlation with itself up to 7 pixels away."""
    scenes = sorted(scenes, key=lambda scene: scene.found['correlation'])
    chosen = [scenes[i] for i in sorted({round(k * (len(scenes) - 1) / 3) for k in range(4)})]
    figure = Figure((10, 2.8 * len(chosen)), dpi=100, facecolor='white', layout='constrained')
    for axes, scene in zip(figure.subplots(len(chosen), 4, squeeze=False), chosen):
        first, second = read_shots(scene, given)[:2]
        found, labels, (H, W) = scene.found, list(scene.paths), first.shape[2:]
        side = min(H, W, CROP)
        a, b = (shot[0, :, (H - side) // 2:, (W - side) // 2:][:, :side, :side] for shot in (first, second))
        low, high = torch.cat([a, b]).flatten().quantile(torch.tensor([.005, .995]))
        views = [((shot - low) / (high - low).clamp(min=1)).clamp(0, 1) for shot in (a, b)]
        views.append((0.5 + (a - b) / max(6 * found['noise'], 1e-6)).clamp(0, 1))
        titles = f'{scene.name[-24:]}: {labels[0]}', labels[1], f"difference, noise of {found['noise']:.1f}"
        for plot, view, title in zip(axes, views, titles):
            plot.imshow(view.permute(1, 2, 0).numpy(), interpolation='nearest')
            plot.set_title(title.encode(errors='replace').decode(), size=9, parse_math=False)
            plot.axis('off')
        shown = axes[3].imshow(autocorrelation((first - second)[0]).numpy(), cmap='RdBu', vmin=-1, vmax=1,
                               extent=(-7.5, 7.5, 7.5, -7.5))
        axes[3].set_title(f"its correlation: {found['correlation']:.2f} at 1 pixel", size=9)
        axes[3].tick_params(labelsize=8)
        figure.colorbar(shown, ax=axes[3], shrink=0.8)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')         # of letters that matplotlib's font lacks
        figure.savefig(content, format='png')
    return content.getvalue()


def autocorrelation(d: torch.Tensor, reach: int = 7) -> torch.Tensor:
    """Of (C, H, W), less its mean, at up to `reach` pixels: (2 reach + 1, 2 reach + 1), 1 in the middle."""
    d = d - d.mean((1, 2), keepdim=True)
    power = torch.fft.rfft2(d).abs().square()
    correlation = torch.fft.irfft2(power, s=d.shape[1:]).sum(0)
    around = torch.arange(-reach, reach + 1)
    part = correlation[around % d.shape[1]][:, around % d.shape[2]]
    return part / correlation[0, 0].clamp(min=1e-20)
