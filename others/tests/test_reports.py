"""The reports: up to date, the same bytes from the same records, and no number that is not from a record."""
import re
import shutil
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from others import package
from others.common import records, storage
from others.reports import build as reports, values
from others.studies import readme_picture
from others.tests.conftest import refused

BOTH = pytest.mark.parametrize('k', reports.REPORTS)


@BOTH
def test_the_committed_one_is_of_these_records_and_sources(k):
    numbers, _ = reports.content(k)
    pdf = reports.target(k).read_bytes()
    assert numbers['digest'].encode() in pdf, f'report {k} is out of date: python -m others.reports'
    assert 1 <= package.count_pages(pdf) <= package.MOST_PAGES


def test_the_same_bytes_again(tmp_path):
    """In another process, whose sets and dictionaries are in another order."""
    subprocess.run([sys.executable, '-m', 'others.reports', '--out', tmp_path], check=True, cwd=storage.ROOT,
                   stdout=subprocess.DEVNULL, env={'PYTHONHASHSEED': '1', 'PATH': ''})
    for k in reports.REPORTS:
        assert reports.typeset(k, *reports.content(k)) == reports.target(k, tmp_path).read_bytes()


@pytest.fixture
def results(tmp_path):
    return shutil.copytree(reports.RESULTS, tmp_path / 'results')


@pytest.mark.parametrize('k', (1, 2))
def test_a_record_changes(k, results):
    before, _ = reports.content(k, results)
    runs = records.read(results / 'evaluation.json')
    for row in runs[-1]['rows']:
        if row['model'] == f'project {k}' and row['file'].endswith('real_val.pkl'):
            row['psnr'] = 31.41
    (results / 'evaluation.json').write_text(records.text(runs))
    after, _ = reports.content(k, results)
    assert after['digest'] != before['digest']
    assert after[f'p{k}']['real_val'] == '31.41' != before[f'p{k}']['real_val']


@BOTH
def test_a_record_is_missing(k, results):
    (results / 'evaluation.json').unlink()
    with refused('evaluation.json is missing'):
        reports.content(k, results)


@BOTH
def test_the_text_has_no_measured_number(k):
    text = (reports.SOURCES / f'report_{k}.typ').read_text(encoding='utf-8')
    assert not re.findall(r'\d+\.\d+ ?(?:dB|s\b|ms\b|MB\b)', text)


def test_the_listing_is_the_code():
    text = (reports.SOURCES / 'report_2.typ').read_text(encoding='utf-8')
    listing = re.search('```python\n(.*?)```', text, re.S)[1]
    code = (storage.ROOT / 'Miniproject_2' / 'model.py').read_text(encoding='utf-8')
    code = re.sub(r'""".*?"""', '', code, flags=re.S)
    listing, code = (re.sub(r'[\s\\]', '', lines) for lines in (listing, code))
    assert listing in code


def test_the_example_of_fewer_products():
    text = (reports.SOURCES / 'report_2.typ').read_text(encoding='utf-8')
    text = text[text.index('_An example_'):]
    pixels, taps = (torch.tensor([[[float(digit) for digit in re.findall(r'\d', part)]]])
                    for part in re.search(r'pixels ([\d |]+) and taps ([\d |]+)', text).groups())
    outputs = [int(value) for value in re.findall(r'y_[01] = [-\d+ ]+ = (\d+)', text)]
    assert outputs == functional.conv1d(pixels, taps, stride=2).flatten().tolist()


def test_a_difference_is_that_of_the_means():
    found = {'a': [{'psnr': {'centre': 25.0}}, {'psnr': {'centre': 25.5}}], 'b': [{'psnr': {'centre': 25.0}}]}
    assert values.differences(found, {'gain': ('a', 'b', 'centre')}) == {'gain': '+0.25'}


def test_the_spread_of_seeds():
    rng = torch.Generator().manual_seed(0)
    draws = 25 + 0.02 * torch.randn(400, 3, generator=rng, dtype=torch.double)
    found = {str(k): [{'psnr': {'centre': value}} for value in row] for k, row in enumerate(draws.tolist())}
    found['single'] = [{'psnr': {'centre': 20.0}}]
    assert values.spread_of_seeds(found) == pytest.approx(0.02, rel=0.06)
    differences = (draws[:, 0] - draws[:, 1]).abs()
    assert (differences > float(values.least_visible(found))).double().mean() == pytest.approx(0.05, abs=0.02)


def test_the_worst_the_median_and_the_best():
    clean = torch.full((5, 3, 8, 8), 100.)
    errors = torch.tensor([3., 9., 1., 5., 2.])
    assert readme_picture.extremes(clean + errors.view(-1, 1, 1, 1), clean).tolist() == [1, 0, 2]


def test_the_readme_is_a_page_of_what_the_records_say():
    text = (storage.ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 90 and len(text) <= 7000
    rec = values.Records(reports.RESULTS)
    models = values.evaluation(rec)
    wanted = [f"{values.fixed(models[name][key]['psnr'])} / {values.fixed(models[name][key]['pooled'])}"
              for name in ('noisy input', 'project 1', 'project 2') for key in values.SETS]
    speed = values.speed(rec)
    wanted += [f'{values.BEST_1["real"]:.2f}', f'{values.BEST_2["real"]:.2f}', f"{values.twin(rec)['ratio']} times",
               f"{speed['step']} times, {speed['upsampling']} where"]
    for project in (1, 2):
        checks = values.grading(rec, project)
        wanted += [f"{checks['train, one epoch']['seconds']:.0f} s (project {project})",
                   f"{checks['predict 1x3x512x512']['seconds']:.1f}"]
    demo = (values.grading(rec, project, 'python test.py')['PSNR, loaded']['figures'] for project in (1, 2))
    wanted.append('about {:.1f} and {:.1f} dB'.format(*(float(figures.split()[0]) for figures in demo)))
    gpu, cpu, second = values.defaults(rec, 1) + values.defaults(rec, 2)
    wanted += [f"{gpu['minutes']} minutes, to {gpu['psnr']} dB", f"{cpu['psnr']} and {second['psnr']} dB",
               f"{cpu['minutes']} and {second['minutes']} minutes"]
    known = {row[0]: row for row in values.seeds(rec, values.SEEDS_1 + values.SEEDS_2)}
    wanted += [' | '.join(known[name][2:5]) for name in known if f'| {name} |' in text]
    assert [figure for figure in wanted if figure not in text] == []
