"""BAM: published numbers, names and losses."""

import json
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seeded import close, fill, normal, options, published_name, random_inputs

from i2r.nets.encoder import encode_episode
from i2r.nets.ensemble import base_foreground
from i2r.nets.networks import Layout, build_meta_learner
from i2r.nets.pmgm.priors import region_means
from i2r.nets.reduce import weigh_shots

RESNET = Layout((512, 1024, 2048), (4, 6, 3))
FOLDER = Path(__file__).parent / "golden"
GOLDEN = np.load(FOLDER / "bam_prior.npz")
BAM = {"name": "bam", "prior": "bam", "ensemble": True, "shot_weights": "gram"}
LAYOUT = Layout((6, 8, 12), (2, 3, 1))


@pytest.mark.parametrize(
    ("case", "tag", "batch", "shots"), [("1shot", "four", 2, 1), ("5shot", "pub5-0", 1, 5)]
)
def test_prior_prototype_and_base_map_equal_the_published_ones(case, tag, batch, shots):
    method = options(**BAM, width=256)
    inputs = encode_episode(
        networks.encoder("bam"), options=method, **networks.episode(tag, batch, shots, 161, 161)
    )
    meta = fill(build_meta_learner(method, RESNET, shots))
    with torch.no_grad():
        output = meta(inputs)
        weights, _ = weigh_shots(inputs, meta.kshot_rw, needs_distance=False)
        prototype = meta.prototype(inputs, weights)
    close(output.prior_query, GOLDEN[f"{case}/prior"])
    close(output.psi, GOLDEN[f"{case}/est_val"])
    close(weights, GOLDEN[f"{case}/weight_soft"])
    close(prototype, GOLDEN[f"{case}/proto"])
    close(base_foreground(inputs.base, None)[:, 0], GOLDEN[f"{case}/base_map"])
    if case == "1shot":
        without = base_foreground(inputs.base, torch.tensor([3, 7]))[:, 0]
        close(without, GOLDEN["1shot/base_map_training"])


def test_averages_have_their_own_epsilon():
    modules = np.load(FOLDER / "i2r_modules.npz")
    features, mask = normal("modules/gap_feat", (3, 8, 6, 5)), torch.tensor(modules["gap_mask"])
    means = region_means(features.unsqueeze(1), mask.unsqueeze(1), 5e-4)[:, 0, 0]
    close(means, GOLDEN["weighted_gap_bam"])


@pytest.mark.parametrize("shots", [1, 5])
def test_state_has_the_published_names_and_shapes(shots):
    published = json.loads((FOLDER / "bam-keys.json").read_text())
    if shots == 5:
        published |= json.loads((FOLDER / "bam-keys-5shot-extra.json").read_text())
    with torch.device("meta"):
        meta = build_meta_learner(options(**BAM, width=256), RESNET, shots)
    ours = {published_name(name): list(value.shape) for name, value in meta.state_dict().items()}
    frozen = ("layer", "learner_base.")
    assert ours == {name: shape for name, shape in published.items() if not name.startswith(frozen)}


def test_losses_and_shapes():
    torch.manual_seed(0)
    inputs = random_inputs(2, 3)
    inputs.episode_class = torch.tensor([1, 4])
    meta = build_meta_learner(options(**BAM), LAYOUT, 3)
    inputs.base_labels = torch.randint(0, 6, (2, 49, 65))
    output = meta(inputs)
    assert output.final_logits.shape == (2, 2, 49, 65) and output.meta_logits.shape == (2, 2, 7, 9)
    assert output.support_logits is None and output.cam_query is None and output.mask_ratio is None
    target = inputs.mask_q
    torch.testing.assert_close(
        output.losses["main"], F.cross_entropy(output.final_logits, target, ignore_index=255)
    )
    large = F.interpolate(output.meta_logits, (49, 65), mode="bilinear", align_corners=True)
    torch.testing.assert_close(output.losses["aux1"], F.cross_entropy(large, target, ignore_index=255))
    output.loss.backward()
    assert [name for name, p in meta.named_parameters() if p.grad is None] == []
    inputs.base_labels = None
    assert meta(inputs).losses["aux2"] == 0


def test_ensemble_off_gives_the_meta_learners_output():
    inputs = random_inputs(query_mask=False)
    output = build_meta_learner(options(**{**BAM, "ensemble": False}), LAYOUT).eval()(inputs)
    large = F.interpolate(output.meta_logits, (49, 65), mode="bilinear", align_corners=True)
    assert torch.equal(output.final_logits, large)
    assert output.losses == {}
    with pytest.raises(ValueError, match="mask_q"):
        _ = output.loss


def test_errors_name_what_is_missing():
    inputs = random_inputs(2, 3)
    meta = build_meta_learner(options(**BAM), LAYOUT, 5)
    with pytest.raises(ValueError, match="trained for 5 shots, but the episode has 3"):
        meta(inputs)
    inputs.base = None
    with pytest.raises(ValueError, match="base learner"):
        build_meta_learner(options(**BAM), LAYOUT, 3)(inputs)
