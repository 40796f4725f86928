"""The data tools: the noise against closed forms, the sets against photographs of known colours."""
import contextlib
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
from others.common.metrics import load_pairs, psnr
from others.tests.conftest import contents, images, refused, save_photos

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
    for residual in first, second:
        errors = residual.mean(0) * draws ** 0.5            # of each pixel: normal by now
        assert abs(residual.mean()) < SIGMAS / residual.numel() ** 0.5
        # 2 is the variance of a squared normal residual; of a uniform one it is smaller.
        for normal in residual, errors:
            assert abs(normal.square().mean() - 1) < SIGMAS * (2 / normal.numel()) ** 0.5
    for one, other in ((first, second), (first[:, 1:], first[:, :-1]),
                       (first[..., 1:], first[..., :-1]), (first[1:], first[:-1])):
        assert abs((one * other).mean()) < SIGMAS / one.numel() ** 0.5


@pytest.mark.parametrize('H, W, sides', [(300, 400, {224, 256, 288}), (330, 256, {224, 256}),
                                         (100, 200, {96}), (64, 64, {64})])
def test_random_squares_have_every_allowed_side_and_position(H, W, sides):
    coordinates = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij'))
    generator, seen = seeded(), []
    for _ in range(500):
        square = data.random_square(coordinates, generator)
        side, (top, left) = square.shape[1], square[:, 0, 0].tolist()
        assert torch.equal(square, coordinates[:, top:top + side, left:left + side]) and square.shape[2] == side
        seen.append((side, top / max(1, H - side), left / max(1, W - side)))
    found, *places = zip(*seen)
    assert set(found) == sides
    for part, room in zip(places, (H - min(sides), W - min(sides))):
        assert min(part) < 0.1 and (max(part) > 0.9 or room == 0)


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
    data.main([command, *map(str, arguments)])


def sets_in(folder: Path) -> list:
    return [*load_pairs(folder / 'train_data.pkl'), *load_pairs(folder / 'val_data.pkl')]


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
    assert sum(map(tuple.__ne__, training, training[1:])) > 30  # 17 if not in random order
    assert '54 training and 9 validation pairs' in capsys.readouterr().out


def test_centre_takes_the_same_photographs_for_validation(photos, tmp_path):
    make('photos', photos, '--out', tmp_path / 'set', '--train', 18, '--val', 9)
    make('centre', photos, '--out', tmp_path / 'centre.pkl', '--pairs', 5)
    make('centre', photos, '--out', tmp_path / 'seen.pkl', '--pairs', 18, '--seen')
    (first, _, _, clean), (noisy, centre), (_, seen) = (map(colours_in, pairs) for pairs in (
        sets_in(tmp_path / 'set'), *(load_pairs(tmp_path / f'{name}.pkl') for name in ('centre', 'seen'))))
    assert noisy == centre and sorted(map(centre.count, set(clean))) == [2, 3] and set(seen) == set(first)
    with refused('exists'):
        make('centre', photos, '--out', tmp_path / 'seen.pkl')


def test_fewer_pairs_than_photographs_and_two_photographs(photos, tmp_path):
    make('photos', photos, '--out', tmp_path / 'few', '--train', 1, '--val', 1)
    for path in sorted(photos.rglob('*.*'))[2:]:
        path.unlink()
    make('photos', photos, '--out', tmp_path / 'two', '--train', 4, '--val', 4)
    first, _, noisy, _ = map(colours_in, sets_in(tmp_path / 'two'))
    assert len(set(first)) == len(set(noisy)) == 1 and first[0] != noisy[0]


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
               'huge.ppm': '400,000,000 pixels', 'lossy.ppm': '16 bits a channel', 'small.jpeg': '63 x 500 pixels'}
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
    paths, unreadable = data.pictures_below(photos)
    assert paths == sorted(paths) and unreadable == [] and len(paths) == len(before) + 1
    assert [path.name for path in set(paths) - set(before)] == ['linked.png']


@pytest.mark.parametrize('folders, same, asks', [
    (('A', 'B', 'clean'), True, True), (('1', 'deeper/2'), True, True), (('A', 'B'), False, False),
    (('A',), True, False)])
def test_folders_of_shots_are_not_taken_for_photographs(tmp_path, folders, same, asks):
    """Files of the same names that show the same; cameras give the same names, too."""
    for k, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(3):
            scene = images(8, 8, 3, seed=i + (0 if same else 10 * k)).repeat_interleave(8, 0).repeat_interleave(8, 1)
            noisy = scene + 40 * torch.randn(64, 64, 3, generator=seeded(100 + 10 * k + i))
            Image.fromarray(noise.to_bytes(noisy).numpy()).save(tmp_path / folder / f'{i}.png')
    first, second = (tmp_path / folder for folder in (folders * 2)[:2])
    with refused(f'FOLDER: {first} and .*data pairs {first} {second}') if asks else contextlib.nullcontext():
        assert len(data.usable_photos(tmp_path)) == 3 * len(folders)


# ------------------------------------------------------------------------------------- other noise

@pytest.mark.parametrize('share', [0., 0.25, 1.])
def test_other_noise_has_its_share(monkeypatch, share):
    course = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(data, 'point_sample', lambda square, generator: course)
    monkeypatch.setattr(data, 'other_sample', lambda photo, generator: course + 1)
    first, _, _ = data.make_pairs([0], 400, 'pairs', lambda _: images(3, 230, 300), seeded(), share)
    assert abs(int(first[:, 0, 0, 0].sum()) - 400 * share) <= SIGMAS * math.sqrt(400 * share * (1 - share))


def test_the_kinds_of_other_noise_are_equally_frequent_and_their_strengths_in_their_ranges(monkeypatch):
    kinds = {'gaussian_noise': (0, 12.5, 50), 'correlated_noise': (0, 12.5, 50), 'poisson_noise': (8, 126.5, 2000),
             'jpeg': (20, 57.5, 95)}
    drawn, generator, n = {kind: [] for kind in kinds}, seeded(), 600
    for kind in kinds:
        monkeypatch.setattr(noise, kind, lambda clean, *strengths, kind=kind: drawn[kind].append(strengths) or clean)
    for _ in range(n):
        data.other_sample(images(3, 64, 160), generator)
    for kind, (low, middle, high) in kinds.items():
        strengths, others = ([strength for strength, *_ in shots] for shots in (drawn[kind][::2], drawn[kind][1::2]))
        assert strengths == others                              # both shots are as noisy
        assert abs(len(strengths) - n / 6) < SIGMAS * math.sqrt(n * 5 / 36)
        assert low <= min(strengths) and max(strengths) <= high
        above = sum(strength > middle for strength in strengths)
        assert abs(above - len(strengths) / 2) < SIGMAS * math.sqrt(len(strengths) / 4)
    reaches, corners = ([second for _, second, *_ in drawn[kind]] for kind in ('correlated_noise', 'jpeg'))
    assert 0.4 <= min(reaches) < 0.5 and 1.9 < max(reaches) <= 2 and reaches[::2] == reaches[1::2]
    assert {*sum(corners, ())} == {*range(16)} and corners[::2] != corners[1::2]


def test_two_shots_with_other_noise_share_their_clean_image_and_nothing_else(monkeypatch):
    """But for JPEG, whose error is of the image."""
    monkeypatch.setattr(noise, 'jpeg', lambda clean, *_: clean)
    photo, generator = images(3, 230, 230, low=60, high=196), seeded()
    for _ in range(40):
        first, second, clean = data.other_sample(photo, generator)
        a, b = ((image.double() - clean)[0] for image in (first, second))
        if torch.equal(first, second):
            assert not a.any()
            continue
        n = a.numel() ** 0.5 / 4        # pixels that are independent, though a blur of 2 correlates their noise
        assert abs((a * b).mean()) < 5 * (a * b).std() / n          # of 30 such draws, each
        # Of strong noise, clipping moves the mean.
        assert max(abs(x.mean()) / x.std() for x in (a, b)) < 5 / n or a.std() > 40


def test_validation_keeps_the_noise_of_the_course(tmp_path):
    save_photos(tmp_path, 3, 99, 99)
    for share in '0', '1':
        make('photos', tmp_path, '--out', tmp_path / share, '--train', 8, '--val', 3, '--other-noise', share)
    same = map(torch.equal, sets_in(tmp_path / '0'), sets_in(tmp_path / '1'))
    assert list(same) == [False, False, True, True]


# -------------------------------------------------------------------------------------- dead leaves

def test_the_demo_is_as_noisy_as_the_course_set(tmp_path):
    data.make_demo(tmp_path, train=1, val=200)
    _, _, noisy, clean = sets_in(tmp_path)
    dB = psnr(noisy, clean)
    assert noisy.shape == (200, 3, 32, 32) and abs(dB.mean() - 20.72) < 1
    assert dB.std() > 2                                         # 3.2 dB among photographs


def test_the_demo_needs_torch_alone(tmp_path):
    code = ('import sys; sys.modules["PIL"] = None; '
            f'from others.data import make_demo; make_demo({str(tmp_path)!r}, 1, 1)')
    subprocess.run([sys.executable, '-c', code], cwd=storage.ROOT, check=True)
    assert len(sets_in(tmp_path)[0]) == 1


def test_no_canvas_gives_both_training_and_validation_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'dead_leaves', lambda generator: torch.randint(
        256, (3, 1, 1), generator=generator).byte().expand(3, 512, 512))
    data.make_demo(tmp_path, train=31, val=20)
    first, _, _, clean = (set(colours_in(images)) for images in sets_in(tmp_path))
    assert (len(clean), len(first)) == (2, 4) and not first & clean


def test_ensure_demo_makes_it_once(tmp_path, monkeypatch):
    make_demo, folder = data.make_demo, tmp_path / 'new' / 'demo'
    monkeypatch.setattr(data, 'make_demo', lambda folder, force: make_demo(folder, 1, 1, force=force))
    folder.mkdir(parents=True)
    (folder / 'val_data.pkl').touch()               # a making that was killed half-way
    assert data.ensure_demo(folder) == folder and len(sets_in(folder)[2]) == 1
    monkeypatch.setattr(data, 'make_demo', None)
    assert data.ensure_demo(folder) == folder


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
    """Power f^-3, so f^3 times power is flat; half of the modes are independent, exponential draws."""
    noise = fractal_noise(seeded())
    assert noise.square().mean().item() == pytest.approx(1, abs=1e-5)
    f = torch.fft.fftfreq(512).mul(512)
    radius = (f[:, None].square() + f.square()).sqrt()
    rings = [(radius - r).abs() < width for r, width in ((50, 2), (100, 4))]
    level, other = ((torch.fft.fft2(noise).abs().square() * radius ** 3)[ring].mean() for ring in rings)
    assert abs(level / other - 1) < SIGMAS * math.sqrt(sum(2 / ring.sum() for ring in rings))


# ------------------------------------------------------------------------------------ both commands

@pytest.fixture(params=['photos', 'demo', 'other'])
def command(request, tmp_path):
    """The beginning of a command line that makes a small set."""
    if request.param == 'demo':
        return 'demo', '--train', 5, '--val', 3
    (tmp_path / 'noise').mkdir()
    save_photos(tmp_path / 'noise', 3, 200, 200)
    return 'photos', tmp_path / 'noise', '--train', 5, '--val', 3, '--other-noise', int(request.param == 'other')


def test_the_seed_decides_everything_and_nothing_else_does(command, tmp_path):
    state = torch.get_rng_state()
    make(*command, '--out', tmp_path / 'a')
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    make(*command, '--out', tmp_path / 'b', '--seed', 0)
    make(*command, '--out', tmp_path / 'c', '--seed', 1)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
    sets, others = sets_in(tmp_path / 'a'), sets_in(tmp_path / 'c')
    assert not any(map(torch.equal, sets, others)) and not any(map(torch.equal, sets[::2], sets[1::2]))


def test_files_are_replaced_only_by_force(command, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'val_data.pkl').write_bytes(b'mine')
    with refused('--out: .*val_data.pkl exists.*--force'):
        make(*command, '--out', out)
    assert contents(out) == {'val_data.pkl': b'mine'}
    make(*command, '--out', out, '--force')
    assert [len(images) for images in sets_in(out)] == [5, 5, 3, 3]


def test_a_failure_leaves_the_files_as_they_were(command, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    make(*command, '--out', out)
    before = contents(out)

    def full_disk(path, content):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(storage, 'write', full_disk)
    for folder in out, tmp_path / 'new' / 'fresh':
        with pytest.raises(OSError, match='No space left'):
            make(*command, '--out', folder, '--seed', 1, '--force')
    assert contents(out) == before and not (tmp_path / 'new').exists()


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
    (IMAGES / 255 - 1, IMAGES.float()), (IMAGES.float(), IMAGES / 0), (IMAGES[0], IMAGES[0]),
    (IMAGES[:, :1], IMAGES[:, :1]), (IMAGES[:0], IMAGES[:0])])
def test_load_pairs_refuses_other_contents(content, tmp_path):
    torch.save(content, tmp_path / 'other.pkl')
    with pytest.raises(ValueError, match='other.pkl must hold two'):
        load_pairs(tmp_path / 'other.pkl')


def test_load_pairs_refuses_files_that_are_damaged_or_hold_code(tmp_path):
    path = tmp_path / 'some.pkl'
    for pair in ((IMAGES / 3, IMAGES.flip(0) * 0.7), (IMAGES, IMAGES.flip(0))):
        torch.save(pair, path)
        assert all(map(torch.equal, load_pairs(path), pair))
    whole = path.read_bytes()
    torch.save((Path('class'), IMAGES), path)
    for content in (path.read_bytes(), whole[:-100], b'', b'hello'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='some.pkl is not a file of pairs'):
            load_pairs(path)
