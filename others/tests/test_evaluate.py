"""The table of `others.evaluate`, for submissions that are written here; and the pictures."""
import json
import math
import shutil
import statistics
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

from others import data, evaluate
from others.common import baselines, datasets, denoisers, metrics, plots, records, storage, submissions, worker
from others.common import images as files
from others.tests.conftest import images, refused

FOREIGN = """
import torch
class Model:
    def __init__(self): self.bias = None
    def load_pretrained_model(self): self.bias = 0.
    def predict(self, x): return {}
"""


@pytest.fixture(scope='module')
def val_data(tmp_path_factory):
    """The folder of a set of 130 images, more than a batch."""
    folder = tmp_path_factory.mktemp('data')
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(40, 216, (130, 3, 1, 1), generator=generator).expand(130, 3, 7, 8)
    noise = 10 * torch.randn(clean.shape, generator=generator) + 3
    noisy = (clean + noise * torch.linspace(0.5, 2, 130).view(-1, 1, 1, 1)).clamp(0, 255)
    torch.save((noisy.byte(), clean.byte()), folder / data.VAL_FILE)
    return folder


@pytest.fixture(scope='module')
def ours(tmp_path_factory):
    """A project root with our two models, untrained."""
    root = tmp_path_factory.mktemp('root')
    for k in (1, 2):
        shutil.copytree(storage.ROOT / f'Miniproject_{k}', root / f'Miniproject_{k}',
                        ignore=shutil.ignore_patterns('__pycache__'))
        denoisers.new_model(k).save(root / f'Miniproject_{k}' / 'bestmodel.pth')
    return root


@pytest.fixture
def run(ours, val_data, monkeypatch, capsys):
    """Call the tool on the set; returns the exit status and what was printed, stdout and stderr."""
    monkeypatch.setattr(storage, 'ROOT', ours)

    def call(*options) -> tuple:
        status = evaluate.main(['--data', str(val_data), *map(str, options)])
        return (status, *capsys.readouterr())
    return call


@pytest.fixture
def same_process(monkeypatch):
    """A submission runs here: a process of its own would take longer than all the rest."""
    def run(command, **options):
        *_, folder, images, results, keywords = command
        known = set(sys.modules)
        with monkeypatch.context() as patch:
            patch.setattr(sys, 'argv', [])
            patch.setattr(sys, 'path', list(sys.path))
            try:
                worker.work(folder, images, results, json.loads(keywords))
            except Exception as error:
                return SimpleNamespace(returncode=1, stderr=f'{type(error).__name__}: {error}')
            finally:
                for name in set(sys.modules) - known:
                    if name.split('.')[0] in (folder.name, 'submission'):
                        del sys.modules[name]
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(submissions, 'subprocess', SimpleNamespace(run=run, DEVNULL=None, PIPE=None))


def submission(folder, source: str):
    folder.mkdir(parents=True)
    (folder / 'model.py').write_text(source)
    return folder


def test_figures(run, same_process, val_data, tmp_path):
    """A model that halves the error; what it must score is computed here with numpy."""
    source = FOREIGN.format('100 + (x - 100) / 2 + self.bias')
    halved = submission(tmp_path / 'Miniproject_1', source)
    status, out, _ = run('--project', 1, '--submission', halved, '--json')
    rows = json.loads(out)
    assert status == 0 and [row['model'] for row in rows] == ['noisy input', 'project 1', str(halved)]
    assert {(row['file'], row['images']) for row in rows} == {(str(val_data / data.VAL_FILE), 130)}
    noisy, clean = (images.numpy().astype(float)
                    for images in torch.load(val_data / data.VAL_FILE, weights_only=True))

    def close(values, mean, error) -> bool:
        return (mean == pytest.approx(statistics.mean(values), abs=1e-3)
                and error == pytest.approx(statistics.stdev(values) / 130 ** 0.5, rel=1e-3))

    before, after = ([-10 * numpy.log10(((a - b) ** 2).mean() / 255 ** 2) for a, b in zip(images, clean)]
                     for images in (noisy, 100 + (noisy - 100) / 2))
    for row, values in ((rows[0], before), (rows[2], after)):
        assert close(values, row['psnr'], row['psnr_error'])
        pooled = -10 * numpy.log10(statistics.mean(10 ** (-value / 10) for value in values))
        found = row['worst'], row['best'], row['pooled']
        assert found == pytest.approx((min(values), max(values), pooled), abs=1e-3)
        assert sorted(values)[63] - 1e-3 < row['median'] < sorted(values)[66] + 1e-3
    assert close([b - a for a, b in zip(before, after)], rows[2]['gain'], rows[2]['gain_error'])
    assert rows[2]['ms'] > 0 and 'gain' not in rows[0] and 'ms' not in rows[0]


def test_weights_beside_the_shipped_ones(run, same_process, val_data, tmp_path):
    model, best, shipped = denoisers.new_model(2), tmp_path / 'best.pth', denoisers.checkpoint(2)
    model.save(best)
    options = ('--project', 2, '--threads', 1, '--weights', best, shipped)
    status, out, _ = run(*options, '--record', tmp_path / 'record.json')
    rows = records.read(tmp_path / 'record.json')[0]['rows']
    assert status == 0 and [row['model'] for row in rows] == ['noisy input', 'project 2', str(best), str(shipped)]
    assert rows[3]['over_shipped'] == 0
    noisy, clean = torch.load(val_data / data.VAL_FILE, weights_only=True)
    before, after = (-10 * ((other.predict(noisy).double() - clean) / 255).square().mean((1, 2, 3)).log10()
                     for other in (denoisers.trained_model(2, shipped), model))
    mean, error = (after - before).mean().item(), (after - before).std().item() / 130 ** 0.5
    assert rows[2]['over_shipped'] == pytest.approx(mean, abs=1e-3)
    assert rows[2]['over_shipped_error'] == pytest.approx(error, rel=1e-2)
    assert f"best.pth: {rows[2]['over_shipped']:+.3f} ± " in out
    with refused('--weights: .* needs a --project'):
        run(*options[2:])


def test_folders_of_images(tmp_path, capsys):
    """Grey and colour, 16 bits, transparent; the names' ends differ; one has no partner, one is no image."""
    generator = numpy.random.default_rng(0)
    folders = [tmp_path / name for name in ('clean', 'denoised', 'noisy')]
    expected = {}
    for name, shape, noise in (('a', (20, 30), 1), ('b', (16, 16, 3), 2)):
        smooth = 100 + generator.normal(0, 3, shape)
        for folder, strength, suffix in zip(folders, (0, noise, 5 * noise), ('.png', '.tif', '.npy')):
            folder.mkdir(exist_ok=True)
            pixels = ((smooth + strength * generator.normal(0, 1, shape)) * 257).round().astype('uint16')
            files.write(folder / (name + suffix), files.Picture(pixels, None, {}))
            if folder == folders[0]:
                clean = pixels / 65535
            else:
                expected[f'{name}.png', folder.name] = -10 * numpy.log10(((pixels / 65535 - clean) ** 2).mean())
    Image.new('RGBA', (12, 12), (9, 9, 9, 99)).save(folders[0] / 'c.png')
    (folders[0] / 'd.png').write_text('no image')
    status = evaluate.main(['--images', *map(str, folders), '--json'])
    out, error = capsys.readouterr()
    rows = {(row['image'], row['version']): row for row in json.loads(out)}
    assert status == 1 and len(rows) == 6
    for key, decibels in expected.items():
        assert rows[key]['psnr'] == pytest.approx(decibels, abs=1e-3)
    for key in ('psnr', 'ssim'):
        parts = [rows[name, 'noisy'][key] for name in ('a.png', 'b.png')]
        assert rows['mean', 'noisy'][key] == pytest.approx(statistics.mean(parts))
    assert [line.split(':')[0] for line in error.splitlines()] == [
        f'left out {folders[0] / name}' for name in ('c.png', 'd.png')]


def test_images_with_transparency_or_a_range(tmp_path, capsys):
    for name, value in (('a', 50), ('b', 60)):
        Image.new('RGBA', (12, 12), (value, value, value, 99)).save(tmp_path / f'{name}.png')
        numpy.save(tmp_path / f'{name}.npy', numpy.full((12, 12), value / 5, 'float32'))
    Image.new('L', (10, 12)).save(tmp_path / 'c.png')
    *names, other = [str(tmp_path / name) for name in ('a.png', 'b.png', 'a.npy', 'b.npy', 'c.png')]
    for arguments, said in ((names[:2], [f'{name}: its transparency is ignored' for name in names[:2]]),
                            ([*names[2:], '--range', '0', '51'], [])):
        assert evaluate.main(['--images', *arguments]) == 0
        out, error = capsys.readouterr()
        assert error.splitlines() == said and out.split()[-2] == '28.13'        # an error of 10
    for arguments, words in ((names[2:], 'a.npy: .*10.*expected 0 to 1'), (names[:1], '1 names, expected CLEAN DEN'),
                             ([*names[:2], '--baselines'], '2 names, expected CLEAN DENOISED NOISY for'),
                             ([names[0], str(tmp_path)], 'a.png is no folder, expected files or folders only'),
                             ([names[0], other], 'a.png is 12 x 12 and .*c.png is 10 x 12, expected one size')):
        with refused(words):
            evaluate.main(['--images', *arguments])


def test_baselines_are_at_their_best(tmp_path, capsys):
    """Of an image with an edge and noise of sigma 20; against every strength of each method, tried here."""
    clean = torch.full((3, 24, 24), 60.)
    clean[:, :, 12:] = 190
    noisy = clean + 20 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for name, image in (('clean', clean), ('noisy', noisy)):
        pixels = image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
    names = [str(tmp_path / f'{name}.png') for name in ('clean', 'noisy', 'noisy')]
    assert evaluate.main(['--images', *names, '--baselines', '--json']) == 0
    found = {row['version']: row['psnr'] for row in json.loads(capsys.readouterr().out)}
    assert list(found)[:2] == ['noisy', 'denoised'] and found['noisy'] == found['denoised'] < 23
    clean, noisy = clean[None], noisy.round().clamp(0, 255)
    for (name, decibels), (start, (method, lowest)) in zip(list(found.items())[2:], baselines.methods().items()):
        scores = {f'{start} {s:.2g}': metrics.psnr(baselines.apply(method, noisy, s)[None], clean).item()
                  for s in (lowest * baselines.STEP ** k for k in range(baselines.STRENGTHS))}
        assert decibels == pytest.approx(scores[name], abs=1e-3) and scores[name] == max(scores.values()) > 25
    some = baselines.middle(torch.arange(3 * 200 * 100).view(3, 200, 100))
    assert some.shape == (3, 128, 100) and some[0, 0, 0] == 36 * 100


def test_a_set_without_clean_images(run, same_process, val_data, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, 'STRENGTHS', 3)
    clean = torch.load(val_data / data.VAL_FILE, weights_only=True)[1][:80]
    generator = torch.Generator().manual_seed(1)
    shots = tuple((clean + 10 * torch.randn(clean.shape, generator=generator)).clamp(0, 255) for _ in range(2))
    torch.save(shots, tmp_path / datasets.VAL_PAIRS_FILE)
    half = submission(tmp_path / 'half', FOREIGN.format('(x + x.mean((2, 3), True)) / 2'))
    status, out, _ = run('--data', tmp_path, '--project', 2, '--submission', half, '--baselines',
                         '--pictures', tmp_path, '--record', tmp_path / 'record.json')
    assert status == 0 and 'estimated' in out.splitlines()[0]
    noisy, _, row, *others = records.read(tmp_path / 'record.json')[0]['rows']
    flat = (shots[0] + shots[0].mean((2, 3), True)) / 2
    for found, version in ((noisy, shots[0]), (row, flat)):
        true = -10 * ((version - clean) / 255).square().mean().log10().item()
        assert found['estimated'] and abs(found['psnr'] - true) < 3 * found['psnr_error'] < 0.4
        assert 'median' not in found and 'ssim' not in found
    assert row['gain'] == pytest.approx(row['psnr'] - noisy['psnr']) and 0 < row['gain_error'] < 0.2
    assert len(others) == 3 and others[0]['model'].startswith('Gaussian blur') and others[0]['gain'] > 1
    assert [path.name for path in tmp_path.glob('*.png')] == ['val_pairs_montage.png']


def test_the_estimate_without_clean_images_is_true():
    """On 40 sets with the course's noise: it is unbiased, and as uncertain as it says."""
    generator = torch.Generator().manual_seed(0)
    photos = torch.nn.functional.interpolate(
        torch.rand(40 * 50, 3, 9, 9, generator=generator) * 255, size=32, mode='bilinear')
    blocks = torch.nn.functional.unfold(photos, 2, stride=2).view(len(photos), 3, 4, -1)
    drawn = torch.randint(4, (2, len(photos), 1, 1, blocks.shape[3]), generator=generator).expand(-1, -1, 3, -1, -1)
    a, b = (blocks.gather(2, index).view(-1, 3, 16, 16) for index in drawn)
    clean = blocks.mean(2).view_as(a)
    denoised = torch.nn.functional.avg_pool2d(a, 3, 1, 1, count_include_pad=False)
    off = []
    for part in zip(*(x.split(50) for x in (denoised, a, b, clean))):
        true = -10 * ((part[0] - part[3]) / 255).square().mean().log10().item()
        decibels, error = metrics.estimated_psnr(*part[:3])
        off.append((decibels - true) / error)
    assert abs(statistics.mean(off)) < 3 / 40 ** 0.5 and max(map(abs, off)) < 3
    alone = metrics.estimated_psnr(denoised[:1], a[:1], b[:1])
    assert math.isfinite(alone[0]) and alone[1] is None
    for exact in (metrics.estimated_psnr(b, a, b)[0], metrics.pooled_psnr(a, a)):       # by luck: no error or less
        assert exact == metrics.psnr_bound(a)


def test_ssim():
    """Against the formula, for images with one window: 11 x 11 pixels, weighted by a Gaussian of sigma 1.5."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 11, 11, generator=generator).double() * 255 for _ in range(2))
    weight = (-torch.arange(-5, 6).double().square() / 4.5).exp()
    weight = weight[:, None] * weight / weight.sum() ** 2

    def formula(x: torch.Tensor, y: torch.Tensor) -> float:
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy, covariance = ((weight * p * q).sum() - mp * mq
                              for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my)))
        return ((2 * mx * my + c1) * (2 * covariance + c2) / ((mx ** 2 + my ** 2 + c1) * (vx + vy + c2))).item()

    values = [formula(a[i, c], b[i, c]) for i in range(2) for c in range(3)]
    assert evaluate.ssim(a, b) == pytest.approx(statistics.mean(values), abs=1e-9)
    assert evaluate.ssim(a, a) == pytest.approx(1)
    assert evaluate.ssim(a[..., :10], b[..., :10]) is None


def test_foreign_submissions_are_alone(run, tmp_path):
    """With a module that is called as one of ours; in floats, in batches of 100 at most."""
    one = submission(tmp_path / 'one' / 'Miniproject_1', 'from others.cli import Model')
    submission(tmp_path / 'one' / 'others', '')
    (tmp_path / 'one' / 'others' / 'cli.py').write_text(FOREIGN.format('self.check(x)') + """
    def check(self, x):
        assert x.dtype == torch.float32 and len(x) <= 100 and x.max() > 2
        return x + self.bias
""")
    two = submission(tmp_path / 'two' / 'Miniproject_1', 'from .net import Model')
    (two / 'net.py').write_text(FOREIGN.format('(x + self.bias).requires_grad_()'))
    three = submission(tmp_path / 'three' / 'Miniproject_1', 'from others.common.storage import ROOT')
    status, out, error = run('--project', 2, '--submission', one, two, three, '--json')
    noisy, ours, *rows = json.loads(out)
    assert status == 1 and [row['model'] for row in rows] == [str(one), str(two)]
    assert all(row['psnr'] == noisy['psnr'] and row['gain'] == 0 for row in rows)
    assert error.splitlines()[1:] == [f"{three} failed: ModuleNotFoundError: No module named 'others'"]


@pytest.mark.parametrize('name', ['json', '写真.1'])
def test_a_submission_may_be_called_anything(tmp_path, name):
    folder = submission(tmp_path / name, 'import json, sys\nfrom .net import Model\nprint("写真")\n'
                                         'print("写真", file=sys.stderr)')
    (folder / 'net.py').write_text(FOREIGN.format('x + self.bias'))
    noisy = images(2, 3, 4, 4)
    (denoised, _), = submissions.predictions(folder, [noisy], {'': {}})['']
    assert torch.equal(denoised, noisy.float())


def test_failing_submissions(tmp_path, request):
    for predict, words in (('exit(0)', 'status 0'), ('x[:1]', 'shape'), ('x / 0 * 0', 'finite')):
        folder = submission(tmp_path / words / 'Miniproject_1', FOREIGN.format(predict))
        with pytest.raises(RuntimeError, match=words):
            submissions.predictions(folder, [torch.ones(2, 3, 4, 4, dtype=torch.uint8)], {'': {}})
        request.getfixturevalue('same_process')                 # only the first one ends its process


def test_table_pictures_and_floor(run, same_process, val_data, tmp_path):
    real, out_folder = tmp_path / 'real.pkl', tmp_path / 'out'
    noisy, clean = torch.load(val_data / data.VAL_FILE, weights_only=True)
    torch.save((noisy[:9].clone(), clean[:9].clone()), real)
    options = ('--real', real, '--pictures', out_folder)
    status, out, error = run(*options, '--no-ensemble', '--floor', 200)
    names = ['noisy input', *(f'project {k}{end}' for k in (1, 2) for end in ('', ', no ensemble'))]
    for title, lines in zip((f'{val_data / data.VAL_FILE}: 130 images', f'{real}: 9 images'),
                            (out.splitlines()[:7], out.splitlines()[8:])):
        assert lines[0].startswith(title) and len(set(map(len, lines[1:7]))) == 1       # aligned
        assert [line.split('  ')[0] for line in lines[2:7]] == names
    assert status == 1 and [line.split(':')[0] for line in error.splitlines()] == ['models', *names[1:]]
    assert f'on {real} is below the floor of 200.0 dB' in error
    assert sorted(path.name for path in out_folder.iterdir()) == [
        f'{stem}_{kind}.png' for stem in ('real', 'val_data') for kind in ('montage', 'psnr')]
    with refused('--pictures: .*val_data_montage.png exists'):
        run(*options)


# ----------------------------------------------------------------------------------------- pictures

def test_montage_shows_every_pixel(tmp_path):
    generator = torch.Generator().manual_seed(0)
    noisy, clean = torch.randint(256, (2, 2, 3, 20, 30), generator=generator).byte()
    plots.montage(tmp_path / 'a.png', {'a': noisy, 'b': noisy.float() + 0.3, 'c': clean}, scale=3)
    with Image.open(tmp_path / 'a.png') as picture:
        shown = torch.from_numpy(numpy.array(picture.convert('RGB'))).permute(2, 0, 1)
    for version, left in ((noisy, 12), (noisy, 12 + 102), (clean, 12 + 2 * 102)):
        for image, top in zip(version, (42, 42 + 84)):
            found = shown[:, top:top + 60, left:left + 90]
            assert torch.equal(found, image.repeat_interleave(3, 1).repeat_interleave(3, 2))


def test_spread_goes_from_the_noisiest_to_the_cleanest():
    noisy = torch.tensor([3., 1., 5., 2., 4.]).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    for n, chosen in ((3, [2, 0, 1]), (9, [2, 4, 0, 3, 1])):
        assert plots.spread(noisy, torch.zeros(5, 3, 2, 2), n).tolist() == chosen
