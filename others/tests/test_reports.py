"""The reports: up to date, the same bytes from the same records, and no number that is not from a record."""
import json
import re
import shutil
import subprocess
import sys

import pytest

from others import cli, package
from others.reports import build as reports

BOTH = pytest.mark.parametrize('k', reports.REPORTS)


@BOTH
def test_the_committed_one_is_of_these_records_and_sources(k):
    numbers, _, _ = reports.content(k)
    path = reports.target(k)
    assert numbers['digest'].encode() in path.read_bytes(), f'{path.name} is out of date: python -m others.reports'
    assert 1 <= package.count_pages(path.read_bytes()) <= package.MOST_PAGES


def test_the_same_bytes_again(tmp_path):
    """In another process, whose sets and dictionaries are in another order."""
    subprocess.run([sys.executable, '-m', 'others.reports', '--out', tmp_path], check=True, cwd=cli.ROOT,
                   stdout=subprocess.DEVNULL, env={'PYTHONHASHSEED': '1', 'PATH': ''})
    for k in reports.REPORTS:
        numbers, drawings, _ = reports.content(k)
        assert reports.typeset(k, numbers, drawings) == reports.target(k, tmp_path).read_bytes()


@pytest.fixture
def results(tmp_path):
    return shutil.copytree(reports.RESULTS, tmp_path / 'results')


@BOTH
def test_a_record_changes(k, results):
    before, _, _ = reports.content(k, results)
    path = results / 'evaluation.json'
    record = json.loads(path.read_text())
    row = next(row for row in record['runs'][-1]['rows']
               if row['model'] == f'project {k}' and row['file'].endswith('real_val.pkl'))
    row['psnr'] = 31.41
    path.write_text(json.dumps(record))
    after, _, _ = reports.content(k, results)
    assert after['digest'] != before['digest']
    assert after[f'p{k}']['real_val'] == '31.41' != before[f'p{k}']['real_val']


@BOTH
def test_a_record_is_missing(k, results):
    (results / 'seeds.json').unlink(missing_ok=True)
    assert reports.content(k, results)[2] == ['seeds']
    (results / 'search.json').unlink()
    (results / 'evaluation.json').unlink()
    with pytest.raises(cli.UserError, match='evaluation.json is missing'):
        reports.content(k, results)


@BOTH
def test_the_text_has_no_measured_number(k):
    text = (reports.SOURCES / f'report_{k}.typ').read_text(encoding='utf-8')
    assert not re.findall(r'\d+\.\d+ ?(?:dB|s\b|ms\b|MB\b)', text)
