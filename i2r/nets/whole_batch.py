"""Numbers of a step's whole batch, when several processes share it (engine/processes.py).

Each process computes a part of the batch. A sum over the whole batch is the sum over the processes; with one process
every function here gives what the process has. All processes must call these functions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from i2r.errors import InputError
from i2r.nets.precision import full


def count() -> int:
    """Number of processes that share the batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; the first one writes the results."""
    return dist.get_rank() if dist.is_initialized() else 0


def places(batch: int) -> range:
    """This process's places in a batch, whose size the number of processes divides."""
    own = batch // count()
    return range(rank() * own, (rank() + 1) * own)


def total(values: Tensor) -> Tensor:
    """Sum over the processes, without gradient."""
    if count() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def mean(amount: Tensor, items: Tensor | float) -> Tensor:
    """`amount` / `items`, both summed over the processes (scalars).

    The gradient in a process is that of its own part: the gradients of all processes add up to the whole one.
    """
    if count() == 1:
        return amount / items
    own = amount.detach().double()
    whole_amount, whole_items = total(torch.stack([own, torch.as_tensor(items).to(own)]))
    part = amount / whole_items.to(amount.dtype)
    return part + ((whole_amount / whole_items).to(part.dtype) - part).detach()


def cross_entropy(logits: Tensor, target: Tensor, ignored: int) -> Tensor:
    """Mean cross-entropy over all pixels of (B, S, S) but those `ignored`; logits (B, C, S, S)."""
    losses = F.cross_entropy(logits, target, ignore_index=ignored, reduction="sum")
    return mean(losses, (target != ignored).sum())


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter the sum of its gradients in all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not gradients:
        return
    summed = total(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def of_first(compute: Callable[[], Any]) -> Any:
    """What `compute` returns in the first process; the others wait for it and do not compute it."""
    if count() == 1:
        return compute()
    found = [compute() if rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]


class _Total(torch.autograd.Function):
    """Sum over the processes. What it is used for depends on it in all of them, so gradients are summed as well."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of the whole batch; the parts of the processes must have equal sizes.

    On CPUs and GPUs alike, so that what a test on CPUs shows holds for both: torch's SyncBatchNorm needs a GPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same size."""
        if not self.training or count() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values, over = full(x), (0, 2, 3)
            items = count() * x.numel() // x.shape[1]
            average = _Total.apply(values.sum(over)) / items  # (C,)
            centred = values - average[:, None, None]
            variance = _Total.apply(centred.square().sum(over)) / items  # (C,)
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(average, self.momentum)
                self.running_var.lerp_(variance * (items / (items - 1)), self.momentum)
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def norm_whole_batches(network: nn.Module) -> None:
    """Let the batch norms of a network use the statistics of the whole batch; names of parameters stay.

    Raises:
        InputError: it has batch norms that are not of images.
    """
    for name, module in network.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d
        elif isinstance(module, _BatchNorm) and not isinstance(module, BatchNorm2d):
            raise InputError(
                f"runtime.processes: the network's {name} is a {type(module).__name__}, whose statistics processes "
                "cannot share; set it to 1"
            )
