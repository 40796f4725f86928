"""Train a model, in a folder that holds everything about the run; stop and resume at will.

    python -m others.train --project 1 --data data --epochs 10 --seed 0 --out runs/first
    python -m others.train --resume runs/first
    python -m others.train --resume runs/first --epochs 20
    python -m others.train --resume runs/first --promote
    python -m others.train --project 1 --data mine --weights pretrained --out runs/mine
    python -m others.train --compare runs/*
    torchrun --nproc-per-node 2 -m others.train --project 1 --data data --out runs/second

Ctrl-C finishes the step and saves; --resume continues from there and ends with the result of an
uninterrupted training: to the last bit on a CPU with --threads 1, else to rounding. A run that was
killed resumes from the end of its last complete epoch. More --epochs lengthen it: the learning rate
begins another cycle where the run stands. If the data has moved, --resume takes its new folder as --data.

The two versions of a pair exchange random pixels, which gives a new pair, if the noise of neighbouring
pixels is independent; this is measured. Where it is not, whole images change places (--swap).

torchrun's processes share each batch, on a CPU or each on a GPU of its own, and end with the weights
of one process, to rounding. The folder of a run, which only the first of them writes, holds

    settings.json           what was asked for; digests of the data; stages: command, versions, code revision, machine
    log.txt, metrics.jsonl  a line per epoch, for people and for programs (`stage`: the one it ended in, from 0)
    curve.png, montage.png  PSNR and loss; validation images: noisy, denoised, clean (twice a minute at most)
    last.pth, best.pth      weights after the last epoch and of the one with the best validation PSNR
    state.pt                what --resume needs

The validation set is the file val_data.pkl of --data, noisy and clean images, or val_pairs.pkl, two noisy shots of
each scene, from which the PSNR is estimated. Without one, there is no best.pth and no montage.png. With --weights,
epoch 0 is what the training starts from.
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
from typing import Optional

import torch

from others import data
from others.common import cli, datasets, denoisers, graphs, plots, processes, runs, storage

EPOCHS = {1: 4, 2: 10}              # of a project, by default; the assignment's limit of time is for `Model.train`
VALIDATION_IMAGES = 1000            # at most, at the end of each epoch
CROP = 128                          # pixels; of larger images, crops are trained on: 16 of 512 x 512 take 6 GB
PICTURES_EVERY = 30                 # seconds between two, at least: on a GPU they take as long as an epoch
FRESH_PAIRS = 50000                 # of an epoch, as many as the course's set has
FOR_CORRELATED = 10                 # factor on the learning rate of fine-tuning, where the noise correlates
ZERO = torch.zeros((), dtype=torch.float64)


# ---------------------------------------------------------------------------------- stopping a run

class Stopped(Exception):
    """Ends a training from inside its callback, when everything is saved."""


class StopRequest:
    """Inside `with`, the first Ctrl-C (or SIGTERM) sets `made`, and the next one kills. A signal that the process
    ignores, as the shell has it for work in the background, stays ignored."""
    made = False

    def __enter__(self) -> 'StopRequest':
        self.before = {number: signal.signal(number, self.receive) for number in (signal.SIGINT, signal.SIGTERM)
                       if signal.getsignal(number) is not signal.SIG_IGN}
        return self

    def receive(self, number: int, frame) -> None:
        self.made = True
        signal.signal(number, signal.SIG_DFL)
        if processes.rank() == 0:
            os.write(2, b'\nstopping after this step; press Ctrl-C again to quit without saving\n')

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------ the data

class FixedPairs:
    """The pairs of a file, `first` and `second`, (N, 3, H, W), the same in every epoch.

    Of images with a side above CROP, crops with sides of at most CROP: `draw` puts others into the same tensors, at
    random places for each epoch, as many of an image as it takes to cover it.
    """

    def __init__(self, path: Path, limit: Optional[int], seed: int) -> None:
        self.whole = datasets.read_pairs('--data', path, limit)
        self.first, self.second = self.whole
        self.seed = seed
        N, C, *sides = self.first.shape
        if max(sides) > CROP:
            self.count = math.prod(math.ceil(side / CROP) for side in sides)        # of an image
            self.first, self.second = (torch.empty(N * self.count, C, *(min(side, CROP) for side in sides),
                                                   dtype=self.first.dtype) for _ in range(2))

    def draw(self, epoch: int, stop: StopRequest) -> None:
        """New crops, if any, which depend on the seed and the epoch alone."""
        if self.first is self.whole[0]:
            return
        generator, (h, w) = epoch_generator(self.seed, epoch), self.first.shape[2:]
        H, W = self.whole[0].shape[2:]
        for k in range(len(self.first)):
            top, left = data.uniform(0, H - h, generator), data.uniform(0, W - w, generator)
            for crops, images in zip((self.first, self.second), self.whole):
                crops[k] = images[k // self.count, :, top:top + h, left:left + w]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1000003 + epoch) % 2 ** 63)


class FreshPairs:
    """N pairs, (N, 3, 32, 32), of which `draw` makes others, in the same tensors, for each epoch.

    The photographs are read again each time: it costs seconds, keeping them in memory a gigabyte.
    """

    def __init__(self, folder: Path, N: int, seed: int) -> None:
        self.whole = None                           # no pair outlives its epoch
        self.photos, _ = data.split_photos(folder, torch.Generator().manual_seed(data.SPLIT_SEED), '--fresh-noise')
        self.seed = seed
        self.first, self.second = torch.empty(2, N, 3, data.SIZE, data.SIZE, dtype=torch.uint8)

    def draw(self, epoch: int, stop: StopRequest) -> None:
        """New squares with new noise, which depend on the seed and the epoch alone."""
        def read(path: Path) -> torch.Tensor:
            if stop.made:
                raise Stopped
            return data.read_photo(path)

        first, second, _ = data.make_pairs(self.photos, len(self.first), f'pairs of epoch {epoch}', read,
                                           epoch_generator(self.seed, epoch))
        self.first.copy_(first)
        self.second.copy_(second)


# ------------------------------------------------------------------------------------------- the run

class Run:
    """A training and its folder. Called with the `Progress` of each step, it keeps the records."""

    def __init__(self, folder: Path, settings: dict, model, pairs,
                 validation: Optional[datasets.Validation]) -> None:
        """pairs: `FixedPairs` or `FreshPairs`."""
        self.folder, self.settings, self.model, self.pairs = folder, settings, model, pairs
        self.validation = validation and validation._replace(noisy=validation.noisy[:VALIDATION_IMAGES],
                                                             target=validation.target[:VALIDATION_IMAGES])
        self.history = []                           # the lines of metrics.jsonl
        self.loss_sum, self.seconds = ZERO, 0.0     # of this epoch, up to the last stop; the sum is over batches
        self.clock, self.bar, self.pictured = time.monotonic(), None, -math.inf
        self.has_begun, self.found, self.lengthened = False, '', ''

    def train(self, saved: Optional[dict]) -> bool:
        """Train from the state `saved`, or from the start. False if it was stopped before the end."""
        saved = saved or self.state(epoch=1, training=None)
        training = saved['training']
        if training:
            self.history, self.loss_sum, self.seconds = saved['history'], saved['loss_sum'], saved['seconds']
            self.lengthen(training)
            if training['step'] == training['num_steps']:
                return True
        swap, self.found = self.choose_swap()
        self.settings['lr'] = self.settings['lr'] or self.default_lr(swap)
        if not training:
            self.begin()
            if processes.rank() == 0:               # from here on, a run without a state has lost it
                storage.write_tensors(self.folder / 'state.pt', saved)
                if self.settings['weights'] and self.validation:
                    self.end_epoch(0, self.settings['epochs'])
        try:
            with StopRequest() as self.stop:
                self.clock = time.monotonic()
                self.draw_pairs(saved['epoch'])
                torch.set_rng_state(saved['random'])
                self.model.train(self.pairs.first, self.pairs.second, self.settings['epochs'],
                                 batch_size=self.settings['batch'], peak_lr=self.settings['lr'], callback=self,
                                 verbose=False, resume=training, swap=swap)
        except Stopped:
            return False
        finally:
            self.close_bar()
        return True

    def choose_swap(self) -> tuple:
        """What to swap, for `Model.train`, and the line that says why. Pairs that are drawn anew for each epoch need
        one answer for all: fresh noise is independent; whole crops are swapped if those of any pair have to be."""
        swap, whole = self.settings['swap'], self.pairs.whole
        if swap != 'auto' or whole is None:
            return ('pixels' if swap == 'auto' else swap), ''
        correlated, line = sys.modules[type(self.model).__module__].choose_swap(*whole)
        if not correlated.any():
            return 'pixels', line
        if not correlated.all() and self.pairs.first is whole[0]:
            return 'auto', line
        return 'images', line + ' (of crops, everywhere)' * (not correlated.all())

    def default_lr(self, swap: str) -> float:
        """The model's own; for weights to fine-tune its lower one, which noise that correlates raises again."""
        if not self.model.is_trained:
            return self.model.PEAK_LR
        is_correlated = swap == 'images' and self.settings['swap'] == 'auto'
        return self.model.PEAK_LR * self.model.FINE_TUNING * (FOR_CORRELATED if is_correlated else 1)

    def lengthen(self, training: dict) -> None:
        """Begin another cycle of the learning rate at the saved step if the settings ask for more epochs."""
        steps = math.ceil(len(self.pairs.first) / self.settings['batch'])
        step, old, new = training['step'], training['num_steps'], self.settings['epochs'] * steps
        if new < old:
            raise storage.UserError(f'--epochs: {new // steps}, expected at least the {old // steps} of the run')
        if new > old:
            self.lengthened = f'lengthened after {step / steps:.3f} epochs: another cycle of the learning rate begins'
            training.update(start=step, num_steps=new)

    def begin(self) -> None:
        """Write the settings and the head of the table. A run that goes on begins after its first step, since the
        model may refuse the state, and nothing in the folder has changed then."""
        self.has_begun = True
        if processes.rank() > 0:
            return
        runs.begin_stage(self.settings)
        storage.write_json(self.folder / 'settings.json', self.settings)
        self.say('project {project}, {pairs} pairs, {epochs} epochs, seed {seed}, {precision} precision'
                 .format(**self.settings))
        N, C, H, W = self.pairs.first.shape
        lines = [f'{N} random crops of {H} x {W} pixels an epoch' * (N > self.settings['pairs']), self.found]
        if self.validation:
            self.noisy_psnr, error = self.validation.psnr(self.validation.noisy)
            lines.append(f'noisy validation images: {self.decibels(self.noisy_psnr, error)}'
                         + ', estimated from two noisy shots of each scene' * self.validation.estimated)
        for line in filter(None, [*lines, self.lengthened]):
            self.say(line)
        title = 'estimated PSNR' if self.validation and self.validation.estimated else 'PSNR'
        self.say(f'{"epoch":>9}  {"loss":>8}  {"learning rate":>13}  {title:>17}  {"time":>8}')

    def decibels(self, value: float, error: Optional[float]) -> str:
        """An estimated one comes with its standard error."""
        return f'{value:.3f}' + f' ± {error or 0:.3f}' * bool(error and self.validation.estimated) + ' dB'

    def draw_pairs(self, epoch: int) -> None:
        with contextlib.suppress(Stopped):          # other processes may have finished theirs
            self.pairs.draw(epoch, self.stop)
        if processes.any_of(self.stop.made):
            raise Stopped

    def __call__(self, progress) -> None:
        if not self.has_begun:
            self.begin()
        N, batch = len(self.pairs.first), self.settings['batch']
        steps = progress.num_steps // progress.num_epochs
        done = (progress.step - 1) % steps + 1      # of this epoch
        size = min(batch, N - (done - 1) * batch)   # the last batch may be smaller
        self.loss_sum = self.loss_sum + progress.loss.double() * (size / batch)
        self.show(progress, done, steps)
        epoch_ends, stops = done == steps, processes.any_of(self.stop.made)      # all stop after the same step
        if processes.rank() == 0:
            if epoch_ends:
                self.close_bar()
                self.end_epoch(progress.epoch, progress.num_epochs, self.loss_sum.item() * batch / N, progress.lr)
            if epoch_ends or stops:
                # The last thing that is written: if the run is killed before, its epoch is done again.
                storage.write_tensors(self.folder / 'state.pt',
                                      self.state(progress.epoch + epoch_ends, progress.state()))
        if progress.step == progress.num_steps:
            return
        if stops:
            raise Stopped
        if epoch_ends:
            self.draw_pairs(progress.epoch + 1)

    def end_epoch(self, epoch: int, num_epochs: int, loss: Optional[float] = None, lr: Optional[float] = None) -> None:
        """Measure, and write everything but the state. epoch: 0, without loss and learning rate, before the first."""
        score = error = denoised = None
        if self.validation:
            denoised = self.model.predict(self.validation.noisy, ensemble=False)
            score, error = self.validation.psnr(denoised)
        measured = [record['val_psnr'] for record in self.history if record['val_psnr'] is not None]
        is_best = score is not None and score > max(measured, default=-math.inf)
        seconds = self.seconds + time.monotonic() - self.clock
        self.loss_sum, self.seconds, self.clock = ZERO, 0.0, time.monotonic()
        self.history.append({'epoch': epoch, 'loss': loss, 'lr': lr, 'val_psnr': score, 'val_error': error,
                             'seconds': round(seconds, 1), 'planned_epochs': num_epochs,
                             'stage': len(self.settings['stages']) - 1})
        cells = (f'{epoch}/{num_epochs}', '-' if loss is None else f'{loss:.5f}', '-' if lr is None else f'{lr:.1e}',
                 '-' if score is None else self.decibels(score, error), datetime.timedelta(seconds=round(seconds)))
        self.say('{:>9}  {:>8}  {:>13}  {:>17}  {!s:>8}'.format(*cells)
                 + '  best so far' * bool(is_best and epoch and score > self.noisy_psnr))

        lines = (storage.to_json(record) + '\n' for record in self.history)
        storage.write(self.folder / 'metrics.jsonl', ''.join(lines).encode())
        self.model.save(self.folder / 'last.pth')
        if is_best:
            self.model.save(self.folder / 'best.pth')
        if epoch and (epoch == num_epochs or time.monotonic() - self.pictured > PICTURES_EVERY):
            plots.training_curves(self.folder / 'curve.png', self.history, self.settings['estimated'])
            if self.validation:
                plots.comparison(self.folder / 'montage.png', self.validation, {'denoised': denoised})
            self.pictured = time.monotonic()

    def state(self, epoch: int, training: Optional[dict]) -> dict:
        """epoch: the one to go on with. training: the model's part of it, None before the first step."""
        return {'epoch': epoch, 'training': training, 'random': torch.get_rng_state(), 'history': self.history,
                'loss_sum': self.loss_sum.cpu(), 'seconds': self.seconds + time.monotonic() - self.clock}

    def say(self, line: str) -> None:
        """To the terminal, above the bar, and to log.txt."""
        if processes.rank() > 0:
            return
        cli.say(line)
        with open(self.folder / 'log.txt', 'a', encoding='utf-8', errors='backslashreplace') as log:
            print(line, file=log)

    def show(self, progress, done: int, steps: int) -> None:
        """Bring the bar, on a terminal, to `done` of `steps`."""
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


def promote(project: int, weights: Path, shipped: Path, validation: datasets.Validation, force: bool = False) -> bool:
    """Copy `weights` to `shipped` if they score higher, with test-time augmentation, if there are none, or by force.
    Says and returns whether it did."""
    def score(path: Path) -> float:
        decibels, error = validation.psnr(denoisers.trained_model(project, path).predict(validation.noisy))
        is_estimated = bool(error and validation.estimated)
        cli.say(f'{decibels:.3f} dB' + f' ± {error or 0:.3f}, estimated' * is_estimated + f'  {path}')
        return decibels

    new = score(weights)
    if shipped.exists() and not force and not new > score(shipped):
        cli.say('not better: nothing was copied (--force copies it)')
        return False
    storage.write(shipped, weights.read_bytes())
    cli.say(f'copied to {shipped}')
    return True


# ------------------------------------------------------------------------- settings, command line

def new_settings(options: dict) -> dict:
    """The options of a new run, paths made absolute, what it runs with, and the range of values of the set's images,
    for `others.denoise`."""
    photos, weights = options['fresh_noise'], options['weights']
    folder = (options['data'] or Path('data')).resolve()
    try:
        value_range = json.loads((folder / 'set.json').read_text(encoding='utf-8')).get('range')
    except FileNotFoundError:
        value_range = None                          # that of each image's type
    except (ValueError, AttributeError) as error:
        raise storage.UserError(f'--data: {folder / "set.json"} is not what others.data wrote ({error})') from error
    if str(weights) == 'pretrained':
        weights = denoisers.checkpoint(options['project'])
    return {**options, 'data': str(folder), 'range': value_range, 'fresh_noise': photos and str(photos.resolve()),
            'seed': options['seed'] or 0, 'swap': options['swap'] or 'auto',
            'weights': weights and str(weights.resolve()),
            'threads': options['threads'] or torch.get_num_threads(), 'stages': []}


def set_up(settings: dict, is_new: bool) -> tuple:
    """The model and the training pairs of a run. What the settings leave open (None) is filled in.

    is_new: whether the model begins with the weights of the settings; those of a state come with it."""
    torch.set_num_threads(settings['threads'])      # the last bits of a sum depend on it
    torch.manual_seed(settings['seed'])
    model = denoisers.new_model(settings['project'])
    if settings['weights'] and is_new:
        model = denoisers.trained_model(settings['project'], settings['weights'])
    settings['precision'] = denoisers.set_precision(model, settings['precision'])
    graphs.accelerate(model)
    processes.share(model)
    settings['epochs'] = settings['epochs'] or EPOCHS[settings['project']]
    settings['batch'] = settings['batch'] or model.BATCH_SIZE
    if settings['fresh_noise']:
        pairs = FreshPairs(Path(settings['fresh_noise']), settings['pairs'] or FRESH_PAIRS,
                           settings['seed'])
    else:
        path = Path(settings['data'], data.TRAIN_FILE)
        pairs = FixedPairs(path, settings['pairs'], settings['seed'])
        runs.check_data(settings, 'pairs', path, runs.digest(*pairs.whole))
    settings['pairs'] = len(pairs.whole[0] if pairs.whole else pairs.first)
    return model, pairs


def main(arguments=None) -> int:
    parser = cli.parser('train', __doc__)
    new = parser.add_argument_group('a new run')
    new.add_argument('--project', type=int, choices=(1, 2), help='the mini-project')
    new.add_argument('--out', type=Path, metavar='FOLDER', help='folder of the new run; must not exist yet')
    cli.add_options(new, data={'default': None, 'help': 'folder with train_data.pkl and, if wanted, val_data.pkl '
                                                        '(default: data)'})
    new.add_argument('--fresh-noise', type=Path, metavar='PHOTOS',
                     help='a folder of photographs: instead of reading a fixed set, draw new squares with new noise '
                          'for every epoch, from the photographs that others.data (by default) does not keep for '
                          'validation')
    cli.add_options(new, pairs={'help': f'pairs of an epoch (default: all of --data, {FRESH_PAIRS} with '
                                        '--fresh-noise)'},
                    epochs={'default': None,
                            'help': f'epochs in all (default: {EPOCHS[1]} and, for project 2, {EPOCHS[2]})'},
                    seed={'default': None})
    new.add_argument('--weights', type=Path, metavar='FILE',
                     help='fine-tune the weights of a file that others.train wrote; pretrained: those that ship')
    new.add_argument('--swap', choices=('auto', 'pixels', 'images'),
                     help='what the two versions of a pair exchange at random; pixels: only for noise that is '
                          'independent between neighbouring pixels; auto: as the noise of each pair allows (default)')
    new.add_argument('--batch', type=cli.integer(1), metavar='N', help="batch size (default: the model's own)")
    new.add_argument('--lr', type=cli.positive, metavar='LR',
                     help="highest learning rate (default: the model's own, lower with --weights, less so for noise "
                          'that correlates)')
    cli.add_options(new, threads={'default': None, 'help': f'CPU threads (default: {torch.get_num_threads()})'})
    new.add_argument('--precision', choices=('float32', 'mixed'),
                     help='mixed: products in bfloat16 (default: what is fast on this machine)')
    parser.add_argument('--resume', type=Path, metavar='FOLDER',
                        help='resume the run in FOLDER with its settings; more --epochs lengthen it, --data names the '
                             'folder that its data has moved to')
    parser.add_argument('--promote', action='store_true',
                        help="when the run is finished, copy best.pth to the project's bestmodel.pth if it scores "
                             'higher on the validation set, with test-time augmentation; otherwise the exit status '
                             'is 1')
    parser.add_argument('--force', action='store_true', help='with --promote, copy it in any case')
    cli.add_options(parser, record={'help': 'when the run is finished, append its epochs to FILE, a record as in '
                                            'others/results'})
    parser.add_argument('--compare', type=Path, nargs='+', metavar='FOLDER',
                        help='print a table of runs, nothing else')
    options = vars(parser.parse_args(arguments))
    compared = options.pop('compare')
    if compared:
        given = [name for name, value in options.items() if value]
        if given:
            raise storage.UserError(f"--compare: expected no --{given[0].replace('_', '-')} with it")
        print(runs.compare(compared))
        return 0
    resume, promotes, force, folder, record = map(options.pop, ('resume', 'promote', 'force', 'out', 'record'))
    if force and not promotes:
        raise storage.UserError('--force needs --promote')

    if resume:
        epochs, moved = options.pop('epochs'), options.pop('data')
        given = [name for name, value in {'out': folder, **options}.items() if value is not None]
        if given:
            raise storage.UserError(f"--resume: {resume} has its settings, expected no "
                                    f"--{given[0].replace('_', '-')}")
        folder, settings = resume, runs.read_settings('--resume', resume)
        settings['epochs'] = epochs or settings['epochs']
        settings['data'] = str(moved.resolve()) if moved else settings['data']
    elif not (folder and options['project']):
        raise storage.UserError('expected --project and --out for a new run, --resume for an old one')
    elif folder.exists() and not runs.is_free(folder):
        raise storage.UserError(f'--out: {folder} exists, expected a new folder (--resume continues a run)')
    else:
        settings = new_settings(options)
    path = datasets.validation_file(Path(settings['data']))
    validation = datasets.read_measured('--data', path) if path.exists() else None
    runs.check_data(settings, 'validation', path, validation and runs.digest(validation.noisy, validation.target))
    settings['estimated'] = bool(validation and validation.estimated)
    if promotes and validation is None:
        raise storage.UserError(f"--promote: {settings['data']} holds no {data.VAL_FILE} to score on")
    with processes.joined():
        return train(folder, settings, validation, record, promotes, force)


def train(folder: Path, settings: dict, validation: Optional[datasets.Validation], record: Optional[Path],
          promotes: bool, force: bool) -> int:
    """The exit status of a run that begins or goes on."""
    saved = runs.read_state(folder)
    model, pairs = set_up(settings, is_new=not (saved and saved['training']))
    processes.any_of(False)                              # all have seen what is there
    run = Run(folder, settings, model, pairs, validation)
    try:
        with runs.only_one(folder):
            finished = run.train(runs.read_state(folder))     # again: another process may have trained in between
    except ValueError as error:
        if not str(error).startswith('resume: '):
            raise
        raise storage.UserError(f"--resume: {folder / 'state.pt'} does not fit the run ({error})") from error
    except FloatingPointError as error:
        raise storage.UserError(f"--lr: {settings['lr']:g} may be too high: {error}") from error
    except processes.Lost as error:
        run.say(f'{error}; to resume: python -m others.train --resume {folder}')
        return 1
    if not finished:
        run.say(f'stopped; to resume: python -m others.train --resume {folder}')
        return 130
    run.say(f'finished: {folder}')
    if processes.rank() > 0:
        return 0
    project = settings['project']
    if record:
        runs.record(record, folder, settings, run.history)
    if promotes and not promote(project, folder / 'best.pth', denoisers.checkpoint(project), validation, force):
        return 1
    return 0


if __name__ == '__main__':
    cli.run(main)
