"""Meta learners with seeded weights, and episodes of noise (networks.py has seeded episodes)."""

import re

import numpy as np
import torch
import weights_by_seed

from i2r.config.networks import NETWORKS, network_options
from i2r.config.readings import settle
from i2r.nets.encoder import EpisodeInputs

torch.set_num_threads(1)  # more threads do not pay for small tensors

SMALL = {"blocks": 2, "cross": 2, "ensemble": False, "width": 64, "dropout": 0.0, "reduce_dropout": 0.0}
PUBLISHED = {  # options of the published I2R network that its golden numbers were made with
    "delta_compare": ">",
    "width": 256,
    "blocks": 6,
    "cross": 5,
    "embedding": True,
    "detach_merge_input": True,
    "shot_weights": "gram",
    "shot_cam": "last",
    "mask": "transposed",
    "ignore": "background",
}


def options(name="i2r", reading="paper", **changes):
    """Options of a network: defaults under a reading, with small sizes, overridden by `changes`."""
    defaults = {field: about.default for field, about in NETWORKS[name].model_fields.items()}
    small = {field: value for field, value in SMALL.items() if field in defaults}
    return network_options(settle({"network": defaults}, reading)["network"] | small | changes)


def published_name(name):
    """Our name of a tensor -> the published name."""
    return re.sub(r"^(backbone|base_learner|decoder|ensemble)\.", "", name)


def fill(module):
    """Load seeded weights; the module is then in eval mode."""
    weights = weights_by_seed.fill({published_name(k): v.shape for k, v in module.state_dict().items()})
    module.load_state_dict({k: torch.tensor(weights[published_name(k)]) for k in module.state_dict()})
    return module.eval()


def normal(name, shape):
    return torch.tensor(weights_by_seed.rng(name).standard_normal(shape).astype(np.float32))


def close(ours, theirs, tolerance=2e-5):
    """Assert equal shapes, and differences of at most `tolerance` times the largest value."""
    ours, theirs = ours.detach(), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    assert worst <= tolerance, f"deviation {worst:.1e}"


def random_inputs(batch=2, shots=1, channels=(6, 8, 12), size=(49, 65), grid=(7, 9), query_mask=True):
    """EpisodeInputs of noise, height != width; grids of layer2, layer3, layer4 at strides 4, 8, 8."""

    def features(*shape):
        return torch.randn(shape).relu()

    def masks(*leading):
        mask = (torch.rand(*leading, *size) < 0.3).long()
        mask[..., -5:] = 255
        return mask

    fine = (2 * grid[0] - 1, 2 * grid[1] - 1)
    c2, c3, c4 = channels
    return EpisodeInputs(
        x2_q=features(batch, c2, *fine),
        x3_q=features(batch, c3, *grid),
        x4_q=features(batch, c4, *grid),
        base=torch.randn(batch, 6, *grid),
        x2_s=features(batch, shots, c2, *fine),
        x3_s=features(batch, shots, c3, *grid),
        x4_s=features(batch, shots, c4, *grid),
        cam_q=features(batch, shots, *grid),
        cam_s=features(batch, shots, *grid),
        class_id=torch.zeros(batch, shots, dtype=torch.long),
        masks_s=masks(batch, shots),
        mask_q=masks(batch) if query_mask else None,
    )
