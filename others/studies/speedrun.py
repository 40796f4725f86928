"""Seconds of training until a known system's PSNR: mini-project 1 beside that system, on this machine.

    python -m others.studies.speedrun --data data --threads 2 --record others/results/speedrun.json
    python -m others.studies.speedrun --data runs/demo --seeds 0 --baseline runs/quick.json

The system that the project grew from ("the baseline", `seeds.SKIP`) has its trainings in a record of
`others.studies.seeds`. Since its PSNR goes up and down, the goal is the mean of its last three epochs, over its seeds.
A training of the baseline reaches it with the first epoch that ends there or above; its seconds are those of as many
steps, each taken as the median of the steps that are timed here, before, between and after the trainings of ours.
Ours trains afresh, by its own `Model.train`, ever longer, from 1/10 of an epoch (an epoch of 1/10 of the pairs) to 8,
until it ends at the goal or above; the last of these trainings counts, whole. Both compute in float32. PSNR is that
of val_data.pkl, without ensembling; measuring is not timed.
"""
import time
from pathlib import Path
from statistics import mean, median

import torch

from Miniproject_2.model import to_unit
from others.common import cli, datasets, denoisers, records, storage
from others.studies import seeds, shared

EPOCHS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1, 2, 4, 8)       # the lengths that ours tries, one after the other
STEPS = 50                                                  # of the baseline, timed at a time


def train_ours(pairs: tuple, validation: tuple, epochs: float, seed: int) -> dict:
    """A fresh training; below 1, `epochs` is one epoch of that share of the pairs. -> a row of the record."""
    pairs = tuple(images[:max(1, int(epochs * len(images)))] for images in pairs)
    torch.manual_seed(seed)
    model = denoisers.new_model(1)
    model.mixed_precision = False
    start = time.perf_counter()
    model.train(*pairs, max(1, int(epochs)), verbose=False)
    next(model.net.parameters()).sum().item()                       # waits for the device
    seconds = time.perf_counter() - start
    figure = denoisers.measure(model, {'val_data': validation})['val_data']
    print(f'project 1, seed {seed}  {epochs:6.4g} epochs  {seconds:7.1f} s  {figure:.3f} dB', flush=True)
    return {'system': 'project 1', 'seed': seed, 'batch': model.BATCH_SIZE, 'epochs': epochs, 'seconds': seconds,
            'psnr': figure}


def time_steps(runner: seeds.Torch, pairs: tuple) -> list:
    """The seconds of each of some steps of the baseline."""
    seconds = []
    for batch in torch.randint(len(pairs[0]), (STEPS, seeds.SKIP.batch)):
        start = time.perf_counter()
        runner.step(*(to_unit(images[batch], runner.device) for images in pairs)).item()
        seconds.append(time.perf_counter() - start)
    return seconds


def baseline_row(row: dict, goal: float, step: float) -> dict:
    """A training of the baseline, {'by_epoch': dB, ...}, as a row of this record: its first epoch at the goal."""
    epochs = next((i for i, figure in enumerate(row['by_epoch'], 1) if figure >= goal), None)
    steps = -(-row['pairs'] // row['batch'])
    return {'system': 'Mery', 'seed': row['seed'], 'batch': row['batch'], 'goal': goal, 'step': step, 'epochs': epochs,
            'seconds': epochs and epochs * steps * step, 'psnr': epochs and row['by_epoch'][epochs - 1]}


def main(arguments=None) -> None:
    parser = cli.parser('studies.speedrun', __doc__)
    parser.add_argument('--baseline', type=Path, default=seeds.RECORD, metavar='FILE',
                        help='the record with its trainings on --data (default: others/results/seeds.json)')
    parser.add_argument('--seeds', type=cli.integer(0), nargs='+', default=[0, 1, 2], metavar='N',
                        help='of the trainings of ours (default: 0 1 2)')
    cli.add_options(parser, 'data', 'threads', 'record')
    options = shared.parse(parser, arguments)
    trained = [row for run in records.read(options.baseline) for row in run['rows']
               if row['system'] == seeds.SKIP.name]
    if not trained:
        raise storage.UserError(f"--baseline: {options.baseline} has no training of the system '{seeds.SKIP.name}'")
    pairs = datasets.read_pairs('--data', options.data / datasets.TRAIN_FILE)
    validation = datasets.read_validation('--data', options.data / datasets.VAL_FILE)
    goal = mean(mean(row['by_epoch'][-3:]) for row in trained)
    print(f'torch {torch.__version__}, {records.processor()}, {torch.get_num_threads()} threads; goal {goal:.3f} dB')
    runner, rows = seeds.build(seeds.SKIP), []
    time_steps(runner, pairs)                                       # the first steps are slower
    steps = time_steps(runner, pairs)
    for seed in options.seeds:
        for epochs in EPOCHS:
            rows.append(train_ours(pairs, validation, epochs, seed))
            if rows[-1]['psnr'] >= goal:
                break
        else:
            print(f'project 1, seed {seed}: the goal was not reached in {EPOCHS[-1]} epochs')
        steps += time_steps(runner, pairs)
    for row in trained:
        rows.append(baseline_row(row, goal, median(steps)))
        reached = '{epochs} epochs, {seconds:.1f} s' if rows[-1]['epochs'] else 'the goal was not reached'
        print(f'Mery, seed {{seed}}: {reached}'.format(**rows[-1]))
    shared.record(options, rows)


if __name__ == '__main__':
    cli.run(main)
