"""The processes that torchrun started for one work: which of them this is, and sums over all.

    torchrun --nproc-per-node 2 -m others.train --project 1 --out runs/first

Without torchrun there is one process, number 0. DistributedDataParallel is not needed: all it would do is to average
gradients, which `share` does for both mini-projects, and so for project 2's own framework as well.
"""
import contextlib
import datetime
import os
from typing import Iterator

import torch
from torch import distributed

from others.common import storage


class Lost(storage.UserError):
    """Another process has ended, or cannot be reached."""


def rank() -> int:
    """The number of this process, from 0. Number 0 is the one that speaks and writes for all."""
    return int(os.environ.get('RANK', 0))


def size() -> int:
    return int(os.environ.get('WORLD_SIZE', 1))


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside `with`, `add_up` works: by nccl where there is CUDA, each process on its own device, else by gloo."""
    if size() == 1:
        yield
        return
    if torch.cuda.is_available():
        here, devices = int(os.environ['LOCAL_WORLD_SIZE']), torch.cuda.device_count()
        if here > devices:
            raise storage.UserError(f'--nproc-per-node: {here}, expected at most {devices}, the CUDA devices here')
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    # A process may be done long before the others; that one has ended is noticed at once.
    distributed.init_process_group('nccl' if torch.cuda.is_available() else 'gloo', timeout=datetime.timedelta(days=1))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def add_up(tensors: list) -> None:
    """Set each of some tensors, in place, to its sum over the processes. `Lost` if one does not take part."""
    if size() == 1:
        return
    sums = torch.cat([tensor.reshape(-1) for tensor in tensors])       # one message, not one for each
    try:
        distributed.all_reduce(sums)
    except RuntimeError as error:
        raise Lost(f'another process has ended ({str(error).splitlines()[0]})') from error
    for tensor, total in zip(tensors, sums.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(total.view_as(tensor))


def share(model) -> None:
    """Let all processes train a `Model` of either mini-project together, each on its part of every batch. With the
    same seed they draw the same batches, swap and turn them alike, and all get the gradients of one process, to
    rounding. After `graphs.accelerate`."""
    differentiate = model.differentiate

    def shared(noisy: torch.Tensor, target: torch.Tensor) -> tuple:
        N, mine = len(noisy), slice(rank() % len(noisy), None, size())
        part = len(range(rank(), N, size())) / N        # 0, of an image, for a process that a small batch leaves idle
        loss, gradients = differentiate(noisy[mine], target[mine])
        for tensor in (loss, *gradients):
            tensor.mul_(part)
        add_up([loss, *gradients])
        return loss, gradients

    if size() > 1:
        model.differentiate = shared


def any_of(flag: bool) -> bool:
    """Whether it is true in any of the processes; each waits here for the others."""
    count = torch.tensor([float(flag)], device='cuda' if size() > 1 and torch.cuda.is_available() else 'cpu')
    add_up([count])
    return bool(count)
