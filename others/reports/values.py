"""What the reports say, computed from the records: text for Typst, numbers for the figures.

Each function takes `Records` and gives the numbers of one part of a report, as text. Nothing else reads a record, and
the reports' sources hold no measured number of their own. `report_1` and `report_2` put the parts together.
"""
import collections
import operator
import re
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev, variance

import torch

from Miniproject_1.model import Model
from others import data
from others.common import records, storage
from others.common.metrics import psnr
from others.reports import figures
from others.studies import bench_framework, noises, readme_picture

# The best of the public submissions: what its author reports on the course's validation set, and what its weights give
# on the genuine pairs, in dB. Constants: no record here has them.
BEST_1 = {'reported': 25.832, 'real': 26.41}
BEST_2 = {'reported': 25.09, 'real': 25.51}

SETS = ('val_data', 'centre', 'real_val')
PICTURES = storage.ROOT / 'others' / 'pictures'
VERSIONS = ('noisy', 'project 1', 'project 2', 'clean')             # of the photographs that are shown
PARTS = {1: (58, 52), 2: (10, 30)}          # of the one in each report, what is enlarged: top, left

# The systems of the documents that the project grew from: (name in the record, name in the report).
SEEDS_1 = [('skip', 'T. Mery: 4 layers, one skip'), ('course, 8 convolutions', 'course: 8 convolutions'),
           ('course, two 3 x 3 convolutions', 'course, “simple”: 3-16-3 channels, 3 × 3')]
SEEDS_2 = [('vjp', 'Gravina, Palermo'), ('vjp, torch.nn', 'the same in torch.nn'), ('nearest', 'Béchaz et al.'),
           ('five', 'Gillyboeuf et al.')]
SWEPT = [*SEEDS_1[:1], ('skip, initial', '– initial: 5,000 pairs, 32 channels, no skip'),
         ('skip, with', '– 25 epochs, with skip'), ('skip, without', '– 25 epochs, without'),
         *((f'skip, {n} layers', f'– {n} layers') for n in (4, 6, 8, 10, 12)),
         SEEDS_2[0], SEEDS_2[1], ('vjp, as in their code', '– as in their code'), SEEDS_2[2],
         ('nearest, as in their code', '– as in their code'),
         *((f'nearest, kernel {n}', f'– 1,000 pairs, kernel {n}') for n in (3, 5, 7)), SEEDS_2[3],
         ('five, as in their code', '– as in their code'), ('five, rate 2', '– learning rate 2'), *SEEDS_1[1:],
         ('course, one 3 x 3 convolution', '– one 3 × 3 convolution'),
         ('course, one 7 x 7 convolution', '– one 7 × 7 convolution'), ('course, box of 3 x 3', '– mean of 3 × 3')]

# In the record of trainings: the first of the weights that ship and the last, on a GPU; of project 1 the one between
# them, and that of an earlier network, one block at each of three levels.
FIRST, LAST = {1: 'cuda_deep', 2: 'shipped'}, {1: 'wide_1', 2: 'long_2'}
OF_PROJECT_1 = {'deeper': 'deep_1', 'shallow': 'cuda_1'}
MERY = 'Mery'                                           # the slow system of the speedrun
BEFORE_MIXED = 3                                        # of the evaluations; the next is with other noise
HELD_OUT = {'project 1': 3, 'project 2': 6}             # of `noises`: how many last no training of the project had
FAST_MIXED = '634f548'               # the revision of the last benchmark on a processor that is fast in bfloat16

# The trainings that the reports show, {group: {name in the record: name in the report}}; the first of a
# group is what the others change one thing of.
SEARCH_1 = {
    'batches of 32, learning rate 1.5e-3': {
        'batch32': 'weighted loss', 'mse_b32': 'plain MSE', 'batch32_lr3': 'rate 3e-3',
        'narrow_b32': 'widths 32, 96, 256', 'twofull_b32': 'widths 48, 96, 96, 2 fine blocks',
        'fullres_b32': 'full resolution only', 'attention_b32': 'attention at the bottom',
        'batchnorm_b32': 'batch norm', 'batchnorm_b32_lr3': 'batch norm, rate 3e-3'},
    'plain MSE, colours not permuted': {
        'plain_b16': 'batches of 16, rate 2e-3', 'plain_b32': 'batches of 32, rate 1.5e-3',
        'deep_b16': '24 to 192, blocks 2-2-2-1', 'fine_b16': '24 to 192, blocks 4-2-2-1'},
}
NETWORKS_1 = {                                          # trained for 5 epochs on a GPU: a table
    'full': '24-48-96-192, 8-2-2-1', 'fine_4': '24-48-96-192, 4-2-2-1', 'fine_2': '24-48-96-192, 2-2-2-1',
    'fine_1': '24-48-96-192, 1-2-2-1', 'wide_4': '34-48-96-192, 4-2-2-1', 'wide_2': '48-48-96-192, 2-2-2-1',
    'unet_lr2': 'U-Net of Noise2Noise', 'dncnn': 'DnCNN, learning rate 1e-3',
    'gated_lr2': 'NAFNet-like, 32-64-128-256, 2-2-4-1',
}
SEARCH_2 = {'10 epochs of 2,000 pairs (CPU)': {         # one change at a time
    'ten': 'the recipe', 'ten_no_swap': 'pixels not swapped', 'ten_no_turn': 'not flipped, transposed',
    'ten_neither': 'neither', 'ten_constant': 'rate constant', 'ten_constant_lr3': 'rate 3, constant',
    'ten_classical': 'classical momentum', 'ten_momentum8': 'momentum 0.8, rate 24',
    'ten_momentum95': 'momentum 0.95, rate 6', 'ten_batch8_lr6': 'batches of 8, rate 6',
    'ten_batch32': 'batches of 32', 'ten_batch32_lr24': 'batches of 32, rate 24',
    'ten_last': 'last layer like the others', 'ten_narrow': 'half as many channels'}}

# How far a training is ahead of another one: {name in the report: (its name, the other's, the set)}.
DIFFERENCES_1 = {name: (one, other, key) for key, pairs in {
    'centre': {
        'batch32': ('batch32_lr3', 'lr4'), 'plain_b16': ('plain_b16', 'plain_b32'), 'mse': ('mse', 'base'),
        'mse_b32': ('mse_b32', 'batch32'), 'colours': ('plain_b32', 'mse_b32'),
        'new': ('new', 'unnormed'), 'attention': ('attention_b32', 'batch32'),
        'norm_fast': ('batchnorm_b32_lr3', 'batch32_lr3'), 'norm_b64_short': ('batchnorm', 'base'),
        'depthwise': ('depthwise', 'new'), 'larger': ('larger', 'new'), 'average': ('average', 'base'),
        'deep_b16': ('deep_b16', 'plain_b16'), 'fine_b16': ('fine_b16', 'plain_b16')},
    'val_data': {
        'clean': ('clean', 'full'), 'unet': ('full', 'unet_lr2'), 'unet_in_its_time': ('fine_1', 'unet_lr2'),
        'dncnn': ('full', 'dncnn'), 'gated': ('full', 'gated_lr2'), 'lower': ('cuda_C_24_2331', 'cuda_A_24_2221'),
        'wider': ('cuda_B_24_56_112_224', 'cuda_A_24_2221'), 'wide': ('cuda_wide_lr1', 'cuda_plain'),
        'rate': ('cuda_1_batch16_lr1', 'cuda_1_batch16_lr2'),
        'norm_b16': ('cuda_1_batch16_lr2_batchnorm', 'cuda_1_batch16_lr2')},
    'real_val': {'unet_in_its_time_real': ('fine_1', 'unet_lr2')},
}.items() for name, (one, other) in pairs.items()}
DEPTH = {1: 'fine_1', 2: 'fine_2', 4: 'fine_4', 8: 'full'}      # of blocks at the full resolution
SETS_1 = {'of_photographs': ('of_100_50000', 'of_300_50000', 'full'),
          'of_pairs': ('of_1341_5000', 'of_1341_15000', 'full')}
DIFFERENCES_2 = {name: (name, other, 'centre') for name, other in {
    'mixed': 'base', 'mixed_lr14': 'mixed', 'wide': 'mixed_lr14', 'nearest': 'mixed', 'average': 'mixed_lr12'}.items()}


class Records:
    """Reads the records of a folder, and remembers the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = Path(folder), set()

    def runs(self, name: str) -> list:
        """All runs of a record, the oldest first; UserError if there is no such record."""
        path = self.folder / f'{name}.json'
        self.asked.add(path)
        if not path.exists():
            raise storage.UserError(f'{path} is missing, expected the record that the reports show')
        return records.read(path)

    def rows(self, name: str, **wanted) -> list:
        """The rows of all runs that have the values that are wanted."""
        return [row for run in self.runs(name) for row in run['rows'] if wanted.items() <= row.items()]

    def last(self, name: str, **wanted) -> list:
        """Those of the newest run."""
        return [row for row in self.runs(name)[-1]['rows'] if wanted.items() <= row.items()]


def grouped(rows: list, key: str) -> dict:
    """{value of the key: the rows that have it}"""
    found = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def fixed(value, digits: int = 2, sign: str = '') -> str:
    """A number as the reports print it, with the sign '+' where it is asked for; a dash for None."""
    return '–' if value is None else f'{value:{sign},.{digits}f}'.translate(figures.MINUS)


signed = partial(fixed, sign='+')


def between(values: list, digits: int = 2) -> str:
    """The smallest and the largest; one of them where they print alike."""
    return ' to '.join(dict.fromkeys(fixed(value, digits) for value in (min(values), max(values))))


def several(values: list) -> str:
    *first, last = map(fixed, values)
    return f"{', '.join(first)} and {last}"


def spread(values: list) -> str:
    """Mean ± standard deviation, or the one value."""
    return fixed(mean(values)) + (f' ± {fixed(stdev(values))}' if len(values) > 1 else '')


# --------------------------------------------------------------------------------------- both reports

def evaluation(rec: Records) -> dict:
    """{model: {set: row}} of the newest evaluation."""
    return {model: {Path(row['file']).stem: row for row in rows}
            for model, rows in grouped(rec.last('evaluation'), 'model').items()}


def scores(rows: dict) -> dict:
    """{set: dB, set_pooled, set_gain, set_ssim, ..} of a model, as text."""
    text = {}
    for name, row in rows.items():
        text.update({name: fixed(row['psnr']), f'{name}_pooled': fixed(row['pooled']),
                     f'{name}_ssim': fixed(row['ssim'], 3), f'{name}_worst': fixed(row['worst'], 1)})
        if 'gain' in row:
            text[f'{name}_gain'] = f"{fixed(row['gain'])} ± {fixed(row['gain_error'])}"
    return text


def results(models: dict, project: str, best: dict) -> list:
    """The table of the results: what, and for each set the PSNR: the mean of the images' own, and that of the error
    over all images."""
    classical = [(name, name, '') for name in models if re.match('Gaussian blur|total variation|non-local', name)]
    table = [('noisy images', 'noisy input', ''), *classical, ('*this project*', project, '*'),
             ('without averaging', f'{project}, no ensemble', '')]
    rows = [(label, mark, [models[model][name] for name in SETS]) for label, model, mark in table]
    return [*([label, *(f"{mark}{fixed(row['psnr'])} / {fixed(row['pooled'])}{mark}" for row in sets)]
              for label, mark, sets in rows), ['best public submission', '', '', fixed(best['real'])]]


def search(rec: Records, project: int) -> dict:
    """{name: rows, one for each seed}, without the number of the seed in the name."""
    rows = rec.rows('search', project=project)
    for row in rows:
        row['name'] = re.sub(r'_\d\d?$', '', row['name'])
    return grouped(rows, 'name')


def decibels(rows: list, key: str = 'centre') -> list:
    """The PSNR of each row of a search, on a set."""
    return [row['psnr'][key] for row in rows]


def numbers(found: dict) -> list:
    """Rows of a table: label, parameters in millions, seconds of training, dB on two sets; means over the seeds."""
    return [[label, fixed(found[name][0]['parameters'] / 1e6),
             fixed(mean(row['training_seconds'] for row in found[name]), 0),
             *(fixed(mean(decibels(found[name], key))) for key in ('val_data', 'real_val'))]
            for name, label in NETWORKS_1.items()]


def differences(found: dict, wanted: dict) -> dict:
    """{name: dB that the mean of the seeds of a training is ahead of another's, on a set}."""
    return {name: signed(mean(decibels(found[one], key)) - mean(decibels(found[other], key)))
            for name, (one, other, key) in wanted.items()}


def spread_of_seeds(found: dict) -> float:
    """The standard deviation over seeds of the PSNR on the centre squares, pooled over the trainings of three."""
    seeds = [decibels(rows) for rows in found.values() if len(rows) > 2 and 'centre' in rows[0]['psnr']]
    squares = sum((len(values) - 1) * variance(values) for values in seeds)
    return (squares / sum(len(values) - 1 for values in seeds)) ** 0.5


def least_visible(found: dict) -> str:
    """The difference of two single runs which the spread of seeds exceeds in one of 20."""
    return fixed(1.96 * 2 ** 0.5 * spread_of_seeds(found), 3)


def trained(rec: Records, project: int, name: str) -> tuple:
    """The runs of the training of that name, which may be a pattern, and the rows of its epochs."""
    runs = [run for run in rec.runs('training')
            if run['rows'][0]['project'] == project and re.fullmatch(name, run['rows'][0]['training'])]
    if not runs:
        raise storage.UserError(f'{rec.folder}/training.json has no training {name} of project {project}')
    return runs, [row for run in runs for row in run['rows'] if row['epoch']]


def training(rec: Records, project: int, name: str) -> dict:
    """What that training took, and where it ended."""
    runs, rows = trained(rec, project, name)
    places = collections.Counter(run['machine']['processor'] for run in runs for row in run['rows'] if row['epoch'])
    seconds = sum(row['seconds'] for row in rows)
    rates = [float(rate) for run in runs for rate in re.findall(r'--lr (\S+)', run['command'])]     # as asked for,
    rates = rates or [row['lr'] for row in rows]                                    # else at the end of an epoch
    return {'epochs': str(len(rows)), 'parts': str(len(runs)), 'begun': str(rows[0]['planned_epochs']),
            'where': ' and '.join(f'{epochs} on an {place}' for place, epochs in places.items()),
            'dirty': ', the first with uncommitted changes in the code' * runs[0]['revision'].endswith('-dirty'),
            'rate': f'{max(rates):.2g}', 'end': fixed(rows[-1]['val_psnr']), 'minutes': fixed(seconds / 60, 1),
            'hours': fixed(seconds / 3600, 1),
            'cycles': str(len(grouped(rows, 'training')))}              # of the learning rate, each with a name


def grading(rec: Records, project: int, command: str = 'python test.py -d data') -> dict:
    """{check: its row} of the newest run of test.py with that command."""
    run = [run for run in rec.runs('test') if run['command'] == command][-1]
    return {row['check']: row for row in run['rows'] if row['project'] == project}


def defaults(rec: Records, project: int) -> list:
    """Of each recorded training by `Model().train`: where it ends, with test-time augmentation, and its minutes."""
    return [{'psnr': fixed(row['psnr']), 'pooled': fixed(row['pooled']), 'minutes': fixed(row['seconds'] / 60, 1)}
            for row in rec.rows('defaults', project=project)]


def seeds(rec: Records, names: list) -> list:
    """The table's rows of the systems of these names: name, parameters, dB as reported, on the centre squares, the
    same pooled, and on the genuine pairs. A number that is reported of several systems stands with the first."""
    found, reported, table = grouped(rec.rows('seeds'), 'system'), {None}, []
    for rows, label in ((found[name], label) for name, label in names):
        said = rows[0]['reported']
        table.append([label, f"{rows[0]['parameters']:,}", fixed(None if said in reported else said),
                      *(spread([row[key] for row in rows]) for key in ('centre', 'centre_pooled', 'real_val'))])
        reported.add(said)
    return table


def pooling(rec: Records) -> str:
    """By how much the mean of the images' PSNR is above that of the error over all images, of the seeds."""
    gaps = [row['val_data'] - row['val_data_pooled'] for row in rec.rows('seeds')]
    return between(gaps, 1)


def shared(rec: Records, project: int, best: dict) -> dict:
    """What both reports say of their project."""
    models, name = evaluation(rec), f'project {project}'
    ours, single = models[name], models[f'{name}, no ensemble']
    before, after = ({Path(row['file']).stem: row['psnr'] for row in run['rows'] if row['model'] == name}
                     for run in rec.runs('evaluation')[BEFORE_MIXED:BEFORE_MIXED + 2])
    return {'images': {key: f"{ours[key]['images']:,}" for key in SETS}, 'noisy': scores(models['noisy input']),
            f'p{project}': scores(ours), 'single': scores(single), 'table': results(models, name, best),
            'best': {key: fixed(value) for key, value in best.items()},
            'ensemble': between([ours[key]['psnr'] - single[key]['psnr'] for key in SETS]),
            'training': training(rec, project, FIRST[project]), 'last': training(rec, project, LAST[project]),
            'mixed': {**training(rec, project, f'mixed_{project}.*'),
                      'cost': fixed(before['real_val'] - after['real_val']),
                      'cost_val': fixed(before['val_data'] - after['val_data'])},
            'noises': other_noise(rec.last('noises'), name),
            'squares': str(readme_picture.IMAGES * len(readme_picture.SQUARES))}


def pictures(name: str) -> list:
    """For each image of a file of readme_picture's, tiles or squares, [(a version of it, its PSNR as text)], the clean
    one last."""
    tiles = data.read_photo(PICTURES / f'{name}.png')
    side = tiles.shape[2] // len(VERSIONS)
    rows = [torch.stack(band.split(side, 2)) for band in tiles.split(side, 1)]              # (versions, 3, H, W)
    return [[*((image, f'{fixed(psnr(image[None], row[-1:]).item())} dB') for image in row[:-1]), (row[-1], '')]
            for row in rows]


def shared_figures(project: int) -> dict:
    """A photograph, another one in each report; the worst, the median and the best of small images."""
    def photograph() -> bytes:
        return figures.pictures([pictures('tiles')[2 - project]], VERSIONS, PARTS[project])

    def squares() -> bytes:
        rows = pictures('squares')[3 * (project - 1):3 * project]
        return figures.pictures([[row[0], row[project], row[-1]] for row in rows], ['noisy', 'denoised', 'clean'])

    return {'pictures': photograph, 'squares': squares}


# ------------------------------------------------------------------------------------------- report 1

def the_noise(rec: Records) -> dict:
    """The numbers about the noise of the genuine pairs."""
    (ours,), (row,) = (rec.last('residual', file=name) for name in ('val_data.pkl', 'real_val.pkl'))
    around = [value for line in row['neighbours'] for value in line if value < 0.999]
    flat, busy = row['by_contrast'][0][1], row['by_contrast'][-1][1]
    return {'mean': f"{signed(row['mean'])} ± {fixed(row['mean_error'])}", 'low': signed(min(around), 3),
            'high': signed(max(around), 3), 'error': fixed(row['neighbour_error'], 3),
            'red_green': fixed(row['red_green']), 'red_blue': fixed(row['red_blue']),
            'red_blue_ours': fixed(ours['red_blue']), 'flat': fixed(flat, 1), 'busy': fixed(busy, 1),
            'ratio': fixed(busy / flat, 0)}


def choices_1(found: dict) -> dict:
    """The numbers of the section on choices."""
    sizes = [found[name][0]['parameters'] / 1e6 for name in ('batch32', 'narrow_b32', 'twofull_b32', 'fullres_b32')]
    plain, deep = (mean(row['pairs_seen'] for row in found[name]) for name in ('plain_b16', 'deep_b16'))
    wide = found['cuda_wide_lr1'][0]
    return {'deep_pace': fixed(plain / deep), 'spread': fixed(spread_of_seeds(found), 3),
            'visible': least_visible(found), 'visible_of_three': fixed(1.96 * (2 / 3) ** 0.5 * spread_of_seeds(found)),
            'pairs': fixed(round(median(row['pairs_seen'] for row in found['batch32']), -3), 0),
            'smallest': fixed(min(sizes), 1), 'largest': fixed(max(sizes), 1),
            'epochs': f"{found['cuda_L_24_4221'][0]['epochs']:g}", 'epochs_wide': f"{wide['epochs']:g}",
            'epochs_5': f"{found['full'][0]['epochs']:g}",
            'depth': several([mean(decibels(found[name], 'val_data')) for name in DEPTH.values()]),
            'width': several([mean(decibels(found[name], 'val_data')) for name in ('wide_2', 'wide_4', 'full')]),
            'wide_time': fixed(mean(row['training_seconds'] for row in found['wide_2'])
                               / mean(row['training_seconds'] for row in found['full'])),
            'no_limit': fixed(without_limit(found)),
            **{name: several([mean(decibels(found[name], 'val_data')) for name in names])
               for name, names in SETS_1.items()}, **differences(found, DIFFERENCES_1)}


def without_limit(found: dict) -> float:
    """F(1, 9), by which a fit a b^-c of the mean squared error on val_data.pkl to trainings with b blocks at the full
    resolution is worse than a fit m + a b^-c."""
    blocks, errors = zip(*((b, 255 ** 2 / 10 ** (psnr / 10)) for b, name in DEPTH.items()
                           for psnr in decibels(found[name], 'val_data')))

    def residual(m: float, c: float) -> float:
        """The sum of squares at the best a."""
        powers, rest = [b ** -c for b in blocks], [error - m for error in errors]
        a = sum(map(operator.mul, powers, rest)) / sum(power ** 2 for power in powers)
        return sum((value - a * power) ** 2 for value, power in zip(rest, powers))

    zero, *others = (min(residual(m, c / 500) for c in range(1, 300)) for m in range(0, int(min(errors)), 3))
    return 9 * (zero / min(zero, *others) - 1)


def courses(rec: Records) -> list:
    """For `figures.saturation`: PSNR on val_data.pkl over the pairs seen."""
    shipped, shallow = ([(50_000 * row['epoch'], row['val_psnr']) for row in trained(rec, 1, name)[1]]
                        for name in (FIRST[1], OF_PROJECT_1['shallow']))
    mery = rec.rows('seeds', system=SEEDS_1[0][0], seed=0)[0]
    slow = [(mery['pairs'] * epoch, figure) for epoch, figure in enumerate(mery['by_epoch'], 1)]
    return [('4 blocks at full resolution', shipped), ('T. Mery, reproduced', slow), ('1 block, 3 levels', shallow)]


def speedrun(rec: Records) -> dict:
    """What the slow system's trainings and ours need to the same PSNR."""
    slow, tries = (rec.last('speedrun', system=name) for name in (MERY, 'project 1'))
    ours = [row for row in tries if row['psnr'] >= slow[0]['goal']]                 # the last try of each seed
    return {'goal': fixed(slow[0]['goal']), 'pairs': between([50_000 * row['epochs'] for row in ours], 0),
            'seeds': str(len(ours)), 'seconds': between([row['seconds'] for row in ours], 0),
            'slow_seeds': str(len(slow)), 'slow_epochs': between([row['epochs'] for row in slow], 0),
            'slow_seconds': between([row['seconds'] for row in slow], 0),
            'times': fixed(median(row['seconds'] for row in slow) / median(row['seconds'] for row in ours), 0)}


def lead(one: list, other: list, form=signed) -> str:
    """How far the mean of some trainings is ahead of that of others, ± its standard error where both have seeds."""
    gap = form(mean(one) - mean(other))
    if min(len(one), len(other)) < 2:
        return gap
    return f'{gap} ± {fixed(sum(variance(part) / len(part) for part in (one, other)) ** 0.5)}'


def ablation(found: dict) -> dict:
    """What each part of project 1's recipe brings on val_data.pkl: {name: dB}."""
    scores = {name: decibels(rows, 'val_data') for name, rows in found.items()}
    whole = scores['both']
    return {'swap': lead(whole, scores['turn']), 'turn': lead(whole, scores['swap']),
            'swap_alone': lead(scores['swap'], scores['none']), 'none': lead(whole, scores['none'], fixed),
            **{name: lead(whole, scores[name]) for name in ('no_residual', 'no_skips', 'no_clipping', 'absolute')},
            'sgd': fixed(mean(whole) - max(scores['sgd'])),                         # of three learning rates
            'epochs': f"{found['both'][0]['epochs']:g}"}


def details(found: dict, base: str) -> dict:
    """What single changes of a short training bring on val_data.pkl: {name: dB}, of all that are called base_name."""
    scores = {name: decibels(rows, 'val_data') for name, rows in found.items()}
    return {name[len(base) + 1:]: lead(scores[name], scores[base]) for name in scores if name.startswith(f'{base}_')}


def one_by_one(found: dict) -> dict:
    """What one change of project 2's recipe brings on val_data.pkl: {name: dB}."""
    scores = {name: decibels(rows, 'val_data') for name, rows in found.items()}
    base = scores['base2']
    return {'kernel_3': lead(scores['kernel_3'], base), 'kernel_6': lead(scores['kernel_6'], base),
            'classical': lead(scores['base2_classical'], base),
            'torch': lead(scores['no_he'], base), 'torch_10': lead(scores['no_he_10'], scores['base_10']),
            'torch_worst': fixed(min(scores['few_torch']), 1),
            'torch_few': between(sorted(scores['few_torch'])[1:], 1), 'he_few': between(scores['few_he'], 1),
            'epochs_few': f"{found['few_he'][0]['epochs']:g}", 'seeds_few': str(len(scores['few_he'])),
            'no_momentum': signed(max(score for name in ('no_momentum', 'no_momentum_lr40', 'no_momentum_lr120')
                                      for score in scores[name]) - mean(base)),
            'no_centring': between(scores['no_centring'], 0),
            'no_centring_lr3': lead(base, scores['no_centring_lr3'], fixed),
            'epochs': f"{found['base2'][0]['epochs']:g}",
            'epochs_10': f"{found['base_10'][0]['epochs']:g}"}


def draws(rec: Records, project: str) -> dict:
    """The parts of the error, in per cent of it, and how many draws of the noise have the PSNR of one denoised."""
    (means,), (row,) = (rec.last('draws', model=name) for name in ('mean of draws', project))
    error = row['variance'] + row['squared_bias']
    of_noisy, of_mean, of_outputs = ([score for number, score in scores.items() if number != '1']
                                     for scores in (means['psnr'], row['psnr'], row['psnr_of_outputs']))
    return {'variance': fixed(100 * row['variance'] / error, 0), 'bias': fixed(100 * row['squared_bias'] / error, 0),
            'images': str(row['images']), 'draws': str(row['draws']),
            'worth': fixed(10 ** ((row['psnr']['1'] - means['psnr']['1']) / 10), 1),
            'of_noisy': several(of_noisy), 'of_mean': several(of_mean), 'of_outputs': several(of_outputs),
            **{pairs: fixed(100 * row[f'{pairs}_error'] / row[f'{pairs}_noise'], 1)
               for pairs in ('training', 'validation')}}


def noise_table(rows: list) -> list:
    """Rows: noise, dB of the noisy images, of the best blur and of both projects before and now."""
    names = ('noisy input', 'best blur', 'project 1, given', 'project 1', 'project 2, given', 'project 2')
    return [[figures.in_symbols(row['noise']),
             *('–' if row['noise'] == noises.NONE and name in names[:2] else fixed(row[name]) for name in names)]
            for row in rows]


def other_noise(rows: list, project: str) -> dict:
    """What a project does to other noise, now and with the weights that were trained on the course's noise alone
    ("given"): its PSNR without noise, its gain where there is some, and where it is behind its input or the blur."""
    none, noisy = rows[0], [{**row, 'noise': figures.in_symbols(row['noise'])} for row in rows[1:]]
    earlier = f'{project}, given'
    least, worst = (min(noisy, key=lambda row: row[name] - row['noisy input']) for name in (project, earlier))

    def behind(other: str, rows: list) -> str:
        return '; '.join(f"{row['noise']} ({fixed(row[other] - row[project])} dB)" for row in rows
                         if row[other] > row[project]) or 'none'

    helped = [row for row in noisy if row[project] >= row['noisy input']]
    return {'images': str(max(row['images'] for row in rows)), 'none': fixed(none[project], 1),
            'held': str(HELD_OUT[project]), 'none_before': fixed(none[earlier], 1),
            'most_ahead': fixed(max(row[project] - row[earlier] for row in noisy), 1),
            'behind': behind(earlier, noisy), 'least': least['noise'],
            'least_gain': signed(least[project] - least['noisy input']),
            'worst_noise': worst['noise'], 'worst_before': fixed(worst[earlier] - worst['noisy input'], 1),
            'below_input': behind('noisy input', noisy), 'below_blur': behind('best blur', helped)}


def report_1(rec: Records) -> tuple:
    """-> what report_1.typ says, and its figures: {name: a function that gives it as SVG}."""
    found, checks, net = search(rec, 1), grading(rec, 1), Model().net
    values = {
        **shared(rec, 1, BEST_1), 'search': choices_1(found), 'numbers': numbers(found),
        'recipe': {'batch': str(Model.BATCH_SIZE), 'rate': f'{Model.PEAK_LR:g}',
                   'longest': str(Model.LONGEST_GRADIENT)},
        'parameters': f'{sum(weight.numel() for weight in net.parameters()):,}', 'noise': the_noise(rec),
        'draws': draws(rec, 'project 1'), 'ablation': ablation(found), 'details': details(found, 'small'),
        'defaults': defaults(rec, 1),
        **{name: training(rec, 1, training_name) for name, training_name in OF_PROJECT_1.items()},
        'speedrun': speedrun(rec),
        'test': {'epoch': fixed(checks['train, one epoch']['seconds'], 0),
                 'predict': fixed(checks['predict 1x3x512x512']['seconds'], 1)},
    }
    drawings = {
        'noise': lambda: figures.noise(*rec.last('residual', file='real_val.pkl')),
        'network_1': lambda: figures.network_1(net.widths, [len(blocks) for blocks in net.encoder]),
        'variants': lambda: figures.variants(found, SEARCH_1),
        'saturation': lambda: figures.saturation(courses(rec)),
        'estimate': lambda: figures.estimate([row for row in rec.last('draws') if 'estimated' in row]),
        'noises': lambda: figures.noises(rec.last('noises')[1:]),
        **shared_figures(1),
    }
    return values, drawings


# ------------------------------------------------------------------------------------------- report 2

def exactness(rec: Records) -> dict:
    rows = rec.last('exactness')
    worst = [(row['ours'][-1], row['torch.nn'][-1]) for row in rows]
    bias = rec.last('exactness', quantity='gradient of the bias')
    return {'count': str(sum(row['configurations'] for row in rec.last('exactness', quantity='output'))),
            'worst': power(max(ours for ours, _ in worst)), 'torch': power(max(theirs for _, theirs in worst)),
            'results': str(len(rows)), 'larger': str(sum(ours > theirs for ours, theirs in worst)),
            'bias': between([row['torch.nn'][3] / row['ours'][3] for row in bias], 0),
            'finite': power(max(row['finite'] or 0 for row in rows))}


def power(value: float) -> str:
    """2.3e-07 -> 2.3 · 10⁻⁷"""
    digits, exponent = f'{value:.1e}'.split('e')
    return f'{digits} · 10' + str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))


def bench(rec: Records, device: str = 'cpu') -> tuple:
    """The newest run on a device, and its rows, steps first."""
    run = [run for run in rec.runs('bench_framework') if run['rows'][0]['device'] == device][-1]
    return run, sorted(run['rows'], key=lambda row: ('step', 'predict', 'memory').index(row['task']))


def speed(rec: Records) -> dict:
    (run, rows), (gpu, gpu_rows) = bench(rec), bench(rec, 'cuda')
    steps = {row['network']: row['ratio'] for row in rows if row['task'] == 'step'}
    text = {'networks': '; '.join(bench_framework.NETWORKS[name][-1] for name in steps),
            'upsampling': fixed(steps['N'], 1),                         # where ours does less arithmetic
            'machine': f"{run['machine']['processor']}, {run['machine']['threads']} cores",
            'revision': run['revision'][:7], 'gpu_machine': gpu['machine']['processor'],
            'fast_mixed': between([row['ours mixed'] / row['autocast'] for earlier in rec.runs('bench_framework')
                                   if earlier['revision'][:7] == FAST_MIXED
                                   for row in earlier['rows'] if row['task'] == 'step'], 1)}
    for prefix, some, digits in (('', rows, 2), ('gpu_', gpu_rows, 1)):
        text.update({prefix + task: between([row['ratio'] for row in some if row['task'] == task], digits)
                     for task in ('step', 'predict', 'memory')})
        text[f'{prefix}products'] = between([100 * row['products'] for row in some if 'products' in row], 0)
    return {**text, 'step': between([ratio for name, ratio in steps.items() if name != 'N'], 1)}


def speed_table(rec: Records) -> list:
    """Rows of the training steps: network, five figures in ms, ours over torch.nn's better one (with quartiles)."""
    columns = ('torch.nn', 'channels-last', 'ours', 'ours mixed', 'autocast')
    return [[row['network'], *(fixed(row[name], 0) for name in columns),
             f"{fixed(row['ratio'])} ({fixed(row['ratio_low'])}–{fixed(row['ratio_high'])})"]
            for row in bench(rec)[1] if row['task'] == 'step']


def twin(rec: Records) -> dict:
    """Our framework and torch.nn on the same trainings, one for each seed."""
    runs = rec.runs('compare_torch')
    ours, theirs = ([run['rows'][i] for run in runs] for i in (0, 1))
    table, gaps = [], []
    for name in ours[0]['psnr']:
        one, other = decibels(ours, name), decibels(theirs, name)
        gaps += [abs(a - b) for a, b in zip(one, other)]
        table.append([f'{name}, dB', spread(one), spread(other), lead(one, other)])
    ratios = [one['seconds'] / other['seconds'] for one, other in zip(ours, theirs)]
    seconds = [fixed(mean(row['seconds'] for row in rows), 0) for rows in (ours, theirs)]
    machine = runs[-1]['machine']
    return {'table': [*table, ['seconds', *seconds, f'× {between(ratios)}']], 'pairs': f"{ours[0]['pairs']:,}",
            'seeds': str(len(runs)), 'ratio': between(ratios), 'gap': fixed(max(gaps)),
            'machine': f"{machine['processor']}, {machine['threads']} cores"}


def report_2(rec: Records) -> tuple:
    """The same of report_2.typ."""
    found = search(rec, 2)
    curves = {label: [row['by_epoch'] for row in rec.rows('seeds', system=name)]
              for label, name in (('ours', 'vjp'), ('torch.nn', 'vjp, torch.nn'))}
    gaps = [one[-1] - other[-1] for one, other in zip(*curves.values())]                # from the same weights
    failed, *held = sorted(decibels(found['ten_held'], 'val_data'))
    values = {
        **shared(rec, 2, BEST_2), 'search': differences(found, DIFFERENCES_2),
        'one': one_by_one(found), 'details': details(found, 'ten'),
        'held': {'failed': fixed(failed, 1), 'others': lead(held, decibels(found['ten'], 'val_data'))},
        'defaults': defaults(rec, 2),
        'parameters': f"{found['base'][0]['parameters']:,}",
        'exact': exactness(rec), 'speed': speed(rec), 'speed_table': speed_table(rec), 'twin': twin(rec),
        'frameworks': {'seeds': str(len(gaps)),
                       'gap': f'{signed(mean(gaps))} ± {fixed(stdev(gaps) / len(gaps) ** 0.5)}'},
        'noise_table': noise_table(rec.last('noises')),
    }
    drawings = {
        'network_2': lambda: figures.network_2(found['base'][0]['channels']),
        'convolution': figures.convolution, 'winograd': figures.winograd,
        'exactness': lambda: figures.exactness(rec.last('exactness')),
        'speed': lambda: figures.speed([row for row in bench(rec)[1] if row['task'] != 'memory']),
        'variants': lambda: figures.variants(found, SEARCH_2, 'val_data', True),
        'epochs': lambda: figures.epochs(curves),
        **shared_figures(2),
    }
    return values, drawings


# ----------------------------------------------------------------------------------- the predecessors

def predecessors(rec: Records) -> tuple:
    """The same of report_predecessors.typ, on the systems that the project grew from and their authors' sweeps."""
    rows = rec.rows('seeds')
    found = {row['system']: row for row in rows}

    def line(name: str, xs, key: str = 'val_data') -> list:
        """[(x, dB)] of the systems of that name, with x in it, that were trained or reported."""
        points = [(x, found.get(name.format(x), {}).get(key)) for x in xs]
        return [(x, psnr) for x, psnr in points if psnr is not None]

    def epochs(name: str, key: str = 'by_epoch') -> list:
        return list(enumerate(found.get(name, {}).get(key, []), 1))

    depth, kernel = ('skip, {} layers', (4, 6, 8, 10, 12)), ('nearest, kernel {}', (3, 5, 7))
    widths = (32, 64, 128, 256)
    panels = [
        ('Mery: depth', 'layers', {'reported': line(*depth, 'reported'), 'here': line(*depth, 'centre')}),
        ('Mery: the skip', 'epoch', {'with': epochs('skip, with'), 'without': epochs('skip, without')}),
        ('Mery: the skip, training loss', 'epoch', {name: epochs(f'skip, {name}', 'loss_by_epoch')
                                                    for name in ('with', 'without')}),
        ('Mery: channels', 'channels', {'here': line('skip, {} channels', range(10, 401, 10))}),
        ('Mery: batches', 'images in a batch', {'here': line('skip, batches of {}', range(1, 51))}),
        ('Mery: epochs', 'epoch', {'here': epochs('skip, epochs')}),
        ('Béchaz et al.: kernel', 'pixels on a side', {'reported': line(*kernel, 'reported'),
                                                       'here': line(*kernel, 'centre')}),
        ('Béchaz et al.: channels', 'of the first layer', {
            str(b): line(f'nearest, channels {{}} {b}', widths) for b in widths}),
    ]
    panels = [(title, label, {name: points for name, points in lines.items() if points})
              for title, label, lines in panels if any(lines.values())]
    values = {'noisy': scores(evaluation(rec)['noisy input']), 'seeds': seeds(rec, SWEPT), 'pooling': pooling(rec),
              'systems': str(len(found)), 'runs': str(len(rows)),
              'hours': fixed(sum(row['processor_seconds'] or 0 for row in rows) / 3600, 1)}
    return values, {'sweeps': lambda: figures.sweeps(panels)}
