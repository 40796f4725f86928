"""The data tools: the noise against closed forms, the sets against photographs of known colours."""
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, unfold

from others import data
from others.common import noise, storage
from others.common.dead_leaves import fractal_noise, topmost
from others.common.metrics import load_pairs, psnr, psnr_bound
from others.tests.conftest import images

SIGMAS = 4              # a correct sampler fails a check with a probability of 1 in 16,000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------- the noise

@pytest.mark.parametrize('b', [1, 2, 7, 16])
def test_noisy_pixels_are_pixels_of_their_block_and_clean_ones_its_rounded_mean(b):
    """All three channels of one pixel."""
    square = images(3, 32 * b, 32 * b)
    blocks = unfold(square[None].float(), b, stride=b).view(3, b * b, 32 * 32)
    *noisy, clean = data.point_sample(square, seeded())
    assert {image.dtype for image in (*noisy, clean)} == {torch.uint8}
    assert torch.equal(clean.float(), avg_pool2d(square[None].double(), b)[0].round().float())
    assert len(noisy) == 2 and all((blocks == image.view(3, 1, 32 * 32)).all(0).any(0).all() for image in noisy)


def test_the_noise_is_unbiased_and_independent_of_version_and_neighbour():
    b, draws = 4, 256
    square, generator = images(3, 32 * b, 32 * b), seeded()
    blocks = unfold(square[None].double(), b, stride=b).view(3, b * b, 32, 32)
    mean, std = blocks.mean(1), blocks.std(1, unbiased=False)
    # The residuals in standard deviations, of one channel: independent, mean 0, variance 1.
    first, second = (torch.stack([(image - mean)[0] / std[0] for image in version]) for version in
                     zip(*(data.point_sample(square, generator)[:2] for _ in range(draws))))
    samples = first.numel()
    for residual in first, second:
        assert abs(residual.mean()) < SIGMAS / samples ** 0.5
        # 2 is the variance of a squared normal residual; here it is smaller, values being uniform.
        assert abs(residual.square().mean() - 1) < SIGMAS * (2 / samples) ** 0.5
        errors = residual.mean(0) * draws ** 0.5            # of each pixel: normal by now
        assert abs(errors.square().mean() - 1) < SIGMAS * (2 / errors.numel()) ** 0.5
    for one, other in ((first, second), (first[:, 1:], first[:, :-1]),
                       (first[..., 1:], first[..., :-1]), (first[1:], first[:-1])):
        assert abs((one * other).mean()) < SIGMAS / one.numel() ** 0.5


@pytest.mark.parametrize('H, W, sides', [(300, 400, {224, 256, 288}), (330, 256, {224, 256}),
                                         (100, 200, {96}), (64, 64, {64})])
def test_random_squares_have_every_allowed_side_and_position(H, W, sides):
    coordinates = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij'))
    generator, seen, corners = seeded(), set(), []
    for _ in range(500):
        square = data.random_square(coordinates, generator)
        side = square.shape[1]
        top, left = square[:, 0, 0].tolist()
        assert torch.equal(square, coordinates[:, top:top + side, left:left + side])
        assert square.shape[2] == side
        seen.add(side)
        corners.append((top / max(1, H - side), left / max(1, W - side)))
    assert seen == sides
    for places, room in zip(zip(*corners), (H - min(sides), W - min(sides))):
        assert min(places) < 0.1 and (max(places) > 0.9 or room == 0)


def test_centre_square_is_the_largest_in_the_middle():
    photo = torch.arange(70 * 101).view(1, 70, 101)
    assert torch.equal(data.centre_square(photo), photo[:, 3:67, 18:82])


# -------------------------------------------------------------------------------------- photographs

def colour_of(i: int) -> tuple:
    return 10 * i, 255 - 10 * i, 7 * i


def colours_in(images: torch.Tensor) -> list:
    """The colour of each image, all of whose pixels must be the same."""
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    return [tuple(colour) for colour in images[:, :, 0, 0].tolist()]


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 photographs, each of one colour of its own, and one folder deeper in it."""
    folder = tmp_path / 'photos'
    (folder / 'deeper').mkdir(parents=True)
    for i in range(20):
        name = f'{i:02}.PNG' if i % 2 else f'deeper/{i:02}.bmp'
        Image.new('RGB', (64 + 20 * i, 300 - i), colour_of(i)).save(folder / name)
    return folder


def make(command: str, *arguments) -> None:
    assert data.main([command, *map(str, arguments)]) == 0


def sets_in(folder: Path) -> list:
    return [*load_pairs(folder / 'train_data.pkl'), *load_pairs(folder / 'val_data.pkl')]


def contents(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_no_photograph_gives_both_training_and_validation_pairs(photos, tmp_path, capsys):
    make('photos', photos, '--out', tmp_path / 'out', '--train', 54, '--val', 9)
    first, second, noisy, clean = sets_in(tmp_path / 'out')
    assert first.shape == (54, 3, 32, 32) and noisy.shape == (9, 3, 32, 32)
    training, validation = colours_in(first), colours_in(clean)
    assert training == colours_in(second) and validation == colours_in(noisy)
    assert len(set(validation)) == 2                            # a tenth of the 20
    assert set(training) | set(validation) == {colour_of(i) for i in range(20)}
    assert not set(training) & set(validation)
    assert {training.count(colour) for colour in training} == {3}
    assert {validation.count(colour) for colour in validation} == {4, 5}
    changes = sum(map(tuple.__ne__, training, training[1:]))
    assert changes > 30                                         # 17 if not in random order
    out, err = capsys.readouterr()
    assert out.strip() == f'{tmp_path / "out"}: 54 training and 9 validation pairs, ' \
                          f'noisy against clean {psnr_bound(noisy):.2f} dB'
    assert [line.split(',')[0] for line in err.splitlines()] == [
        'checking photographs: 20 of 20', 'validation pairs: 9 of 9', 'training pairs: 54 of 54']


def test_centre_takes_the_same_photographs_for_validation(photos, tmp_path):
    make('photos', photos, '--out', tmp_path / 'set', '--train', 18, '--val', 9)
    make('centre', photos, '--out', tmp_path / 'centre.pkl', '--pairs', 5)
    make('centre', photos, '--out', tmp_path / 'seen.pkl', '--pairs', 18, '--seen')
    first, _, _, clean = sets_in(tmp_path / 'set')
    noisy, centre = load_pairs(tmp_path / 'centre.pkl')
    assert colours_in(noisy) == colours_in(centre)
    assert sorted(map(colours_in(centre).count, set(colours_in(clean)))) == [2, 3]
    assert set(colours_in(load_pairs(tmp_path / 'seen.pkl')[1])) == set(colours_in(first))
    with pytest.raises(storage.UserError, match='exists'):
        make('centre', photos, '--out', tmp_path / 'seen.pkl')


def test_fewer_pairs_than_photographs_and_two_photographs(photos, tmp_path):
    make('photos', photos, '--out', tmp_path / 'few', '--train', 1, '--val', 1)
    for path in sorted(photos.rglob('*.*'))[2:]:
        path.unlink()
    make('photos', photos, '--out', tmp_path / 'two', '--train', 4, '--val', 4)
    first, _, noisy, _ = sets_in(tmp_path / 'two')
    assert len(set(colours_in(first) + colours_in(noisy))) == 2
    assert len(set(colours_in(first))) == len(set(colours_in(noisy))) == 1


@pytest.mark.parametrize('mode, suffix, colour, expected', [
    ('L', 'tif', 77, [77] * 3), ('CMYK', 'tif', (0, 255, 255, 0), [255, 0, 0]), ('P', 'tif', 0, [1, 2, 3]),
    ('RGBA', 'tif', (9, 8, 7, 100), [9, 8, 7]), ('I;16', 'tif', 77 * 257, [77] * 3), ('L', 'ppm', 77, [77] * 3),
    ('I;16', 'ppm', 77 * 257, [77] * 3), ('RGB', 'ppm', (9, 8, 7), [9, 8, 7])])
def test_photographs_of_other_kinds_become_colours(tmp_path, mode, suffix, colour, expected):
    image = Image.new(mode, (70, 65), colour)
    if mode == 'P':
        image.putpalette([1, 2, 3] * 256)
    image.save(tmp_path / f'photo.{suffix}')
    photo = data.read_photo(tmp_path / f'photo.{suffix}')
    assert photo.shape == (3, 65, 70) and photo.dtype is torch.uint8
    assert photo.flatten(1).T.unique(dim=0).tolist() == [expected]


def test_unusable_photographs_are_named_and_the_rest_goes_on(photos, tmp_path, capsys):
    sizes = '--train', 20, '--val', 2
    make('photos', photos, '--out', tmp_path / 'before', *sizes)
    (photos / '00.jpg').write_text('no picture')
    (photos / 'empty.webp').touch()
    (photos / 'notes.txt').write_text('no picture, and not said to be one')
    Image.new('RGB', (63, 500)).save(photos / 'small.jpeg')
    Image.new('F', (99, 99), 40000).save(photos / 'deep.tif')
    (photos / 'huge.ppm').write_bytes(b'P4 20000 20000\n')
    (photos / 'lossy.ppm').write_bytes(b'P6 70 65 65535\n' + bytes(70 * 65 * 6))
    Image.fromarray(images(99, 99, 3).numpy()).save(photos / 'cut.jpg')
    (photos / 'cut.jpg').write_bytes((photos / 'cut.jpg').read_bytes()[:2000])
    capsys.readouterr()
    make('photos', photos, '--out', tmp_path / 'after', *sizes)
    assert contents(tmp_path / 'before') == contents(tmp_path / 'after')
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith('skipped')]
    reasons = {'00.jpg': 'cannot identify', 'cut.jpg': 'truncated', 'deep.tif': 'floating point',
               'empty.webp': 'cannot identify', 'huge.ppm': '400,000,000 pixels, expected at most',
               'lossy.ppm': '16 bits a channel, expected PNG or TIFF', 'small.jpeg': '63 x 500 pixels, expected'}
    assert len(skipped) == len(reasons)
    for line, (name, reason) in zip(skipped, reasons.items()):
        assert line.startswith(f'skipped {photos / name}: ') and reason in line


def test_linked_folders_are_searched_and_each_photograph_is_taken_once(photos, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    (elsewhere / 'below').mkdir(parents=True)
    Image.new('RGB', (64, 64)).save(elsewhere / 'below' / 'linked.png')
    before = data.pictures_below(photos)[0]
    for link, target in (('a', elsewhere), ('again', elsewhere / 'below'), ('loop', photos), ('loop 2', photos),
                         ('self', photos / 'self'), ('copy', photos / 'deeper'), ('nowhere', tmp_path / 'missing')):
        (photos / link).symlink_to(target, target_is_directory=True)
    (photos / '21.png').symlink_to(photos / '01.PNG')
    paths, refused = data.pictures_below(photos)
    assert paths == sorted(paths) and refused == [] and len(paths) == len(before) + 1
    new, = set(paths) - set(before)
    assert new.name == 'linked.png'
    with pytest.raises(storage.UserError, match='holds 1 usable'):
        data.usable_photos(photos / 'again')


@pytest.mark.parametrize('folders, same, asks', [
    (('A', 'B'), True, True), (('A', 'B', 'clean'), True, True), (('1', 'deeper/2'), True, True),
    (('A', 'B'), False, False), (('A',), True, False)])
def test_folders_of_shots_are_not_taken_for_photographs(tmp_path, folders, same, asks):
    """Files of the same names that show the same; cameras give the same names, too."""
    for k, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(3):
            scene = images(3, 8, 8, seed=i + (0 if same else 10 * k))[None].float()
            noisy = torch.nn.functional.interpolate(scene, scale_factor=8)[0] + 40 * torch.randn(
                3, 64, 64, generator=seeded(100 + 10 * k + i))
            Image.fromarray(noise.to_bytes(noisy).permute(1, 2, 0).numpy()).save(tmp_path / folder / f'{i}.png')
    if asks:
        first, second = (tmp_path / folder for folder in folders[:2])
        with pytest.raises(storage.UserError, match=f'FOLDER: {first} and .*data pairs {first} {second}'):
            data.usable_photos(tmp_path)
    else:
        assert len(data.usable_photos(tmp_path)) == 3 * len(folders)


# ------------------------------------------------------------------------------------- other noise

def test_a_share_of_0_gives_the_pairs_of_before_and_1_nothing_but_other_noise(monkeypatch):
    photo, generator = images(3, 230, 300), seeded()

    def pairs(n: int, share: float) -> tuple:
        return data.make_pairs([0], n, 'pairs', lambda _: photo, seeded(), share)

    order = torch.randperm(9, generator=generator)
    expected = zip(*(data.point_sample(data.random_square(photo, generator), generator) for _ in order))
    assert all(torch.equal(made[order], torch.stack(one)) for made, one in zip(pairs(9, 0.), expected))
    course = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(data, 'point_sample', lambda square, generator: course)
    monkeypatch.setattr(data, 'other_sample', lambda photo, generator: course + 1)
    for share in 0., 0.25, 1.:
        other = int(pairs(400, share)[0][:, 0, 0, 0].sum())
        assert abs(other - 400 * share) <= SIGMAS * math.sqrt(400 * share * (1 - share))


def test_the_kinds_of_other_noise_are_equally_frequent_and_their_strengths_in_their_ranges(monkeypatch):
    drawn = {'blocks': [], 'gaussian_noise': [], 'correlated_noise': [], 'poisson_noise': [], 'jpeg': []}
    square = images(3, 32, 32)
    monkeypatch.setattr(data, 'random_square', lambda photo, generator, blocks=None:
                        blocks and drawn['blocks'].append([blocks]) or square)
    for kind in list(drawn)[1:]:
        monkeypatch.setattr(noise, kind, lambda clean, *strengths, kind=kind: drawn[kind].append(strengths) or clean)
    generator, n = seeded(), 600
    for _ in range(n):
        data.other_sample(images(3, 64, 160), generator)
    assert {blocks for blocks, in drawn.pop('blocks')} == {(2, 2)}          # 64 pixels hold no larger ones
    assert drawn['correlated_noise'][::2] == drawn['correlated_noise'][1::2]         # both shots are as noisy
    sigmas, photons = (list(zip(*drawn[kind]))[0] for kind in ('gaussian_noise', 'poisson_noise'))
    wide, reaches, _ = zip(*drawn['correlated_noise'])
    qualities, corners = zip(*drawn['jpeg'])
    assert sorted(set(sum(corners, ()))) == list(range(16)) and corners[::2] != corners[1::2]
    for strengths, low, middle, high in ((sigmas, 0, 12.5, 50), (wide, 0, 12.5, 50), (photons, 8, 126.5, 2000),
                                         (reaches, 0.4, 1.2, 2), (qualities, 20, 57.5, 95)):
        strengths = strengths[::2]
        assert abs(len(strengths) - n / 6) < SIGMAS * math.sqrt(n * 5 / 36)
        assert low <= min(strengths) and max(strengths) <= high
        above = sum(strength > middle for strength in strengths)
        assert abs(above - len(strengths) / 2) < SIGMAS * math.sqrt(len(strengths) / 4)


def test_two_shots_with_other_noise_share_their_clean_image_and_nothing_else(monkeypatch):
    """But for JPEG, whose error is of the image."""
    monkeypatch.setattr(noise, 'jpeg', lambda clean, *_: clean)
    photo, generator = images(3, 230, 230, low=60, high=196), seeded()
    for _ in range(40):
        first, second, clean = data.other_sample(photo, generator)
        assert {image.dtype for image in (first, second, clean)} == {torch.uint8}
        a, b = ((image.double() - clean)[0] for image in (first, second))
        if torch.equal(first, second):
            assert not a.any()
            continue
        n = a.numel() ** 0.5 / 4        # pixels that are independent, though a blur of 2 correlates their noise
        assert abs((a * b).mean()) < 5 * (a * b).std() / n          # of 30 such draws, each
        # Of strong noise, clipping moves the mean.
        assert max(abs(x.mean()) / x.std() for x in (a, b)) < 5 / n or a.std() > 40


def test_validation_keeps_the_noise_of_the_course(tmp_path):
    for i in range(3):
        Image.fromarray(images(99, 99, 3, seed=i).numpy()).save(tmp_path / f'{i}.png')
    sets = []
    for share in '0', '1':
        make('photos', tmp_path, '--out', tmp_path / share, '--train', 8, '--val', 3, '--other-noise', share)
        sets.append(sets_in(tmp_path / share))
    same = [torch.equal(one, other) for one, other in zip(*sets)]
    assert same == [False, False, True, True]


@pytest.mark.parametrize('share', ['-0.1', '1.01', 'nan', 'half', '10%'])
def test_a_share_that_is_none_is_refused(share, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        data.main(['photos', str(tmp_path), '--other-noise', share])
    assert exit.value.code == 2 and '--other-noise' in capsys.readouterr().err


# -------------------------------------------------------------------------------------- dead leaves

def test_the_demo_is_as_noisy_as_the_course_set(tmp_path):
    data.make_demo(tmp_path, train=1, val=200)
    first, second, noisy, clean = sets_in(tmp_path)
    assert first.shape == second.shape == (1, 3, 32, 32) and noisy.shape == (200, 3, 32, 32)
    dB = psnr(noisy, clean)
    assert abs(dB.mean() - 20.72) < 1
    assert dB.std() > 2                                         # 3.2 dB among photographs


def test_the_demo_needs_torch_alone(tmp_path):
    code = ('import sys; sys.modules["PIL"] = None; '
            f'from others.data import make_demo; make_demo({str(tmp_path)!r}, 1, 1)')
    subprocess.run([sys.executable, '-c', code], cwd=storage.ROOT, check=True)
    assert len(sets_in(tmp_path)[0]) == 1


def test_no_canvas_gives_both_training_and_validation_pairs(tmp_path, monkeypatch):
    flat = iter(range(20))
    monkeypatch.setattr(data, 'dead_leaves', lambda generator: torch.tensor(
        colour_of(next(flat)), dtype=torch.uint8).view(3, 1, 1).expand(3, 512, 512))
    data.make_demo(tmp_path, train=31, val=20)
    first, _, _, clean = sets_in(tmp_path)
    assert len(set(colours_in(clean))) == 2 and len(set(colours_in(first))) == 4
    assert not set(colours_in(first)) & set(colours_in(clean))


def test_ensure_demo_makes_it_once(tmp_path, monkeypatch):
    make_demo = data.make_demo
    monkeypatch.setattr(data, 'make_demo', lambda folder, force: make_demo(folder, 1, 1, force=force))
    folder = tmp_path / 'new' / 'demo'
    folder.mkdir(parents=True)
    (folder / 'val_data.pkl').touch()               # a making that was killed half-way
    assert data.ensure_demo(folder) == folder
    before = contents(folder)
    assert set(before) == {'train_data.pkl', 'val_data.pkl'}
    monkeypatch.setattr(data, 'make_demo', None)
    assert data.ensure_demo(folder) == folder
    assert contents(folder) == before


def test_a_leaf_has_the_area_of_its_shape_and_hides_those_before_it():
    generator, radius = seeded(), 70.
    areas = {p: 4 * math.gamma(1 + 1 / p) ** 2 / math.gamma(1 + 2 / p) * radius ** 2
             for p in (1, 2, 8)}
    centre, seen = torch.full((4,), 256.), set()
    for _ in range(20):
        leaf = topmost(centre, centre, torch.tensor([9., 9., radius, 9.]), generator)
        _, hidden, under, over = leaf.flatten().bincount(minlength=4).tolist()
        assert hidden == 0 and leaf[256, 256] == 3
        nearest = min(areas, key=lambda p: abs(areas[p] - under - over))
        assert under + over == pytest.approx(areas[nearest], rel=0.01)
        seen.add(nearest)
    assert seen == {1, 2, 8}


def test_fractal_noise_has_its_spectrum():
    noise = fractal_noise(seeded())
    assert noise.square().mean().item() == pytest.approx(1, abs=1e-5)
    power = torch.fft.fft2(noise).abs().square()
    f = torch.fft.fftfreq(512).mul(512)
    radius = (f[:, None].square() + f.square()).sqrt()
    low, high = ((radius * scale - 50).abs() < 2 for scale in (1, 0.5))
    # Power f^-3, so f^3 times power is flat; half of the modes are independent, exponential draws.
    level, other = ((power * radius ** 3)[ring].mean() for ring in (low, high))
    error = math.sqrt(2 / low.sum() + 2 / high.sum())
    assert abs(level / other - 1) < SIGMAS * error


# ------------------------------------------------------------------------------------ both commands

@pytest.fixture(params=['photos', 'demo', 'other'])
def command(request, tmp_path):
    """The beginning of a command line that makes a small set."""
    if request.param == 'demo':
        return 'demo', '--train', 5, '--val', 3
    folder = tmp_path / 'noise'
    folder.mkdir()
    for i in range(3):
        Image.fromarray(images(200, 200, 3, seed=i).numpy()).save(folder / f'{i}.png')
    return 'photos', folder, '--train', 5, '--val', 3, '--other-noise', int(request.param == 'other')


def test_the_seed_decides_everything_and_nothing_else_does(command, tmp_path):
    state = torch.get_rng_state()
    make(*command, '--out', tmp_path / 'a')
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    make(*command, '--out', tmp_path / 'b', '--seed', 0)
    make(*command, '--out', tmp_path / 'c', '--seed', 1)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
    assert not any(map(torch.equal, sets_in(tmp_path / 'a'), sets_in(tmp_path / 'c')))
    first, second, noisy, clean = sets_in(tmp_path / 'a')
    assert not torch.equal(first, second) and not torch.equal(noisy, clean)


@pytest.mark.parametrize('kept', ['train_data.pkl', 'val_data.pkl'])
def test_files_are_replaced_only_by_force(command, kept, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / kept).write_bytes(b'mine')
    with pytest.raises(storage.UserError, match=f'--out: .*{kept} exists.*--force'):
        make(*command, '--out', tmp_path / 'out')
    assert contents(tmp_path / 'out') == {kept: b'mine'}
    make(*command, '--out', tmp_path / 'out', '--force')
    assert [len(images) for images in sets_in(tmp_path / 'out')] == [5, 5, 3, 3]


def test_a_failure_leaves_the_files_as_they_were(command, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    make(*command, '--out', out)
    before = contents(out)

    def full_disk(path, content):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(storage, 'write', full_disk)
    for folder, seed in ((out, 1), (tmp_path / 'new' / 'fresh', 0)):
        with pytest.raises(OSError, match='No space left'):
            make(*command, '--out', folder, '--seed', seed, '--force')
    assert contents(out) == before
    assert not (tmp_path / 'new').exists()


# -------------------------------------------------------------------------------------- the metrics

def test_psnr_is_of_each_image_by_its_own_mean_square():
    """Of any type; where the two are identical, what half a grey level in one value gives."""
    a = images(3, 3, 32, 32)
    b = a.clone()
    b[0] = a[0].flip(0)
    b[1, 2, 3, 4] = 255 - a[1, 2, 3, 4]
    mse = (a.double() - b.double()).div(255).square().flatten(1).mean(1)
    expected = [*(-10 * math.log10(m) for m in mse[:2]), -10 * math.log10((0.5 / 255) ** 2 / (3 * 32 * 32))]
    for one, other in ((a, b), (b, a), (a.float(), b), (a.double(), b.double())):
        assert psnr(one, other).tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=r'\(3, 3, 32, 32\) and \(1, 3, 32, 32\)'):
        psnr(a, b[:1])


IMAGES = images(4, 3, 8, 8)


@pytest.mark.parametrize('content', [
    IMAGES, (IMAGES,), (IMAGES, IMAGES, IMAGES), (IMAGES, 'clean'), {'a': IMAGES, 'b': IMAGES},
    (IMAGES, IMAGES[:3]), (IMAGES.double(), IMAGES.double()), (IMAGES, IMAGES.float()),
    (IMAGES / 255 - 1, IMAGES.float()), (IMAGES.float(), IMAGES + 0.5), (IMAGES.float(), IMAGES / 0),
    (IMAGES[0], IMAGES[0]), (IMAGES[:, :1], IMAGES[:, :1]), (IMAGES[:0], IMAGES[:0])])
def test_load_pairs_refuses_other_contents(content, tmp_path):
    torch.save(content, tmp_path / 'other.pkl')
    with pytest.raises(ValueError, match='other.pkl must hold two'):
        load_pairs(tmp_path / 'other.pkl')


def test_load_pairs_refuses_files_that_are_damaged_or_hold_code(tmp_path):
    for pair in ((IMAGES / 3, IMAGES.flip(0) * 0.7), (IMAGES, IMAGES.flip(0))):
        torch.save(pair, tmp_path / 'whole.pkl')
        assert all(map(torch.equal, load_pairs(tmp_path / 'whole.pkl'), pair))
    (tmp_path / 'cut.pkl').write_bytes((tmp_path / 'whole.pkl').read_bytes()[:-100])
    (tmp_path / 'empty.pkl').touch()
    (tmp_path / 'text.pkl').write_text('hello')
    torch.save((Path('class'), IMAGES), tmp_path / 'code.pkl')
    for name in ('cut', 'empty', 'text', 'code'):
        with pytest.raises(ValueError, match=f'{name}.pkl is not a file of pairs'):
            load_pairs(tmp_path / f'{name}.pkl')
    with pytest.raises(FileNotFoundError, match='missing.pkl'):
        load_pairs(tmp_path / 'missing.pkl')
