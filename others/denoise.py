"""Denoise an image, or all the images of a folder, of any size.

    python -m others.denoise thumbnail.png
    python -m others.denoise renders cleaned --project 2

What the models are for: images that were point-sampled, each of whose pixels shows a single point of
the area that it stands for. Such are aliased thumbnails, made by skipping pixels (nearest-neighbour
downscaling), and renders with one sample per pixel: jagged and speckled. The models give what the
mean over each pixel's area would have been. They are not for the noise of cameras, the traces of
JPEG or images that were scaled up, and take the fine detail of an image without noise for noise.

IN gives NAME_denoised.png beside it, or OUT, in the format that OUT ends in. Of a folder, the images
in it, but not in folders below, go to the folder IN_denoised, or OUT, as NAME.png.
Transparency and colour profiles are kept, grey images stay grey, photographs are turned upright.
Of an animation, the first frame is taken. The result has 8 bits a channel, and grey images of more
are refused. A file that cannot be used is named; if it is one of a folder, the others go on, and the
exit status is 1.
"""
import io
import sys
from pathlib import Path
from typing import Optional

import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from others import cli, data


def read_image(path: Path) -> Image.Image:
    """The image, upright, in one of the modes L, LA, RGB, RGBA. UserError if it cannot be had."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in 'IF':                       # I, I;16, F
                raise ValueError('grey with more than 8 bits, expected 8')
            image = ImageOps.exif_transpose(image)
        of_colours = image.mode in ('L', 'LA', 'P', 'RGB', 'RGBA')  # and not of inks, say
        profile = image.info.get('icc_profile') if of_colours else None
        grey = Image.getmodebase(image.mode) == 'L'
        image = image.convert(('L' if grey else 'RGB') + 'A' * image.has_transparency_data)
    except Exception as error:                              # Pillow's readers raise almost anything
        raise cli.UserError(f'{path}: {error}') from error
    image.info = {'icc_profile': profile} if profile else {}
    return image


def denoise(image: Image.Image, model, ensemble: bool) -> Image.Image:
    """The image denoised, with all that `read_image` gave it."""
    colours = image.convert('RGB')
    noisy = torch.frombuffer(bytearray(colours.tobytes()), dtype=torch.uint8)
    noisy = noisy.view(1, image.height, image.width, 3).permute(0, 3, 1, 2)
    denoised = model.predict(noisy, ensemble=ensemble)
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
    except (KeyError, OSError, ValueError) as error:
        raise cli.UserError(f'OUT: {path} cannot hold a picture of the kind {image.mode}, '
                            'expected a name like NAME.png') from error
    return content.getvalue()


def plan(source: Path, out: Optional[Path], force: bool) -> dict:
    """{where to write: image to read}, of IN and OUT. UserError if that cannot be."""
    if source.is_dir():
        out = out or source.resolve().with_name(f'{source.resolve().name}_denoised')
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in data.PICTURES)
        targets = [out / f'{path.stem}.png' for path in paths]
        if not paths:
            raise cli.UserError(f'IN: {source} holds no images, '
                                f'expected {", ".join(sorted(data.PICTURES))}')
    elif not source.exists():
        raise cli.UserError(f'IN: there is no {source}, expected an image or a folder of images')
    else:
        paths, targets = [source], [out or source.with_name(f'{source.stem}_denoised.png')]
    for path, target in zip(paths, targets):
        if targets.count(target) > 1:
            raise cli.UserError(f'IN: {path} and another image would both give {target}')
        if target.is_dir() or target.exists() and not force:
            raise cli.UserError(f'OUT: {target} exists, expected a new file (--force replaces it)')
    return dict(zip(targets, paths))


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
    options = parser.parse_args(arguments)

    images = plan(options.source, options.out, options.force)
    model = cli.trained_model(options.project, options.weights or cli.checkpoint(options.project))
    is_folder, failed = options.source.is_dir(), 0
    bar = tqdm(images.items(), disable=None if is_folder else True, leave=False, unit=' images')
    for target, path in bar:
        try:
            image = read_image(path)
            encode(image.resize((1, 1)), target)        # refused before the work, not after it
            cli.write(target, encode(denoise(image, model, not options.no_ensemble), target))
            tqdm.write(str(target))
        except cli.UserError as error:
            if not is_folder:
                raise
            tqdm.write(f'skipped {error}', file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == '__main__':
    cli.run(main)
