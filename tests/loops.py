"""Attention masks as loops, as in the paper (Algorithms 1 and S1); rows are query cells, columns support cells."""

import torch


def algorithm_1(scores, support, query, unknown=None):
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(scores.shape[1]):
        j = int(scores[:, i].argmax())
        if support[i] != query[j] and not (unknown is not None and unknown[j]):
            mask[j, i] = True
    return mask


def algorithm_s1(scores, support):
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(scores.shape[1]):
        j = int(scores[:, i].argmax())
        if support[i] != support[int(scores[j].argmax())]:
            mask[:, i] = True
    return mask


def mask(strategy, scores, support, query):
    if strategy == "cyctr":
        return algorithm_s1(scores, support)
    cells = algorithm_1(scores, support, query)
    if strategy == "dicm":
        return cells
    if strategy == "column":
        return cells.any(0, keepdim=True).expand_as(cells)
    transposed = cells.T.clone()
    transposed[0, 0] |= bool((~cells.any(0)).any())
    return transposed
