"""The folder of a training: settings, state and results; who may work in it; runs beside each other."""
import contextlib
import datetime
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Iterator, Optional

import torch

from others.common import cli, processes, records, storage

RESULTS = 'metrics.jsonl', 'last.pth', 'best.pth', 'curve.png', 'montage.png'


def is_free(folder: Path) -> bool:
    """Whether it is empty, but for what a run leaves that was killed before its settings.json was written."""
    return folder.is_dir() and all(path.match('settings.json.*.tmp') for path in folder.iterdir())


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Inside `with`, no other process, but those of a team, trains in the folder; UserError if one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if processes.rank() == 0:
            try:
                stack.enter_context(storage.alone(folder, wait=False))
            except BlockingIOError as error:
                raise storage.UserError(f'{folder}: another process trains in it, expected none') from error
        yield


def read_settings(argument: str, folder: Path) -> dict:
    """Those of a run that `argument` named; UserError if there is none."""
    try:
        settings = json.loads((folder / 'settings.json').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise storage.UserError(f'{argument}: {folder} holds no run ({error})') from error
    if 'stages' not in settings:
        raise storage.UserError(f'{argument}: {folder} is a run of another revision, its settings.json has no stages')
    return {'swap': 'pixels', **settings}           # runs that know no other way did this


def read_state(folder: Path) -> Optional[dict]:
    """`Run.state` of others.train as it was saved; None if nothing was trained yet. UserError if the folder holds
    results without it, or if the file holds something else."""
    path = folder / 'state.pt'
    if not path.exists():
        results = [name for name in RESULTS if (folder / name).exists()]
        if results:
            raise storage.UserError(f'--resume: {path} is missing, without which the run that made {results[0]} '
                                    'cannot go on')
        return None
    try:
        saved = torch.load(path, map_location='cpu', weights_only=True)
        training = saved['training']
        whole_numbers = [saved['epoch'], *(training[key] for key in ('step', 'num_steps') if training)]
        fits = (all(isinstance(number, int) for number in whole_numbers) and len(saved['loss_sum'].shape) == 0
                and saved['random'].dtype is torch.uint8 and float(saved['seconds']) >= 0
                and all(record['epoch'] < saved['epoch'] for record in saved['history']))
    except OSError:
        raise
    except Exception:                               # of many types, by what is wrong with the file
        fits = False
    if not fits:
        raise storage.UserError(f'--resume: {path} is damaged or of something else, expected the state of a run')
    return saved


def digest(*images: torch.Tensor) -> str:
    """SHA-256 of the types, shapes and values of tensors."""
    content = hashlib.sha256()
    for tensor in images:
        content.update(f'{tensor.dtype} {tuple(tensor.shape)}'.encode())
        content.update(tensor.flatten().numpy())
    return content.hexdigest()


def check_data(settings: dict, kind: str, path: Path, found: Optional[str]) -> None:
    """Keep the digest of a new run's data, None for no file; UserError if a run that goes on has another."""
    known = settings.setdefault('digests', {}).setdefault(kind, found)
    if known != found:
        is_there = 'is missing' if found is None else 'holds something else' if known else 'was not there'
        raise storage.UserError(f'--data: {path} {is_there}, expected what the run began with')


def begin_stage(settings: dict) -> None:
    """Note the circumstances of what is trained from now on, if they are others than before."""
    now = {**records.circumstances(), 'epochs': settings['epochs'], 'processes': processes.size()}
    stages = settings['stages']
    if not stages or any(now[key] != stages[-1].get(key) for key in now if key != 'command'):
        stages.append(now)


def record(path: Path, folder: Path, settings: dict, history: list) -> None:
    """Append the epochs of a run, `history`, to the record `path`, each stage as a run, unless they are there."""
    stages = settings['stages']
    for number, stage in enumerate(stages):
        rows = [{'training': folder.name, 'project': settings['project'], **row}
                for row in history if row['stage'] == number]
        if rows and not any(known['rows'] == rows for known in records.read(path)):
            commands = ' && '.join(earlier['command'] for earlier in stages[:number + 1])
            records.append(path, rows, sum(row['seconds'] for row in rows), {**stage, 'command': commands})


def compare(folders: list) -> str:
    """A table of runs, the best last. Folders that hold no run are named on stderr; UserError if none holds one."""
    rows = []
    for folder in folders:
        try:
            settings = read_settings('--compare', folder)
            lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
            history = [json.loads(line) for line in lines]
            best = max(history, key=lambda row: -math.inf if row['val_psnr'] is None else row['val_psnr'])
            last, estimated = history[-1], ' est.' * settings.get('estimated', False)
            rows.append((best['val_psnr'] or -math.inf, [
                str(folder), str(settings['project']), str(settings['pairs']),
                f"{last['epoch']}/{settings['epochs']}", str(settings['batch']), f"{settings['lr']:.1e}",
                settings['swap'], '-' if last['loss'] is None else f"{last['loss']:.5f}",
                '-' if best['val_psnr'] is None else f"{best['val_psnr']:.3f}" + estimated,
                str(best['epoch']), str(datetime.timedelta(seconds=round(sum(row['seconds'] for row in history))))]))
        except (storage.UserError, OSError, ValueError, KeyError, IndexError) as error:
            print(f'skipped {folder}: {error}', file=sys.stderr)
    if not rows:
        raise storage.UserError('--compare: expected the folder of a run with an epoch at least')
    title = ['run', 'project', 'pairs', 'epochs', 'batch', 'learning rate', 'swap', 'loss', 'best PSNR (dB)', 'epoch',
             'time']
    return cli.table([title, *(row for _, row in sorted(rows, key=lambda row: row[0]))])
