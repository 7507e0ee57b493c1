"""Time of each attention mask, compared with a loop that follows its algorithm literally (tests/loops.py).

Attention maps are random scores over square grids with --side cells a side; labels are random.

    python benchmarks/attention_masks.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from i2r.nets.decoder.attention_masks import find_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import loops  # isort: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=21, help="cells a side (30 at 473 pixels)")
    parser.add_argument("--maps", type=int, default=8, help="number of attention maps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cells = options.side**2
    scores = torch.randn(options.maps, cells, cells)
    support, query = (torch.rand(options.maps, cells) < 0.3 for _ in range(2))
    print(f"{options.maps} maps of {cells} x {cells} cells")
    for strategy in ("dicm", "column", "cyctr", "transposed"):
        ours, theirs = [], []
        for _ in range(options.rounds):
            began = time.perf_counter()
            mask = find_mask(strategy, scores, support, query)
            middle = time.perf_counter()
            slow = torch.stack(
                [loops.mask(strategy, *parts) for parts in zip(scores, support, query, strict=True)]
            )
            ours.append(middle - began)
            theirs.append(time.perf_counter() - middle)
            assert torch.equal(mask, slow)
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        print(
            f"{strategy:12} {1000 * statistics.median(ours):7.2f} ms, loop {statistics.median(ratios):6.0f} times that "
            f"[{ratios[0]:.0f}, {ratios[-1]:.0f}]"
        )


if __name__ == "__main__":
    main()
