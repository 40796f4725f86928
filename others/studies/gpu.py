"""What a quarter of an hour of a GPU is used for: commands in order of their worth, each with its own time limit.

    python -m others.studies.gpu --data data --mixed data/mixed --out gpu

Each command's output goes to OUT/NN_NAME.txt, what it measured to the records in OUT. A command that fails or runs
out of time is named, and the next one begins; the exit status is 1 then. --only repeats some of them. With sets of a
few pairs it is a rehearsal, on the CPU where there is no GPU.

--mixed is a set with other noise (others.data photos --other-noise). The trainings on it are runs of others.train in
OUT, which can be resumed elsewhere.
"""
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from others.common import cli, storage

AS_A_GRADER = '''
import sys
from others.common import datasets, denoisers
project, folder = sys.argv[1:]
model = denoisers.new_model(int(project))
model.train(*datasets.read_pairs('--data', folder + '/train_data.pkl'))
print(denoisers.measure(model, {'val_data': datasets.read_validation('--data', folder + '/val_data.pkl')}))
'''


def commands(data: str, mixed: str, out: str) -> dict:
    """{name: (seconds it may take, the command line of Python)}, of three paths that are quoted."""
    train = f'-m others.train --weights pretrained --data {mixed} --epochs 20'
    search = f'-m others.studies.search --project 1 --batch 64 --epochs 10 --data {data} --record {out}/search.json'
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parts = {'both': '', 'turn': '--without swap', 'swap': '--without turn', 'none': '--without swap turn'}
    blocks = {'ours': '', 'wide_4221': '--widths 32 48 96 192 --encoder 4 2 2 1 --decoder 4 2 2',       # of about
              'fine_16221': '--widths 16 48 96 192 --encoder 16 2 2 1 --decoder 16 2 2'}            # equal products
    return {
        'tests': (60, '-m pytest -q others/tests -k "cuda or device" -p no:cacheprovider'),
        'grader': (90, f'test.py --quick -d {data}'),
        'bench': (90, f'-m others.studies.bench_framework --rounds 15 --device {device} '
                      f'--record {out}/bench_framework.json'),
        'mixed_1': (150, f'{train} --project 1 --batch 256 --out {out}/mixed_1'),
        'mixed_2': (150, f'{train} --project 2 --batch 64 --out {out}/mixed_2'),
        **{f'augment_{left}_{seed}': (60, f'{search} augment_{left}_{seed} --seed {seed} {without}')
           for seed in range(3) for left, without in parts.items()},
        **{f'train_{k}': (120, f'-c {shlex.quote(AS_A_GRADER)} {k} {data}') for k in (1, 2)},
        **{f'blocks_{name}': (90, f'{search} blocks_{name} {sizes}') for name, sizes in blocks.items()},
    }


def run(command: str, limit: float, output: Path) -> str:
    """The exit status, or that it was stopped."""
    with open(output, 'w', encoding='utf-8') as file:
        process = subprocess.Popen([sys.executable, *shlex.split(command)], cwd=storage.ROOT, stdout=file,
                                   stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': str(storage.ROOT)})
        try:
            return str(process.wait(limit))
        except subprocess.TimeoutExpired:
            process.terminate()                         # others.train saves what it has
            process.wait()
            return f'stopped after {limit} s'


def main(arguments=None) -> int:
    parser = cli.parser('studies.gpu', __doc__)
    option = parser.add_argument
    option('--mixed', type=Path, required=True, metavar='FOLDER', help='a set with other noise')
    option('--out', type=Path, required=True, metavar='FOLDER', help='for the runs, records and what is printed')
    option('--only', nargs='+', metavar='NAME', help='run those of these names alone')
    cli.add_options(parser, 'data')
    options = parser.parse_args(arguments)
    planned = commands(*(shlex.quote(str(path.resolve())) for path in (options.data, options.mixed, options.out)))
    only = options.only or list(planned)
    if unknown := [name for name in only if name not in planned]:
        raise storage.UserError(f'--only: {unknown[0]}, expected some of {", ".join(planned)}')
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for number, (name, (limit, command)) in enumerate(planned.items(), 1):
        if name in only:
            start = time.monotonic()
            status = run(command, limit, options.out / f'{number:02}_{name}.txt')
            failed |= status != '0'
            print(f'{number:2} {name:<18} {time.monotonic() - start:6.1f} s  {status}', flush=True)
    return int(failed)


if __name__ == '__main__':
    cli.run(main)
