"""Submissions, folders with model.py and bestmodel.pth, run in processes of their own."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from others.common import denoisers, storage

WORKER = Path(__file__).with_name('worker.py')
VARIANTS = {'': {}, ', no ensemble': {'ensemble': False}}      # what a row's name ends in: keywords


def predictions(folder: Path, sets: list, variants: dict) -> dict:
    """Run the submission: {variant: [(predictions, seconds) for each of the sets]}, of `variants` that it knows.

    sets: of noisy images (N, 3, H, W), uint8 or float32. RuntimeError, with its last words, if it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images, results = Path(scratch, 'images'), Path(scratch, 'results')
        torch.save(sets, images)
        process = subprocess.run(
            [sys.executable, '-B', WORKER, folder.resolve(), images, results, json.dumps(variants)], cwd=scratch,
            env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads()), 'PYTHONIOENCODING': 'utf-8'},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            encoding='utf-8', errors='replace')
        if process.returncode or not results.exists():
            said = [line for line in process.stderr.splitlines() if line.strip()]
            raise RuntimeError(said[-1] if said else f'it ended with status {process.returncode}')
        outputs = torch.load(results, weights_only=True)
    for result in outputs.values():
        for noisy, (denoised, _) in zip(sets, result):
            if denoised.shape != noisy.shape:
                raise RuntimeError(f'predict gave the shape {tuple(denoised.shape)}, '
                                   f'expected {tuple(noisy.shape)}')
            if not bool(denoised.isfinite().all()):
                raise RuntimeError('predict gave values that are not finite')
    return outputs


def with_weights(project: int, weights: Path, scratch: Path) -> Path:
    """A submission made in `scratch`: the project with other weights. UserError if they do not fit."""
    denoisers.trained_model(project, weights)
    folder = scratch / f'Miniproject_{project}'
    shutil.copytree(storage.ROOT / folder.name, folder, ignore=shutil.ignore_patterns('bestmodel.pth', '__pycache__'))
    shutil.copy(weights, folder / 'bestmodel.pth')
    return folder
