"""Grade a submission: its contract, its blocks against torch's, and what its models are worth.

    python test.py                             this submission, on a demo set that is made once
    python test.py -d data                     the same on data/train_data.pkl and data/val_data.pkl
    python test.py -p FOLDER -d data --quick   somebody else's, trained and measured on a part

The exit status is 0 if all checks pass, 1 if one fails, 2 if an argument is wrong. Needs torch alone.

The file reads top to bottom: the blocks' cases; how one case is compared with torch; the checks of
one project (`Submission`); the worker, which runs them in a process of its own, where nothing of
this folder can be imported by mistake for the submission's; and `main`, which shows the table.
"""
import argparse
import ast
import importlib
import inspect
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

if __name__ == '__main__' and sys.argv[1:2] != ['--worker']:    # Ctrl-C may come while torch is imported
    from others import tell

    sys.excepthook = tell

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent
QUICK_PAIRS, QUICK_IMAGES = 2000, 200   # what --quick trains on, and measures on
TIME_LIMIT = 45 * 60                    # seconds a check may take: the course's for a CPU
MAY_LOSE = 0.05                         # dB, by an epoch of training from the loaded weights
MAY_PRINT = 10 ** 8                     # bytes
TOLERANCE = 1e-4                        # of the largest value; torch's own float32 is up to 1e-5 off float64
WORKER = '--worker'                     # the first argument of a worker's process


# ------------------------------------------------------------------------------- the blocks' cases

# A case is built twice from the same text, with the submission's blocks and with torch's, and is
# followed by the shape of its input (batches of 2 and more, channels that differ, H other than W)
# and, where it is not 1, the input's standard deviation.
CASES = {
    'Conv2d': [
        ('Conv2d(3, 5, 3)', (2, 3, 6, 9)),
        ('Conv2d(3, 4, 3, stride=2)', (2, 3, 9, 12)),                # the last column is never read
        ('Conv2d(3, 4, 3, stride=2, padding=1)', (3, 3, 7, 10)),
        ('Conv2d(2, 3, (3, 2), (2, 1), (1, 0))', (2, 2, 8, 5)),
        ('Conv2d(in_channels=4, out_channels=2, kernel_size=2, stride=3, bias=False)', (2, 4, 7, 9)),
        ('Conv2d(4, 3, 3, padding=2, dilation=2)', (2, 4, 7, 6)),
        ('Conv2d(2, 3, (1, 3), padding=(0, 3), dilation=(1, 3), stride=(2, 1))', (2, 2, 5, 8)),
        ('Conv2d(4, 6, 3, 1, 1, 1, 2)', (2, 4, 5, 6)),               # two groups
    ],
    'TransposeConv2d': [
        ('TransposeConv2d(4, 3, 3)', (2, 4, 5, 3)),
        ('TransposeConv2d(4, 3, 4, 2, 1)', (3, 4, 5, 6)),
        ('TransposeConv2d(4, 2, 3, stride=2, padding=1, output_padding=1)', (2, 4, 3, 5)),
        ('TransposeConv2d(2, 5, (2, 3), (1, 2), (1, 0), (0, 1))', (2, 2, 6, 4)),
        ('TransposeConv2d(in_channels=3, out_channels=2, kernel_size=2, stride=3)', (2, 3, 4, 3)),
        ('TransposeConv2d(3, 4, 3, dilation=2, bias=False)', (2, 3, 5, 4)),
        ('TransposeConv2d(4, 6, 3, stride=2, groups=2)', (2, 4, 3, 4)),
    ],
    'NearestUpsampling': [
        ('NearestUpsampling(2)', (2, 3, 4, 5)),
        ('NearestUpsampling(3)', (2, 1, 3, 2)),
        ('NearestUpsampling(scale_factor=(2, 3))', (2, 3, 5, 4)),
    ],
    'Upsampling': [
        ('Upsampling(3, 4, 3, padding=1)', (2, 3, 5, 4)),
        ('Upsampling(4, 2, (3, 2), stride=(1, 2), bias=False, scale_factor=3)', (2, 4, 3, 5)),
    ],
    'ReLU': [('ReLU()', (2, 3, 5, 4)), ('ReLU()', (7,))],
    'Sigmoid': [('Sigmoid()', (2, 3, 5, 4)), ('Sigmoid()', (7,)), ('Sigmoid()', (9, 9), 60)],  # overflow
    'MSE': [('MSE()', (2, 3, 5, 4)), ('MSE()', (7, 2)), ("MSE(reduction='sum')", (2, 3, 4, 5))],
    'Sequential': [
        ('Sequential(ReLU())', (3, 4)),
        ('Sequential(Conv2d(3, 5, 3), ReLU(), Sigmoid())', (2, 3, 6, 7)),
        ('Sequential(Conv2d(3, 4, 4, 2, 1), ReLU(), NearestUpsampling(2), Conv2d(4, 2, 3), ReLU(), '
         + 'TransposeConv2d(2, 3, 4, 2, 1), Sigmoid())', (2, 3, 8, 12)),
    ],
    'SGD': [                                                         # the shapes of its parameters
        ('SGD(params, 0.1)', [(4, 3, 2, 2), (4,)]),
        ('SGD(params, lr=0.1, momentum=0.9)', [(4, 3, 2, 2), (4,)]),
        ('SGD(params, lr=0.1, momentum=0.9, dampening=0.5)', [(2, 3), (3,)]),
        ('SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)', [(2, 3), (3,)]),
    ],
}
OPTIONAL = {'Upsampling'}
NAMES = {1: {'Model'}, 2: {'Model', 'Module'} | set(CASES) - OPTIONAL}

TORCH = {
    'Conv2d': nn.Conv2d, 'TransposeConv2d': nn.ConvTranspose2d,
    'NearestUpsampling': lambda scale_factor: nn.Upsample(scale_factor=scale_factor),
    'Upsampling': lambda *arguments, scale_factor=2, **options: nn.Sequential(
        nn.Upsample(scale_factor=scale_factor), nn.Conv2d(*arguments, **options)),
    'ReLU': nn.ReLU, 'Sigmoid': nn.Sigmoid, 'MSE': nn.MSELoss, 'Sequential': nn.Sequential,
    'SGD': torch.optim.SGD,
}


# --------------------------------------------------------------------------- one case against torch

class Outcome(Exception):
    """Ends a check with another result than 'ok': 'FAIL', 'warn' or 'skip', and says why."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


def compare_shape(what: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    if got.shape != expected.shape:
        raise Outcome('FAIL', f'{what} has the shape {tuple(got.shape)}, expected {tuple(expected.shape)}')


def compare(what: str, got, expected: torch.Tensor) -> None:
    """Fail, naming `what`, unless `got` is a tensor without a graph that equals `expected`."""
    if not isinstance(got, torch.Tensor):
        raise Outcome('FAIL', f'{what} is of type {type(got).__name__}, expected a tensor')
    compare_shape(what, got, expected)
    if got.requires_grad:
        raise Outcome('FAIL', f'{what} drags a graph of autograd along')
    error = (got.double() - expected).abs().max() / expected.abs().max()
    if not error <= TOLERANCE:          # so that NaN fails too
        raise Outcome('FAIL', f'{what} is wrong by {error:.1e} of its largest value')


def drawing(autograd: bool = False):
    """A function (shape -> float32 normal tensor that requires grad or not), the same every time."""
    generator = torch.Generator().manual_seed(0)
    return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float32).requires_grad_(autograd)


def copy_parameters(block, parameters: dict) -> None:
    """Give torch's parameters (name -> tensor) the values of the block's, which must match in shape."""
    pairs = block.param()
    if len(pairs) != len(parameters):
        raise Outcome('FAIL', f'param() has {len(pairs)} pairs, expected {len(parameters)}')
    for (name, theirs), (ours, _) in zip(parameters.items(), pairs):
        compare_shape(name, ours, theirs)
        theirs.data.copy_(ours)


def assign_parameters(block, parameters: dict, draw, autograd: bool) -> None:
    """Assign new ones by name or, to the layers of a container, write them into the pairs."""
    for i, (name, old) in enumerate(parameters.items()):
        new = draw(old.shape).detach()
        if '.' in name:
            with torch.no_grad():
                block.param()[i][0].copy_(new)
        else:
            setattr(block, name, nn.Parameter(new) if autograd else new)
        compare(f'{name} that was assigned, in param(),', block.param()[i][0].detach(), new)


def compare_block(blocks: dict, autograd: bool, source: str, shape: tuple, scale: float = 1) -> None:
    """Forward and backward, three times in a row, so that the gradients of the parameters must add
    up; the last time with other parameters."""
    draw = drawing(autograd)
    block, reference = eval(source, blocks), eval(source, TORCH).double()
    parameters = dict(reference.named_parameters())
    is_loss = isinstance(reference, nn.MSELoss)
    for stage in ('', ' in a second pass', ' with other parameters'):
        if stage == ' with other parameters':
            assign_parameters(block, parameters, draw, autograd)
        copy_parameters(block, parameters)

        inputs = [scale * draw(shape) for _ in range(1 + is_loss)]
        doubles = [x.detach().double().requires_grad_() for x in inputs]
        with torch.enable_grad():
            expected = reference(*doubles)
        compare(f'output{stage}', block.forward(*inputs), expected.detach())
        upstream = [] if is_loss else [draw(expected.shape)]
        with torch.enable_grad():
            expected.backward(*(gradient.detach().double() for gradient in upstream))
        compare(f'gradient of the input{stage}', block.backward(*upstream), doubles[0].grad)
        for (name, theirs), (_, gradient) in zip(parameters.items(), block.param()):
            compare(f'gradient of {name}{stage}', gradient, theirs.grad)


def compare_optimizer(blocks: dict, autograd: bool, source: str, shapes: list) -> None:
    """Several steps from the same parameters with the same gradients."""
    draw = drawing()
    pairs = [(draw(shape), draw(shape)) for shape in shapes]
    theirs = [parameter.double().requires_grad_() for parameter, _ in pairs]
    optimizer = eval(source, blocks, {'params': pairs})
    reference = eval(source, TORCH, {'params': theirs})
    for step in range(1, 5):
        for (parameter, gradient), double in zip(pairs, theirs):
            gradient.copy_(draw(gradient.shape))
            double.grad = gradient.double()
        optimizer.step()
        reference.step()
        for i, ((parameter, _), double) in enumerate(zip(pairs, theirs)):
            compare(f'parameter {i} after step {step}', parameter, double.detach())


# ------------------------------------------------------------------------- the checks of one project

class Submission:
    """One mini-project. Each check returns what the table shows, or raises, what else it may be."""

    def __init__(self, project: Path, k: int, data: Path, quick: bool) -> None:
        self.project, self.k, self.folder = project, k, project / f'Miniproject_{k}'
        self.metrics = types.SimpleNamespace(**runpy.run_path(str(ROOT / 'others' / 'common' / 'metrics.py')))
        self.pairs, (self.noisy, self.clean) = (
            [images[:count if quick else None] for images in self.metrics.load_pairs(data / name)]
            for name, count in (('train_data.pkl', QUICK_PAIRS), ('val_data.pkl', QUICK_IMAGES)))
        self.module = self.model = self.measured = None
        self.files = set()                      # that the imports brought in, of the mini-project's own
        self.passed = set()                     # checks; 'import' if either way to import succeeded

    def checks(self) -> Iterator[tuple]:
        """(name, what must have passed before it, function) in the order of the table."""
        load, train = 'load_pretrained_model', 'train, one epoch'
        yield 'structure', None, self.structure
        yield 'report', None, self.report
        yield 'from model import ..', None, lambda: self.import_as('model', self.folder)
        yield 'package import', None, lambda: self.import_as(f'{self.folder.name}.model', self.project)
        yield 'allowed imports', 'import', self.allowed_imports
        if self.k == 2:
            yield "Conv2d, the course's check", 'import', self.course_check
            for block in CASES:
                yield block, 'import', lambda block=block: self.block(block)
        yield 'Model()', 'import', self.instantiate
        yield load, 'Model()', self.load
        yield 'predict 1x3x512x512', load, self.predict
        yield 'PSNR, loaded', load, self.measure
        yield train, load, self.train
        yield 'PSNR, after training', train, self.measure

    # -- files and imports

    def structure(self) -> str:
        required = ('__init__.py', 'model.py', 'bestmodel.pth')
        wrong = [f'no {name}' for name in required if not (self.folder / name).is_file()]
        wrong += [f'the notebook {path.name}' for path in self.folder.rglob('*.ipynb')]
        if wrong:
            raise Outcome('FAIL', ', '.join(wrong))
        return ', '.join(required)

    def report(self) -> str:
        name = f'Report_{self.k}.pdf'
        if not (self.folder / name).is_file():
            raise Outcome('warn', f'no {name}')
        return name

    def own_modules(self) -> dict:
        """What was imported from the folder of the mini-project: name -> module."""
        return {name: module for name, module in sys.modules.items() if self.folder in file_of(module).parents}

    def import_as(self, name: str, path: Path) -> str:
        """Import model.py as `name`, `path` first on sys.path, and nothing of the project so far."""
        for key in self.own_modules():
            del sys.modules[key]
        sys.path[0] = str(path)
        try:
            module = importlib.import_module(name)
        finally:
            self.files.update(map(file_of, self.own_modules().values()))
        if file_of(module) != self.folder / 'model.py':
            raise Outcome('FAIL', f'{name} is {file_of(module)}')
        self.module = module
        self.passed.add('import')
        missing = sorted(NAMES[self.k] - set(vars(module)))
        if missing:
            raise Outcome('FAIL', f'model.py lacks {", ".join(missing)}')
        return f'import {name}'

    def allowed_imports(self) -> str:
        """Of the files that model.py brought in, read from the syntax tree."""
        local = {name for path in self.folder.rglob('*.py') for name in (path.stem, path.parent.name)} - {'torch'}
        allowed = {'torch': {'empty', 'cat', 'arange'}, 'torch.nn.functional': {'fold', 'unfold'}}
        refused = []
        for path in sorted(self.files):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Import):
                    imports = [(alias.name, None) for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imports = [(node.module, alias.name) for alias in node.names]
                else:
                    continue
                for module, name in imports:
                    top = module.split('.')[0]
                    if not (top in local or top in sys.stdlib_module_names
                            or (top == 'torch' if self.k == 1 else name in allowed.get(module, ()))):
                        what = f'from {module} import {name}' if name else f'import {module}'
                        refused.append(f'{path.name}:{node.lineno}: {what}')
        if refused:
            raise Outcome('FAIL', '; '.join(refused))
        return 'torch' if self.k == 1 else 'empty, cat, arange, fold, unfold at most'

    # -- blocks

    def course_check(self) -> str:
        """The forward of Conv2d at allclose's default tolerances, which a sum in another order fails."""
        torch.manual_seed(0)
        draw, draws = drawing(), 10
        for i in range(draws):
            x, conv = draw((1, 3, 32, 32)), self.module.Conv2d(3, 3, 3)
            expected = nn.functional.conv2d(x, conv.weight, conv.bias)
            if not torch.allclose(conv.forward(x), expected):
                raise Outcome('FAIL', f'draw {i + 1} of Conv2d(3, 3, 3) on 1x3x32x32 is not allclose')
        return f'{draws} draws of Conv2d(3, 3, 3) on 1x3x32x32, allclose'

    def block(self, name: str) -> str:
        """Every case of one block, autograd globally off and on."""
        if name in OPTIONAL and not hasattr(self.module, name):
            raise Outcome('skip', 'not there, and need not be')
        run = compare_optimizer if name == 'SGD' else compare_block
        failures = []
        for autograd in (False, True):
            for source, *numbers in CASES[name]:
                try:
                    with torch.set_grad_enabled(autograd):
                        run(dict(vars(self.module)), autograd, source, *numbers)
                except Exception as error:
                    switch = 'on' if autograd else 'off'
                    failures.append(f'{source} on {numbers[0]}, autograd {switch}: {explain(error, self.folder)}')
        count = 2 * len(CASES[name])
        if failures:
            raise Outcome('FAIL', f'{len(failures)} of {count} cases, first {failures[0]}')
        return f'{count} cases'

    # -- the model

    def instantiate(self) -> str:
        self.model = self.module.Model()
        return 'without an argument'

    def load(self) -> str:
        self.model.load_pretrained_model()
        return 'from another working directory'

    def predict(self) -> str:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, 3, 512, 512, generator=generator, dtype=torch.float32) * 255
        output = self.model.predict(x).cpu()
        low, high = float(output.min()), float(output.max())
        if output.shape != x.shape or not output.is_floating_point() or not 0 <= low <= high <= 255:
            raise Outcome('FAIL', f'{output.dtype} {tuple(output.shape)} in {low:g}..{high:g}, '
                                  f'expected floating point {tuple(x.shape)} in 0..255')
        return f'{low:.1f}..{high:.1f}'

    def measure(self) -> str:
        """PSNR on the validation images, which must be better than that of the noisy input."""
        outputs = torch.cat([self.model.predict(batch).detach().cpu() for batch in self.noisy.split(100)])
        noisy, psnr = (float(self.metrics.psnr(images, self.clean).mean()) for images in (self.noisy, outputs))
        before, self.measured = self.measured, (outputs, psnr)
        figures = f'{psnr:.2f} dB, noisy input {noisy:.2f} dB ({psnr - noisy:+.2f})'
        if before:
            figures += f', by training {psnr - before[1]:+.3f}'
        if not psnr > noisy:
            raise Outcome('FAIL', figures)
        if before and torch.equal(outputs, before[0]):
            raise Outcome('warn', f'{figures}: training changed nothing')
        if before and psnr < before[1] - MAY_LOSE:
            raise Outcome('warn', f'{figures}: training made it worse')
        return figures

    def train(self) -> str:
        takes_epochs = 'num_epochs' in inspect.signature(self.model.train).parameters
        self.model.train(*self.pairs, **({'num_epochs': 1} if takes_epochs else {}))
        return f'{len(self.pairs[0])} pairs' + ('' if takes_epochs else ', without num_epochs')


# --------------------------------------------------------------- the worker: a project, a process

def file_of(module) -> Path:
    return Path(getattr(module, '__file__', None) or os.devnull)


def explain(error: BaseException, folder: Path) -> str:
    """The last line of an error and, if it is the submission's, the line of the code it is from."""
    if isinstance(error, Outcome):
        return str(error)
    last = ''.join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]
    places = [f' ({Path(frame.filename).name}:{frame.lineno})' for frame in traceback.extract_tb(error.__traceback__)
              if folder in Path(frame.filename).parents]
    return last + ''.join(places[-1:])


def work(results: str, project: str, k: str, data: str, quick: str) -> None:
    """Run the checks of one project; write a line of JSON to `results` before and after each."""
    sys.path[:] = [project] + [path for path in sys.path if path and Path(path).resolve() != ROOT]
    del sys.argv[1:]                    # these arguments are no business of the submission's
    submission = Submission(Path(project), int(k), Path(data), bool(quick))
    torch.manual_seed(0)
    with open(results, 'a', encoding='utf-8') as file:
        for name, needed, check in submission.checks():
            print(json.dumps({'name': name, 'seconds': 0}), file=file, flush=True)
            start = time.monotonic()
            try:
                if needed and needed not in submission.passed:
                    raise Outcome('skip', f'{needed} failed')
                result, figures = 'ok', check()
                submission.passed.add(name)
            except BaseException as error:              # an exit at import is an error like another
                result = error.result if isinstance(error, Outcome) else 'FAIL'
                figures = explain(error, submission.folder)
            print(json.dumps({'name': name, 'result': result, 'seconds': time.monotonic() - start,
                              'figures': figures}), file=file, flush=True)
    os._exit(0)                         # whatever threads the submission may have left behind


# ------------------------------------------------------------------------------- main and the table

def run_worker(project: Path, k: int, data: Path, quick: bool, limit: int) -> Iterator[dict]:
    """Grade one mini-project in a process of its own. Yields the rows of the table as they come, in
    between the running check without a result, and a failure if the process dies or a check takes
    more than `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        results, printed = Path(folder, 'results'), Path(folder, 'printed')
        results.touch()
        with open(printed, 'wb') as stdout:
            process = subprocess.Popen(
                [sys.executable, '-B', __file__, WORKER, results, project, str(k), data, 'quick' * quick],
                cwd=folder, env={**os.environ, 'PYTHONIOENCODING': 'utf-8'}, stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=subprocess.STDOUT)
        row, start, rest, why = {'name': 'start', 'result': ''}, time.monotonic(), '', ''
        try:
            with open(results, encoding='utf-8') as file:
                while not why:
                    status = process.poll()             # before reading, so that no line is lost
                    *lines, rest = (rest + file.read()).split('\n')
                    for row in map(json.loads, lines):
                        start = time.monotonic()
                        yield row
                    seconds = time.monotonic() - start
                    is_running = 'result' not in row
                    if status == 0 and not is_running:
                        return
                    if status is not None:
                        why = f'the process ended with status {status}'
                    elif is_running and seconds > limit:
                        why = f'stopped after {limit} seconds'
                    elif printed.stat().st_size > MAY_PRINT:
                        why = f'stopped after printing {MAY_PRINT} bytes'
                    elif is_running:
                        yield {**row, 'seconds': seconds}
                    time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        words = printed.read_text('utf-8', errors='replace').strip().splitlines() or ['none']
        yield {'name': row['name'], 'result': 'FAIL', 'seconds': seconds,
               'figures': f'{why}, without the later checks; last words: {words[-1]}'}


def show(name: str, result: str, seconds: float, figures: str = '') -> str:
    """A row of the table; on a terminal it overwrites the clock of its check."""
    return '\r' * sys.stdout.isatty() + f'{name:<26}  {result:<6} {seconds:8.1f}  {figures}'


def main(argv=None) -> int:
    # Here, and not above: a worker must not bring in our `others`.
    from others.common.cli import OneLineParser
    from others.common.datasets import read_pairs, read_validation
    from others.common.storage import UserError
    from others.data import ensure_demo

    parser = OneLineParser(prog='test.py', allow_abbrev=False, description=__doc__.split('\n\nThe file')[0],
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-p', '--project-path', type=Path, default=ROOT, metavar='FOLDER',
                        help='holds Miniproject_1 and Miniproject_2 (default: the folder of test.py)')
    parser.add_argument('-d', '--data-path', type=Path, metavar='FOLDER',
                        help='holds train_data.pkl and val_data.pkl (default: a demo set, made once)')
    parser.add_argument('--project', type=int, choices=(1, 2), help='grade only this mini-project')
    parser.add_argument('--quick', action='store_true',
                        help=f'train on {QUICK_PAIRS} pairs, measure on {QUICK_IMAGES} images at most')
    parser.add_argument('--time-limit', type=int, default=TIME_LIMIT, metavar='SECONDS',
                        help='for each check (default: %(default)s)')
    args = parser.parse_args(argv)

    project = args.project_path.resolve()
    if not any((project / f'Miniproject_{k}').is_dir() for k in (1, 2)):
        raise UserError(f'--project-path: {args.project_path} is no folder that holds Miniproject_1 and Miniproject_2')
    try:
        data = (args.data_path or ensure_demo(ROOT / 'data' / 'demo')).resolve()
    except UserError as error:
        raise UserError(f'--data-path: not given, and no demo set could be made ({error})') from error
    pairs, _ = read_pairs('--data-path', data / 'train_data.pkl')
    images, _ = read_validation('--data-path', data / 'val_data.pkl')
    print(f'{len(pairs)} pairs and {len(images)} validation images of {data}, torch {torch.__version__}, '
          f'{torch.get_num_threads()} threads', flush=True)
    rows = []
    for k in (args.project,) if args.project else (1, 2):
        print(f'\n{f"Miniproject_{k}":<26}  result  seconds  figures', flush=True)
        for row in run_worker(project, k, data, args.quick, args.time_limit):
            if 'result' in row:
                print(show(**row), flush=True)
                rows.append((k, row))
            elif sys.stdout.isatty():
                print(show(**row, result='..'), end='', flush=True)

    print(f'\n{len(rows)} checks')
    for what, result in (('warnings', 'warn'), ('failed', 'FAIL')):
        names = [f'{row["name"]} ({k})' for k, row in rows if row['result'] == result]
        print(f'{what + ":":<10} {", ".join(names) or "none"}')
    return 1 if names else 0


if __name__ == '__main__':
    if sys.argv[1:2] == [WORKER]:
        work(*sys.argv[2:])
    from others.common.cli import run

    run(main)
