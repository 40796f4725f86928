"""Records of what was measured, others/results/NAME.json: each run of a command appends one run.

    {"runs": [{"command", "revision", "machine": {"processor", "platform", "threads"},
               "versions": {"python", "torch"}, "seconds", "rows": [{..}, ..]}, ..]}

`seconds` are those that the command took, None where nobody measured them; what a row holds, the command knows.
"""
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Optional

import torch

from others.common import storage

KEYS = ('command', 'revision', 'machine', 'versions', 'seconds', 'rows')    # of a run


def read(path) -> list:
    """The runs of a record, the oldest first; none if there is no such file. UserError if it holds anything else."""
    try:
        runs = json.loads(Path(path).read_text(encoding='utf-8'))['runs']
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise storage.UserError(f'{path} is no record, expected {{"runs": [..]}}') from error
    for run in runs:
        if tuple(run) != KEYS:
            raise storage.UserError(f'{path}: a run has {", ".join(run)}, expected {", ".join(KEYS)}')
    return runs


def append(path, rows: list, seconds: Optional[float], ran: Optional[dict] = None) -> None:
    """Append a run of this process, or of the circumstances `ran`; its rows are dicts of what JSON knows. Makes the
    file and its folder."""
    run = {**(ran or circumstances()), 'seconds': seconds and round(seconds, 1), 'rows': rows}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with storage.alone(Path(path).parent):                      # two may end at once
        storage.write(path, text([*read(path), run]).encode())


def text(runs: list) -> str:
    """The runs as JSON with a line for each row, so that a difference between two versions shows the rows."""
    def one(run: dict) -> str:
        head = ''.join(f'{json.dumps(key)}: {storage.to_json(run[key])},\n ' for key in KEYS[:-1])
        rows = ',\n'.join(f'  {storage.to_json(row)}' for row in run['rows'])
        return f'{{{head}"rows": [\n{rows}\n]}}'

    return '{"runs": [\n' + ',\n'.join(map(one, runs)) + '\n]}\n'


# -------------------------------------------------------------------------- what a figure depends on

def circumstances(device='cuda') -> dict:
    """The command, the code, the machine, the versions. device: 'cpu' for what computes there in spite of CUDA."""
    return {'command': command(), 'revision': revision(), 'machine': machine(device),
            'versions': {'python': platform.python_version(), 'torch': torch.__version__}}


def command() -> str:
    """The command line of this process, `python -m others.NAME ..`, or torchrun's."""
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    name = spec.name.replace('.__main__', '') if spec else Path(sys.argv[0]).stem
    here = os.environ.get('LOCAL_WORLD_SIZE')
    start = ['torchrun', '--nproc-per-node', here] if here else ['python']
    return shlex.join([*start, '-m', name, *sys.argv[1:]])


@functools.lru_cache(maxsize=None)
def revision() -> Optional[str]:
    """Of the git checkout that this file lies in, when it was first asked for; None if it lies in none."""
    try:
        return subprocess.run(['git', '-C', storage.ROOT, 'describe', '--always', '--dirty', '--abbrev=40'],
                              check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(device='cuda') -> dict:
    return {'processor': processor(device), 'platform': f'{platform.system()} {platform.machine()}',
            'threads': torch.get_num_threads()}


def processor(device='cuda') -> str:
    """The name of the device, of the CPU where there is no CUDA."""
    if torch.device(device).type == 'cuda' and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.split(': ')[1] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
