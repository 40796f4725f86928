"""Image files of any depth as NumPy arrays, and back in the kind and depth that they came in.

Pillow reads and writes nearly all of them. It is the reader behind scikit-image and imageio, too (imageio's other one,
FreeImage, has to be downloaded and is no longer kept up), but gives one byte only of each value of colours with 16
bits: such a file is decoded twice, the second time as if the two bytes had changed places. What Pillow does not know,
colours with 16 bits and floats in TIFF, is left to tifffile, which comes with scikit-image, is kept up, and needs
nothing but NumPy. PNG with 16 bits a colour, which none of them writes, is Pillow's with other pixels.
"""
import contextlib
import io
import math
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Optional, Union

import numpy
import tifffile
import torch
from PIL import ExifTags, Image, ImageOps

from others.common import storage

SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.gif', '.npy'}
TIFF = '.tif', '.tiff'
KEPT = 'dpi', 'exif', 'icc_profile'     # in the names of Pillow's readers and writers
MAX_PIXELS = 200_000_000                # some 15 GB while a model works on it


class Picture(NamedTuple):
    values: numpy.ndarray               # (H, W) or (H, W, 3): uint8, uint16 or floats
    alpha: Optional[numpy.ndarray]      # (H, W) of the same type
    kept: dict                          # what else to write back: see KEPT


# ---------------------------------------------------------------------------------------- files

def read(path, max_pixels: int = MAX_PIXELS, say: Callable = lambda line: print(line, file=sys.stderr)) -> Picture:
    """The image of a file, upright; of several in one file the first, which is said. UserError, with the file's name,
    if it cannot be had, has more pixels, or values that are not finite."""
    path = Path(path)
    try:
        if path.suffix.lower() == '.npy':
            values = numpy.load(path, mmap_mode='r')            # its shape, before its memory is needed
            check_size(*values.shape[1::-1], max_pixels)
            return picture(values)
        return decode(path, max_pixels, lambda line: say(f'{path}: {line}'))
    except Exception as error:                                  # the readers raise almost anything
        raise storage.UserError(f'{path}: {str(error) or type(error).__name__}') from error


def write(path, image: Picture) -> None:
    """Whole or not at all, in the format that the name ends in. UserError if it does not take such an image."""
    storage.write(path, encode(path, image))


def check(path, image: Picture) -> None:
    """UserError if `write` would fail or give another kind, size or depth back; found from two edges of the image."""
    for edge in (numpy.s_[:1], numpy.s_[:, :1]):
        small = Picture(image.values[edge], None if image.alpha is None else image.alpha[edge], image.kept)
        content = encode(path, small)
        try:
            again = (picture(numpy.load(io.BytesIO(content))) if Path(path).suffix.lower() == '.npy' else
                     decode(io.BytesIO(content)))
        except Exception as error:
            raise unfit(path, image, error) from error
        if ((again.values.shape[:2], again.values.dtype, again.alpha is None) !=
                (small.values.shape[:2], small.values.dtype, small.alpha is None)):
            raise unfit(path, image, f'it would become {outline(again)}')


def outline(image: Picture) -> str:
    colours = 'RGB' if image.values.ndim == 3 else 'grey'
    return f'{image.values.dtype} {colours}{"" if image.alpha is None else " with transparency"}'


def unfit(path, image: Picture, reason) -> storage.UserError:
    name = {'u1': 'NAME.png', 'u2': 'NAME.png or NAME.tif'}.get(image.values.dtype.str[1:], 'NAME.tif or NAME.npy')
    return storage.UserError(f'OUT: {path} cannot hold {outline(image)}, expected a name like {name} ({reason})')


def check_size(width: int, height: int, max_pixels: Optional[int]) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(f'{width} x {height} are {width * height:,} pixels, expected at most {max_pixels:,} '
                         '(others.denoise: --max-pixels)')


def picture(pixels: numpy.ndarray, kept: Optional[dict] = None) -> Picture:
    """Of (H, W), or with channels last: 2 and 4 have alpha. ValueError if there is no such picture."""
    pixels, alpha = numpy.array(pixels, pixels.dtype.newbyteorder('=')), None      # in memory, and its own
    if kept and not all(1 <= value < 2 ** 16 for value in kept.get('dpi', ())):     # nor NaN: no file can hold it
        del kept['dpi']
    if pixels.ndim == 3 and kept is not None and pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or not (pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[2] == 3):
        raise ValueError(f'an array of shape {pixels.shape}, expected (H, W) or (H, W, 3)')
    if pixels.dtype not in (numpy.uint8, numpy.uint16) and pixels.dtype.kind != 'f':
        raise ValueError(f'values of type {pixels.dtype}, expected uint8, uint16 or floats')
    if pixels.dtype.kind == 'f' and not numpy.isfinite(pixels).all():
        raise ValueError('values that are not finite, expected numbers')
    return Picture(pixels, alpha, kept or {})


@contextlib.contextmanager
def opened(file) -> Iterator[Image.Image]:
    """Pillow's image of a path or an open file, without Pillow's own limit of pixels: ours is said in words."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(file) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def decode(file, max_pixels: Optional[int] = None, say: Callable = lambda line: None) -> Picture:
    """What Pillow or tifffile reads from a path or an open file."""
    try:
        with opened(file) as image:
            if image.format != 'TIFF' or not tifffile_alone_reads(image):
                check_size(*image.size, max_pixels)
                if getattr(image, 'n_frames', 1) > 1:
                    say(f'{image.n_frames} images, the first is taken')
                return decode_with_pillow(file, image)
    except Image.UnidentifiedImageError:
        if isinstance(file, Path) and file.suffix.lower() not in TIFF:
            raise
    if not isinstance(file, Path):
        file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        check_size(page.imagewidth, page.imagelength, max_pixels)
        if len(tiff.pages) > 1:
            say(f'{len(tiff.pages)} images, the first is taken')
        pixels = page.asarray()
        if page.axes == 'SYX':
            pixels = numpy.moveaxis(pixels, 0, -1)
        kept = {'dpi': page.get_resolution('inch') if 'XResolution' in page.tags else None,
                'icc_profile': page.iccprofile}
    return picture(pixels, {name: value for name, value in kept.items() if value})


def tifffile_alone_reads(image: Image.Image) -> bool:
    """Whether Pillow would lose bits, or the sign, of a TIFF's values; of RGB;16 see `decode_with_pillow`."""
    bits = max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))
    whole = {'I;16': 16, 'I;16L': 16, 'I;16B': 16, 'F': 32}
    return bits > whole.get(image.mode, 8) and not re.search("'RGBA?;16", str(image.tile))


def decode_with_pillow(file, image: Image.Image) -> Picture:
    """image: `file`, opened."""
    deep = re.search(r"[\w;]+;16\w", str(image.tile)) if image.mode[0] != 'I' else None     # the raw mode
    shallow = image.format == 'PPM' and image.mode != 'I' and image.tile[0].codec_name.startswith('ppm') and max(
        value for value in image.tile[0].args if isinstance(value, int)) > 255
    if shallow or deep and deep[0][:-1] not in ('RGB;16', 'RGBA;16') and deep[0] != 'LA;16B':
        raise ValueError(f'{image.format} of the kind {image.mode} with 16 bits a channel, expected PNG or TIFF')
    if deep and deep[0] == 'LA;16B':
        set_raw_mode(image, 'RGBA')                     # the four bytes of a pixel, as they are
    turned = ImageOps.exif_transpose(image)
    kept = {name: turned.info[name] for name in KEPT if turned.info.get(name)}
    if 'exif' in kept:
        exif = Image.Exif()
        exif.load(kept['exif'])
        if exif.get_ifd(ExifTags.IFD.IFD1):             # the noisy image as a thumbnail
            kept['exif'] = turned.getexif().tobytes()
    if image.mode not in ('L', 'LA', 'P', 'RGB', 'RGBA', 'I', 'F', 'I;16', 'I;16L', 'I;16B'):
        kept.pop('icc_profile', None)                   # of inks, say
    if deep and deep[0] == 'LA;16B':
        pixels = numpy.asarray(turned).copy().view('>u2')
    elif deep:
        with Image.open(file) as again:
            swapped = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}[deep[0][-1]]
            set_raw_mode(again, deep[0][:-1] + swapped)
            low = numpy.asarray(ImageOps.exif_transpose(again))
        pixels = numpy.asarray(turned).astype(numpy.uint16) << 8 | low
    elif image.mode[0] in 'IF':
        pixels = numpy.asarray(turned)
        pixels = pixels.astype(numpy.uint16) if image.mode == 'I' else pixels   # PGM
    else:
        base = 'L' if Image.getmodebase(turned.mode) == 'L' else 'RGB'
        pixels = numpy.asarray(turned.convert(base + 'A' * turned.has_transparency_data))
    return picture(pixels, kept)


def set_raw_mode(image: Image.Image, raw: str) -> None:
    """Decode an opened image as if its file had its bytes in another order."""
    image.tile = [tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))
                  for tile in image.tile]


def encode(path, image: Picture) -> bytes:
    """What a file of this name is to hold. UserError if its format does not take such an image."""
    suffix, content = Path(path).suffix.lower(), io.BytesIO()
    pixels = image.values if image.alpha is None else numpy.dstack([image.values, image.alpha])
    try:
        if suffix == '.npy':
            numpy.save(content, pixels)
        elif suffix in TIFF and image.values.dtype != numpy.uint8:
            tifffile.imwrite(content, pixels, photometric='rgb' if image.values.ndim == 3 else 'minisblack',
                             planarconfig='contig' if pixels.ndim == 3 else None, metadata=None,
                             extrasamples=None if image.alpha is None else ['unassalpha'],
                             iccprofile=image.kept.get('icc_profile'), resolution=image.kept.get('dpi'),
                             resolutionunit='inch' if 'dpi' in image.kept else None)
        elif suffix == '.png' and pixels.dtype == numpy.uint16 and pixels.ndim == 3:
            content.write(encode_deep_png(pixels, image.kept))
        else:
            kind = Image.registered_extensions()[suffix]
            if kind in ('ICO', 'ICNS'):
                raise ValueError('which changes its size')
            Image.fromarray(pixels).save(content, kind, quality=95, **image.kept)
    except Exception as error:                          # the writers raise almost anything
        raise unfit(path, image, error) from error
    return content.getvalue()


def encode_deep_png(pixels: numpy.ndarray, kept: dict) -> bytes:
    """uint16 (H, W, 2, 3 or 4), as Pillow's file of one pixel with another header and other pixels."""
    H, W, channels = pixels.shape
    content = io.BytesIO()
    Image.fromarray(numpy.zeros((1, 1, channels), numpy.uint8)).save(content, 'PNG', **kept)
    small = content.getvalue()                          # 8 bytes, IHDR with 13 of its own, what is kept, IDAT, IEND
    rows = pixels.astype('>u2').reshape(H, -1).view(numpy.uint8)
    above = numpy.concatenate([numpy.zeros_like(rows[:1]), rows[:-1]])
    rows = numpy.concatenate([numpy.full((H, 1), 2, numpy.uint8), rows - above], 1)     # filter 2: less the row above

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    return b''.join([small[:8], chunk(b'IHDR', struct.pack('>IIB', W, H, 16) + small[25:29]),
                     small[33:small.rindex(b'IDAT') - 4], chunk(b'IDAT', zlib.compress(rows)), chunk(b'IEND', b'')])


# --------------------------------------------------------------------------------------- values

def parse_range(words: list) -> Union[str, list]:
    """What `value_range` takes, of the words of an option: 'data', or two numbers. UserError if they are others."""
    if words == ['data']:
        return 'data'
    with contextlib.suppress(ValueError):
        low, high = map(float, words)
        if low < high and math.isfinite(high - low):
            return [low, high]
    raise storage.UserError(f'--range: {" ".join(words)}, expected two numbers, LOW below HIGH, or the word data')


def value_range(values: numpy.ndarray, given: Union[None, str, tuple] = None) -> tuple:
    """(low, high), what black and white are. given: None for the type's range (of floats 0..1), 'data' for the
    smallest and the largest value, or (low, high). UserError for floats outside 0..1 that no range is given for."""
    if given not in (None, 'data'):
        return tuple(map(float, given))
    if given is None and values.dtype.kind == 'u':
        return 0., float(numpy.iinfo(values.dtype).max)
    low, high = float(values.min()), float(values.max())
    if given == 'data':
        return low, high if high > low else low + 1
    if low < 0 or high > 1:
        raise storage.UserError(f'floats from {low:g} to {high:g}, expected 0 to 1, or --range LOW HIGH, or '
                                '--range data')
    return 0., 1.


def to_tensor(values: numpy.ndarray, low: float, high: float) -> torch.Tensor:
    """float32 (1, 3, H, W) in 0..255, what lies outside low..high clipped; grey as three equal channels."""
    scaled = values.astype(numpy.promote_types(values.dtype, numpy.float32))
    scaled -= low
    scaled *= 255 / (high - low)
    tensor = torch.from_numpy(scaled.clip(0, 255, out=scaled).astype(numpy.float32, copy=False))
    return (tensor.expand(3, -1, -1) if values.ndim == 2 else tensor.permute(2, 0, 1))[None]


def from_tensor(tensor: torch.Tensor, low: float, high: float, like: numpy.ndarray) -> numpy.ndarray:
    """(1, 3, H, W) in 0..255 as an array of the shape and type of `like`; grey is the mean of the channels."""
    pixels = tensor[0].mean(0) if like.ndim == 2 else tensor[0].permute(1, 2, 0)
    values = pixels.cpu().numpy().astype(numpy.promote_types(like.dtype, numpy.float32))
    values = values * ((high - low) / 255) + low
    if like.dtype.kind == 'u':
        values = values.round().clip(0, numpy.iinfo(like.dtype).max)
    return values.astype(like.dtype)
