"""What the cross-attention does, seen directly: does it look at cells with the right label? (docs/method.md 5.1)

mIoU cannot show a small effect of an attention mask; these numbers show what the mask is for. They are measured beside
a forward pass that has the query's mask, and change nothing in it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from i2r.nets.decoder.attention import CrossAttention
from i2r.nets.decoder.attention_masks import masked_softmax
from i2r.nets.output import Output
from i2r.nets.resize import nearest
from i2r.nets.whole_batch import mean, total


class AttentionProbe:
    """Measures every cross-attention of a network in the passes made inside `with`.

    Attributes:
        disagree: for each block, the share of support cells whose preferred query cell has another label.
        wrong: for each block, the share of attention of the labelled query cells that lies on support cells of the
            other label, as the pass used it (with its mask).
        unmasked: the same without the mask.
    """

    def __init__(self, network: nn.Module):
        self.blocks = [module for module in network.modules() if isinstance(module, CrossAttention)]
        self.disagree: list[float] = []
        self.wrong: list[float] = []
        self.unmasked: list[float] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [block.register_forward_hook(self._measure) for block in self.blocks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _measure(self, block: CrossAttention, given: tuple, _: Any) -> None:
        query, support, labels, mask, *_ = given
        if labels is None or labels.query is None:
            return
        devices = [query.device] if query.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # a random mask must not change the network's own numbers
            scores, cells = block.attention(query, support, labels, mask)
        own, unknown = labels.query, labels.unknown  # (B, 1, n)
        known = torch.ones_like(own) if unknown is None else ~unknown
        preferred = scores.argmax(-2)  # (B, K, n_s)
        leads = preferred.shape[:-1]
        differs = labels.support != own.expand(*leads, -1).gather(-1, preferred)
        differs &= known.expand(*leads, -1).gather(-1, preferred)
        self.disagree.append(float(mean(differs.float().sum(), differs.numel())))
        self.unmasked.append(wrong_mass(scores.softmax(-1), labels.support, own, known))
        attention = scores.softmax(-1) if cells is None else masked_softmax(scores, cells)
        self.wrong.append(wrong_mass(attention, labels.support, own, known))

    def means(self) -> dict[str, float]:
        """Means over blocks; {} if nothing was measured."""
        if not self.disagree:
            return {}
        found = {"disagree": self.disagree, "wrong_mass": self.wrong, "wrong_mass_unmasked": self.unmasked}
        return {name: sum(values) / len(values) for name, values in found.items()}


def wrong_mass(attention: Tensor, support: Tensor, query: Tensor, known: Tensor) -> float:
    """Share of the attention of known query cells on support cells of the other label.

    attention (B, K, n_q, n_s), support (B, K, n_s) bool, query and known (B, 1, n_q) bool.
    """
    on_object = (attention @ support.to(attention.dtype)[..., None]).squeeze(-1)  # (B, K, n_q)
    wrong = torch.where(query, 1 - on_object, on_object)
    known = known.expand_as(wrong)
    return float(mean(wrong[known].sum(), known.sum()))


def support_iou(output: Output, masks: Tensor) -> float | None:
    """IoU of the support branch for the supports' own masks (B, K, S, S), over all of them; None without the branch."""
    if output.support_logits is None:
        return None
    predicted = output.support_logits.argmax(2) == 1  # (B, K, h, w)
    target = nearest(masks, predicted.shape[-2:])
    known = target != 255
    truth = (target == 1) & known
    union = total(((predicted | truth) & known).sum())
    return float(total((predicted & truth).sum()) / union.clamp_min(1))
