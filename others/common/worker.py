"""The process in which `others.evaluate` runs one submission. It imports nothing of this project.

    python others/common/worker.py FOLDER IMAGES RESULTS VARIANTS
"""
import importlib
import inspect
import json
import sys
import time
import types
from pathlib import Path

import torch

BATCH = 100                         # images at once, as many as the course's own test takes


def import_model(folder: Path) -> types.ModuleType:
    """The module model.py of the package that the folder is. A name that no package can have, or that is another
    module's, is replaced."""
    ours = Path(__file__).resolve().parents[2]
    sys.path[:] = [str(folder)] + [path for path in sys.path[1:] if Path(path).resolve() != ours]
    name = folder.name
    if name.isidentifier() and name not in {*sys.modules, *sys.stdlib_module_names}:
        sys.path.insert(0, str(folder.parent))
    else:
        name = 'submission'
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(folder)]
    return importlib.import_module(f'{name}.model')


def work(folder: Path, images: Path, results: Path, variants: dict) -> None:
    """Save, for each of `variants` that predict knows, (predictions, float32, seconds) for each set of images.

    images: a file with a list of (N, 3, H, W), uint8 or float32. variants: {name: keywords for predict}.
    """
    sets = torch.load(images, weights_only=True)
    del sys.argv[1:]
    model = import_model(folder).Model()
    model.load_pretrained_model()
    model.predict(sets[0][:BATCH].float())              # what only the first call does is not timed
    known = inspect.signature(model.predict).parameters

    def predict(batches: torch.Tensor, keywords: dict) -> tuple:
        start = time.perf_counter()
        outputs = [model.predict(batch, **keywords).detach().cpu().float()
                   for batch in batches.float().split(BATCH)]
        return torch.cat(outputs), time.perf_counter() - start

    torch.save({name: [predict(batches, keywords) for batches in sets]
                for name, keywords in variants.items() if known.keys() >= keywords.keys()}, results)


if __name__ == '__main__':
    work(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]))
