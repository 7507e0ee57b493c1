"""Regions, prototypes and priors: published numbers, slow references, degenerate episodes."""

from pathlib import Path

import networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seeded import PUBLISHED, close, fill, normal, options, random_inputs

from i2r.config.networks import PRIORS
from i2r.nets.encoder import encode_episode
from i2r.nets.networks import Layout, build_meta_learner
from i2r.nets.pmgm.priors import (
    cosine_maps,
    masked_minmax,
    object_regions,
    prior,
    region_means,
    regional_prototypes,
)
from i2r.nets.pmgm.regions import cam_regions
from i2r.nets.reduce import weigh_shots
from i2r.nets.resize import nearest

RESNET = Layout((512, 1024, 2048), (4, 6, 3))
FOLDER = Path(__file__).parent / "golden"
MODULES = np.load(FOLDER / "i2r_modules.npz")
GOLDEN = np.load(FOLDER / "i2r_priors.npz")


@pytest.mark.parametrize(
    ("case", "tag", "batch", "shots", "delta"),
    [("t07", "four", 2, 1, 0.7), ("adaptive", "four", 2, 1, "adaptive"), ("3shot", "pub3-2", 1, 3, 0.7)],
)
def test_priors_and_merge_equal_the_published_ones(case, tag, batch, shots, delta):
    def golden(name):
        key = f"{case}/{name}"
        return torch.tensor(GOLDEN[key]) if key in GOLDEN else None

    method = options(**PUBLISHED, delta=delta)
    inputs = encode_episode(
        networks.encoder("i2r"), options=method, **networks.episode(tag, batch, shots, 161, 161)
    )
    meta = fill(build_meta_learner(method, RESNET, shots))
    regions = cam_regions(inputs, method)
    merge_inputs = []
    meta.init_merge[0].register_forward_pre_hook(lambda _, args: merge_inputs.append(args[0]))
    with torch.no_grad():
        weights, distance = weigh_shots(inputs, meta.kshot_rw, needs_distance=True)
        merged = meta.merge(inputs, regions, weights, needs_support=True)
    v = regional_prototypes(inputs, regions, meta.cam_mask_init.weight)[:, -1]
    q, s = merge_inputs[0], merge_inputs[1].unflatten(0, (batch, shots)).transpose(0, 1)
    ours = {
        "weight_soft": weights,
        "est_val": distance,
        "query_prior": merged.prior_query[:, 0],
        "support_prior": merged.prior_support[:, :, 0].transpose(0, 1),
        "proto_whole": s[:, :, 256:512, 0, 0],
        "query_merge_whole": q[:, 256:512, 0, 0],
        "query_merge_fore_c32": q[:, 512:544],
        "support_merge_fore_c32": s[:, :, 512:544],
        "query_reduced_c32": q[:, :32],
        "support_reduced_c32": s[:, :, :32],
        "last_shot_proto4_cam_and_mask": v[:, 0],
        "last_shot_proto4_notcam_and_mask": v[:, 1],
    }
    for name, value in ours.items():
        if golden(name) is not None:
            close(value, golden(name))
    for name, value in {"class_ids": inputs.class_id, "support_pseudo": regions.plus_support}.items():
        if golden(name) is not None:
            assert torch.equal(value.transpose(0, 1).to(golden(name).dtype), golden(name))
    large = F.interpolate(merged.prior_query, (161, 161), mode="bilinear", align_corners=True)[:, 0]
    close(F.binary_cross_entropy(large, (inputs.mask_q == 1).float()), golden("sim_measurement"))


def test_region_means_equal_the_published_ones():
    features, mask = normal("modules/gap_feat", (3, 8, 6, 5)), torch.tensor(MODULES["gap_mask"])
    means = region_means(features.unsqueeze(1), mask.unsqueeze(1))[:, 0, 0]
    close(means, MODULES["gap_i2r"][..., 0])
    assert (means[2] == 0).all()  # an empty region


def test_cosines_equal_the_published_ones():
    features = normal("modules/cos_feat", (2, 8, 3, 4))
    features[:, :, 0, 0] = 0
    prototypes = normal("modules/cos_proto", (2, 8))
    close(cosine_maps(features.unsqueeze(1), prototypes[:, None, None])[:, 0, 0], MODULES["cossim"])


@pytest.mark.parametrize(
    "case",
    [
        "plain",
        "soft_mask",
        "one_empty_mask",
        "all_empty_mask",
        "one_constant_map",
        "all_constant",
        "one_pixel_mask",
        "one_nan",
    ],
)
def test_minmax_equals_the_published_one(case):
    maps, mask, out = (torch.tensor(MODULES[f"minmax_{case}_{part}"]) for part in ("map", "mask", "out"))
    ours = masked_minmax(maps, mask)
    sane = ~maps.isnan().flatten(1).any(1) if case == "one_nan" else torch.ones(3, dtype=torch.bool)
    assert ours.isfinite().all()
    if (
        case == "one_nan"
    ):  # in the published code one NaN empties the batch; here it affects only its own image
        close(ours[sane], torch.tensor(MODULES["minmax_plain_out"])[sane])
    else:
        torch.testing.assert_close(ours, out, rtol=0, atol=2e-5)


def aligned(mask, size):
    """Slow bilinear resizing of (H, W), corners aligned."""
    height, width = mask.shape
    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * (height - 1) / (size[0] - 1), j * (width - 1) / (size[1] - 1)
            a, b = min(int(y), height - 2), min(int(x), width - 2)
            v, u = y - a, x - b
            rows = (1 - v) * mask[a] + v * mask[a + 1]
            out[i, j] = (1 - u) * rows[b] + u * rows[b + 1]
    return out


def test_soft_masks_at_a_side_that_mixes_pixels():
    torch.manual_seed(0)
    size, grid = (169, 137), (11, 9)  # 168 / 10 and 136 / 8 pixels a cell: corners between pixels
    inputs = random_inputs(1, 2, size=size, grid=grid)
    plus = torch.rand(1, 2, *size) < 0.5
    areas = object_regions(inputs, plus, grid)
    means = region_means(inputs.x4_s, areas)
    for k in range(2):
        target = (inputs.masks_s[0, k] == 1).numpy()
        for r, inside in enumerate((plus[0, k].numpy(), ~plus[0, k].numpy())):
            area = aligned((target & inside).astype(float), grid)
            np.testing.assert_allclose(areas[0, k, r].numpy(), area, atol=1e-5)
            expected = (inputs.x4_s[0, k].numpy() * area).sum((1, 2)) / (area.sum() + 1e-5)
            np.testing.assert_allclose(means[0, k, r].numpy(), expected, rtol=1e-4)


def test_bam_prior_equals_a_loop():
    torch.manual_seed(1)
    inputs = random_inputs(1, 1, size=(25, 33), grid=(4, 5))
    query, support = prior("bam", inputs, options())
    area = aligned((inputs.masks_s[0, 0] == 1).numpy().astype(float), (4, 5)).reshape(-1)
    others = inputs.x4_s[0, 0].flatten(1).numpy() * area
    for ours, x4 in ((query[0], inputs.x4_q[0]), (support[0, 0], inputs.x4_s[0, 0])):
        best = np.array(
            [
                max(u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-7) for v in others.T)
                for u in x4.flatten(1).numpy().T
            ]
        )
        expected = (best - best.min()) / (best.max() - best.min() + 1e-7)
        np.testing.assert_allclose(ours.numpy().reshape(-1), expected, atol=1e-5)


def test_ordered_keeps_cam_plus_above_cam_minus():
    torch.manual_seed(2)
    inputs = random_inputs(3, 1)
    method = options(delta=0.3)
    plus = nearest(cam_regions(inputs, method).plus_query, (7, 9))[:, 0]
    ordered, _ = prior("ordered", inputs, method)
    plain, _ = prior("pmgm", inputs, method)
    for b in range(3):
        assert ordered[b][plus[b]].min() >= 0.5 >= ordered[b][~plus[b]].max()
        assert plain[b][plus[b]].min() < plain[b][~plus[b]].max()


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize(
    "case", ["plain", "empty mask", "full mask", "flat cam", "no features", "delta 0", "delta 1"]
)
def test_degenerate_episodes_are_finite(name, case):
    torch.manual_seed(3)
    inputs = random_inputs(2, 3)
    if case == "empty mask":
        inputs.masks_s = inputs.masks_s * 0
    elif case == "full mask":
        inputs.masks_s = inputs.masks_s * 0 + 1
    elif case == "flat cam":
        inputs.cam_q, inputs.cam_s = inputs.cam_q * 0, inputs.cam_s * 0 + 2
    elif case == "no features":
        inputs.x4_s, inputs.x4_q = inputs.x4_s * 0, inputs.x4_q * 0
    method = options(delta={"delta 0": 0.0, "delta 1": 1.0}.get(case, 0.7))
    query, support = prior(name, inputs, method)
    assert query.shape == (2, 7, 9) and support.shape == (2, 3, 7, 9)
    for maps in (query, support):
        assert maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1 + 1e-6


def test_shots_are_combined_by_their_weights():
    torch.manual_seed(4)
    inputs = random_inputs(1, 3)
    only = torch.tensor([[0.0, 1.0, 0.0]])
    alone = random_inputs(1, 1)
    for name in ("x2_s", "x3_s", "x4_s", "cam_q", "cam_s", "masks_s", "class_id"):
        setattr(alone, name, getattr(inputs, name)[:, 1:2])
    alone.x3_q, alone.x4_q = inputs.x3_q, inputs.x4_q
    for name in PRIORS:
        torch.testing.assert_close(prior(name, inputs, options(), only)[0], prior(name, alone, options())[0])


def test_errors_name_what_is_wrong():
    inputs = random_inputs()
    with pytest.raises(ValueError, match="'pgm'"):
        prior("pgm", inputs, options())
    inputs.cam_q = None
    with pytest.raises(ValueError, match="without one"):
        prior("pmgm", inputs, options())
