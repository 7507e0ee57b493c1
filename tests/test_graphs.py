"""A recorded training step equals one that is not recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2r.engine.graphs import WARM, Recorded

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@needs_gpu
def test_replayed_steps_equal_others():
    device, found = torch.device("cuda"), []
    for recorded in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 1)).to(device)
        optimiser = torch.optim.SGD(net.parameters(), 0.1)

        def compute(x: torch.Tensor, net: nn.Module = net) -> dict[str, torch.Tensor]:
            return {"loss": net(x).square().mean()}

        run = Recorded(compute, net.parameters(), "a test") if recorded else compute
        losses = []
        for step in range(WARM + 4):
            torch.manual_seed(step)
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).to(device)
            optimiser.zero_grad(set_to_none=True)
            loss = run(x)["loss"]
            if loss.requires_grad:
                loss.backward()
            optimiser.step()
            losses.append(float(loss))
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-6) and len(set(found[0])) == WARM + 4


@needs_gpu
def test_a_step_that_reads_values_gets_its_sentence():
    net = nn.Linear(2, 1).cuda()
    step = Recorded(
        lambda x: {"loss": net(x).sum() * float(x.sum())}, net.parameters(), "train toy-1shot-fold0-seed0"
    )
    with pytest.raises(Exception, match=r"train toy.*cannot be recorded.*runtime.cuda_graphs"):
        for _ in range(WARM + 1):
            step(torch.ones(3, 2, device="cuda"))
