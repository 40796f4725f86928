"""Train a model, in a folder that holds everything about the run; stop and go on at will.

    python -m others.train --project 1 --data data --epochs 10 --seed 0 --out runs/first
    python -m others.train --resume runs/first
    python -m others.train --resume runs/first --epochs 20
    python -m others.train --resume runs/first --promote
    python -m others.train --project 1 --data mine --weights pretrained --out runs/mine
    torchrun --nproc-per-node 2 -m others.train --project 1 --data data --out runs/second

Ctrl-C finishes the step and saves; --resume goes on from there and ends with the result of an
uninterrupted training (to the last bit on the CPU). A run that was killed goes on from the end of
its last complete epoch. With more --epochs it is lengthened: the rate begins another cycle there;
with fewer it is shortened: the rest of the cycle runs faster.

torchrun's processes share each batch, on a CPU or each on a GPU of its own, and end with the weights
of one process, to rounding. The folder of a run, which only the first of them writes, holds

    settings.json           what was asked for; its stages: command, versions, code revision, machine
    log.txt, metrics.jsonl  a line per epoch, for people and for programs (`stage`: the one it ended in, from 0)
    curve.png, montage.png  PSNR and loss; validation images: noisy, denoised, clean (twice a minute at most)
    last.pth, best.pth      weights after the last epoch and of the one with the best validation PSNR
    state.pt                what --resume needs

There is no best.pth and no montage.png without a validation set, the file val_data.pkl of --data.
"""
import contextlib
import datetime
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Iterator, Optional

import torch
from tqdm import tqdm

from others import data
from others.common import cli, datasets, denoisers, graphs, plots, processes, records, storage
from others.common.metrics import psnr

VALIDATION_IMAGES = 1000            # at most, at the end of each epoch
MONTAGE_IMAGES = 6
PICTURES_EVERY = 30                 # seconds between two, at least: on a GPU they take as long as an epoch
FRESH_PAIRS = 50000                 # of an epoch, as many as the course's set has
ZERO = torch.zeros((), dtype=torch.float64)


# ---------------------------------------------------------------------------------- stopping a run

class Stopped(Exception):
    """Ends a training from inside its callback, when everything is saved."""


class StopRequest:
    """Inside `with`, the first Ctrl-C (or SIGTERM) sets `made`, and the next one kills."""
    made = False

    def __enter__(self) -> 'StopRequest':
        self.before = {number: signal.signal(number, self.receive)
                       for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def receive(self, number: int, frame) -> None:
        self.made = True
        signal.signal(number, signal.SIG_DFL)
        if processes.rank() == 0:
            os.write(2, b'\nstopping after this step; once more stops without saving\n')

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------ the data

class FixedPairs:
    """The pairs of a file, `first` and `second`, (N, 3, H, W), the same in every epoch."""

    def __init__(self, path: Path, limit: Optional[int]) -> None:
        self.first, self.second = datasets.read_pairs('--data', path, limit)

    def draw(self, epoch: int, stop: StopRequest) -> None:
        """Nothing to draw."""


class FreshPairs:
    """N pairs, (N, 3, 32, 32), of which `draw` makes others, in the same tensors, for each epoch.

    The photographs are read again each time: it costs seconds, keeping them in memory a gigabyte.
    """

    def __init__(self, folder: Path, N: int, seed: int) -> None:
        self.photos, _ = data.split_photos(folder, torch.Generator().manual_seed(data.SPLIT_SEED), '--fresh-noise')
        self.seed = seed
        self.first, self.second = torch.empty(2, N, 3, data.SIZE, data.SIZE, dtype=torch.uint8)

    def draw(self, epoch: int, stop: StopRequest) -> None:
        """New squares with new noise, which depend on the seed and the epoch alone."""
        def read(path: Path) -> torch.Tensor:
            if stop.made:
                raise Stopped
            return data.read_photo(path)

        generator = torch.Generator().manual_seed((self.seed * 1000003 + epoch) % 2 ** 63)
        first, second, _ = data.make_pairs(self.photos, len(self.first), f'pairs of epoch {epoch}',
                                           read, generator)
        self.first.copy_(first)
        self.second.copy_(second)


# ------------------------------------------------------------------------------------------- the run

class Run:
    """A training and its folder. Called with the `Progress` of each step, it keeps the records."""

    def __init__(self, folder: Path, settings: dict, model, pairs,
                 validation: Optional[tuple]) -> None:
        """pairs: `FixedPairs` or `FreshPairs`. validation: (noisy, clean), each (N, 3, H, W)."""
        self.folder, self.settings, self.model, self.pairs = folder, settings, model, pairs
        self.validation = validation and tuple(images[:VALIDATION_IMAGES] for images in validation)
        self.history = []                           # the lines of metrics.jsonl
        self.loss_sum, self.seconds = ZERO, 0.0     # of this epoch, up to the last stop
        self.bar, self.pictured = None, -math.inf

    def train(self) -> bool:
        """Train on from the saved state, if there is one. False if it was stopped before the end."""
        saved = {'epoch': 1, 'training': None, 'random': torch.get_rng_state()}
        if (self.folder / 'state.pt').exists():
            saved = torch.load(self.folder / 'state.pt', map_location='cpu', weights_only=True)
            self.history, self.loss_sum = saved['history'], saved['loss_sum']
            self.seconds = saved['seconds']
        training = saved['training']
        if training:
            self.lay_out(training)
            if training['step'] == training['num_steps']:
                return True
        if processes.rank() == 0:
            begin_stage(self.settings)
            storage.write_json(self.folder / 'settings.json', self.settings)
        self.say_head()
        module = sys.modules[type(self.model).__module__]
        try:
            with StopRequest() as self.stop:
                self.clock = time.monotonic()
                self.draw_pairs(saved['epoch'])
                torch.set_rng_state(saved['random'])
                self.model.train(self.pairs.first, self.pairs.second, self.settings['epochs'],
                                 batch_size=self.settings['batch'], peak_lr=self.settings['lr'], callback=self,
                                 verbose=False, resume=training,
                                 team=module.Team(processes.rank(), processes.size(), processes.add_up))
        except Stopped:
            return False
        finally:
            self.close_bar()
        return True

    def lay_out(self, training: dict) -> None:
        """Lay the cycle of rates out anew, from the saved step, if the settings ask for other epochs than it has."""
        steps = math.ceil(self.settings['pairs'] / self.settings['batch'])
        step, old, new = training['step'], training['num_steps'], self.settings['epochs'] * steps
        if new > old:
            self.say(f'lengthened after {step / steps:.3f} epochs, from where the rate runs through another cycle')
            training.update(start=step, num_steps=new)
        elif new < old:
            if new <= step:
                raise storage.UserError(f'--epochs: {new // steps}, '
                                      f'expected more than the {step // steps} that are done')
            self.say(f'shortened after {step / steps:.3f} epochs, from where the rate runs faster through its cycle')
            share = (step - training['start']) / (old - step)           # what is over of it, of what is left
            training.update(start=step - share * (new - step), num_steps=new)

    def draw_pairs(self, epoch: int) -> None:
        try:
            self.pairs.draw(epoch, self.stop)
        except Stopped:
            pass                                    # other processes may have finished theirs
        if processes.any_of(self.stop.made):
            raise Stopped

    def __call__(self, progress) -> None:
        steps = progress.num_steps // progress.num_epochs
        done = (progress.step - 1) % steps + 1      # of this epoch
        self.loss_sum = self.loss_sum + progress.loss.double()
        self.show(progress, done, steps)
        epoch_ends, stops = done == steps, processes.any_of(self.stop.made)      # all stop after the same step
        if processes.rank() == 0:
            if epoch_ends:
                self.close_bar()
                self.end_epoch(progress, steps)
            if epoch_ends or stops:
                self.save_state(progress, next_epoch=progress.epoch + epoch_ends)
        if progress.step == progress.num_steps:
            return
        if stops:
            raise Stopped
        if epoch_ends:
            self.draw_pairs(progress.epoch + 1)

    def end_epoch(self, progress, steps: int) -> None:
        """Measure, and write everything but the state."""
        val_psnr, is_best = None, False
        if self.validation:
            noisy, clean = self.validation
            denoised = self.model.predict(noisy, ensemble=False)
            val_psnr = psnr(denoised, clean).mean().item()
            measured = [record['val_psnr'] for record in self.history if record['val_psnr'] is not None]
            is_best = val_psnr > max(measured, default=-math.inf)
        loss, seconds = self.loss_sum.item() / steps, self.seconds + time.monotonic() - self.clock
        self.loss_sum, self.seconds, self.clock = ZERO, 0.0, time.monotonic()
        self.history.append({'epoch': progress.epoch, 'loss': loss, 'lr': progress.lr,
                             'val_psnr': val_psnr, 'seconds': round(seconds, 1),
                             'planned_epochs': progress.num_epochs,
                             'stage': len(self.settings['stages']) - 1})
        count = f'{progress.epoch}/{progress.num_epochs}'
        decibels = '-' if val_psnr is None else f'{val_psnr:.3f} dB'
        duration = str(datetime.timedelta(seconds=round(seconds)))
        self.say(f'{count:>9}  {loss:8.5f}  {progress.lr:8.1e}  {decibels:>9}  {duration:>8}'
                 + '  best so far' * is_best)

        lines = (storage.to_json(record) + '\n' for record in self.history)
        storage.write(self.folder / 'metrics.jsonl', ''.join(lines).encode())
        self.model.save(self.folder / 'last.pth')
        if is_best:
            self.model.save(self.folder / 'best.pth')
        if progress.step < progress.num_steps and time.monotonic() - self.pictured < PICTURES_EVERY:
            return
        plots.training_curves(self.folder / 'curve.png', self.history)
        if self.validation:
            some = plots.spread(noisy, clean, MONTAGE_IMAGES)
            plots.montage(self.folder / 'montage.png', {'noisy': noisy[some], 'denoised': denoised[some],
                                                        'clean': clean[some]}, scale=5)
        self.pictured = time.monotonic()

    def save_state(self, progress, next_epoch: int) -> None:
        """The last thing that is written: if the run is killed before, its epoch is done again."""
        storage.write_tensors(self.folder / 'state.pt', {
            'epoch': next_epoch, 'training': progress.state(), 'random': torch.get_rng_state(),
            'history': self.history, 'loss_sum': self.loss_sum.cpu(),
            'seconds': self.seconds + time.monotonic() - self.clock})

    def say_head(self) -> None:
        self.say('project {project}, {pairs} pairs, {epochs} epochs, seed {seed}, {precision} precision'
                 .format(**self.settings))
        if self.validation:
            self.say(f'noisy validation images: {psnr(*self.validation).mean():.3f} dB')
        self.say(f'{"epoch":>9}  {"loss":>8}  {"rate":>8}  {"PSNR":>9}  {"time":>8}')

    def say(self, line: str) -> None:
        """To the terminal, above the bar, and to log.txt."""
        if processes.rank() > 0:
            return
        tqdm.write(line)
        with open(self.folder / 'log.txt', 'a') as log:
            print(line, file=log)

    def show(self, progress, done: int, steps: int) -> None:
        """Bring the bar, on a terminal, to `done` of `steps`."""
        if processes.rank() > 0:
            return
        N = len(self.pairs.first)
        if self.bar is None:
            self.bar = cli.progress_bar(f'epoch {progress.epoch}/{progress.num_epochs}', N,
                                        initial=N * (done - 1) // steps, unit=' pairs')
        if self.bar.update(N * done // steps - self.bar.n):
            self.bar.set_postfix_str(f'loss {self.loss_sum.item() / done:.5f}', refresh=False)

    def close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def promote(project: int, weights: Path, shipped: Path, validation: tuple, force: bool = False) -> bool:
    """Copy `weights` to `shipped` if they score higher, ensembled, if nothing is there, or by force; say whether."""
    def score(path: Path) -> float:
        noisy, clean = validation
        figure = psnr(denoisers.trained_model(project, path).predict(noisy), clean).mean().item()
        print(f'{figure:.3f} dB  {path}')
        return figure

    new = score(weights)
    if shipped.exists() and not force and not new > score(shipped):
        print('not better: nothing was copied (--force copies it)')
        return False
    storage.write(shipped, weights.read_bytes())
    print(f'copied to {shipped}')
    return True


# ------------------------------------------------------------------------- settings, command line

def new_settings(options: dict) -> dict:
    """The options of a new run, paths made absolute, and what it runs with."""
    photos, weights = options['fresh_noise'], options['weights']
    if str(weights) == 'pretrained':
        weights = denoisers.checkpoint(options['project'])
    return {**options, 'data': str((options['data'] or Path('data')).resolve()),
            'fresh_noise': photos and str(photos.resolve()), 'seed': options['seed'] or 0,
            'weights': weights and str(weights.resolve()),
            'threads': options['threads'] or torch.get_num_threads(), 'stages': []}


def begin_stage(settings: dict) -> None:
    """Note the circumstances of what is trained from now on, if they are others than before."""
    now = {**records.circumstances(), 'epochs': settings['epochs'], 'processes': processes.size()}
    stages = settings['stages']
    if not stages or any(now[key] != stages[-1].get(key) for key in now if key != 'command'):
        stages.append(now)


def record_run(path: Path, run: Run) -> None:
    """Append the epochs to `path`, each stage as a run, unless they are there."""
    stages = run.settings['stages']
    for number, stage in enumerate(stages):
        rows = [{'training': run.folder.name, 'project': run.settings['project'], **row}
                for row in run.history if row['stage'] == number]
        if rows and not any(known['rows'] == rows for known in records.read(path)):
            commands = ' && '.join(earlier['command'] for earlier in stages[:number + 1])
            records.append(path, rows, sum(row['seconds'] for row in rows), {**stage, 'command': commands})


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


def read_settings(folder: Path) -> dict:
    try:
        settings = json.loads((folder / 'settings.json').read_text())
    except (OSError, ValueError) as error:
        raise storage.UserError(f'--resume: {folder} holds no run ({error})') from error
    if 'stages' not in settings:
        raise storage.UserError(f'--resume: {folder} is a run of another revision, its settings.json has no stages')
    return settings


def is_free(folder: Path) -> bool:
    """Whether it is empty, but for what a kill leaves that comes before settings.json is written."""
    return folder.is_dir() and all(path.match('settings.json.*.tmp') for path in folder.iterdir())


def read_validation(folder: Path) -> Optional[tuple]:
    """(noisy, clean), each (N, 3, H, W); None if the folder holds no such file."""
    path = folder / data.VAL_FILE
    return datasets.read_validation('--data', path) if path.exists() else None


def set_up(folder: Path, settings: dict) -> tuple:
    """The model and the training pairs of the run in `folder`. What the settings leave open (None) is filled in."""
    torch.set_num_threads(settings['threads'])      # the last bits of a sum depend on it
    torch.manual_seed(settings['seed'])
    model = denoisers.new_model(settings['project'])
    if settings['weights'] and not (folder / 'state.pt').exists():      # which has weights of its own
        model = denoisers.trained_model(settings['project'], settings['weights'])
    settings['precision'] = denoisers.set_precision(model, settings['precision'])
    graphs.accelerate(model)
    settings['epochs'] = settings['epochs'] or model.NUM_EPOCHS
    settings['batch'] = settings['batch'] or model.BATCH_SIZE
    settings['lr'] = settings['lr'] or model.PEAK_LR * (model.FINE_TUNING if model.is_trained else 1)
    if settings['fresh_noise']:
        pairs = FreshPairs(Path(settings['fresh_noise']), settings['pairs'] or FRESH_PAIRS,
                           settings['seed'])
    else:
        pairs = FixedPairs(Path(settings['data'], data.TRAIN_FILE), settings['pairs'])
    settings['pairs'] = len(pairs.first)
    return model, pairs


def main(arguments=None) -> int:
    parser = cli.parser('train', __doc__)
    new = parser.add_argument_group('a new run')
    new.add_argument('--project', type=int, choices=(1, 2), help='the mini-project')
    new.add_argument('--out', type=Path, metavar='FOLDER', help='for the run; must not hold one')
    cli.add_options(new, data={'default': None,
                               'help': 'with train_data.pkl and, if wanted, val_data.pkl (default: data)'})
    new.add_argument('--fresh-noise', type=Path, metavar='PHOTOS',
                     help='a folder of photographs: instead of reading a fixed set, draw new squares '
                          'with new noise for every epoch, from the photographs that others.data '
                          '(by default) does not keep for validation')
    cli.add_options(new, pairs={'help': f'of an epoch (default: all of --data, {FRESH_PAIRS} with --fresh-noise)'},
                    epochs={'default': None, 'help': "(default: the model's own)"}, seed={'default': None})
    new.add_argument('--weights', type=Path, metavar='FILE',
                     help='fine-tune these, as others.train makes them, or the shipped ones: pretrained')
    new.add_argument('--batch', type=cli.integer(1), metavar='N', help="(default: the model's own)")
    new.add_argument('--lr', type=cli.positive, help="peak rate (default: the model's own, lower with --weights)")
    cli.add_options(new, threads={'default': None, 'help': f'to compute with (default: {torch.get_num_threads()})'})
    new.add_argument('--precision', choices=('float32', 'mixed'),
                     help='mixed: products in bfloat16 (default: what is fast on this machine)')
    parser.add_argument('--resume', type=Path, metavar='FOLDER',
                        help='go on with the run in FOLDER, with all its settings; with other --epochs, lengthen or '
                             'shorten it')
    parser.add_argument('--promote', action='store_true',
                        help='when it is finished, copy best.pth to the bestmodel.pth of the project '
                             'if, and only if, it scores higher on val_data.pkl, ensembled; if not, the exit '
                             'status is 1')
    parser.add_argument('--force', action='store_true', help='with --promote, copy it even if it does not')
    cli.add_options(parser, record={'help': 'when it is finished, append its epochs to FILE, a record as in '
                                            'others/results'})
    options = vars(parser.parse_args(arguments))
    resume, promotes, force, folder, record = map(options.pop, ('resume', 'promote', 'force', 'out', 'record'))
    if force and not promotes:
        raise storage.UserError('--force: expected --promote with it')

    if resume:
        epochs = options.pop('epochs')
        given = [name for name, value in {'out': folder, **options}.items() if value is not None]
        if given:
            raise storage.UserError(f"--resume: {resume} has its settings, expected no "
                                f"--{given[0].replace('_', '-')}")
        folder, settings = resume, read_settings(resume)
        settings['epochs'] = epochs or settings['epochs']
    elif not (folder and options['project']):
        raise storage.UserError('expected --project and --out for a new run, --resume for an old one')
    elif folder.exists() and not is_free(folder):
        raise storage.UserError(f'--out: {folder} exists, expected a new folder '
                            '(--resume goes on with a run)')
    else:
        settings = new_settings(options)
    validation = read_validation(Path(settings['data']))
    if promotes and validation is None:
        raise storage.UserError(f"--promote: {settings['data']} holds no {data.VAL_FILE} to score on")
    with processes.joined():
        return train(folder, settings, validation, record, promotes, force)


def train(folder: Path, settings: dict, validation: Optional[tuple], record: Optional[Path], promotes: bool,
          force: bool) -> int:
    """The exit status of a run that begins or goes on."""
    model, pairs = set_up(folder, settings)
    processes.any_of(False)                              # all have seen what is there
    run = Run(folder, settings, model, pairs, validation)
    try:
        with only_one(folder):
            finished = run.train()
    except FloatingPointError as error:
        raise storage.UserError(f"--lr: {settings['lr']:g} may be too high: {error}") from error
    except processes.Lost as error:
        run.say(f'{error}; to go on: python -m others.train --resume {folder}')
        return 1
    if not finished:
        run.say(f'stopped; to go on: python -m others.train --resume {folder}')
        return 130
    run.say(f'finished: {folder}')
    if processes.rank() > 0:
        return 0
    project = settings['project']
    if record:
        record_run(record, run)
    if promotes and not promote(project, folder / 'best.pth', denoisers.checkpoint(project), validation, force):
        return 1
    return 0


if __name__ == '__main__':
    cli.run(main)
