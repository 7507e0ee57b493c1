"""Reading images for networks, in the main process or in loading processes.

An item depends only on its key, so the number of loading processes (runtime.workers) does not change results.
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

from i2r.config.training import Augment
from i2r.data.dataset import Dataset
from i2r.data.episodes import Pasted
from i2r.data.paste import image_and_mask
from i2r.data.transforms import evaluation_view, train_view, unknown
from i2r.engine.trainer import seed_of
from i2r.nets.resize import bilinear, nearest
from i2r.nets.whole_batch import places


class View(NamedTuple):
    """A fixed view of an image, by number, or with an object pasted into it; evaluation uses only number 0."""

    id: str
    number: int = 0
    pasted: Pasted | None = None


SHUFFLED = 1  # number of the view whose mask is shuffled, see shuffled_reader

ReadView = Callable[
    [View], tuple[Tensor, Tensor]
]  # image float (3, S, S), normalised; mask (S, S) of class ids


# --- readers: functions of a key; partials of module-level functions, so that loading processes can receive them ---


def evaluation_reader(dataset: Dataset, size: int) -> ReadView:
    """Reader of evaluation views of side `size`, see transforms.evaluation_view."""
    return partial(_read_evaluation, dataset, size)


def training_reader(dataset: Dataset, size: int, augment: Augment, seed: int) -> ReadView:
    """Reader of random views of side `size`, which depend only on the seed, the id and the view's number."""
    return partial(_read_training, dataset, size, augment, seed)


def resized_reader(read: ReadView, *sides: int) -> ReadView:
    """Reader of the same views at other sides: the image is resized to each side in turn, the mask to the last."""
    return partial(_read_resized, read, sides)


def shuffled_reader(read: ReadView) -> ReadView:
    """Reader of the same views, and under the number SHUFFLED of view 0 with its mask shuffled among known pixels."""
    return partial(_read_shuffled, read)


def _read_shuffled(read: ReadView, view: View) -> tuple[Tensor, Tensor]:
    if view.number != SHUFFLED:
        return read(view)
    image, mask = read(View(view.id))
    known = mask != unknown(mask)
    order = np.random.default_rng(seed_of("shuffle", view.id)).permutation(int(known.sum()))
    shuffled = mask.clone()
    shuffled[known] = mask[known][torch.from_numpy(order)]
    return image, shuffled


def _read_evaluation(dataset: Dataset, size: int, view: View) -> tuple[Tensor, Tensor]:
    return evaluation_view(dataset.image(view.id), dataset.mask(view.id), size)[:2]


def _read_training(
    dataset: Dataset, size: int, augment: Augment, seed: int, view: View
) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed_of("view", seed, view.id, view.number, *(view.pasted or ())))
    return train_view(*image_and_mask(dataset, view.id, view.pasted), size, augment, rng)


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
    """Items that `read` returns for the keys, in this order, read ahead by `workers` processes.

    Args:
        batch: number of items to stack; None: single items.
        device: device to which they will be copied.
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
            generator=torch.Generator(),  # otherwise the loader would use the global generator, as dropout does
        )
    )


def load_steps(
    read: Callable[[int], Any], steps: int, batch: int, workers: int, device: torch.device
) -> Callable[[int], list[Tensor]]:
    """Step -> tensors of this process's items of step * batch ... (step + 1) * batch - 1, stacked, on the device.

    Steps must be requested in order, without gaps.
    """
    loader: Iterator[list[Tensor]] | None = None

    def of_step(step: int) -> list[Tensor]:
        nonlocal loader
        if loader is None:
            own = places(batch)
            keys = (first + place for first in range(step * batch, steps * batch, batch) for place in own)
            loader = load(read, keys, workers, len(own), device)
        return [part.to(device, non_blocking=True) for part in next(loader)]

    return of_step


class ReadAhead:
    """Reads views; announced ones are read ahead by loading processes, each at its first occurrence.

    Args:
        read: reads one view.
        workers: number of loading processes; with 0 each view is read when it is requested.
    """

    def __init__(self, read: ReadView, workers: int = 0):
        self.read, self.workers = read, workers
        self.coming: Iterator[tuple[Sequence[View], Sequence[Any]]] = iter(())
        self.ready: dict[View, tuple[Tensor, Tensor]] = {}

    def expect(self, parts: Iterable[Sequence[View]]) -> None:
        """Announce the views that each coming part of the work needs; `advance` goes to the next part."""
        self.ready.clear()
        if self.workers:
            self.coming = load(partial(_read_all, self.read), _first_seen(parts), self.workers)

    def advance(self) -> None:
        """Take the views read for the next part. A view that an earlier part had is read again when requested."""
        self.ready.clear()
        views, samples = next(self.coming, ((), ()))
        self.ready.update(zip(views, samples, strict=True))

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        return self.ready.pop(view) if view in self.ready else self.read(view)


def _first_seen(parts: Iterable[Sequence[View]]) -> Iterator[tuple[View, ...]]:
    """The views of each part that no earlier part has."""
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
    """Make a loading process ignore Ctrl-C, which the job handles, and end on SIGTERM."""
    cv2.setNumThreads(0)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
