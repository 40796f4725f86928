"""What the reports say, computed from the records: text for Typst, numbers for the figures.

Each function takes `Records` and gives the numbers of one part of a report, as text. Nothing else reads a record, and
the reports' sources hold no measured number of their own. `report_1` and `report_2` put the parts together.
"""
import collections
import re
import statistics
from pathlib import Path
from typing import Callable

from Miniproject_1.model import Model
from others.common import records, storage
from others.reports import figures
from others.studies import readme_picture

# The best of the public submissions: what its author reports on the course's validation set, and what its weights give
# on the genuine pairs, in dB. Constants: no record here has them.
BEST_1 = {'reported': 25.832, 'real': 26.41}
BEST_2 = {'reported': 25.09, 'real': 25.51}

SETS = ('val_data', 'centre', 'real_val')
VERSIONS = ('noisy', 'project 1', 'project 2', 'clean')             # of the photographs that are shown
PARTS = [(10, 30), (58, 52)]                                        # of each that is enlarged: top, left

# The systems of the documents that the project grew from: (name in the record, name in the report).
SEEDS_1 = [('skip', 'T. Mery: 4 layers, one skip'), ('course, 8 convolutions', 'course: 8 convolutions'),
           ('course, two 3 x 3 convolutions', 'course, “simple”: 3-16-3 channels, 3 × 3')]
SEEDS_2 = [('vjp', 'Gravina, Palermo'), ('vjp, torch.nn', 'the same in torch.nn'), ('nearest', 'Béchaz et al.'),
           ('five', 'Gillyboeuf et al.')]
SWEPT = [*SEEDS_1[:1], ('skip, initial', 'initial: 5,000 pairs, 32 channels'), ('skip, with', '25 epochs, with skip'),
         ('skip, without', '25 epochs, without'), *((f'skip, {n} layers', f'{n} layers') for n in (4, 6, 8, 10, 12)),
         SEEDS_2[0], SEEDS_2[1], ('vjp, as in their code', 'as in their code'), SEEDS_2[2],
         ('nearest, as in their code', 'as in their code'),
         *((f'nearest, kernel {n}', f'1,000 pairs, kernel {n}') for n in (3, 5, 7)), SEEDS_2[3],
         ('five, as in their code', 'as in their code'), ('five, rate 2', 'learning rate 2'), *SEEDS_1[1:],
         ('course, one 3 x 3 convolution', 'one 3 × 3 convolution'),
         ('course, one 7 x 7 convolution', 'one 7 × 7 convolution'), ('course, box of 3 x 3', 'mean of 3 × 3')]

CLEAN_ROW, HELD_OUT = 'no noise', {'project 1': 3, 'project 2': 6}     # of `noises`: the first; how many last no
                                                                       # training of the project had
# The first trainings of the weights that ship; of an earlier network of project 1, one block at each of three levels;
# one epoch from fresh weights in float32.
SHIPPED, SHALLOW, FRESH = {1: 'cuda_deep', 2: 'shipped'}, 'cuda_1', 'fresh_1'
DEEPER, LAST = 'deep_1', {1: 'wide_1', 2: 'long_2'}            # the last of them, on a GPU
BEFORE_MIXED = 3                                               # of the evaluations; the next is with other noise
# What a record does not say: at these revisions project 1 had 4 blocks at the full resolution, not 8, and averaged
# over 8 flips and rotations, not 4; at this one compare_torch took torch.nn's default memory format, not the faster.
FOUR_BLOCKS, DEFAULT_FORMAT = ('8d72cd1', 'e949b8e'), ('ddb7360',)

# Those whose speed is measured, in the order in which they are shown.
NETWORKS = {'S': 'S, the network that ships, batches of 32',
            'S 16': 'S 16, batches of 16', 'S 8': 'S 8, batches of 8',
            'T': 'T, 3-100-200-100-3 channels, the same kernels, batches of 100',
            'N': 'N, 3-48-96-48-3, kernel 3, nearest upsampling, batches of 100',
            'N merged': 'N merged, the same beside the merged convolutions in torch.nn'}

# The trainings of equal length that Report 1 shows: (title, [(name in the record, name in the report)]), the first
# what the others of the group change one thing of.
SEARCH_1 = [
    ('batches of 64, learning rate 2e-3', [
        ('base', 'weighted loss'), ('mse', 'plain MSE'), ('oracle', 'clean targets (oracle)'), ('lr1', 'rate 1e-3'),
        ('lr4', 'rate 4e-3'), ('lr8', 'rate 8e-3'), ('batch16', 'batches of 16, rate 1e-3'),
        ('narrow', 'widths 32, 96, 256'), ('average', 'averaged weights')]),
    ('batches of 32, learning rate 1.5e-3', [
        ('batch32', 'weighted loss'), ('mse_b32', 'plain MSE'), ('batch32_lr3', 'rate 3e-3'),
        ('narrow_b32', 'widths 32, 96, 256'), ('twofull_b32', 'widths 48, 96, 96, 2 fine blocks'),
        ('fullres_b32', 'full resolution only'), ('attention_b32', 'attention at the bottom'),
        ('batchnorm_b32', 'batch norm'), ('batchnorm_b32_lr3', 'batch norm, rate 3e-3'),
        ('batchnorm_b16', 'batch norm, batches of 16')]),
    ('batches of 32, 2e-3 held, then lowered', [
        ('unnormed', 'without batch norm'), ('new', 'batch norm'), ('trapezoid', 'batch norm, rate 1.5e-3'),
        ('larger', 'batch norm, 5×5, 32 to 128'), ('depthwise', 'depthwise, gates')]),
    ('plain MSE, colours not permuted', [
        ('plain_b16', 'batches of 16, rate 2e-3'), ('plain_b32', 'batches of 32, rate 1.5e-3'),
        ('deep_b16', '24 to 192, blocks 2-2-2-1'), ('deeper_b16', '32 to 192, blocks 2-2-2-1'),
        ('fine_b16', '24 to 192, blocks 4-2-2-1')]),
]
NOISY, CLEAN = "plain, project 1's loss", ', towards clean images (oracle)'
# Trainings of another length, which only the table has.
LONGER_1 = [
    ('900 seconds, batches of 32', [('batch32_900', 'weighted loss'), ('batchnorm_900', 'batch norm')]),
    ('10 epochs on an H200, batches of 64, plain MSE: channels, blocks', [
        ('cuda_K_24_1331', '24-48-96-192, 1-3-3-1'), ('cuda_C_24_2331', '24-48-96-192, 2-3-3-1'),
        ('cuda_A_24_2221', '24-48-96-192, 2-2-2-1'), ('cuda_B_24_56_112_224', '24-56-112-224, 2-2-2-1'),
        ('cuda_L_24_4221', '24-48-96-192, 4-2-2-1'), ('cuda_N_32_3221', '32-48-96-192, 3-2-2-1')]),
    ('14 epochs on an H200, the same, gradients not clipped', [
        ('cuda_plain', '48-96-192, 1-1-1'), ('cuda_batchnorm', 'the same, batch norm'),
        ('cuda_wide_lr1', '96-192-384, 1-1-1, half the rate')]),
    ('1 epoch on an H200, 48-96-192, 1-1-1', [
        ('cuda_1_batch16_lr2', 'batches of 16, 2e-3'), ('cuda_1_batch16_lr2_batchnorm', 'the same, batch norm'),
        ('cuda_1_batch32_lr1.5', 'batches of 32, 1.5e-3'),
        ('cuda_1_batch32_lr3_batchnorm', 'the same, 3e-3, batch norm')]),
]
SEARCH_2 = [
    ('float32, learning rate 6', [('base', 'weighted loss'), ('mse', 'plain MSE')]),
    ('bfloat16, learning rate 6', [
        ('mixed', 'weighted loss'), ('mixed_mse', 'plain MSE'), ('mixed_lr9', 'rate 9'), ('mixed_lr14', 'rate 14'),
        ('nearest', 'nearest, kernel 3'), ('wide', '192, 384 channels, rate 14')]),
    ('bfloat16, learning rate 12', [
        ('mixed_lr12', 'weighted loss'), ('oracle', 'clean targets (oracle)'), ('average', 'averaged weights')]),
    ('bfloat16, plain MSE, Winograd', [
        ('batch16_lr8', 'batches of 16, rate 8'), ('batch16_lr12', 'batches of 16, rate 12'),
        ('batch8_lr8', 'batches of 8, rate 8')]),
]

# How far a training is ahead of another one: {name in the report: (its name, the other's, the set)}.
DIFFERENCES_1 = {
    'batch32': ('batch32_lr3', 'lr4', 'centre'), 'plain_b16': ('plain_b16', 'plain_b32', 'centre'),
    'mse': ('mse', 'base', 'centre'), 'mse_b32': ('mse_b32', 'batch32', 'centre'),
    'new': ('new', 'unnormed', 'centre'), 'batchnorm_900': ('batchnorm_900', 'batch32_900', 'val_data'),
    'attention': ('attention_b32', 'batch32', 'centre'), 'depthwise': ('depthwise', 'new', 'centre'),
    'larger': ('larger', 'new', 'centre'), 'average': ('average', 'base', 'centre'),
    'oracle': ('oracle', 'base', 'centre'), 'longer_oracle': (NOISY + CLEAN, NOISY, 'val_data'),
    'deep_b16': ('deep_b16', 'plain_b16', 'centre'), 'fine_b16': ('fine_b16', 'plain_b16', 'centre'),
    'two': ('cuda_C_24_2331', 'cuda_K_24_1331', 'val_data'), 'four': ('cuda_L_24_4221', 'cuda_A_24_2221', 'val_data'),
    'lower': ('cuda_C_24_2331', 'cuda_A_24_2221', 'val_data'),
    'wider': ('cuda_B_24_56_112_224', 'cuda_A_24_2221', 'val_data'),
    'wide_fine': ('cuda_N_32_3221', 'cuda_L_24_4221', 'val_data'),
    'norm_b16': ('cuda_1_batch16_lr2_batchnorm', 'cuda_1_batch16_lr2', 'val_data'),
    'norm_b32': ('cuda_1_batch32_lr3_batchnorm', 'cuda_1_batch32_lr1.5', 'val_data'),
    'norm_14': ('cuda_batchnorm', 'cuda_plain', 'val_data'), 'wide': ('cuda_wide_lr1', 'cuda_plain', 'val_data'),
}
DIFFERENCES_2 = {name: (name, other, 'centre') for name, other in {
    'mixed': 'base', 'mixed_lr14': 'mixed', 'wide': 'mixed_lr14', 'nearest': 'mixed', 'mse': 'base',
    'mixed_mse': 'mixed', 'oracle': 'mixed_lr12', 'average': 'mixed_lr12', 'batch16_lr12': 'mixed_lr12',
    'batch8_lr8': 'batch16_lr8'}.items()}


class Records:
    """Reads the records of a folder, and remembers which were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = Path(folder), set()

    def path(self, name: str) -> Path:
        return self.folder / f'{name}.json'

    def runs(self, name: str) -> list:
        """All runs of a record, the oldest first; none if there is no such record."""
        self.asked.add(name)
        return records.read(self.path(name))

    def rows(self, name: str) -> list:
        """The rows of all runs."""
        return [row for run in self.runs(name) for row in run['rows']]

    def last(self, name: str) -> list:
        """The rows of the newest run; UserError if there is none."""
        runs = self.runs(name)
        if not runs:
            raise storage.UserError(f'{self.path(name)} is missing, expected the record that the reports show')
        return runs[-1]['rows']

    def missing(self) -> list:
        return sorted(name for name in self.asked if not self.path(name).exists())


def fixed(value, digits: int = 2, sign: bool = False) -> str:
    """A number as the reports print it; a dash for None."""
    return '–' if value is None else f'{value:{"+" if sign else ""},.{digits}f}'.translate(figures.MINUS)


def signed(value, digits: int = 2) -> str:
    return fixed(value, digits, sign=True)


def between(values: list, digits: int = 2) -> str:
    """The smallest and the largest."""
    return f'{fixed(min(values), digits)} to {fixed(max(values), digits)}'


# --------------------------------------------------------------------------------------- both reports

def evaluation(rec: Records) -> dict:
    """{model: {set: row}} of the newest evaluation."""
    table = {}
    for row in rec.last('evaluation'):
        table.setdefault(row['model'], {})[Path(row['file']).stem] = row
    return table


def both(row: dict) -> str:
    """A row's PSNR: the mean of the images' own, and that of the error over all images."""
    return f"{fixed(row['psnr'])} / {fixed(row['pooled'])}"


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
    """The table of the results: what, and for each set the PSNR in both definitions."""
    classical = [(name, name, '') for name in models if re.match('Gaussian blur|total variation|non-local', name)]
    rows = [('noisy images', 'noisy input', ''), *classical, ('*this project*', project, '*'),
            ('without averaging', f'{project}, no ensemble', '')]
    return [[label, *(f'{mark}{both(models[model][name])}{mark}' for name in SETS)] for label, model, mark in rows
            ] + [['best public submission', '', '', fixed(best['real'])]]


def search(rec: Records, project: int) -> dict:
    """{name: rows, one for each seed}, without the number of the seed in the name."""
    found = {}
    for row in rec.rows('search'):
        if row['project'] == project:
            name = re.sub(r'_\d$', '', row['name'])
            if name == 'both' and 'loss' in row:                    # of the later 5,000 pairs
                name = 'whole'
            found.setdefault(name, []).append(row)
    return found


def groups(found: dict, wanted: list) -> list:
    """For `figures.variants`: (title, [(name, [dB of each seed])]), of the rows that there are."""
    shown = [(title, [(label, [row['psnr']['centre'] for row in found[name]]) for name, label in rows
                      if name in found]) for title, rows in wanted]
    return [(title, rows) for title, rows in shown if rows]


def numbers(found: dict, wanted: list) -> list:
    """Rows of a table: name, parameters in millions, thousands of pairs seen, seeds, dB on two sets; a group's title
    is a row of one."""
    table = []
    for title, names in wanted:
        table.append([f'*{title}*'])
        for name, label in names:
            rows = found.get(name, [])
            if rows:
                scores = [statistics.mean(row['psnr'][key] for row in rows) if key in rows[0]['psnr'] else None
                          for key in ('val_data', 'real_val')]
                table.append([label, fixed(rows[0]['parameters'] / 1e6),
                              fixed(statistics.mean(row['pairs_seen'] for row in rows) / 1000, 0), str(len(rows)),
                              *(fixed(score, 3) for score in scores)])
    return table


def differences(found: dict, wanted: dict) -> dict:
    """{name: dB that the mean of the seeds of a training is ahead of another's, on a set}."""
    def mean(name: str, key: str) -> float:
        return statistics.mean(row['psnr'][key] for row in found[name])

    return {name: signed(mean(one, key) - mean(other, key)) if {one, other} <= found.keys() else '–'
            for name, (one, other, key) in wanted.items()}


def spread_of_seeds(found: dict) -> float:
    """The standard deviation over seeds of the PSNR on the centre squares, pooled over the trainings of three."""
    groups = [[row['psnr']['centre'] for row in rows] for rows in found.values()
              if len(rows) > 2 and 'centre' in rows[0]['psnr']]
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups)
    return (squares / sum(len(group) - 1 for group in groups)) ** 0.5


def least_visible(found: dict) -> str:
    """The difference of two single runs which the spread of seeds exceeds in one of 20."""
    return fixed(1.96 * 2 ** 0.5 * spread_of_seeds(found), 3)


def training(rec: Records, project: int, name: str) -> dict:
    """The training of that name: its curve, [(epoch, dB)], and what it took."""
    runs = [run for run in rec.runs('training')
            if (run['rows'][0]['project'], run['rows'][0]['training']) == (project, name)]
    if not runs:
        raise storage.UserError(f"{rec.path('training')} has no training {name} of project {project}")
    rows = [row for run in runs for row in run['rows'] if row['epoch']]
    places = collections.Counter()
    for run in runs:
        places[run['machine']['processor']] += sum(row['epoch'] > 0 for row in run['rows'])
    return {'curve': [(row['epoch'], row['val_psnr']) for row in rows], 'epochs': str(len(rows)),
            'where': ' and '.join(f'{epochs} on an {place}' for place, epochs in places.items()),
            'parts': str(len(runs)), 'rate': peak_rate(runs),
            'dirty': ', the first with uncommitted changes in the code' * runs[0]['revision'].endswith('-dirty'),
            'begun': str(rows[0]['planned_epochs']), 'end': fixed(rows[-1]['val_psnr']),
            'minutes': fixed(sum(row['seconds'] for row in rows) / 60, 1),
            'hours': fixed(sum(row['seconds'] for row in rows) / 3600, 1),
            'processor': runs[0]['machine']['processor']}


def peak_rate(runs: list) -> str:
    """The highest learning rate: what the commands ask for, else the highest at the end of an epoch."""
    asked = [float(rate) for run in runs for rate in re.findall(r'--lr (\S+)', run['command'])]
    return f"{max(asked or [row['lr'] for run in runs for row in run['rows']]):.2g}"


def mixed_training(rec: Records, project: int) -> dict:
    """The training with other noise, in one or more cycles of the learning rate, and what it cost on the course's."""
    runs = [run for run in rec.runs('training') if run['rows'][0]['training'].startswith(f'mixed_{project}')]
    rows = [row for run in runs for row in run['rows']]
    model = f'project {project}'
    before, after = ({Path(row['file']).stem: row['psnr'] for row in run['rows'] if row['model'] == model}
                     for run in rec.runs('evaluation')[BEFORE_MIXED:BEFORE_MIXED + 2])
    return {'epochs': str(len(rows)), 'cycles': str(len({row['training'] for row in rows})),
            'rate': peak_rate(runs), 'hours': fixed(sum(row['seconds'] for row in rows) / 3600, 1),
            'cost': signed(after['real_val'] - before['real_val']),
            'cost_val': signed(after['val_data'] - before['val_data'])}


def in_words(trained: dict) -> dict:
    return {key: text for key, text in trained.items() if isinstance(text, str)}


def grading(rec: Records, project: int) -> dict:
    """{check: its row} of test.py."""
    return {row['check']: row for row in rec.last('test') if row['project'] == project}


def seeds(rec: Records, names: list) -> list:
    """The table's rows of the systems of these names that the record has: name, parameters, dB as reported, on
    the centre squares, the same pooled, and on the genuine pairs."""
    found = {}
    for row in rec.rows('seeds'):
        found.setdefault(row['system'], []).append(row)
    return [[label, f"{found[name][0]['parameters']:,}", fixed(found[name][0]['reported']),
             *(spread([row[key] for row in found[name]]) for key in ('centre', 'centre_pooled', 'real_val'))]
            for name, label in names if name in found]


def pooling(rec: Records) -> str:
    """By how much the mean of the images' PSNR is above that of the error over all images, of the seeds."""
    gaps = [row['val_data'] - row['val_data_pooled'] for row in rec.rows('seeds')]
    return between(gaps, 1) if gaps else ''


def spread(values: list) -> str:
    """Mean ± standard deviation, or the one value."""
    mean = fixed(statistics.mean(values))
    return mean if len(values) == 1 else f'{mean} ± {fixed(statistics.stdev(values))}'


def shared(rec: Records, project: int, best: dict) -> dict:
    """What both reports say of their project."""
    models, name = evaluation(rec), f'project {project}'
    ours, single = models[name], models[f'{name}, no ensemble']
    return {'images': {key: f"{ours[key]['images']:,}" for key in SETS}, 'noisy': scores(models['noisy input']),
            f'p{project}': scores(ours), 'table': results(models, name, best),
            'best': {key: fixed(value) for key, value in best.items()},
            'ensemble': between([ours[key]['psnr'] - single[key]['psnr'] for key in SETS]),
            'training': in_words(training(rec, project, SHIPPED[project])), 'mixed': mixed_training(rec, project),
            'last': in_words(training(rec, project, LAST[project])), 'pooling': pooling(rec),
            'noises': other_noise(rec.last('noises'), name),
            'squares': str(readme_picture.IMAGES * len(readme_picture.SQUARES))}


def shared_figures(project: int, pictures: Callable) -> dict:
    """A photograph, another one in each report; the worst, the median and the best of small images."""
    shown = slice(2 - project, 3 - project)

    def photograph() -> bytes:
        return figures.pictures(pictures('tiles')[shown], VERSIONS, PARTS[shown])

    def squares() -> bytes:
        rows = pictures('squares')[3 * (project - 1):3 * project]
        return figures.squares([[row[0], row[project], row[-1]] for row in rows], ['noisy', 'denoised', 'clean'])

    return {'pictures': photograph, 'squares': squares}


# ------------------------------------------------------------------------------------------- report 1

def the_noise(rec: Records) -> dict:
    """The numbers about the noise of the genuine pairs."""
    ours, row = (next(row for row in rec.last('residual') if row['file'] == f'{name}.pkl')
                 for name in ('val_data', 'real_val'))
    around = [value for line in row['neighbours'] for value in line if value < 0.999]
    flat, busy = row['by_contrast'][0][1], row['by_contrast'][-1][1]
    return {'mean': f"{signed(row['mean'])} ± {fixed(row['mean_error'])}", 'low': signed(min(around), 3),
            'high': signed(max(around), 3), 'error': fixed(row['neighbour_error'], 3),
            'red_green': fixed(row['red_green']), 'red_blue': fixed(row['red_blue']),
            'red_blue_ours': fixed(ours['red_blue']), 'flat': fixed(flat, 1), 'busy': fixed(busy, 1),
            'ratio': fixed(busy / flat, 0)}


def choices_1(found: dict) -> dict:
    """The numbers of the section on choices."""
    level = ('batch32', 'narrow_b32', 'twofull_b32', 'fullres_b32')
    means = [statistics.mean(row['psnr']['centre'] for row in found[name]) for name in level]
    sizes = [found[name][0]['parameters'] / 1e6 for name in level]
    plain, deep = (statistics.mean(row['pairs_seen'] for row in found[name]) for name in ('plain_b16', 'deep_b16'))
    wide = found['cuda_wide_lr1'][0]
    return {'deep_pace': fixed(plain / deep), 'level': fixed(max(means) - min(means), 3),
            'spread': fixed(spread_of_seeds(found), 3), 'visible': least_visible(found),
            'pairs': f"{round(statistics.median(row['pairs_seen'] for row in found['batch32']), -3):,.0f}",
            'smallest': fixed(min(sizes), 1), 'largest': fixed(max(sizes), 1),
            'epochs': f"{found['cuda_L_24_4221'][0]['epochs']:g}", 'epochs_wide': f"{wide['epochs']:g}",
            'parameters_wide': fixed(wide['parameters'] / 1e6, 1), **differences(found, DIFFERENCES_1)}


def courses(rec: Records, found: dict) -> tuple:
    """For `figures.saturation`: PSNR on val_data.pkl over the pairs seen, of whole trainings and of short ones."""
    pairs = 50_000
    shipped, shallow = ([(epoch * pairs, psnr) for epoch, psnr in training(rec, 1, name)['curve']]
                        for name in (SHIPPED[1], SHALLOW))
    slow = [(row['epochs'] * pairs, row['psnr']) for row in rec.rows('speedrun') if row['system'] != 'project 1']

    def short(*names: str) -> list:
        return [(row['pairs_seen'], row['psnr']['val_data']) for name in names for row in found.get(name, [])]

    ours = short('batch32', 'batch32_900')
    norm = short('batchnorm_b32', 'new', 'batchnorm_900')
    return ([('4 blocks at full resolution', shipped), ('T. Mery, reproduced', slow), ('1 block, 3 levels', shallow)],
            [('short trainings', sorted(ours)), ('the same, batch norm', sorted(norm))])


def speedrun(rec: Records) -> dict:
    """How long until the PSNR at which the slow system ends; and how long it takes itself to the mean of its last
    three epochs, since its PSNR goes up and down."""
    slow = [row for row in rec.rows('speedrun') if row['system'] != 'project 1']
    fast = {row['precision']: row for row in rec.last('speedrun')
            if row['system'] == 'project 1' and row['psnr'] >= slow[-1]['psnr']}
    level = statistics.mean(row['psnr'] for row in slow[-3:])
    first = next(row for row in slow if row['psnr'] >= level)

    def factors(precision: str) -> str:
        return between([row['seconds'] / fast[precision]['seconds'] for row in (first, slow[-1])], 0)

    return {'epochs': f"{fast['float32']['epochs']:g}", 'seconds': fixed(fast['float32']['seconds'], 0),
            'end': fixed(slow[-1]['psnr']), 'end_seconds': fixed(slow[-1]['seconds'], 0), 'level': fixed(level),
            'level_seconds': fixed(first['seconds'], 0), 'factor': factors('float32'), 'mixed': factors('mixed'),
            'network': with_network(rec.runs('speedrun')[-1])}


def with_network(run: dict) -> str:
    """What is to be said of project 1's network in a run of an earlier revision."""
    return ', with 4 blocks at the full resolution' if run['revision'][:7] in FOUR_BLOCKS else ''


def ablation(found: dict) -> dict:
    """What each part of the recipe brings on val_data.pkl: {name: the mean over seeds, and its range}."""
    def gain(whole: str, without: str) -> str:
        gains = [a['psnr']['val_data'] - b['psnr']['val_data'] for a, b in zip(found[whole], found[without])]
        return f'{signed(statistics.mean(gains), 3)} dB ({between(gains, 3)})'

    names = ('none', 'no_residual', 'no_skips', 'no_clipping', 'absolute')
    best = max(row['psnr']['val_data'] for row in (*found['sgd'], *found['sgd_16']))       # of three learning rates
    return {'swap': gain('both', 'turn'), 'turn': gain('both', 'swap'),
            **{name: gain('whole', name) for name in names},
            'sgd': signed(best - found['whole'][0]['psnr']['val_data']), 'seeds': str(len(found['both'])),
            'epochs': f"{found['both'][0]['epochs']:g}"}


def draws(rec: Records, project: str) -> dict:
    """The parts of the error, in per cent of it, and how many draws of the noise have the PSNR of one denoised."""
    means, row = ({row['model']: row for row in rec.last('draws')}[name] for name in ('mean of draws', project))
    error = row['variance'] + row['squared_bias']
    return {'variance': fixed(100 * row['variance'] / error, 0), 'bias': fixed(100 * row['squared_bias'] / error, 0),
            'images': str(row['images']), 'draws': str(row['draws']),
            'worth': fixed(10 ** ((row['psnr']['1'] - means['psnr']['1']) / 10), 1),
            'training': fixed(row['training_error'], 0), 'validation': fixed(row['validation_error'], 0)}


def noise_table(rows: list) -> list:
    names = ('noisy input', 'best blur', 'project 1, given', 'project 1', 'project 2, given', 'project 2')
    return [[figures.in_symbols(row['noise']),
             *('–' if row['noise'] == CLEAN_ROW and name in names[:2] else fixed(row[name]) for name in names)]
            for row in rows]


def other_noise(rows: list, project: str) -> dict:
    """What a project does to other noise, now and with the weights that were trained on the course's noise alone
    ("given"): its PSNR without noise, its gain where there is some, and where it is behind its input or the blur."""
    none, noisy = rows[0], rows[1:]
    gains, earlier = ([row[name] - row['noisy input'] for row in noisy] for name in (project, f'{project}, given'))
    words = [figures.in_symbols(row['noise']) for row in noisy]
    behind = {kind: '; '.join(f'{word} ({fixed(row[kind] - row[project])} dB)' for word, row in zip(words, noisy)
                              if row[kind] > row[project]) or 'none' for kind in ('noisy input', 'best blur')}
    ahead = [now - then for now, then in zip(gains, earlier)]
    least = min(range(len(noisy)), key=lambda k: gains[k])
    return {'images': str(max(row['images'] for row in rows)), 'none': fixed(none[project], 1),
            'held': str(HELD_OUT[project]), 'none_before': fixed(none[f'{project}, given'], 1),
            'ahead': between(ahead, 1),
            'least': words[least], 'least_gain': signed(gains[least]), 'worst_before': fixed(min(earlier), 1),
            'worst_noise': words[min(range(len(noisy)), key=lambda k: earlier[k])],
            'below_input': behind['noisy input'], 'below_blur': behind['best blur']}


def report_1(rec: Records, photograph: Callable, pictures: Callable) -> tuple:
    """-> what report_1.typ says, and its figures: {name: a function that gives it as SVG}. photograph() -> uint8
    (3, 224, 224); pictures(name of a file) -> for each image in it the pairs (image, dB) of its VERSIONS."""
    found, checks = search(rec, 1), grading(rec, 1)
    net, earlier = Model().net, with_network(rec.runs('test')[-1])
    values = {
        **shared(rec, 1, BEST_1), 'search': choices_1(found), 'numbers': numbers(found, LONGER_1),
        'recipe': {'batch': str(Model.BATCH_SIZE), 'rate': f'{Model.PEAK_LR:g}',
                   'longest': str(Model.LONGEST_GRADIENT)},
        'parameters': f'{sum(weight.numel() for weight in net.parameters()):,}', 'noise': the_noise(rec),
        'draws': draws(rec, 'project 1'), 'deeper': in_words(training(rec, 1, DEEPER)), 'ablation': ablation(found),
        'fresh': in_words(training(rec, 1, FRESH)),
        'shallow': in_words(training(rec, 1, SHALLOW)), 'seeds': seeds(rec, SEEDS_1), 'speedrun': speedrun(rec),
        'test': {'epoch': fixed(checks['train, one epoch']['seconds'], 0),
                 'predict': fixed(checks['predict 1x3x512x512']['seconds'], 1),
                 'network': earlier + ' and 8 flips and rotations' * bool(earlier)},
    }
    real = next(row for row in rec.last('residual') if row['file'] == 'real_val.pkl')
    drawings = {
        'noise': lambda: figures.noise(photograph(), real),
        'network_1': lambda: figures.network_1(net.widths, [len(blocks) for blocks in net.encoder]),
        'variants': lambda: figures.variants(groups(found, SEARCH_1), 'PSNR on centre squares (dB)'),
        'saturation': lambda: figures.saturation(*courses(rec, found), 'PSNR on val_data (dB)'),
        'noises': lambda: figures.noises(rec.last('noises')[1:]),
        **shared_figures(1, pictures),
    }
    return values, drawings


# ------------------------------------------------------------------------------------------- report 2

def exactness(rec: Records) -> dict:
    rows = rec.last('exactness')
    bias = [row for row in rows if row['quantity'] == 'gradient of the bias']
    return {'count': str(sum(row['configurations'] for row in rows if row['quantity'] == 'output')),
            'worst': power(max(row['ours'][-1] for row in rows)),
            'torch': power(max(row['torch.nn'][-1] for row in rows)), 'results': str(len(rows)),
            'larger': str(sum(row['ours'][-1] > row['torch.nn'][-1] for row in rows)),
            'bias': between([row['torch.nn'][3] / row['ours'][3] for row in bias], 0),
            'finite': power(max(row['finite'] for row in rows if row['finite'] is not None))}


def power(value: float) -> str:
    """2.3e-07 -> 2.3 · 10⁻⁷"""
    digits, exponent = f'{value:.1e}'.split('e')
    return f'{digits} · 10' + str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))


def bench(rec: Records, device: str = 'cpu') -> tuple:
    """The newest run on a device, and its rows, steps first."""
    tasks = ('step', 'predict', 'memory')
    run = [run for run in rec.runs('bench_framework') if run['rows'][0]['device'] == device
           and not run['rows'][0].get('beside_load')][-1]
    rows = [{'ratio': row['ours'] / min(row['torch.nn'], row['channels-last']), **row} for row in run['rows']]
    return run, sorted(rows, key=lambda row: (tasks.index(row['task']), list(NETWORKS).index(row['network'])))


def speed(rec: Records) -> dict:
    (run, rows), (gpu, gpu_rows) = bench(rec), bench(rec, 'cuda')
    steps = {row['network']: fixed(row['ratio']) for row in rows if row['task'] == 'step'}
    ratios = {prefix + task: between([row['ratio'] for row in some if row['task'] == task], digits)
              for prefix, some, digits in (('', rows, 2), ('gpu_', gpu_rows, 1))
              for task in ('step', 'predict', 'memory')}
    products = [between([100 * row['products'] for row in some if 'products' in row], 0) for some in (rows, gpu_rows)]
    return {**ratios, 'list': ', '.join(f'{ratio} ({name})' for name, ratio in steps.items()),
            'merged': steps.get('N merged', ''),
            'networks': '; '.join(NETWORKS[name] for name in steps), 'gpu_machine': gpu['machine']['processor'],
            'products': products[0], 'gpu_products': products[1], 'revision': (run['revision'] or '–')[:7],
            'machine': f"{run['machine']['processor']}, {run['machine']['threads']} cores"}


def speed_table(rec: Records) -> list:
    """Rows: network and task but predictions, five figures, ours over torch.nn's better one."""
    units = {'step': 'training step, ms', 'predict': 'predict, ms', 'memory': 'peak memory, MB'}
    columns = ('torch.nn', 'channels-last', 'ours', 'ours mixed', 'autocast')
    return [[f"{row['network']}, {units[row['task']]}", *(fixed(row[name], 0) for name in columns),
             fixed(row['ratio'])] for row in bench(rec)[1] if row['task'] != 'predict']


def twin(rec: Records) -> dict:
    """Our framework and torch.nn on the same training."""
    of = {row['framework']: row for row in rec.last('compare_torch')}
    ours, theirs = of['ours'], of['torch.nn']
    table = [[f'{name}, dB', fixed(ours['psnr'][name], 3), fixed(theirs['psnr'][name], 3),
              signed(ours['psnr'][name] - theirs['psnr'][name], 3)] for name in ours['psnr']]
    table.append(['seconds', fixed(ours['seconds'], 0), fixed(theirs['seconds'], 0),
                  f"× {fixed(ours['seconds'] / theirs['seconds'])}"])
    run = rec.runs('compare_torch')[-1]
    layout = 'default' if run['revision'][:7] in DEFAULT_FORMAT else 'faster'
    return {'table': table, 'layout': layout, 'pairs': f"{ours['pairs']:,}",
            'ratio': fixed(ours['seconds'] / theirs['seconds']),
            'gap': fixed(max(theirs['psnr'][name] - ours['psnr'][name] for name in ours['psnr'])),
            'machine': f"{run['machine']['processor']}, {run['machine']['threads']} cores"}


def by_epoch(rec: Records) -> dict:
    """For `figures.epochs`: PSNR after each epoch of the same system in both frameworks, of each seed."""
    return {label: [row['by_epoch'] for row in rec.rows('seeds') if row['system'] == name]
            for label, name in (('ours', 'vjp'), ('torch.nn', 'vjp, torch.nn'))}


def frameworks(curves: dict) -> dict:
    """How far ours ends ahead of torch.nn from the same weights: the mean of the seeds and its standard error."""
    gaps = [one[-1] - other[-1] for one, other in zip(*curves.values())]
    if len(gaps) < 2:
        return {'seeds': '0', 'gap': '–'}
    return {'seeds': str(len(gaps)),
            'gap': f'{signed(statistics.mean(gaps))} ± {fixed(statistics.stdev(gaps) / len(gaps) ** 0.5)}'}


def report_2(rec: Records, photograph: Callable, pictures: Callable) -> tuple:
    """The same of report_2.typ, which does not show the noise of a photograph."""
    found, curves = search(rec, 2), by_epoch(rec)
    values = {
        **shared(rec, 2, BEST_2), 'search': differences(found, DIFFERENCES_2),
        'visible': least_visible(search(rec, 1)), 'parameters': f"{found['base'][0]['parameters']:,}",
        'exact': exactness(rec), 'speed': speed(rec), 'speed_table': speed_table(rec), 'twin': twin(rec),
        'seeds': seeds(rec, SEEDS_2), 'frameworks': frameworks(curves), 'noise_table': noise_table(rec.last('noises')),
    }
    drawings = {
        'network_2': lambda: figures.network_2(found['base'][0]['channels']),
        'convolution': figures.convolution, 'winograd': figures.winograd,
        'exactness': lambda: figures.exactness(rec.last('exactness')),
        'speed': lambda: figures.speed([row for row in bench(rec)[1] if row['task'] != 'memory']),
        'variants': lambda: figures.variants(groups(found, SEARCH_2), 'PSNR on centre squares (dB)'),
        **shared_figures(2, pictures),
    }
    if all(curves.values()):
        drawings['epochs'] = lambda: figures.epochs(curves, 'PSNR on val_data (dB)')
    return values, drawings


# ----------------------------------------------------------------------------------- the predecessors

def predecessors(rec: Records, photograph: Callable, pictures: Callable) -> tuple:
    """The same of report_predecessors.typ, on the systems that the project grew from and their authors' sweeps."""
    found = {row['system']: row for row in rec.rows('seeds')}

    def line(names: list, key: str = 'val_data') -> list:
        return [(x, found[name][key]) for x, name in names if name in found and found[name][key] is not None]

    def epochs(name: str) -> list:
        return list(enumerate(found[name]['by_epoch'], 1)) if name in found else []

    depths, kernels = ([(n, name.format(n)) for n in ns] for ns, name in (
        ((4, 6, 8, 10, 12), 'skip, {} layers'), ((3, 5, 7), 'nearest, kernel {}')))
    widths = (32, 64, 128, 256)
    panels = [
        ('Mery: depth', 'layers', [('reported', line(depths, 'reported')), ('here', line(depths))]),
        ('Mery: the skip', 'epoch', [('with', epochs('skip, with')), ('without', epochs('skip, without'))]),
        ('Mery: channels', 'channels', [('here', line([(n, f'skip, {n} channels') for n in range(10, 401, 10)]))]),
        ('Mery: batches', 'images in a batch', [('here', line([(n, f'skip, batches of {n}') for n in range(1, 51)]))]),
        ('Mery: epochs', 'epoch', [('here', epochs('skip, epochs'))]),
        ('Béchaz et al.: kernel', 'pixels on a side', [('reported', line(kernels, 'reported')),
                                                       ('here', line(kernels))]),
        ('Béchaz et al.: channels', 'of the first layer', [
            (f'second {b}', line([(a, f'nearest, channels {a} {b}') for a in widths])) for b in widths]),
    ]
    panels = [(title, label, [one for one in lines if one[1]]) for title, label, lines in panels]
    panels = [panel for panel in panels if panel[2]]
    values = {'noisy': scores(evaluation(rec)['noisy input']), 'seeds': seeds(rec, SWEPT), 'panels': str(len(panels)),
              'pooling': pooling(rec), 'systems': str(len(found)),
              'runs': str(len([row for row in rec.rows('seeds')])),
              'hours': fixed(sum(row['processor_seconds'] or 0 for row in rec.rows('seeds')) / 3600, 1)}
    return values, {'sweeps': lambda: figures.sweeps(panels)}
