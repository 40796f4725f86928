"""What the studies share: the record of a run, and a training step in torch.nn."""
import argparse
import time
from typing import Callable

import torch
from torch import nn

from others.common import records


def parse(parser: argparse.ArgumentParser, arguments=None) -> argparse.Namespace:
    """The options, and `start`, when they were read; the threads that they ask for are set."""
    options = parser.parse_args(arguments, argparse.Namespace(start=time.monotonic()))
    if 'threads' in options:
        torch.set_num_threads(options.threads)
    return options


def record(options: argparse.Namespace, rows: list, device='cuda') -> None:
    """Append the rows to --record, if it is given, with the seconds since the start. device: 'cpu' for what computes
    there in spite of CUDA."""
    if options.record:
        records.append(options.record, rows, time.monotonic() - options.start, records.circumstances(device))


def torch_step(forward: Callable, optimizer: torch.optim.Optimizer, noisy: torch.Tensor,
               target: torch.Tensor) -> torch.Tensor:
    """One training step: noisy, as `forward` takes it, target, 0..1, (N, 3, H, W) -> the mean squared error, ()."""
    loss = nn.functional.mse_loss(forward(noisy).float(), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss
