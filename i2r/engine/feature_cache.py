"""Features of pictures that come again, kept in bounded memory.

The backbone is frozen, so what it makes of one view of one picture never changes: features, the masked
support's layer4 and class, and the CAM of a class are made once and stacked into episodes. Every picture is
encoded on its own; so numbers do not depend on what is kept or on how much memory there is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from i2r.config.schema import CamOptions
from i2r.data.transforms import binary
from i2r.nets.encoder import Encoder, EpisodeInputs, Features, episode_class_ids


class View(NamedTuple):
    """One of the fixed versions of a picture; tests have version 0 only."""

    id: str
    number: int = 0


class Draw(NamedTuple):
    """An episode in views of pictures. `base_class`: position of `cls` among the fold's base classes."""

    cls: int
    query: View
    supports: tuple[View, ...]
    base_class: int | None = None


class Memory:
    """What was made last, up to `limit` bytes of tensors; the least recently used goes first."""

    def __init__(self, limit: float):
        self.limit, self.size = limit, 0
        self.items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key` (a tensor or a tuple of them), made if it is not kept."""
        if key in self.items:
            self.items.move_to_end(key)
            return self.items[key][0]
        value = make()
        size = _bytes(value)
        self.items[key] = value, size
        self.size += size
        while self.size > self.limit and self.items:
            self.size -= self.items.popitem(last=False)[1][1]
        return value


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    return sum(_bytes(part) for part in value) if isinstance(value, tuple) else 0


class CachedEncoder:
    """Makes a head's inputs from views of pictures.

    Args:
        encoder: frozen; what is kept stays on its device.
        options: CAM method, layer and class source of the method.
        picture: a view -> normalised image (3, S, S) and mask (S, S) of class ids and 255.
        gigabytes: memory for what is kept.
    """

    def __init__(
        self,
        encoder: Encoder,
        options: CamOptions,
        picture: Callable[[View], tuple[Tensor, Tensor]],
        gigabytes: float,
        device: torch.device,
    ):
        self.encoder, self.options, self.picture, self.device = encoder, options, picture, device
        self.memory = Memory(gigabytes * 2**30)
        self.loading_s = 0.0  # seconds spent in `picture` so far

    def features(self, view: View) -> tuple[Features, Tensor]:
        """Features (1, ...) of the whole picture and its mask (S, S) uint8."""

        def make() -> tuple[Features, Tensor]:
            began = time.perf_counter()
            image, mask = self.picture(view)
            self.loading_s += time.perf_counter() - began
            return self.encoder.images(image[None].to(self.device)), mask.to(self.device, torch.uint8)

        return self.memory.get(("features", view), make)

    def support(self, view: View, cls: int) -> tuple[Tensor, Tensor]:
        """Layer4 of the picture masked by class `cls` (1, c4, h4, w4) and its class logits (1, classes)."""

        def make() -> tuple[Tensor, Tensor]:
            features, mask = self.features(view)
            return self.encoder.support(features.x3, binary(mask, cls)[None])

        return self.memory.get(("support", view, cls), make)

    def cam(self, view: View, class_id: int) -> Tensor:
        """Rectified map (1, h, w) of the classifier's class `class_id` on the whole picture."""

        def make() -> Tensor:
            x3 = self.features(view)[0].x3
            ids = torch.tensor([class_id], device=self.device)
            options = self.options
            return self.encoder.cams(x3, ids, options.cam, options.cam_layer, options.cam_backend)

        return self.memory.get(("cam", view, class_id), make)

    @torch.no_grad()
    def inputs(self, draws: Sequence[Draw]) -> EpisodeInputs:
        """Inputs of B = len(draws) episodes, with the queries' masks."""
        queries, masks_q = zip(*(self.features(draw.query) for draw in draws), strict=True)
        supports = [[self.features(view) for view in draw.supports] for draw in draws]
        cues = [[self.support(view, draw.cls) for view in draw.supports] for draw in draws]
        logits = _stack([[logits for _, logits in shots] for shots in cues])  # (B, K, classes)
        listed = self.encoder.listed(torch.tensor([draw.cls for draw in draws], device=self.device))
        class_id = episode_class_ids(logits, self.options.class_source, listed)  # (B, K)
        base = [draw.base_class for draw in draws]
        cam_q = cam_s = None
        if self.options.uses_cam:
            pairs = list(zip(draws, class_id.tolist(), strict=True))
            cam_q = _stack([[self.cam(draw.query, c) for c in ids] for draw, ids in pairs])
            cam_s = _stack(
                [[self.cam(v, c) for v, c in zip(draw.supports, ids, strict=True)] for draw, ids in pairs]
            )
        return EpisodeInputs(
            x2_q=torch.cat([q.x2 for q in queries]),
            x3_q=torch.cat([q.x3 for q in queries]),
            x4_q=torch.cat([q.x4 for q in queries]),
            base=None if queries[0].base is None else torch.cat([q.base for q in queries]),
            x2_s=_stack([[f.x2 for f, _ in shots] for shots in supports]),
            x3_s=_stack([[f.x3 for f, _ in shots] for shots in supports]),
            x4_s=_stack([[x4 for x4, _ in shots] for shots in cues]),
            cam_q=cam_q,
            cam_s=cam_s,
            class_id=class_id,
            masks_s=torch.stack(
                [
                    torch.stack([binary(mask, draw.cls) for _, mask in shots])
                    for draw, shots in zip(draws, supports, strict=True)
                ]
            ),
            mask_q=torch.stack([binary(m, draw.cls) for m, draw in zip(masks_q, draws, strict=True)]),
            episode_class=None if None in base else torch.tensor(base, device=self.device),
        )


def _stack(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """B rows of K tensors (1, ...) -> (B, K, ...)."""
    return torch.stack([torch.cat(list(row)) for row in rows])
