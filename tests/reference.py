"""A plain, slow reference implementation of the published networks after their merge, with published names.

Everything before the merge (features, CAMs, priors, prototypes) is compared with published numbers in other tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def batch_norm(w: Weights, name: str, x: Tensor, training: bool) -> Tensor:
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def conv(w: Weights, name: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **options)


def head(w: Weights, name: str, x: Tensor, training: bool) -> Tensor:
    """Norm, ReLU, 3x3, norm, ReLU, 1x1."""
    x = conv(w, f"{name}.2", batch_norm(w, f"{name}.0", x, training).relu(), padding=1)
    return conv(w, f"{name}.5", batch_norm(w, f"{name}.3", x, training).relu())


def side(w: Weights, name: str, x: Tensor, training: bool) -> Tensor:
    return conv(w, f"{name}.2", batch_norm(w, f"{name}.0", x, training).relu())


def self_attention(w: Weights, name: str, x: Tensor) -> Tensor:
    """(B, n, 256)"""
    q, k, v = (linear(w, f"{name}.{part}", x) for part in ("Wq", "Wk", "Wv"))
    attended = (q @ k.transpose(1, 2) / 16).softmax(-1) @ v
    y = layer_norm(w, f"{name}.LN_attn", attended + x)
    ff = linear(w, f"{name}.proj_out.2", F.gelu(linear(w, f"{name}.proj_out.0", y)))
    return layer_norm(w, f"{name}.LN_ffn", y + ff)


def cross_attention(w: Weights, name: str, x: Tensor, s: Tensor, cells: Tensor | None) -> Tensor:
    """(B, n, 256), (B, n, 256); cells: see masked_cells."""
    q, k, v = linear(w, f"{name}.Wq", x), linear(w, f"{name}.Wk", s), linear(w, f"{name}.Wv", s)
    scores = q @ k.transpose(1, 2) / 16
    if cells is not None:
        scores = scores + masked_cells(scores.detach(), *cells)
    o = layer_norm(w, f"{name}.LN", scores.softmax(-1) @ v) + x
    ff = linear(w, f"{name}.proj_out.3", F.gelu(linear(w, f"{name}.proj_out.0", o)))
    return o + layer_norm(w, f"{name}.proj_out.5", ff)


def masked_cells(scores: Tensor, mask: str, label_s: Tensor, label_q: Tensor) -> Tensor:
    """0 and -inf (B, n, n). Labels (B, n) of 0 and 1."""
    out = torch.zeros_like(scores)
    for b in range(len(scores)):
        for i in range(scores.shape[2]):
            j = int(scores[b, :, i].argmax())
            agree = label_s[b, i] == label_q[b, j]
            if mask == "transposed":
                out[(b, 0, 0) if agree else (b, i, j)] = -torch.inf
            elif not agree:
                out[b, j, i] = -torch.inf
        full = (out[b] == -torch.inf).all(1)
        out[b][full] = 0  # ours: a fully masked row attends as if there were no mask
    return out


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(enlarge(logits, target.shape[-2:]), target, ignore_index=255)


def ensemble(w: Weights, meta: Tensor, base: Tensor, psi: Tensor, left_out: Tensor | None) -> Tensor:
    meta, base = meta.softmax(1), base.softmax(1)
    rows = []
    for b, row in enumerate(base):
        channels = [c for c in range(1, len(row)) if left_out is None or c != left_out[b] + 1]
        rows.append(row[channels].sum(0, keepdim=True))
    base_map = enlarge(torch.stack(rows), meta.shape[-2:])
    est = psi[:, None, None, None].expand(-1, 1, *meta.shape[-2:])
    background = conv(w, "gram_merge", torch.cat([meta[:, :1], est], 1))
    foreground = conv(w, "gram_merge", torch.cat([meta[:, 1:], est], 1))
    return torch.cat([conv(w, "cls_merge", torch.cat([background, base_map], 1)), foreground], 1)


def i2r(
    w: Weights,
    merged_query: Tensor,
    merged_support: Tensor,
    masks: Tensor,
    mask_q: Tensor,
    mask: str = "none",
    training: bool = False,
    fused: tuple[Tensor, Tensor, Tensor | None] | None = None,
) -> dict[str, Tensor]:
    """The released decoder and its losses.

    Args:
        merged_query: (B, 256, h, w). merged_support: (B, K, 256, h, w).
        masks: (B, K, H, W), mask_q: (B, H, W), of 0, 1, 255.
        fused: base logits, Gram distance and left-out base classes, for the ensemble.
    """
    batch, shots = masks.shape[:2]
    grid = merged_query.shape[-2:]
    blocks = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("Q_block."))
    cross = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("CrossAttn."))
    target, own = (mask_q == 1).long(), (masks == 1).long()

    def small(labels: Tensor) -> Tensor:
        return F.interpolate(labels[:, None].float(), grid, mode="nearest").flatten(1)

    def tokens(maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2)

    def maps(x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(batch, -1, *grid)

    query, states = merged_query, [tokens(merged_support[:, k]) for k in range(shots)]
    losses_q, losses_s = [], []
    for i in range(blocks):
        q = self_attention(w, f"Q_block.{i}", tokens(query))
        states = [self_attention(w, f"S_block.{i}", s) for s in states]
        if i < cross:
            attended = []
            for k, s in enumerate(states):
                cells = (mask, small(own[:, k]), small(target)) if training and mask != "none" else None
                attended.append(cross_attention(w, f"CrossAttn.{i}", q, s, cells))
            q = sum(attended) / shots
        q = maps(q)
        if i < blocks - 1:
            losses_q.append(cross_entropy(side(w, f"Q_cls_head.{i}", q, training), target))
            losses_s += [
                cross_entropy(side(w, f"S_cls_head.{i}", maps(s), training), own[:, k])
                for k, s in enumerate(states)
            ]
        query = q + head(w, f"Q_block_res2_meta.{i}", q, training)
    meta = head(w, "Q_cls_meta", query, training)
    support = [
        cross_entropy(head(w, "S_cls_meta", maps(s), training), own[:, k]) for k, s in enumerate(states)
    ]
    final = meta if fused is None else ensemble(w, meta, *fused)
    return {
        "final_logits": enlarge(final, masks.shape[-2:]),
        "main": cross_entropy(final, target),
        "aux1": (cross_entropy(meta, target) + sum(support) / shots) / 2,
        "aux2": (sum(losses_q) / len(losses_q) + sum(losses_s) / len(losses_s)) / 2,
    }


def bam(
    w: Weights,
    merged_query: Tensor,
    mask_q: Tensor,
    base: Tensor,
    psi: Tensor,
    left_out: Tensor | None,
    base_labels: Tensor,
) -> dict[str, Tensor]:
    """BAM after its merge (B, 256, h, w)."""
    grid, x = merged_query.shape[-2:], merged_query
    parts = [conv(w, "ASPP_meta.layer6_0.0", x.mean((2, 3), keepdim=True)).relu().expand(-1, -1, *grid)]
    parts.append(conv(w, "ASPP_meta.layer6_1.0", x).relu())
    for i, dilation in ((2, 6), (3, 12), (4, 18)):
        parts.append(conv(w, f"ASPP_meta.layer6_{i}.0", x, padding=dilation, dilation=dilation).relu())
    x = conv(w, "res1_meta.0", torch.cat(parts, 1)).relu()
    x = x + conv(w, "res2_meta.2", conv(w, "res2_meta.0", x, padding=1).relu(), padding=1).relu()
    meta = conv(w, "cls_meta.3", conv(w, "cls_meta.0", x, padding=1).relu())
    final = ensemble(w, meta, base, psi, left_out)
    return {
        "final_logits": enlarge(final, mask_q.shape[-2:]),
        "main": cross_entropy(final, mask_q),
        "aux1": cross_entropy(meta, mask_q),
        "aux2": cross_entropy(base, base_labels),
    }
