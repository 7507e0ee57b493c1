"""Images a second that one core decodes and augments for training, beside plain OpenCV pipelines of the same steps.

All make a network's input and the mask of one class from JPEG and PNG files: scale, rotation, blur, flip and crop, with
the published augmentation (reading `released`). `i2r` passes bytes on, which the training normalises on its device;
`i2r, normalised` does that in the loading process, as the plain pipelines do. These take one step after another, as
BAM's and PFENet's transform.py: on float32 from the beginning, as published, or on uint8 until they normalise. They
read masks as grey PNG files, as published.

Each runs in a loading process that stacks batches and passes them on, as in training. The time is that process's
processor time, so that other work on the machine disturbs little. The pipelines take turns, in every round with the
same random numbers.

    python benchmarks/loading.py --root data/VOC2012
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2r.config.readings import says
from i2r.config.training import Augment
from i2r.data.dataset import Dataset
from i2r.data.list_files import read_list
from i2r.data.sources import open_source
from i2r.data.transforms import MEAN, STD, UNKNOWN, binary, normalise, train_pixels
from i2r.engine.images import load

Read = Callable[[str, int, np.random.Generator], tuple[Tensor, Tensor]]
FILL = [255 * value for value in MEAN]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="data set in the layout of VOC")
    parser.add_argument("--list", default="lists/train.txt", help="its list of images")
    parser.add_argument("--images", type=int, default=500, help="images a round; the list is repeated")
    parser.add_argument("--size", type=int, default=473, help="side of the network's input, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    seconds = measure(options)
    for name, rounds in seconds.items():
        rates = sorted(options.images / s for s in rounds)
        print(f"{name:22} {statistics.median(rates):6.1f} images/s a core  [{rates[0]:.1f}, {rates[-1]:.1f}]")
    for name in ("i2r", "i2r, normalised"):
        for other in ("plain, float32", "plain, uint8"):
            pairs = zip(seconds[name], seconds[other], strict=True)
            ratios = sorted(theirs / own for own, theirs in pairs)
            print(f"{name} / {other}: {statistics.median(ratios):5.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")
    rate = options.images / statistics.median(seconds["i2r"])
    print(f"16 such cores, by calculation: {16 * rate:.0f} images/s")


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Processor seconds of a loading process for all images, of each pipeline in each round."""
    dataset = Dataset(options.root / "no index", {}, options.root, open_source("voc"))
    names = read_list(options.root / options.list)
    shown = [np.unique(dataset.mask(name)) for name in names]
    classes = [int(found[(found > 0) & (found < UNKNOWN)][0]) for found in shown]
    augment = Augment(scale=says("released")["train.augment.scale"])
    with tempfile.TemporaryDirectory() as folder:
        grey = Path(folder)
        for name in names:
            Image.fromarray(dataset.mask(name)).save(grey / f"{name}.png")
        pipelines: dict[str, Read] = {
            "i2r": partial(ours, dataset, options.size, augment),
            "i2r, normalised": partial(ours_normalised, dataset, options.size, augment),
            "plain, float32": partial(plain, options.root, grey, options.size, augment, np.float32),
            "plain, uint8": partial(plain, options.root, grey, options.size, augment, np.uint8),
        }
        seconds: dict[str, list[float]] = {name: [] for name in pipelines}
        for turn in range(options.rounds):
            for pipeline, read in pipelines.items():

                def item(number: int, read: Read = read, turn: int = turn) -> tuple[Tensor, Tensor]:
                    place = number % len(names)
                    return read(names[place], classes[place], np.random.default_rng((turn, number)))

                before = processor_seconds()
                for _ in load(item, range(options.images), workers=1, batch=options.batch):
                    pass
                seconds[pipeline].append(processor_seconds() - before)
    return seconds


def processor_seconds() -> float:
    """Of all loading processes that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def ours(
    dataset: Dataset, size: int, augment: Augment, name: str, cls: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Image and mask as the loading process of a training reads them; the image is normalised on the device."""
    image, mask = train_pixels(dataset.image(name), dataset.mask(name), size, augment, rng, cls)
    return image, binary(mask, cls)


def ours_normalised(*given: Any) -> tuple[Tensor, Tensor]:
    """The same with the image normalised, float32."""
    image, mask = ours(*given)
    return normalise(image.numpy()), mask


def plain(
    root: Path,
    masks: Path,
    size: int,
    augment: Augment,
    dtype: type,
    name: str,
    cls: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """The same, one step after another, in the order of the published code."""
    image = cv2.cvtColor(cv2.imread(str(root / f"JPEGImages/{name}.jpg")), cv2.COLOR_BGR2RGB).astype(dtype)
    mask = cv2.imread(str(masks / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
    mask = np.where(mask == 255, 255, mask == cls).astype(np.uint8)
    scale = rng.uniform(*augment.scale)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    height, width = mask.shape
    if rng.random() < augment.rotate_p:
        angle = rng.uniform(-augment.rotate, augment.rotate)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL)
        mask = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=255)
    if rng.random() < augment.blur_p:
        image = cv2.GaussianBlur(image, (5, 5), 0)
    if rng.random() < augment.flip_p:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    down, right = max(size - height, 0), max(size - width, 0)
    if down or right:
        edges = (down // 2, down - down // 2, right // 2, right - right // 2)
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=FILL)
        mask = cv2.copyMakeBorder(mask, *edges, cv2.BORDER_CONSTANT, value=255)
    whole = np.sum(mask == 1)
    for _ in range(30):
        top, left = (int(rng.integers(side - size + 1)) for side in mask.shape)
        part = mask[top : top + size, left : left + size]
        if np.sum(part == 1) >= 0.85 * whole:
            break
    image = image[top : top + size, left : left + size]
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    for channel, mean, std in zip(tensor, MEAN, STD, strict=True):
        channel.sub_(255 * mean).div_(255 * std)
    return tensor, torch.from_numpy(np.ascontiguousarray(part)).long()


if __name__ == "__main__":
    main()
