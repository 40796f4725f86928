"""Our two models: new, trained, with the precision of this machine, measured."""
import importlib
from pathlib import Path
from typing import Optional

import torch

from others.common import storage
from others.common.storage import UserError
from others.common.metrics import psnr


def measure(model, sets: dict) -> dict:
    """{name: mean PSNR in dB} of a `Model` on `sets`, without ensembling."""
    return {name: psnr(model.predict(noisy, ensemble=False), clean).mean().item()
            for name, (noisy, clean) in sets.items()}


def has_fast_bfloat16(device) -> bool:
    """Whether a device multiplies in bfloat16, and does not merely emulate it."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(capabilities.get('amx_bf16') or capabilities.get('avx512_bf16'))


def set_precision(model, precision: Optional[str]) -> str:
    """Give a `Model` the precision of its products: 'mixed', 'float32', or None for what is fast here. Returns it."""
    model.mixed_precision = precision == 'mixed' or precision is None and has_fast_bfloat16(model.device)
    return 'mixed' if model.mixed_precision else 'float32'


def new_model(project: int):
    """An untrained `Model` of mini-project 1 or 2."""
    return importlib.import_module(f'Miniproject_{project}.model').Model()


def checkpoint(project: int) -> Path:
    """Where the trained weights of mini-project 1 or 2 lie."""
    return storage.ROOT / f'Miniproject_{project}' / 'bestmodel.pth'


def trained_model(project: int, weights: Path):
    """A `Model` of mini-project 1 or 2 with the weights of a file. UserError if it holds none."""
    model = new_model(project)
    try:
        model.load(weights)
    except OSError as error:
        raise UserError(f'weights of project {project}: {weights}: {error.strerror}') from error
    except ValueError as error:
        raise UserError(f'weights of project {project}: {error}') from error
    return model
