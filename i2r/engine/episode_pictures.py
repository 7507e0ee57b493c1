"""Arrays for the report's pictures of episodes, in pictures.npz, numbered in the order in which they are shown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2r.data.transforms import binary, to_image
from i2r.engine.feature_cache import CachedEncoder, Draw
from i2r.files import replacing
from i2r.nets.encoder import EpisodeInputs

Arrays = dict[str, np.ndarray]
Predicted = Callable[[Draw, EpisodeInputs], tuple[Arrays, Mapping[str, Any]]]


def in_turn(draws: Sequence[Draw], most: int) -> list[int]:
    """Indices of the first episode of each class, then of the second of each, and so on; at most `most`."""
    seen: dict[int, int] = defaultdict(int)
    ranked = []
    for index, draw in enumerate(draws):
        ranked.append((seen[draw.cls], draw.cls, index))
        seen[draw.cls] += 1
    return [index for *_, index in sorted(ranked)[:most]]


@torch.no_grad()
def write_pictures(
    path: Path,
    draws: Sequence[Draw],
    most: int,
    cached: CachedEncoder,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    predicted: Predicted,
) -> None:
    """Write the arrays of the first `most` episodes, classes in turn, as `NAME_NUMBER`.

    Args:
        names: of the data set's classes, from class 1.
        rows: of all episodes, from the episode loop.
        predicted: function of an episode and its inputs; returns the method's arrays (S, S) and more values for `meta`.
    """
    arrays: Arrays = {}
    for number, index in enumerate(in_turn(draws, most)):
        draw = draws[index]
        parts, more = predicted(draw, cached.inputs([draw]))
        parts = shown(cached, draw) | parts | {"meta": about(rows[index], names[draw.cls - 1], more)}
        arrays |= {f"{name}_{number}": part for name, part in parts.items()}
    save_arrays(path, arrays)


def shown(cached: CachedEncoder, draw: Draw) -> Arrays:
    """Images uint8 (S, S, 3) and masks (S, S) of the query and its first support, as the network sees them."""
    query, truth = cached.image(draw.query)
    support, mask = cached.image(draw.supports[0])
    return {
        "query": to_image(query),
        "truth": binary(truth, draw.cls).numpy(),
        "support": to_image(support),
        "support_mask": binary(mask, draw.cls).numpy(),
    }


def about(row: Mapping[str, Any], name: str, more: Mapping[str, Any]) -> np.ndarray:
    """The description of an episode as JSON; iou in percent."""
    iou = 100 * row["inter_fg"] / row["union_fg"] if row["union_fg"] else None
    words = {key: row[key] for key in ("index", "class", "query", "supports")}
    return np.array(json.dumps({**words, "name": name, "iou": iou, **more}))


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz file."""
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)
