"""The complete I2R meta learner: options, invariances, losses, published names."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from seeded import PUBLISHED, options, published_name, random_inputs

from i2r.config.networks import ATTENTION_MASKS
from i2r.nets.decoder.attention import Dropout
from i2r.nets.networks import Layout, build_meta_learner

RESNET = Layout((512, 1024, 2048), (4, 6, 3))
FOLDER = Path(__file__).parent / "golden"
LAYOUT = Layout((6, 8, 12), (2, 3, 1))
SMALL = {"width": 16, "blocks": 3, "cross": 2, "delta": 0.3}
CALM = {"dropout": 0.0, "reduce_dropout": 0.0}


def meta_for(shots=1, **changes):
    torch.manual_seed(0)
    return build_meta_learner(options(**{**SMALL, **changes}), LAYOUT, shots)


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        *({"mask": mask} for mask in ("none", *ATTENTION_MASKS)),
        *({"prior": prior} for prior in ("ordered", "bam", "mean", "pmgm+bam", "ordered+mean")),
        {"support_branch": False},
        {"support_branch": False, "cross": 0},
        {"blocks": 1, "cross": 0},
        {"ensemble": True},
        {"ensemble": True, "shot_weights": "gram"},
        {"shot_weights": "gram", "shot_cam": "last"},
        {"embedding": True, "detach_merge_input": True},
        {"ignore": "background"},
        {"delta": "adaptive"},
    ],
    ids=lambda changes: (
        ",".join(f"{k}={v}" for k, v in changes.items()) if isinstance(changes, dict) else None
    ),
)
def test_every_option_trains_and_evaluates(changes, shots):
    meta = meta_for(shots, **changes)
    torch.manual_seed(1)
    inputs = random_inputs(2, shots)
    output = meta(inputs)
    output.loss.backward()
    blocks, cross = meta.options.blocks, meta.options.cross
    assert output.final_logits.shape == (2, 2, 49, 65)
    assert output.prior_query.shape == (2, 7, 9)
    assert output.merged_query.shape == (2, 16, 7, 9)
    assert len(output.mask_ratio) == cross
    assert (output.losses["aux2"] == 0) == (blocks == 1)
    without = {name for name, p in meta.named_parameters() if p.grad is None}
    expected = {"down_query.0.weight", "down_supp.0.weight"} if changes.get("detach_merge_input") else set()
    if changes.get("embedding"):
        expected.add("cam_mask_init.weight")
    assert without == expected
    assert all(p.grad.isfinite().all() for p in meta.parameters() if p.grad is not None)

    meta.eval()
    with torch.no_grad():
        measured = meta(inputs)
        inputs.mask_q = None
        plain = meta(inputs)
    torch.testing.assert_close(plain.final_logits, measured.final_logits)  # the mask only measures
    assert not plain.losses and plain.support_logits is None
    assert plain.mask_ratio is None
    meta.test_mask = "cyctr"
    assert len(meta(inputs).mask_ratio) == cross


@pytest.mark.parametrize("name", ["i2r", "bam"])
def test_without_losses_predictions_and_mask_ratios_are_the_same(name):
    inputs = random_inputs(2, 1)
    meta = build_meta_learner(options(name, width=16, ensemble=False), LAYOUT, 1).eval()
    output = meta(inputs)
    inputs.losses = False
    without = meta(inputs)
    assert output.losses and not without.losses and without.support_logits is None
    assert torch.equal(output.final_logits, without.final_logits)
    assert output.mask_ratio == without.mask_ratio and (name == "bam" or output.mask_ratio)


def test_ratio_at_test_is_that_of_the_training_mask():
    inputs = random_inputs(2, 2)
    meta = meta_for(2, **CALM)
    training = meta(inputs).mask_ratio
    measured = meta.eval()(inputs).mask_ratio
    assert training[0] > 0 and measured[0] == training[0]  # before the first norm the modes agree
    assert meta_for(2, mask="none")(inputs).mask_ratio == [0, 0]


def test_losses_are_those_of_the_formula():
    torch.manual_seed(2)
    inputs = random_inputs(2, 3)
    meta = meta_for(3, **CALM, ensemble=True)
    sides = []
    for module in [*meta.decoder.Q_cls_head, *meta.decoder.S_cls_head]:
        module.register_forward_hook(lambda module, _, out: sides.append((module, out)))
    output = meta(inputs)
    own = (inputs.masks_s == 1).long()

    def loss(logits, target):
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=True)
        return F.cross_entropy(logits, target, ignore_index=255)

    support = sum(loss(output.support_logits[:, k], own[:, k]) for k in range(3)) / 3
    torch.testing.assert_close(output.losses["main"], loss(output.final_logits, inputs.mask_q))
    torch.testing.assert_close(output.losses["aux1"], (loss(output.meta_logits, inputs.mask_q) + support) / 2)
    side_q = [loss(out, inputs.mask_q) for module, out in sides if module in list(meta.decoder.Q_cls_head)]
    side_s = [[out for module, out in sides if module is meta.decoder.S_cls_head[i]] for i in range(2)]
    side_s = [loss(out, own[:, k]) for outs in side_s for k, out in enumerate(outs)]
    assert len(side_q) == 2 and len(side_s) == 6
    torch.testing.assert_close(output.losses["aux2"], (sum(side_q) / 2 + sum(side_s) / 6) / 2)


def test_shots_may_come_in_any_order():
    torch.manual_seed(3)
    inputs = random_inputs(2, 3, query_mask=False)
    swapped = random_inputs(2, 3, query_mask=False)
    for name in vars(inputs):
        value = getattr(inputs, name)
        per_shot = name in ("x2_s", "x3_s", "x4_s", "cam_q", "cam_s", "class_id", "masks_s")
        setattr(swapped, name, value[:, [2, 0, 1]] if per_shot else value)
    meta = meta_for(3, shot_weights="gram", ensemble=True).eval()
    torch.testing.assert_close(meta(inputs).final_logits, meta(swapped).final_logits)


def test_episodes_do_not_mix_at_test():
    torch.manual_seed(4)
    inputs = random_inputs(3, 2, query_mask=False)
    alone = random_inputs(1, 2, query_mask=False)
    for name in vars(inputs):
        value = getattr(inputs, name)
        setattr(alone, name, None if value is None else value[1:2])
    alone.cam_q, inputs.cam_q[0] = inputs.cam_q[1:2].clone(), 0  # a degenerate neighbour
    meta = meta_for(2, ensemble=True).eval()
    torch.testing.assert_close(meta(inputs).final_logits[1:2], meta(alone).final_logits)


def test_bf16_gives_about_the_same():
    torch.manual_seed(5)
    inputs = random_inputs(2, 1)
    meta = meta_for(**CALM).eval()
    exact = meta(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = meta(inputs)
    assert rough.final_logits.dtype == torch.float32
    assert (rough.prior_query - exact.prior_query).abs().max() == 0
    assert (rough.final_logits - exact.final_logits).abs().max() < 0.1 * exact.final_logits.abs().max()


@pytest.mark.parametrize("shots", [1, 5])
def test_state_has_the_published_names_and_shapes(shots):
    published = json.loads((FOLDER / "i2r-released-keys.json").read_text())
    if shots == 5:
        published |= json.loads((FOLDER / "i2r-released-keys-5shot-extra.json").read_text())
    with torch.device("meta"):
        meta = build_meta_learner(options(**PUBLISHED, ensemble=True), RESNET, shots)
    ours = {published_name(name): list(value.shape) for name, value in meta.state_dict().items()}
    other = ("PSPNet_.", "cam_net.", "learner_base.", "S_block_res2_meta.")  # frozen, or never used
    assert ours == {name: shape for name, shape in published.items() if not name.startswith(other)}


def test_errors_name_what_is_missing():
    inputs = random_inputs(2, 1)
    inputs.cam_s = None
    with pytest.raises(ValueError, match="without one"):
        meta_for()(inputs)
    inputs = random_inputs(2, 1)
    inputs.base = None
    with pytest.raises(ValueError, match="base learner"):
        meta_for(ensemble=True)(inputs)
    with pytest.raises(ValueError, match="trained for 5 shots, but the episode has 1"):
        meta_for(5, shot_weights="gram")(inputs)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    layer, x = Dropout(p).train(), torch.ones(7, 333, 101, requires_grad=True)
    y = layer(x)
    assert abs((y == 0).float().mean() - p) < 0.004
    assert torch.equal(y.unique(), torch.tensor([0, 1 / (1 - p)]))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y.detach())
    assert (y[1:] == 0).ne(y[:-1] == 0).any()
    assert torch.equal(layer.eval()(x), x) and torch.equal(Dropout(0.0).train()(x), x)
    assert not Dropout(1.0).train()(x).any()
