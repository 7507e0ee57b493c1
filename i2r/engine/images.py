"""Reading images for networks: one DataLoader for all, in the process itself or in loading processes.

What is read depends on its key alone, so the number of loading processes (runtime.workers) changes no number.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from i2r.config.schema import Augment
from i2r.data.dataset import Dataset
from i2r.data.transforms import evaluation_view, train_view
from i2r.engine.trainer import seed_of
from i2r.nets.resize import bilinear, nearest


class View(NamedTuple):
    """One of the fixed versions of an image; evaluation has version 0 only."""

    id: str
    number: int = 0


ReadView = Callable[
    [View], tuple[Tensor, Tensor]
]  # image float (3, S, S), normalised; mask uint8 (S, S) of class ids


# --- readers: what is read of a key; loading processes get them, so they are partials of module functions ----


def evaluation_reader(dataset: Dataset, size: int) -> ReadView:
    """Whole images in a square of side `size`, see transforms.evaluation_view."""
    return partial(_read_evaluation, dataset, size)


def training_reader(dataset: Dataset, size: int, augment: Augment, seed: int) -> ReadView:
    """Random views of side `size` that depend on the seed, the id and the view's number alone."""
    return partial(_read_training, dataset, size, augment, seed)


def resized_reader(read: ReadView, *sides: int) -> ReadView:
    """The same views at other sides: the image resized to each side in turn, the mask to the last."""
    return partial(_read_resized, read, sides)


def _read_evaluation(dataset: Dataset, size: int, view: View) -> tuple[Tensor, Tensor]:
    return evaluation_view(dataset.image(view.id), dataset.mask(view.id), size)[:2]


def _read_training(
    dataset: Dataset, size: int, augment: Augment, seed: int, view: View
) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed_of("view", seed, *view))
    return train_view(dataset.image(view.id), dataset.mask(view.id), size, augment, rng)


def _read_resized(read: ReadView, sides: Sequence[int], view: View) -> tuple[Tensor, Tensor]:
    image, mask = read(view)
    for side in sides:
        image = bilinear(image, (side, side))
    return image, nearest(mask, (sides[-1], sides[-1]))


# --- loading -------------------------------------------------------------------------------------------------


class _Items(TorchDataset):
    def __init__(self, read: Callable[[Any], Any]):
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        return self.read(key)


def load(
    read: Callable[[Any], Any],
    keys: Iterable[Any],
    workers: int,
    batch: int | None = None,
    device: torch.device | None = None,
) -> Iterator[Any]:
    """What `read` makes of each key, in their order, read ahead by `workers` processes.

    Args:
        batch: so many together, their tensors stacked; None: one by one.
        device: that they will be copied to.
    """
    return iter(
        DataLoader(
            _Items(read),
            batch,
            sampler=keys,
            num_workers=workers,
            worker_init_fn=_start_worker,
            pin_memory=device is not None and device.type == "cuda",
            collate_fn=_as_it_is if batch is None else None,
            generator=torch.Generator(),  # otherwise the loader would draw from the one that dropout uses
        )
    )


def load_steps(
    read: Callable[[int], Any], steps: int, batch: int, workers: int, device: torch.device
) -> Callable[[int], list[Tensor]]:
    """Step -> tensors of items step * batch ... (step + 1) * batch - 1, stacked, on the device.

    Steps must follow one another from the first that is asked for.
    """
    loader: Iterator[list[Tensor]] | None = None

    def of_step(step: int) -> list[Tensor]:
        nonlocal loader
        if loader is None:
            loader = load(read, range(step * batch, steps * batch), workers, batch, device)
        return [part.to(device, non_blocking=True) for part in next(loader)]

    return of_step


class ReadAhead:
    """Reads views; those of the coming parts of the work in loading processes, each when it comes first.

    Args:
        read: of one view.
        workers: loading processes; without any, each view is read when it is asked for.
    """

    def __init__(self, read: ReadView, workers: int = 0):
        self.read, self.workers = read, workers
        self.coming: Iterator[tuple[Sequence[View], Sequence[Any]]] = iter(())
        self.ready: dict[View, tuple[Tensor, Tensor]] = {}

    def expect(self, parts: Iterable[Sequence[View]]) -> None:
        """Say which views each coming part of the work needs; `advance` goes to the next part."""
        self.ready.clear()
        if self.workers:
            self.coming = load(partial(_read_all, self.read), _first_seen(parts), self.workers)

    def advance(self) -> None:
        """Take what was read for the next part. A view that came before and was not kept is read anew when asked."""
        self.ready.clear()
        views, samples = next(self.coming, ((), ()))
        self.ready.update(zip(views, samples, strict=True))

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        return self.ready.pop(view) if view in self.ready else self.read(view)


def _first_seen(parts: Iterable[Sequence[View]]) -> Iterator[tuple[View, ...]]:
    """Of each part the views that no part before it has."""
    seen: set[View] = set()
    for part in parts:
        new = tuple(view for view in dict.fromkeys(part) if view not in seen)
        seen.update(new)
        yield new


def _read_all(read: ReadView, views: Sequence[View]) -> tuple[Sequence[View], list[tuple[Tensor, Tensor]]]:
    return views, [read(view) for view in views]


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(_: int) -> None:
    """A loading process leaves Ctrl-C to the job and ends when it is told to."""
    cv2.setNumThreads(0)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
