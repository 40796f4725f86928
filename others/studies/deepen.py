"""Project 1's weights for a network with more blocks, which computes the same: a training goes on from there.

    python -m others.studies.deepen OLD.pth NEW.pth

Each stack of residual blocks keeps those of OLD, and behind them come new ones whose second convolution is zero, so
the identity (Net2Net, Chen et al. 2016, https://arxiv.org/abs/1511.05641).
"""
from pathlib import Path

import torch

from Miniproject_1.model import Model, read_archive
from others.common import cli, storage


def deepen(old: dict, new: dict) -> dict:
    """{name: tensor}: what `old` has, and for the blocks that only `new` has, the identity."""
    return {name: old[name] if name in old else
            torch.zeros_like(weight) if '.conv2.' in name else weight for name, weight in new.items()}


def main(arguments=None) -> None:
    parser = cli.parser('studies.deepen', __doc__)
    parser.add_argument('old', type=Path, metavar='OLD', help='a checkpoint of a network with fewer blocks')
    parser.add_argument('new', type=Path, metavar='NEW', help='where to write the other')
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = Model()
    try:
        old = read_archive(options.old.read_bytes())
        model.set_weights(deepen(old['weights'], model.weights()))
    except Exception as error:                      # a damaged archive may raise almost anything
        raise storage.UserError(f'OLD: {options.old} holds no weights of project 1 ({error})') from error
    model.save(options.new)


if __name__ == '__main__':
    cli.run(main)
