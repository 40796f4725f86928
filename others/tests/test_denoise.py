"""`others.denoise` against Model.predict on the bare pixels, for all the kinds of image files."""
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

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
    image.save(tmp_path / 'a.png')
    run(tmp_path / 'a.png')
    result = read(tmp_path / 'a_denoised.png')
    assert result.mode == 'RGBA'
    assert same(result.getchannel('A'), image.getchannel('A'))
    assert same(result.convert('RGB'), expected(image, weights))


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


def test_colour_profile(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    picture().save(tmp_path / 'a.png', icc_profile=profile)
    run(tmp_path / 'a.png')
    assert read(tmp_path / 'a_denoised.png').info['icc_profile'] == profile
    picture('CMYK').save(tmp_path / 'b.tif', icc_profile=profile)
    run(tmp_path / 'b.tif')
    result = read(tmp_path / 'b_denoised.png')
    assert result.mode == 'RGB' and 'icc_profile' not in result.info


def test_other_formats(tmp_path):
    picture().save(tmp_path / 'a.bmp')
    for name in ('b.jpg', 'c.webp', 'd.tif'):
        assert run(tmp_path / 'a.bmp', tmp_path / 'new' / name) == 0
        assert read(tmp_path / 'new' / name).size == (13, 10)


def test_folder(tmp_path, weights, capsys):
    folder = tmp_path / 'in'
    (folder / 'below').mkdir(parents=True)
    picture().save(folder / 'a.png')
    picture('L').save(folder / 'b.JPG')
    picture().save(folder / 'below' / 'c.png')
    (folder / 'broken.png').write_bytes((folder / 'a.png').read_bytes()[:200])
    (folder / 'text.jpeg').write_text('text')
    (folder / 'notes.txt').write_text('text')
    Image.new('I;16', (5, 5)).save(folder / 'deep.png')
    assert run(folder) == 1
    refused = capsys.readouterr().err.splitlines()
    assert len(refused) == 3
    assert all(line.startswith(f'skipped {folder / name}: ')
               for line, name in zip(refused, ('broken.png', 'deep.png', 'text.jpeg')))
    out = tmp_path / 'in_denoised'
    assert sorted(path.name for path in out.iterdir()) == ['a.png', 'b.png']
    assert same(read(out / 'a.png'), expected(picture(), weights))
    assert read(out / 'b.png').mode == 'L'


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
    ('twins', 'new', 'IN: .*would both give .*a.png'),
])
def test_mistakes(tmp_path, source, out, words):
    picture().save(tmp_path / 'a.png')
    picture('RGBA').save(tmp_path / 'alpha.png')
    Image.new('I;16', (5, 5)).save(tmp_path / 'deep.png')
    (tmp_path / 'text.png').write_text('text')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'twins').mkdir()
    for name in ('a.png', 'a.bmp'):
        picture().save(tmp_path / 'twins' / name)
    with pytest.raises(cli.UserError, match=words):
        run(tmp_path / source, tmp_path / out)
    assert not (tmp_path / out).exists()


def test_weights(tmp_path):
    picture().save(tmp_path / 'a.png')
    torch.manual_seed(1)
    cli.new_model(2).save(tmp_path / 'other.pth')
    assert run(tmp_path / 'a.png', '--project', 2, '--weights', tmp_path / 'other.pth') == 0
    for path in (tmp_path / 'other.pth', tmp_path / 'none.pth'):
        with pytest.raises(cli.UserError, match=f'weights of project 1: .*{path.name}'):
            run(tmp_path / 'a.png', tmp_path / 'b.png', '--weights', path)
