"""Validation of a meta learner during its training, on episodes of training classes in images held out from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from i2r.data.episodes import threshold_episodes
from i2r.data.lists import held_out
from i2r.engine.episode_loop import CHUNK
from i2r.engine.feature_cache import CachedEncoder, Draw, evaluation_draw
from i2r.errors import InputError
from i2r.metrics.segmentation import binary_counts, score
from i2r.progress import Progress


def held_out_draws(
    index: Mapping[str, Any], lists: Mapping[str, Any], episodes: int, shots: int
) -> list[Draw]:
    """Class-balanced episodes of a fold's training classes in its validation images without a test class.

    They are the same in all trainings of a fold. No image and no class of them is tested in the fold, and none of the
    images is trained on.

    Raises:
        InputError: no training class has enough of these images.
    """
    lists = held_out(index, lists)
    most = max(map(len, lists["train_by_class"].values()))
    if most <= shots:
        raise InputError(
            f"train.validate_every: fold {lists['fold']} has at most {most} validation images of a training class "
            f"without a test class, but {shots}-shot episodes need {shots + 1}; set it to 0"
        )
    classes = lists["train_classes"]
    drawn = threshold_episodes(lists, 0, episodes, shots)
    # without its own class the base learner's foreground is that of a training episode
    return [evaluation_draw(e)._replace(base_class=classes.index(e.cls)) for e in drawn]


@torch.no_grad()
def miou(meta_learner: nn.Module, cached: CachedEncoder, draws: Sequence[Draw]) -> float:
    """mIoU (percent) over the classes of the episodes, at S x S. The meta learner must be in eval mode."""
    chunks = [draws[start : start + CHUNK] for start in range(0, len(draws), CHUNK)]
    cached.expect(chunks)
    counts = []
    with Progress("held-out episodes", len(draws), "episode") as progress:
        for part in chunks:
            inputs = cached.inputs(part)
            predicted = meta_learner(inputs).final_logits.argmax(1)  # (B, S, S)
            counts += [binary_counts(*pair) for pair in zip(predicted, inputs.mask_q, strict=True)]
            progress.update(len(part))
    labels = [draw.cls for draw in draws]
    return 100 * score(sorted(set(labels)), labels, np.array(counts)).miou
