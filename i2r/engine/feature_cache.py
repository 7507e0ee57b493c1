"""A cache of image features with bounded memory.

The encoder is frozen, so its output for a view of an image never changes: features, layer4 and class of the masked
support, and the CAM of a class are computed once and stacked into episodes. Each image is encoded on its own, so
numbers do not depend on what is cached or on the memory limit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from i2r.config.networks import NetworkOptions
from i2r.data.episodes import Episode
from i2r.data.transforms import binary
from i2r.engine.images import ReadAhead, ReadView, View
from i2r.nets.encoder import Encoder, EpisodeInputs, Features, episode_class_ids


class Draw(NamedTuple):
    """An episode of views. `base_class`: position of `cls` among the fold's base classes."""

    cls: int
    query: View
    supports: tuple[View, ...]
    base_class: int | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """Views of the query and the supports."""
        return (self.query, *self.supports)


def evaluation_draw(episode: Episode) -> Draw:
    """A test episode as a Draw; no base class is left out of the base map."""
    return Draw(episode.cls, View(episode.query), tuple(View(name) for name in episode.supports))


class Memory:
    """A cache of up to `limit` bytes of tensors; the least recently used are removed first."""

    def __init__(self, limit: float):
        self.limit, self.size = limit, 0
        self.items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key` (a tensor or a tuple of tensors); made by `make` if it is not cached."""
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
    """Makes a meta learner's inputs from views of images.

    Args:
        encoder: frozen; cached tensors stay on its device.
        options: of the network; they say what it needs from the encoder, and how its CAM is made.
        read: a view -> normalised image (3, S, S) and mask (S, S) of class ids and `unknown`.
        gigabytes: memory of the cache.
        workers: processes that read images ahead, see `expect`.
    """

    def __init__(
        self,
        encoder: Encoder,
        options: NetworkOptions,
        read: ReadView,
        gigabytes: float,
        device: torch.device,
        workers: int = 0,
    ):
        self.encoder, self.options, self.device = encoder, options, device
        self.read = ReadAhead(read, workers)
        self.memory = Memory(gigabytes * 2**30)
        self.loading_s = 0.0  # seconds spent waiting for images so far

    def expect(self, parts: Iterable[Sequence[Draw]]) -> None:
        """Announce the episodes of the coming calls of `inputs`, so that their images are read ahead."""
        self.read.expect([view for draw in part for view in draw.views] for part in parts)

    def image(self, view: View) -> tuple[Tensor, Tensor]:
        """Normalised image (3, S, S) and mask (S, S) of a view."""
        began = time.perf_counter()
        image, mask = self.read(view)
        self.loading_s += time.perf_counter() - began
        return image, mask

    def features(self, view: View) -> tuple[Features, Tensor]:
        """Features (1, ...) of the unmasked image, and its mask (S, S) of class ids."""

        def make() -> tuple[Features, Tensor]:
            image, mask = self.image(view)
            features = self.encoder.images(image[None].to(self.device), self.options.uses_pyramid)
            return features, mask.to(self.device)

        return self.memory.get(("features", view), make)

    def support(self, view: View, cls: int) -> tuple[Tensor, Tensor]:
        """Layer4 (1, c4, h4, w4) of the image masked by class `cls`, and its class logits (1, classes)."""

        def make() -> tuple[Tensor, Tensor]:
            features, mask = self.features(view)
            return self.encoder.support(features.x3, binary(mask, cls)[None], features.x4)

        return self.memory.get(("support", view, cls), make)

    def cam(self, view: View, class_id: int) -> Tensor:
        """Rectified map (1, h, w) of the classifier's class `class_id` on the unmasked image."""

        def make() -> Tensor:
            x3 = self.features(view)[0].x3
            ids = torch.tensor([class_id], device=self.device)
            options = self.options
            return self.encoder.cams(x3, ids, options.cam, options.cam_layer, options.cam_backend)

        return self.memory.get(("cam", view, class_id), make)

    @torch.no_grad()
    def inputs(self, draws: Sequence[Draw], losses: bool = False) -> EpisodeInputs:
        """Inputs of B = len(draws) episodes, with the queries' masks.

        Args:
            losses: whether networks compute their losses for them.
        """
        began = time.perf_counter()
        self.read.advance()
        self.loading_s += time.perf_counter() - began
        queries, masks_q = zip(*(self.features(draw.query) for draw in draws), strict=True)
        supports = [[self.features(view) for view in draw.supports] for draw in draws]
        cues = [[self.support(view, draw.cls) for view in draw.supports] for draw in draws]
        class_id = cam_q = cam_s = pyramid_q = pyramid_s = None
        if self.options.uses_cam:
            class_id, cam_q, cam_s = self._cams(draws, [[logits for _, logits in shots] for shots in cues])
        if self.options.uses_pyramid:
            pyramid_q = tuple(torch.cat(maps) for maps in zip(*(q.pyramid for q in queries), strict=True))
            kept = [zip(*(f.pyramid for f, _ in shots), strict=True) for shots in supports]
            pyramid_s = tuple(_stack(rows) for rows in zip(*kept, strict=True))
        masks_s = [
            torch.stack([binary(mask, draw.cls) for _, mask in shots])
            for draw, shots in zip(draws, supports, strict=True)
        ]
        base = [draw.base_class for draw in draws]
        inputs = EpisodeInputs(
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
            masks_s=torch.stack(masks_s),
            mask_q=torch.stack([binary(m, draw.cls) for m, draw in zip(masks_q, draws, strict=True)]),
            episode_class=None if None in base else torch.tensor(base, device=self.device),
            pyramid_q=pyramid_q,
            pyramid_s=pyramid_s,
        )
        inputs.losses = losses
        return inputs

    def _cams(self, draws: Sequence[Draw], logits: list[list[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Class of each shot (B, K), and the CAMs of the queries and the supports, (B, K, hc, wc)."""
        listed = self.encoder.listed(torch.tensor([draw.cls for draw in draws], device=self.device))
        class_id = episode_class_ids(_stack(logits), self.options.class_source, listed)
        pairs = list(zip(draws, class_id.tolist(), strict=True))
        query = _stack([[self.cam(draw.query, c) for c in ids] for draw, ids in pairs])
        supports = [[self.cam(v, c) for v, c in zip(draw.supports, ids, strict=True)] for draw, ids in pairs]
        return class_id, query, _stack(supports)


def _stack(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """B rows of K tensors (1, ...) -> (B, K, ...)."""
    return torch.stack([torch.cat(tuple(row)) for row in rows])
