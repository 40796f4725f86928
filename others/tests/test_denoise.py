"""`others.denoise` against Model.predict on the bare pixels, for all the kinds of image files."""
import io
import math
import os
import re
import shutil
import struct

import numpy
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
import tifffile
from skimage.io import imsave

from others import denoise
from others.common import denoisers, images
from others.tests.conftest import contents, refused


@pytest.fixture(autouse=True)
def weights(tmp_path_factory, monkeypatch):
    """Those that are shipped are untrained ones, which change every image."""
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    for project in 1, 2:
        denoisers.new_model(project).save(folder / f'{project}.pth')
    monkeypatch.setattr(denoisers, 'checkpoint', lambda project: folder / f'{project}.pth')
    return folder / '1.pth'


@pytest.fixture
def stub(monkeypatch):
    """A model that takes no time: half the contrast."""
    class Model:
        def predict(self, images, ensemble, progress=None):
            return images.float() / 2 + 64 - int(ensemble) - self.project

    def load(project, weights) -> Model:
        model = Model()
        model.project = project
        return model

    monkeypatch.setattr(denoise, 'load', load)


def picture(mode: str = 'RGB', size: tuple = (13, 10)) -> Image.Image:
    """Noise in all channels."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, numpy.random.default_rng(0).bytes(size[0] * size[1] * channels))


def expected(image: Image.Image, weights, ensemble: bool = True) -> Image.Image:
    """The image as RGB through predict."""
    pixels = torch.from_numpy(numpy.array(image.convert('RGB'))).permute(2, 0, 1)[None]
    model = denoisers.trained_model(1, weights)
    denoisers.set_precision(model, None)
    output = model.predict(pixels.float(), ensemble=ensemble)
    return Image.fromarray(output[0].permute(1, 2, 0).round().byte().numpy())


def run(*arguments) -> int:
    return denoise.main([str(argument) for argument in arguments])


def read(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def denoised(folder, image: Image.Image, *options, source: str = 'a.png', out: str = '', **kept) -> Image.Image:
    """The image through a file `source`, saved with what is `kept`, and one called `out` or the default."""
    image.save(folder / source, **kept)
    assert run(folder / source, *[folder / out][not out:], *options) == 0
    return read(folder / (out or 'a_denoised.png'))


def same(a: Image.Image, b: Image.Image) -> bool:
    return (a.mode, a.size, a.tobytes()) == (b.mode, b.size, b.tobytes())


@pytest.mark.parametrize('size, ensemble, orientation', [
    *(((13, 10), True, k) for k in (1, 3, 6, 8)), ((13, 10), False, 1), ((1, 1), True, 1), ((3, 40), True, 1)])
def test_colours(tmp_path, weights, size, ensemble, orientation, capsys):
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = denoised(tmp_path, picture(size=size), *['--no-ensemble'][ensemble:], exif=exif)
    assert capsys.readouterr().out == f"{tmp_path / 'a_denoised.png'}\n"
    upright = picture(size=size).rotate({1: 0, 3: 180, 6: 270, 8: 90}[orientation], expand=True)
    assert same(result, expected(upright, weights, ensemble)) and same(result, expected(upright, weights)) == ensemble
    assert same(result, ImageOps.exif_transpose(result))    # nobody turns it once more
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'a_denoised.png']


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'L', '1', 'RGB'])
def test_alpha_is_kept_and_grey_stays_grey(tmp_path, weights, mode):
    image = picture(mode if 'A' in mode else 'L').convert(mode)
    if 'A' in mode:
        image.putalpha(image.getchannel('A').point(lambda alpha: max(alpha, 1)))
    result = denoised(tmp_path, image)
    assert result.mode == ('L' if mode == '1' else mode)
    assert 'A' not in mode or same(result.getchannel('A'), image.getchannel('A'))
    pixels, seen = numpy.array(result.convert('RGB')), numpy.array(expected(image, weights))
    if mode == 'RGBA':
        assert (pixels == seen).all()
    else:                                                   # the mean of three that were rounded
        assert (pixels == pixels[..., :1]).all() and abs(pixels - seen.mean(2, keepdims=True)).max() <= 1


def test_no_colour_spreads_from_under_transparent_pixels(tmp_path, weights):
    flat = Image.new('RGB', (13, 10), (200, 30, 90))
    alpha = Image.linear_gradient('L').resize(flat.size).point(lambda value: 255 * (value > 127))
    hidden = picture()
    hidden.paste(flat, mask=alpha)
    hidden.putalpha(alpha)
    assert same(denoised(tmp_path, hidden).convert('RGB'), expected(flat, weights))
    hidden.putalpha(0)                                      # nothing to see, and no mistake
    assert denoised(tmp_path, hidden, '--force').getchannel('A').getextrema() == (0, 0)


def test_transparent_palette(tmp_path, stub):
    image = picture().quantize(8)
    result = denoised(tmp_path, image, transparency=0)
    assert result.mode == 'RGBA'
    assert (numpy.array(result.getchannel('A')) == 255 * (numpy.array(image) != 0)).all()


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'webp'])
def test_formats_and_what_is_kept(tmp_path, stub, suffix):
    assert denoised(tmp_path, picture(), source='a.bmp', out=f'new/a.{suffix}').size == (13, 10)
    exif = Image.Exif()
    exif[0x010F] = 'a maker'
    kept = {'dpi': (300, 300), 'exif': exif.tobytes(),
            'icc_profile': ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()}
    result = denoised(tmp_path, picture(), source='b.jpg', out=f'b_new.{suffix}', **kept)
    assert result.info['icc_profile'] == kept['icc_profile'] and result.getexif()[0x010F] == 'a maker'
    if suffix != 'webp':                                    # which has no resolution
        assert result.info['dpi'] == pytest.approx((300, 300), rel=1e-4)
    result = denoised(tmp_path, picture('CMYK'), source='c.jpg', out=f'c_new.{suffix}', **kept)
    assert result.mode == 'RGB' and 'icc_profile' not in result.info    # of inks no more


LONG = 'n' * 246 + '.bmp'


@pytest.fixture
def mixed(tmp_path):
    """A folder of all that goes wrong in folders, and of what goes well."""
    folder, turned = tmp_path / 'in', Image.Exif()
    turned[0x0112] = 6
    deep = numpy.random.default_rng(0).integers(65536, size=(10, 13, 3), dtype='uint16')
    (folder / 'below').mkdir(parents=True)
    (folder / 'empty').mkdir()
    for name in ('a.png', 'below/c.png', 'same.png', 'Same.bmp', 'same.png.bmp'):
        picture().save(folder / name)           # the last would be same.png.png, too, if names were only lengthened
    picture('L').save(folder / 'b.JPG')
    picture('RGBA').save(folder / 'alpha.png')
    picture().save(folder / 'moving.gif', save_all=True, append_images=[Image.new('RGB', (13, 10))])
    picture(size=(150, 70)).save(folder / 'large.jpg')
    picture(size=(5, 5)).save(folder / 'tiny.bmp')
    picture().save(folder / 'turned.jpg', exif=turned)
    picture().save(folder / 'dense.tif', dpi=(4e9, 4e9))        # more than other formats can say
    imsave(folder / 'deep.tif', deep, check_contrast=False)
    imsave(folder / 'deep_grey.png', deep[..., 0], check_contrast=False)
    numpy.save(folder / 'half.npy', deep[..., 0] / 131070)
    numpy.save(folder / 'wide.npy', deep[..., 0] / 9)
    picture().save(folder / LONG)
    (folder / 'broken.png').write_bytes((folder / 'a.png').read_bytes()[:200])
    for name in ('notes.txt', 'text.jpeg'):
        (folder / name).write_text('text')
    return folder


def test_folder(mixed, stub, capsys, monkeypatch):
    """Each file is denoised, or named with a reason, even one that is not foreseen."""
    real = denoise.denoise
    monkeypatch.setattr(denoise, 'denoise', lambda image, *others: (
        real(image, *others) if image.values.size > 75 else 1 / 0))
    said = {'broken.png': 'skipped .*', 'moving.gif': '.*2 images, the first', 'notes.txt': 'left out .*',
            'text.jpeg': 'skipped .*', 'wide.npy': 'skipped .*: floats from .*', 'tiny.bmp': 'skipped .*: division'}
    names = 'a alpha b moving same.png Same.bmp same.png.bmp'.split()
    made = {**{f'{name}.png': 'uint8 (10, 13' for name in (*names, LONG[:-4])},
            'deep.tif': 'uint16 (10, 13', 'deep_grey.png': 'uint16 (10, 13', 'dense.tif': 'uint8 (10, 13',
            'half.npy': 'float64 (10, 13', 'large.png': 'uint8 (70, 150', 'turned.png': 'uint8 (13, 10'}
    assert run(mixed) == 1
    out, err = capsys.readouterr()
    changed = re.findall('(.+): changed by [0-9.]+ of 255', err)
    assert len(err.splitlines()) == len(said) + len(made) and len(set(changed)) == len(made)
    for name, words in said.items():
        assert any(str(mixed / name) in line and re.match(words, line) for line in err.splitlines())
    folder = mixed.with_name('in_denoised')
    results = {path.name: images.read(path).values for path in folder.glob('[!.]*')}
    assert results.keys() == made.keys()
    for name, values in results.items():
        assert f'{values.dtype} {values.shape}'.startswith(made[name]), name
    assert sorted(out.splitlines()) == sorted(str(folder / name) for name in made)
    assert (results['a.png'] == (numpy.asarray(picture()) / 2 + 62).round()).all() and results['b.png'].ndim == 2


def interrupted_at(name: str, monkeypatch, *arguments) -> None:
    """Run with a Ctrl-C that comes before the image of this name is denoised."""
    def denoise_one(path, *others) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        real(path, *others)

    real = denoise.denoise_one
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(denoise, 'denoise_one', denoise_one)
        run(*arguments)


def test_a_folder_goes_on_where_it_was_interrupted(mixed, stub, capsys, monkeypatch):
    interrupted_at('tiny.bmp', monkeypatch, mixed)
    out = mixed.with_name('in_denoised')
    before = contents(out)
    os.utime(mixed / 'a.png')                               # has changed since
    os.utime(out / 'a.png', (0, 0))
    capsys.readouterr()
    assert run(mixed) == 1
    done, said = capsys.readouterr()
    new = [out / 'tiny.png', out / 'turned.png']
    assert done.splitlines() == [*map(str, new)]
    assert contents(out) == {**before, **{path.name: path.read_bytes() for path in new}}
    assert said.count('done before: ') == len(before) - 2 and f'skipped OUT: {out / "a.png"} exists' in said


@pytest.mark.parametrize('options', [('--project', 2), ('--strength', 0.5), ('--no-ensemble',), ('--range', 0, 99)])
def test_results_of_other_options_are_not_done(tmp_path, stub, monkeypatch, options):
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'b.png'):
        picture().save(tmp_path / 'in' / name)
    out = tmp_path / 'in_denoised'
    assert run(tmp_path / 'in') == run(tmp_path / 'in') == 0
    before = contents(out)
    with refused(f'OUT: {out} holds results .* another .*--force'):
        run(tmp_path / 'in', *options)
    assert contents(out) == before
    interrupted_at('b.png', monkeypatch, tmp_path / 'in', *options, '--force')
    assert run(tmp_path / 'in', *options) == 1              # b.png exists, and is not done
    after = contents(out)
    assert after['a.png'] != before['a.png'] and after['b.png'] == before['b.png']
    for damaged in '', '{"proj':
        (out / denoise.SETTINGS).write_text(damaged)
        with refused(f'OUT: {out} holds results'):
            run(tmp_path / 'in')
    assert run(tmp_path / 'in', '--force') == 0 and contents(out) == before


@pytest.mark.parametrize('project', [1, 2])
def test_the_bar_follows_the_tiles_and_threads_are_set(tmp_path, monkeypatch, project):
    seen, threads = [], torch.get_num_threads()
    monkeypatch.setattr(denoise.tqdm, 'update', lambda bar, n: seen.append((n, torch.get_num_threads())))
    monkeypatch.setattr(type(denoisers.new_model(project)), 'PIXELS', 64 ** 2)
    denoised(tmp_path, picture(size=(70, 150)), '--threads', 3, '--no-ensemble', '--project', project)
    assert seen == [(0, 3), *6 * [(pytest.approx(1 / 6), 3)]] and torch.get_num_threads() == threads


@pytest.mark.parametrize('dtype, out, options, low, high', [
    ('uint8', 'b.png', (), 0, 255), ('uint16', 'b.png', (), 0, 65535), ('uint16', 'b.tif', (9000, 50000), 9000, 50000),
    ('float32', 'b.tif', (), 0, 1), ('float64', 'b.npy', ('data',), None, None), ('float32', 'b.tif', (-1, 2), -1, 2)])
@pytest.mark.parametrize('shape', [(10, 13), (10, 13, 3)])
def test_depth_range_strength_residual(tmp_path, stub, dtype, out, options, low, high, shape):
    """What was removed and what stays are what was there, within the range."""
    noisy, is_whole, source = values(dtype, *shape), dtype[0] == 'u', tmp_path / f'a{out[1:]}'
    low, high = (noisy.min(), noisy.max()) if low is None else (low, high)
    images.write(source, images.Picture(noisy, None, {}))
    seen = noisy.astype('float64').clip(low, high)
    full = (seen - low) / 2 + 62 / 255 * (high - low) + low
    close = dict(rtol=0, atol=1e-5 * (high - low) + is_whole)
    for strength in (1, 0.25, 0):
        assert run(source, tmp_path / out, '--force', '--strength', strength, '--residual', tmp_path / 'rest',
                   *(['--range', *options] if options else [])) == 0
        result, rest = (images.read(path).values for path in (tmp_path / out, tmp_path / 'rest' / out))
        numpy.testing.assert_allclose(result.astype('float64'), seen + strength * (full - seen), **close)
        assert result.dtype == rest.dtype == dtype and rest.shape == result.shape
        shown = seen - result
        if is_whole:
            shown = (shown + low + 128 / 255 * (high - low)).clip(low, high)
        numpy.testing.assert_allclose(rest.astype('float64'), shown, **close)
    assert (result == seen).all() or not is_whole           # of strength 0


def test_the_range_of_a_run(tmp_path, weights, stub):
    """Is kept beside its weights, and --range is worth more."""
    best, source, result = (tmp_path / name for name in ('best.pth', 'a.npy', 'b.npy'))
    shutil.copy(weights, best)
    noisy = numpy.float32(values('uint16', 10, 13))
    numpy.save(source, noisy)
    for kept, options, (low, high) in (('[0, 65535]', (), (0, 65535)), ('"data"', (), (noisy.min(), noisy.max())),
                                       ('[0, 1]', ('--range', 0, 65535), (0, 65535))):
        (tmp_path / 'settings.json').write_text(f'{{"range": {kept}}}')
        assert run(source, result, '--force', '--weights', best, *options) == 0
        numpy.testing.assert_allclose(numpy.load(result), (noisy - low) / 2 + 62 / 255 * (high - low) + low,
                                      rtol=0, atol=0.1)
    (tmp_path / 'settings.json').write_text('{"range": null}')
    with refused('a.npy: floats from .*--range'):
        run(source, result, '--force', '--weights', best)


@pytest.mark.parametrize('out, size, words', [
    ('b.webp', (16384, 1), 'OUT: .*b.webp cannot hold uint8 RGB, expected a name like NAME.png'),
    ('b.ico', (64, 64), 'OUT: .*b.ico cannot hold .*changes its size'),
    ('a.bmp/b.png', (9, 9), 'OUT: .*a.bmp is no folder'),
    ('b.png --residual a.bmp', (9, 9), '--residual: .*a.bmp is no folder'),
    ('b.png --max-pixels 80', (9, 9), 'a.bmp: 9 x 9 are 81 pixels, expected at most 80 .*--max-pixels')])
def test_refused_before_the_work(tmp_path, stub, monkeypatch, out, size, words):
    picture(size=size).save(tmp_path / 'a.bmp')
    monkeypatch.setattr(denoise, 'denoise', None)
    monkeypatch.chdir(tmp_path)
    with refused(words):
        run('a.bmp', *out.split())
    assert os.listdir() == ['a.bmp']


@pytest.mark.parametrize('blurs, strength, side, warns', [
    (False, 20, 64, False), (True, 60, 64, True), (True, 3, 64, False), (True, 60, 20, False), (False, 0, 64, False)],
    ids=['white', 'correlated', 'hardly changed', 'too small to tell', 'nothing'])
def test_what_is_no_noise_of_single_pixels(tmp_path, weights, monkeypatch, capsys, blurs, strength, side, warns):
    """Is warned of, unless the weights are the user's own, which may be trained for it."""
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    removed = strength * (torch.nn.functional.avg_pool2d(noise, 3, 1, 1) if blurs else noise)[..., :side]
    monkeypatch.setattr(denoise, 'load', lambda *arguments: None)
    monkeypatch.setattr(denoise, 'denoise', lambda image, *others: (image, image, removed))
    picture().save(tmp_path / 'a.png')
    own, copied = tmp_path / 'own.pth', shutil.copy(weights, tmp_path / 'copied.pth')
    own.write_bytes(weights.read_bytes() + b'1')
    for options, shipped in (((), True), (('--weights', copied), True), (('--weights', own), False)):
        assert run(tmp_path / 'a.png', '--force', *options) == 0
        assert ('warning: what was removed' in capsys.readouterr().err) == (warns and shipped)
    assert denoise.fineness(noise) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize('high, options, says', [(4095, (), True), (65535, (), False), (4095, (0, 4095), False)])
def test_twelve_bits_in_sixteen(tmp_path, stub, capsys, high, options, says):
    numpy.save(tmp_path / 'a.npy', numpy.uint16([[0, high]]))
    assert run(tmp_path / 'a.npy', *[['--range', *options], []][not options]) == 0
    assert ('a.npy: values up to 4095, taken as of 0 to 65535' in capsys.readouterr().err) == says


def test_a_thumbnail_in_exif_is_dropped(tmp_path, stub):
    """It shows the noisy image."""
    content = io.BytesIO()
    picture().save(content, 'JPEG')
    thumbnail = content.getvalue()
    tags = (struct.pack('<HHHI4sI', 1, 0x0132, 2, 4, b'now', 26) +                          # the date; then its place
            struct.pack('<HHHIIHHIII', 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0))
    result = denoised(tmp_path, picture(), source='a.jpg', out='b.jpg',
                      exif=b'Exif\0\0II*\0' + struct.pack('<I', 8) + tags + thumbnail)
    assert read(tmp_path / 'a.jpg').getexif().get_ifd(ExifTags.IFD.IFD1)[0x0202] == len(thumbnail)
    assert thumbnail in (tmp_path / 'a.jpg').read_bytes() and thumbnail not in (tmp_path / 'b.jpg').read_bytes()
    assert result.getexif()[0x0132] == 'now' and not result.getexif().get_ifd(ExifTags.IFD.IFD1)


def test_weights(tmp_path):
    denoisers.new_model(2).save(tmp_path / 'other.pth')
    denoised(tmp_path, picture(), '--project', 2, '--weights', tmp_path / 'other.pth')
    for name, words in (('other.pth', '.*is not a checkpoint of mini-project 1'), ('none.pth', ': No such file')):
        with refused(f'weights of project 1: .*{name}{words}'):
            run(tmp_path / 'a.png', tmp_path / 'b.png', '--weights', tmp_path / name)


# ------------------------------------------------------------------------------------ others.common.images

def values(dtype: str, *shape) -> numpy.ndarray:
    """Every value that the type has is as probable as the others; floats in 0..1."""
    generator = numpy.random.default_rng(0)
    return (generator.integers(0, numpy.iinfo(dtype).max + 1, shape, dtype) if dtype[0] == 'u' else
            generator.random(shape).astype(dtype))


@pytest.mark.parametrize('alpha', [False, True])
@pytest.mark.parametrize('shape', [(10, 13), (10, 13, 3), (1, 1), (1, 1, 3)])
@pytest.mark.parametrize('dtype, suffix', [
    *(('uint8', suffix) for suffix in ('png', 'tif', 'npy', 'bmp')), *(('uint16', suffix) for suffix in
      ('png', 'tif', 'npy')), *((f'float{n}', suffix) for n in (32, 64) for suffix in ('tif', 'npy'))])
def test_depths_go_and_come_back(tmp_path, dtype, suffix, shape, alpha):
    kept, path = {'dpi': (300, 150), 'icc_profile': b'colours' * 40}, tmp_path / f'a.{suffix}'
    image = images.Picture(values(dtype, *shape), values(dtype, *shape[:2]) if alpha else None, kept)
    if alpha and suffix in ('npy', 'bmp'):
        with refused(f'a.{suffix} cannot hold {dtype} .* transparency, expected'):
            images.check(path, image)
        return
    images.check(path, image)
    images.write(path, image)
    again = images.read(path, max_pixels=math.prod(shape[:2]))
    with refused(f'{path.name}: .* pixels, expected at most .*--max-pixels'):
        images.read(path, max_pixels=math.prod(shape[:2]) - 1)
    assert again.values.dtype == dtype and numpy.array_equal(again.values, image.values)
    assert numpy.array_equal(again.alpha, image.alpha)
    if suffix in ('png', 'tif'):
        assert again.kept.pop('dpi') == pytest.approx((300, 150), rel=1e-4)         # whole pixels a metre
        assert again.kept == {'icc_profile': kept['icc_profile']}
    if (dtype, suffix, len(shape)) == ('uint16', 'png', 3):         # Pillow's own reader has the upper byte
        assert (numpy.asarray(read(path))[..., :3] == image.values >> 8).all()


@pytest.mark.parametrize('dtype, write, found', [
    ('uint16', dict(compression='zlib', predictor=True), 'uint16 RGB'), ('uint16', dict(byteorder='>'), 'uint16 RGB'),
    ('uint16', dict(planarconfig='separate'), 'uint16 RGB'), ('uint16', dict(tile=(16, 16)), 'uint16 RGB'),
    ('float16', {}, 'float16 RGB'), ('>f4', {}, 'float32 RGB'), ('int16', {}, None), ('uint32', {}, None)])
@pytest.mark.parametrize('stack', [1, 2])
def test_tiff_of_others(tmp_path, dtype, write, found, stack, capsys):
    """The first image of a stack."""
    pixels, path = (values('uint16', 10, 13, 3) >> 1).astype(dtype), tmp_path / 'a.tif'
    laid = numpy.moveaxis(pixels, 2, 0) if 'planarconfig' in write else pixels
    tifffile.imwrite(path, numpy.stack([laid, laid + 1])[:stack].squeeze(), photometric='rgb', **write)
    if found:
        image = images.read(path)
        assert images.outline(image) == found and (image.values == pixels).all()
    else:
        with refused(f'{path}: .*type {dtype}, expected'):
            images.read(path)
    assert capsys.readouterr().err == ('' if stack == 1 else f'{path}: 2 images, the first is taken\n')


def test_an_array_from_python_gives_what_its_file_does(stub, tmp_path):
    for array in (numpy.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=numpy.uint16),
                  numpy.random.default_rng(0).random((9, 7), dtype=numpy.float32)):
        numpy.save(tmp_path / 'a.npy', array)
        run(tmp_path / 'a.npy', tmp_path / 'b.npy', '--force', '--strength', '0.5', '--range', '0', '70000')
        ours = denoise.denoise_image(array, strength=0.5, range=(0, 70000))
        assert ours.dtype == array.dtype and (ours == numpy.load(tmp_path / 'b.npy')).all()
