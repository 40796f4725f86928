"""What a quarter of an hour of a GPU is used for: commands in order of their worth, each with its own time limit.

    python -m others.studies.gpu --data data --mixed data/mixed --out gpu
    python -m others.studies.gpu --data data/demo --mixed data/demo --out gpu --tiny

Each command's output goes to OUT/NN_NAME.txt, what it measured to the records in OUT. A command that fails or runs
out of time is named, and the next one begins; the exit status is 1 then. --only repeats some of them. --tiny runs all
of it at small sizes, on the CPU where there is no GPU: a rehearsal.

--mixed is a set with other noise (others.data photos --other-noise). The trainings on it are runs of others.train in
OUT, which can be resumed elsewhere.
"""
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from others.common import cli, storage

SEEDS = (0, 1, 2)
AUGMENTATIONS = {'both': [], 'turn': ['--without', 'swap'], 'swap': ['--without', 'turn'],
                 'none': ['--without', 'swap', 'turn']}                         # by what is left
BLOCKS = {                                                                      # about equal products
    'ours': [],
    'wide_4221': ['--widths', '32', '48', '96', '192', '--encoder', '4', '2', '2', '1', '--decoder', '4', '2', '2'],
    'fine_16221': ['--widths', '16', '48', '96', '192', '--encoder', '16', '2', '2', '1', '--decoder', '16', '2', '2'],
}
AS_A_GRADER = '''
import sys, time, torch
from others.common.denoisers import measure, new_model
from others.common.datasets import read_pairs, read_validation
project, folder, epochs = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
pairs = read_pairs('--data', folder + '/train_data.pkl')
model, start = new_model(project), time.monotonic()
model.train(*pairs, *map(int, epochs))
seconds = time.monotonic() - start
scores = measure(model, {'val_data': read_validation('--data', folder + '/val_data.pkl')})
print(f'project {project}: {seconds:.0f} s, {scores}')
'''


def commands(options) -> list:
    """[(name, seconds it may take, arguments for Python)]"""
    tiny, out = options.tiny, options.out
    data, mixed = ['--data', str(options.data)], ['--data', str(options.mixed)]
    record = ['--record', str(out / 'search.json')]
    length = ['--epochs', '0.02'] if tiny else ['--epochs', '10']
    found = [('tests', 60, ['-m', 'pytest', '-q', 'others/tests', '-k', 'cuda or device', '-p', 'no:cacheprovider']),
             ('grader', 90, ['test.py', '--quick', '-d', str(options.data)]),
             ('bench', 90, ['-m', 'others.studies.bench_framework', '--rounds', '1' if tiny else '15',
                            '--device', 'cuda' if torch.cuda.is_available() else 'cpu',
                            '--record', str(out / 'bench_framework.json')])]
    for project in (1, 2):
        found.append((f'mixed_{project}', 150, ['-m', 'others.train', '--project', str(project), *mixed,
                                                '--weights', 'pretrained', '--epochs', '1' if tiny else '20',
                                                '--batch', '256' if project == 1 else '64',
                                                '--out', str(out / f'mixed_{project}')]))
    for seed in SEEDS[:1] if tiny else SEEDS:
        for name, without in AUGMENTATIONS.items():
            found.append((f'augment_{name}_{seed}', 60, ['-m', 'others.studies.search', f'augment_{name}_{seed}',
                                                         '--project', '1', '--batch', '64', '--seed', str(seed),
                                                         *length, *without, *data, *record]))
    for project in (1, 2):
        found.append((f'train_{project}', 120, ['-c', AS_A_GRADER, str(project), str(options.data), *['1'] * tiny]))
    for name, blocks in BLOCKS.items():
        found.append((f'blocks_{name}', 90, ['-m', 'others.studies.search', f'blocks_{name}', '--project', '1',
                                             '--batch', '64', *length, *blocks, *data, *record]))
    return found


def main(arguments=None) -> int:
    parser = cli.parser('studies.gpu', __doc__)
    option = parser.add_argument
    option('--mixed', type=Path, required=True, metavar='FOLDER', help='a set with other noise')
    option('--out', type=Path, required=True, metavar='FOLDER', help='for the runs, records and what is printed')
    option('--only', nargs='+', metavar='NAME', help='run those of these names alone')
    option('--tiny', action='store_true', help='small sizes: a rehearsal')
    cli.add_options(parser, 'data')
    options = parser.parse_args(arguments)
    options.data, options.mixed, options.out = (path.resolve() for path in (options.data, options.mixed, options.out))
    planned = commands(options)
    names = [name for name, _, _ in planned]
    unknown = [name for name in options.only or () if name not in names]
    if unknown:
        raise storage.UserError(f'--only: {unknown[0]}, expected some of {", ".join(names)}')
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, (name, limit, command) in enumerate(planned, 1):
        if options.only and name not in options.only:
            continue
        start = time.monotonic()
        with open(options.out / f'{number:02}_{name}.txt', 'w', encoding='utf-8') as output:
            process = subprocess.Popen([sys.executable, *command], cwd=storage.ROOT, stdout=output,
                                       stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': str(storage.ROOT)})
            try:
                status = str(process.wait(limit))
            except subprocess.TimeoutExpired:
                process.terminate()                     # others.train saves what it has
                process.wait()
                status = f'stopped after {limit} s'
        failed += status != '0'
        print(f'{number:2} {name:<18} {time.monotonic() - start:6.1f} s  {status}', flush=True)
    return int(failed > 0)


if __name__ == '__main__':
    cli.run(main)
