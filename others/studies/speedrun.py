"""Seconds of training until a known system's final PSNR: that system beside mini-project 1, on one machine.

    python -m others.studies.speedrun --data data --out runs/speedrun --record others/results/speedrun.json
    python -m others.studies.speedrun --data data --baseline others/results/speedrun.json
    python -m others.studies.speedrun --data data --out runs/small --pairs 5000

The system that the project grew from ("the baseline", `seeds.SKIP`) trains first, to its end, which takes an hour;
or its training in a record is taken. Ours then trains afresh, by its own `Model.train`, ever longer, from 1/5 of an
epoch (an epoch of 1/5 of the pairs) to 8, until it ends at the baseline's PSNR or above. PSNR is that of val_data.pkl,
without ensembling; measuring is not timed.

The folder --out holds the state of the baseline: after a stop, the same command goes on from its last
complete epoch.
"""
import dataclasses
import time
from pathlib import Path

import torch

from others.common import cli, datasets, denoisers, records, storage
from others.studies import seeds, shared

EPOCHS = (0.2, 0.25, 0.3, 0.4, 0.6, 1, 2, 4, 8)    # the lengths that ours tries, one after the other
BASELINE = {'system': 'Mery', 'precision': 'float32', 'batch': seeds.SKIP.batch}


def train_ours(pairs: tuple, validation: tuple, epochs: float, precision: str, seed: int) -> dict:
    """A fresh training; below 1, `epochs` is one epoch of that share of the pairs. -> its settings, seconds, PSNR."""
    pairs = tuple(images[:max(1, int(epochs * len(images)))] for images in pairs)
    torch.manual_seed(seed)
    model = denoisers.new_model(1)
    model.mixed_precision = precision == 'mixed'
    start = time.perf_counter()
    model.train(*pairs, max(1, int(epochs)), verbose=False)
    next(model.net.parameters()).sum().item()                       # waits for the device
    seconds = time.perf_counter() - start
    figure = denoisers.measure(model, {'val_data': validation})['val_data']
    print(f'ours      {precision:<8}  {epochs:6.4g} epochs  {seconds:7.1f} s  {figure:.3f} dB', flush=True)
    return {'system': 'project 1', 'batch': model.BATCH_SIZE, 'precision': precision, 'epochs': epochs,
            'seconds': seconds, 'psnr': figure}


def train_baseline(options, common: dict, pairs: tuple, validation: tuple) -> list:
    """The baseline's rows, one for each epoch. UserError if --out has its state from other data or another machine."""
    system = dataclasses.replace(seeds.SKIP, pairs=common['pairs'], epochs=options.epochs)
    _, history = seeds.train(system, options.seed, pairs, validation, options.out / 'baseline.pt', time.perf_counter,
                             data=str(options.data), torch=str(torch.__version__), **records.machine())
    return [{**BASELINE, 'epochs': i, **row, **common} for i, row in enumerate(history, 1)]


def recorded(options, common: dict) -> list:
    """The same rows of the last run of --baseline that has all of them."""
    for run in reversed(records.read(options.baseline)):
        rows = [row for row in run['rows'] if {**BASELINE, **common}.items() <= row.items()]
        if len(rows) == options.epochs:
            print(f"baseline: {rows[-1]['seconds']:.1f} s on {run['machine']['processor']}, "
                  f"{run['machine']['threads']} threads, torch {run['versions']['torch']}")
            return rows
    raise storage.UserError(f'--baseline: {options.baseline} has no training of {options.epochs} epochs of '
                        f"{common['pairs']} pairs with seed {options.seed}")


def main(arguments=None) -> None:
    parser = cli.parser('studies.speedrun', __doc__)
    baseline = parser.add_mutually_exclusive_group(required=True)
    baseline.add_argument('--out', type=Path, metavar='FOLDER', help="for the baseline's state")
    baseline.add_argument('--baseline', type=Path, metavar='FILE', help='a record with its training')
    cli.add_options(parser, 'data', 'seed', 'threads', 'record',
                    pairs={'type': cli.integer(seeds.SKIP.batch), 'help': 'of an epoch (default: all)'},
                    epochs={'default': 10, 'help': "the baseline's (default: 10, its own)"})
    options = shared.parse(parser, arguments)
    pairs = datasets.read_pairs('--data', options.data / datasets.TRAIN_FILE, options.pairs)
    validation = datasets.read_validation('--data', options.data / datasets.VAL_FILE)
    print(f'torch {torch.__version__}, {records.processor()}, {torch.get_num_threads()} threads')
    common = {'pairs': len(pairs[0]), 'seed': options.seed}
    slow = recorded(options, common) if options.baseline else train_baseline(options, common, pairs, validation)
    goal, slow_seconds = slow[-1]['psnr'], slow[-1]['seconds']
    rows = [] if options.baseline else slow
    fast = denoisers.has_fast_bfloat16(denoisers.new_model(1).device)
    for precision in ('float32', 'mixed') if fast else ('float32',):
        for epochs in EPOCHS:
            rows.append({**train_ours(pairs, validation, epochs, precision, options.seed), **common})
            if rows[-1]['psnr'] >= goal:
                seconds = rows[-1]['seconds']
                print(f'{goal:.3f} dB: baseline {slow_seconds:.1f} s, ours in {precision} {seconds:.1f} s, '
                      f'{slow_seconds / seconds:.1f} times faster')
                break
        else:
            print(f'ours in {precision}: {goal:.3f} dB not reached in {EPOCHS[-1]} epochs')
    shared.record(options, rows)


if __name__ == '__main__':
    cli.run(main)
