"""Denoise an image, or all the images of a folder, of any size.

    python -m others.denoise thumbnail.png
    python -m others.denoise renders cleaned --project 2
    torchrun --nproc-per-node 2 -m others.denoise renders

What the models are for: images that were point-sampled, each of whose pixels shows a single point of
the area that it stands for. Such are aliased thumbnails, made by skipping pixels (nearest-neighbour
downscaling), and renders with one sample per pixel: jagged and speckled. The models give what the
mean over each pixel's area would have been. They are not for the noise of cameras, the traces of
JPEG or images that were scaled up, and take the fine detail of an image without noise for noise.

IN gives NAME_denoised.png beside it, or OUT, in the format that OUT ends in. Of a folder, the images
in it, but not in folders below, go to the folder IN_denoised, or OUT, as NAME.png, or, where two
have the same NAME, as NAME.jpg.png and so on. What is there already and newer than its image stays,
so that the same command goes on with a folder that was interrupted. torchrun's processes share
the images of a folder.

Transparency, colour profiles, resolution and EXIF are kept, grey images stay grey, photographs are
turned upright. The result has 8 bits a channel and is a single image: of an animation, the first
frame. Grey images of more bits are refused. A file that cannot be used is named; if it is one of a
folder, the others go on, and the exit status is 1.
"""
import io
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Optional

import torch
from PIL import Image, ImageOps
from torch.nn.functional import avg_pool2d, interpolate
from tqdm import tqdm

from others import data
from others.common import cli, denoisers, processes, storage

SUFFIXES = data.PICTURES | {'.gif'}
KEPT = 'dpi', 'exif', 'icc_profile'     # in the names of Pillow's readers and writers


def say(line: str, file=None) -> None:
    """On stderr or in `file`, above the bar; as one write, so that the lines of several processes stay apart."""
    tqdm.write(f'{line}\n', file=file or sys.stderr, end='')


def read_image(path: Path) -> Image.Image:
    """The image, upright, in one of the modes L, LA, RGB, RGBA. UserError if it cannot be had."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in 'IF':                       # I, I;16, F
                raise ValueError('grey with more than 8 bits, expected 8')
            if ';16' in str(image.tile):                    # the decoder's name for the file's pixels
                say(f'{path}: 16 bits a channel, 8 are kept')
            if getattr(image, 'n_frames', 1) > 1:
                say(f'{path}: {image.n_frames} images, the first is taken')
            image = ImageOps.exif_transpose(image)
        kept = {name: image.info[name] for name in KEPT if image.info.get(name)}
        if not all(1 <= value < 2 ** 16 for value in kept.get('dpi', ())):      # nor NaN: no file can hold it
            del kept['dpi']
        if image.mode not in ('L', 'LA', 'P', 'RGB', 'RGBA'):
            kept.pop('icc_profile', None)                   # of inks, say
        grey = Image.getmodebase(image.mode) == 'L'
        image = image.convert(('L' if grey else 'RGB') + 'A' * image.has_transparency_data)
    except Exception as error:                              # Pillow's readers raise almost anything
        raise storage.UserError(f'{path}: {error}') from error
    image.info = kept
    return image


def to_tensor(image: Image.Image) -> torch.Tensor:
    """uint8 (1, C, H, W)"""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, -1).permute(0, 3, 1, 2)


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


def denoise(image: Image.Image, model, ensemble: bool, progress: Optional[Callable] = None) -> Image.Image:
    """The image denoised, with all that `read_image` gave it. progress: see `Model.predict`."""
    noisy = to_tensor(image.convert('RGB'))
    if image.mode.endswith('A') and image.getchannel('A').getbbox():
        noisy = fill(noisy.float(), to_tensor(image.getchannel('A')).float()).round().byte()
    denoised = model.predict(noisy, ensemble=ensemble, progress=progress)
    if bool((noisy == noisy[:, :1]).all()):                 # grey stays grey
        denoised = denoised.mean(1, keepdim=True).expand_as(denoised)
    pixels = denoised[0].round().byte().permute(1, 2, 0).contiguous()
    result = Image.fromarray(pixels.numpy()).convert(image.mode.rstrip('A'))
    if image.mode.endswith('A'):
        result.putalpha(image.getchannel('A'))
    result.info = image.info
    return result


def encode(image: Image.Image, path: Path) -> bytes:
    """What `path` is to hold. UserError if the format that it ends in does not take such an image."""
    content = io.BytesIO()
    try:
        kind = Image.registered_extensions()[path.suffix.lower()]
        image.save(content, kind, quality=95, **image.info)
    except Exception as error:                              # Pillow's writers raise almost anything
        raise storage.UserError(f'OUT: {path} cannot hold a picture of the kind {image.mode}, '
                            f'expected a name like NAME.png ({error})') from error
    return content.getvalue()


def plan(source: Path, out: Optional[Path]) -> dict:
    """{where to write: image to read}, of IN and OUT. UserError if that cannot be."""
    if not source.is_dir():
        if not source.exists():
            raise storage.UserError(f'IN: there is no {source}, expected an image or a folder of images')
        if out and out.is_dir():
            raise storage.UserError(f'OUT: {out} is a folder, expected a file, as IN is one: '
                                f'{out / source.stem}.png, for example')
        return {out or source.with_name(f'{source.stem}_denoised.png'): source}
    out = out or source.resolve().with_name(f'{source.resolve().name}_denoised')
    if out.resolve() == source.resolve() or out.exists() and not out.is_dir():
        raise storage.UserError(f'OUT: {out} is {"IN" if out.is_dir() else "a file"}, expected a folder of its own')
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith('.'))
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise storage.UserError(f'IN: {source} holds no images, expected {", ".join(sorted(SUFFIXES))}')
    for path in files:
        if path not in paths and processes.rank() == 0:
            say(f'left out {path}: none of {", ".join(sorted(SUFFIXES))}')
    # A short name, where no other one can be the same (nor differ in capitals alone).
    taken = Counter(name.lower() for path in paths for name in (path.stem, path.name))
    return {out / f'{path.stem if taken[path.stem.lower()] == 1 else path.name}.png': path for path in paths}


def denoise_all(images: dict, options) -> int:
    """The exit status. images: {where to write: image to read}. UserError for a single file that fails."""
    model = denoisers.trained_model(options.project, options.weights or denoisers.checkpoint(options.project))
    denoisers.set_precision(model, None)
    is_folder, failed = options.source.is_dir(), 0
    images = dict(list(images.items())[processes.rank()::processes.size()])
    with cli.progress_bar('', len(images), disable=processes.rank() > 0 or None,
                          bar_format='{desc} {percentage:.0f}%|{bar}| {elapsed}, {remaining} left') as bar:
        for number, (target, path) in enumerate(images.items()):
            bar.update(number - bar.n)
            bar.set_description_str(path.name)
            try:
                if target.is_dir() or target.exists() and not options.force:
                    if is_folder and target.is_file() and target.stat().st_mtime >= path.stat().st_mtime:
                        say(f'done before: {target} (--force replaces it)')
                        continue
                    raise storage.UserError(f'OUT: {target} exists, expected a new file for {path} '
                                          '(--force replaces it)')
                image = read_image(path)
                encode(image.resize((1, 1)), target)        # refused before the work, not after it
                image = denoise(image, model, not options.no_ensemble, bar.update)
                storage.write(target, encode(image, target))
                say(str(target), sys.stdout)
            except storage.UserError as error:
                if not is_folder:
                    raise
                say(f'skipped {error}')
                failed += 1
    return int(processes.any_of(failed > 0))             # waits for the others, which torchrun ends if one fails


def main(arguments=None) -> int:
    parser = cli.parser('denoise', __doc__)
    parser.add_argument('source', type=Path, metavar='IN', help='an image file, or a folder of them')
    parser.add_argument('out', type=Path, metavar='OUT', nargs='?', help='a file; a folder for a folder')
    parser.add_argument('--project', type=int, choices=(1, 2), default=1,
                        help='the mini-project whose model it is (default: 1, the better one)')
    parser.add_argument('--weights', type=Path, metavar='FILE',
                        help='as others.train makes them (default: the bestmodel.pth of the project)')
    parser.add_argument('--no-ensemble', action='store_true',
                        help='no average over flips and rotations: 8 times faster, a little worse')
    parser.add_argument('--force', action='store_true', help='replace files that are there')
    cli.add_options(parser, 'threads')
    options = parser.parse_args(arguments)

    with cli.threads(options.threads), processes.joined():
        return denoise_all(plan(options.source, options.out), options)


if __name__ == '__main__':
    cli.run(main)
