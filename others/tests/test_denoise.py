"""`others.denoise` against Model.predict on the bare pixels, for all the kinds of image files."""
import os
import re

import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from skimage.io import imsave

from others import cli, denoise


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Untrained weights, which change every image."""
    path = tmp_path_factory.mktemp('weights') / 'weights.pth'
    torch.manual_seed(0)
    cli.new_model(1).save(path)
    return path


@pytest.fixture(autouse=True)
def shipped(weights, monkeypatch):
    monkeypatch.setattr(cli, 'checkpoint', lambda project: weights)


def picture(mode: str = 'RGB', size: tuple = (13, 10)) -> Image.Image:
    """Noise in all channels."""
    generator = torch.Generator().manual_seed(0)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = torch.randint(256, (size[0] * size[1] * channels,), generator=generator).byte()
    return Image.frombytes(mode, size, bytes(pixels.tolist()))


def expected(image: Image.Image, weights, ensemble: bool = True) -> Image.Image:
    """The image as RGB through predict, pixel by pixel."""
    image = image.convert('RGB')
    W, H = image.size
    pixels = torch.tensor([[image.getpixel((x, y)) for x in range(W)] for y in range(H)])
    output = cli.trained_model(1, weights).predict(pixels.permute(2, 0, 1)[None].float(), ensemble=ensemble)
    result = Image.new('RGB', (W, H))
    for y in range(H):
        for x in range(W):
            result.putpixel((x, y), tuple(int(v) for v in output[0, :, y, x].round()))
    return result


def run(*arguments) -> int:
    return denoise.main([str(argument) for argument in arguments])


def read(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def same(a: Image.Image, b: Image.Image) -> bool:
    return (a.mode, a.size, a.tobytes()) == (b.mode, b.size, b.tobytes())


@pytest.mark.parametrize('size', [(13, 10), (1, 1), (3, 40)])
def test_colours(tmp_path, weights, size, capsys):
    picture(size=size).save(tmp_path / 'a.png')
    assert run(tmp_path / 'a.png') == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a_denoised.png'}\n"
    assert same(read(tmp_path / 'a_denoised.png'), expected(picture(size=size), weights))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'a_denoised.png']


def test_no_ensemble(tmp_path, weights):
    picture().save(tmp_path / 'a.png')
    assert run(tmp_path / 'a.png', tmp_path / 'b.png', '--no-ensemble') == 0
    assert same(read(tmp_path / 'b.png'), expected(picture(), weights, ensemble=False))
    assert not same(read(tmp_path / 'b.png'), expected(picture(), weights))


def test_alpha_is_kept(tmp_path, weights):
    image = picture('RGBA')
    image.putalpha(image.getchannel('A').point(lambda alpha: max(alpha, 1)))
    image.save(tmp_path / 'a.png')
    run(tmp_path / 'a.png')
    result = read(tmp_path / 'a_denoised.png')
    assert result.mode == 'RGBA'
    assert same(result.getchannel('A'), image.getchannel('A'))
    assert same(result.convert('RGB'), expected(image, weights))


def test_no_colour_spreads_from_under_transparent_pixels(tmp_path, weights):
    flat = Image.new('RGB', (13, 10), (200, 30, 90))
    alpha = Image.new('L', flat.size)
    alpha.paste(255, (0, 0, 7, 10))
    hidden = picture()
    hidden.paste(flat, mask=alpha)
    hidden.putalpha(alpha)
    hidden.save(tmp_path / 'a.png')
    run(tmp_path / 'a.png')
    assert same(read(tmp_path / 'a_denoised.png').convert('RGB'), expected(flat, weights))
    hidden.putalpha(0)
    hidden.save(tmp_path / 'b.png')                         # nothing to see, and no mistake
    run(tmp_path / 'b.png')
    assert read(tmp_path / 'b_denoised.png').getchannel('A').getextrema() == (0, 0)


@pytest.mark.parametrize('mode', ['L', 'LA', '1'])
def test_grey_stays_grey(tmp_path, weights, mode):
    image = picture('L').convert('1') if mode == '1' else picture(mode)
    image.save(tmp_path / 'a.png')
    run(tmp_path / 'a.png')
    result = read(tmp_path / 'a_denoised.png')
    assert result.mode == ('L' if mode == '1' else mode)
    colours = expected(image, weights)
    for x in range(image.width):
        for y in range(image.height):
            mean = sum(colours.getpixel((x, y))) / 3        # of three that were rounded
            assert result.convert('L').getpixel((x, y)) == pytest.approx(mean, abs=1)
    if mode == 'LA':
        assert same(result.getchannel('A'), image.getchannel('A'))


def test_grey_in_colours_stays_grey(tmp_path):
    picture('L').convert('RGB').save(tmp_path / 'a.png')
    run(tmp_path / 'a.png')
    red, green, blue = read(tmp_path / 'a_denoised.png').split()
    assert same(red, green) and same(green, blue)


def test_transparent_palette(tmp_path):
    image = picture('RGB').quantize(8)
    image.save(tmp_path / 'a.png', transparency=0)
    run(tmp_path / 'a.png')
    result = read(tmp_path / 'a_denoised.png')
    assert result.mode == 'RGBA'
    for i, alpha in zip(image.tobytes(), result.getchannel('A').tobytes()):
        assert alpha == (0 if i == 0 else 255)


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_orientation(tmp_path, weights, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / 'a.png', exif=exif)
    run(tmp_path / 'a.png')
    result = read(tmp_path / 'a_denoised.png')
    turned = picture().rotate({3: 180, 6: 270, 8: 90}[orientation], expand=True)
    assert same(result, expected(turned, weights))
    assert same(result, ImageOps.exif_transpose(result))    # nobody turns it once more


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'webp'])
def test_resolution_profile_and_exif_are_kept(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x010F] = 'a maker'
    kept = {'dpi': (300, 300), 'exif': exif.tobytes(),
            'icc_profile': ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()}
    picture().save(tmp_path / 'a.jpg', **kept)
    assert run(tmp_path / 'a.jpg', tmp_path / f'b.{suffix}') == 0
    result = read(tmp_path / f'b.{suffix}')
    assert result.info['icc_profile'] == kept['icc_profile'] and result.getexif()[0x010F] == 'a maker'
    if suffix != 'webp':                                    # which has no resolution
        assert result.info['dpi'] == pytest.approx((300, 300), rel=1e-4)
    picture('CMYK').save(tmp_path / 'c.jpg', **kept)
    run(tmp_path / 'c.jpg', tmp_path / f'd.{suffix}')
    assert read(tmp_path / f'd.{suffix}').mode == 'RGB'     # of inks no more, and so without their profile
    assert 'icc_profile' not in read(tmp_path / f'd.{suffix}').info


def test_other_formats(tmp_path):
    picture().save(tmp_path / 'a.bmp')
    for name in ('b.jpg', 'c.webp', 'd.tif'):
        assert run(tmp_path / 'a.bmp', tmp_path / 'new' / name) == 0
        assert read(tmp_path / 'new' / name).size == (13, 10)


@pytest.fixture
def mixed(tmp_path):
    """A folder of all that goes wrong in folders, and of what goes well."""
    folder = tmp_path / 'in'
    (folder / 'below').mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = (torch.rand(10, 13, 3) * 65535).numpy().astype('uint16')
    picture().save(folder / 'a.png')
    picture('L').save(folder / 'b.JPG')
    picture('RGBA').save(folder / 'alpha.png')
    picture().save(folder / 'below' / 'c.png')
    (folder / 'broken.png').write_bytes((folder / 'a.png').read_bytes()[:200])
    imsave(folder / 'deep.tif', deep, check_contrast=False)
    imsave(folder / 'deep_grey.png', deep[..., 0], check_contrast=False)
    picture().save(folder / 'moving.gif', save_all=True, append_images=[Image.new('RGB', (13, 10))])
    (folder / 'notes.txt').write_text('text')
    picture().save(folder / 'same.png')
    picture().save(folder / 'Same.bmp')
    picture().save(folder / 'same.png.bmp')                 # same.png.png, too, if names were only lengthened
    (folder / 'text.jpeg').write_text('text')
    picture(size=(5, 5)).save(folder / 'tiny.bmp')
    picture().save(folder / 'turned.jpg', exif=turned)
    return folder


def test_folder(mixed, weights, capsys):
    """Each file is denoised, or named with a reason."""
    said = {'broken.png': 'skipped .*', 'deep.tif': '.*16 bits.*8', 'deep_grey.png': 'skipped .*more than 8 bits',
            'moving.gif': '.*2 images, the first', 'notes.txt': 'left out .*', 'text.jpeg': 'skipped .*'}
    assert run(mixed) == 1
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == len(said)
    for name, words in said.items():
        reason, = [line for line in err.splitlines() if str(mixed / name) in line]
        assert re.match(words, reason)
    made = {'a.png': (13, 10), 'alpha.png': (13, 10), 'b.png': (13, 10), 'deep.png': (13, 10), 'moving.png': (13, 10),
            'same.png.png': (13, 10), 'Same.bmp.png': (13, 10), 'same.png.bmp.png': (13, 10), 'tiny.png': (5, 5),
            'turned.png': (10, 13)}
    results = {path.name: read(path) for path in mixed.with_name('in_denoised').iterdir()}
    assert {name: image.size for name, image in results.items()} == made
    assert sorted(out.splitlines()) == sorted(str(mixed.with_name('in_denoised') / name) for name in made)
    assert same(results['a.png'], expected(picture(), weights))
    assert results['b.png'].mode == 'L'


def test_a_folder_goes_on_where_it_was_interrupted(mixed, capsys, monkeypatch):
    def interrupted(image, *rest):
        if image.size == (5, 5):
            raise KeyboardInterrupt
        return image

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(denoise, 'denoise', interrupted)
        run(mixed)
    out = mixed.with_name('in_denoised')
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    os.utime(mixed / 'a.png')                               # has changed since
    os.utime(out / 'a.png', (0, 0))
    capsys.readouterr()
    assert run(mixed) == 1
    done, said = capsys.readouterr()
    assert len(before) == 8 and {path.name for path in out.iterdir()} == {*before, 'tiny.png', 'turned.png'}
    assert done.splitlines() == [str(out / 'tiny.png'), str(out / 'turned.png')]
    assert all((out / name).read_bytes() == content for name, content in before.items())
    assert said.count('done before: ') == 7 and f'skipped OUT: {out / "a.png"} exists' in said
    run(mixed, '--force')
    assert all((out / name).read_bytes() != content for name, content in before.items())


@pytest.mark.parametrize('project', [1, 2])
def test_progress_and_seams_of_tiles(project):
    model, done = cli.new_model(project), []
    images = torch.rand(2, 3, 150, 70) * 255
    whole = model.predict(images, ensemble=False, progress=done.append)
    assert done == [2]
    model.PIXELS = 64 ** 2
    tiled = model.predict(images, ensemble=False, progress=done.append)
    assert done[1:] == pytest.approx([1 / 6] * 12)
    assert torch.allclose(tiled, whole, atol=0.5)           # products in bfloat16


def test_the_bar_follows_the_tiles_and_threads_are_set(tmp_path, monkeypatch):
    seen, threads = [], torch.get_num_threads()
    monkeypatch.setattr(denoise.tqdm, 'update', lambda bar, n: seen.append((n, torch.get_num_threads())))
    monkeypatch.setattr(type(cli.new_model(1)), 'PIXELS', 64 ** 2)
    picture(size=(100, 60)).save(tmp_path / 'a.png')
    run(tmp_path / 'a.png', '--threads', 3)
    assert seen == [(0, 3), (0.5, 3), (0.5, 3)] and torch.get_num_threads() == threads


def test_nothing_is_replaced_without_force(tmp_path, weights):
    picture().save(tmp_path / 'a.png')
    (tmp_path / 'a_denoised.png').write_text('mine')
    with pytest.raises(cli.UserError, match='OUT: .*a_denoised.png exists'):
        run(tmp_path / 'a.png')
    with pytest.raises(cli.UserError, match='OUT: .*a.png exists'):
        run(tmp_path / 'a.png', tmp_path / 'a.png')
    assert (tmp_path / 'a_denoised.png').read_text() == 'mine'
    assert run(tmp_path / 'a.png', '--force') == 0
    assert same(read(tmp_path / 'a_denoised.png'), expected(picture(), weights))


@pytest.mark.parametrize('source, out, words', [
    ('none.png', 'new.png', 'IN: there is no'),
    ('a.png', 'new.xyz', 'OUT: .*new.xyz'),
    ('a.png', 'new', 'OUT: .*new'),
    ('alpha.png', 'new.jpg', 'OUT: .*RGBA'),
    ('deep.png', 'new.png', 'more than 8 bits'),
    ('text.png', 'new.png', 'text.png'),
    ('empty', 'new', 'IN: .*empty holds no images'),
    ('a.png', 'empty', 'OUT: .*empty is a folder, expected a file, .*empty/a.png'),
    ('some', 'a.png', 'OUT: .*a.png is a file, expected a folder'),
    ('some', 'some', 'OUT: .*some is IN, expected a folder of its own'),
])
def test_mistakes(tmp_path, source, out, words):
    picture().save(tmp_path / 'a.png')
    picture('RGBA').save(tmp_path / 'alpha.png')
    Image.new('I;16', (5, 5)).save(tmp_path / 'deep.png')
    (tmp_path / 'text.png').write_text('text')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'some').mkdir()
    picture().save(tmp_path / 'some' / 'a.bmp')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(cli.UserError, match=words):
        run(tmp_path / source, tmp_path / out)
    assert sorted(tmp_path.rglob('*')) == before


def test_weights(tmp_path):
    picture().save(tmp_path / 'a.png')
    torch.manual_seed(1)
    cli.new_model(2).save(tmp_path / 'other.pth')
    assert run(tmp_path / 'a.png', '--project', 2, '--weights', tmp_path / 'other.pth') == 0
    for name, words in (('other.pth', '.*it is one of mini-project 2'), ('none.pth', ': No such file')):
        with pytest.raises(cli.UserError, match=f'weights of project 1: .*{name}{words}'):
            run(tmp_path / 'a.png', tmp_path / 'b.png', '--weights', tmp_path / name)
