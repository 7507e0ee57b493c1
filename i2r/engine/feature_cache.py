"""A cache of image features with bounded memory.

The encoder is frozen, so its output for a view of an image never changes: features, layer4 and class of the masked
support, and the CAM of a class are computed once and stacked into episodes.

On a CPU each image is encoded on its own, so numbers do not depend on what is cached or on the memory limit. A GPU is
much faster with several images: there, what a batch of episodes needs and the cache lacks is computed together, in
groups of at most TOGETHER pixels. So the memory that this takes is bounded, whatever the numbers of episodes and shots,
but the rounding of an image's features can depend on the others of its group.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from i2r.config.networks import NetworkOptions
from i2r.data.episodes import Episode
from i2r.data.transforms import binary
from i2r.engine.images import ReadAhead, ReadView, View
from i2r.nets.encoder import Encoder, EpisodeInputs, Features, episode_class_ids

TOGETHER = 2**21  # pixels, nine images of 473 px; a training step encodes more

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")
Kept = tuple[Features, Tensor]  # of one image: features (1, ...), and its mask (S, S) of class ids
Shown = tuple[View, int]  # an image and a class


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

    def get(
        self, kind: str, keys: Sequence[Key], make: Callable[[list[Key]], Iterable[Any]]
    ) -> dict[Key, Any]:
        """The value of each key (a tensor or a tuple of tensors); `make` makes those that are not cached, in order.

        Args:
            kind: keys of another kind are others.
        """
        found = {}
        for key in keys:
            if (kind, key) in self.items:
                self.items.move_to_end((kind, key))
                found[key] = self.items[kind, key][0]
        if missing := [key for key in dict.fromkeys(keys) if key not in found]:
            for key, value in zip(missing, make(missing), strict=True):
                found[key] = value
                self._keep((kind, key), value)
        return found

    def _keep(self, key: Hashable, value: Any) -> None:
        size = _bytes(value)
        self.items[key] = value, size
        self.size += size
        while self.size > self.limit and self.items:
            self.size -= self.items.popitem(last=False)[1][1]


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

    Attributes:
        together: pixels that are encoded together; fewer than an image has: each image on its own.
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
        self.together = TOGETHER if device.type == "cuda" else 0
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

    def features(self, views: Sequence[View]) -> dict[View, Kept]:
        """Features of each unmasked image, and its mask."""

        def make(new: list[View]) -> Iterator[Kept]:
            for part in groups(map(self.image, new), lambda sample: sample[1].numel(), self.together):
                images = _cat([image[None] for image, _ in part]).to(self.device)
                features = each(self.encoder.images(images, self.options.uses_pyramid), len(part))
                yield from zip(features, (mask.to(self.device) for _, mask in part), strict=True)

        return self.memory.get("features", views, make)

    def _supports(self, shown: Sequence[Shown], known: Mapping[View, Kept]) -> dict[Shown, Any]:
        """Layer4 (1, c4, h4, w4) of each image masked by a class, and its class logits (1, classes)."""

        def make(new: list[Shown]) -> Iterator[tuple[Tensor, Tensor]]:
            for part in groups(new, lambda key: known[key[0]][1].numel(), self.together):
                features = [known[view][0] for view, _ in part]
                x3, x4 = _cat([one.x3 for one in features]), _cat([one.x4 for one in features])
                masks = torch.stack([binary(known[view][1], cls) for view, cls in part])
                yield from each(self.encoder.support(x3, masks, x4), len(part))

        return self.memory.get("support", shown, make)

    def _maps(self, shown: Sequence[Shown], known: Mapping[View, Kept]) -> dict[Shown, Tensor]:
        """Rectified map (1, h, w) of a class of the classifier on each unmasked image."""
        options = self.options

        def make(new: list[Shown]) -> Iterator[Tensor]:
            for part in groups(new, lambda key: known[key[0]][1].numel(), self.together):
                x3 = _cat([known[view][0].x3 for view, _ in part])
                ids = torch.tensor([class_id for _, class_id in part], device=self.device)
                maps = self.encoder.cams(x3, ids, options.cam, options.cam_layer, options.cam_backend)
                yield from each(maps, len(part))

        return self.memory.get("cam", shown, make)

    @torch.no_grad()
    def inputs(self, draws: Sequence[Draw], losses: bool = False) -> EpisodeInputs:
        """Inputs of B = len(draws) episodes, with the queries' masks.

        Args:
            losses: whether networks compute their losses for them.
        """
        began = time.perf_counter()
        self.read.advance()
        self.loading_s += time.perf_counter() - began
        known = self.features([view for draw in draws for view in draw.views])
        queries, masks_q = zip(*(known[draw.query] for draw in draws), strict=True)
        supports = [[known[view] for view in draw.supports] for draw in draws]
        masked = self._supports([(view, draw.cls) for draw in draws for view in draw.supports], known)
        cues = [[masked[view, draw.cls] for view in draw.supports] for draw in draws]
        class_id = cam_q = cam_s = pyramid_q = pyramid_s = None
        if self.options.uses_cam:
            logits = [[logits for _, logits in shots] for shots in cues]
            class_id, cam_q, cam_s = self._cams(draws, logits, known)
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

    def _cams(
        self, draws: Sequence[Draw], logits: list[list[Tensor]], known: Mapping[View, Kept]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class of each shot (B, K), and the CAMs of the queries and the supports, (B, K, hc, wc)."""
        listed = self.encoder.listed(torch.tensor([draw.cls for draw in draws], device=self.device))
        class_id = episode_class_ids(_stack(logits), self.options.class_source, listed)
        pairs = list(zip(draws, class_id.tolist(), strict=True))
        query = [[(draw.query, c) for c in ids] for draw, ids in pairs]
        supports = [list(zip(draw.supports, ids, strict=True)) for draw, ids in pairs]
        maps = self._maps([key for row in (*query, *supports) for key in row], known)
        cam_q, cam_s = (_stack([[maps[key] for key in row] for row in rows]) for rows in (query, supports))
        return class_id, cam_q, cam_s


def groups(items: Iterable[T], pixels: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in order, in lists that have at most `most` pixels, or one item."""
    part: list[T] = []
    size = 0
    for item in items:
        own = pixels(item)
        if part and size + own > most:
            yield part
            part, size = [], 0
        part.append(item)
        size += own
    if part:
        yield part


def each(value: Any, number: int) -> list[Any]:
    """A value (N, ...) as N values (1, ...), each with memory of its own; a tensor, or tuples of tensors and None."""
    return [value] if number == 1 else [_place(value, place) for place in range(number)]


def _place(value: Any, place: int) -> Any:
    if isinstance(value, tuple):
        parts = [_place(part, place) for part in value]
        return Features(*parts) if isinstance(value, Features) else tuple(parts)
    return None if value is None else value[place : place + 1].clone()


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """N tensors (1, ...) -> (N, ...); one is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))


def _stack(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """B rows of K tensors (1, ...) -> (B, K, ...)."""
    return torch.stack([torch.cat(tuple(row)) for row in rows])
