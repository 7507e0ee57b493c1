"""The complete published networks with seeded weights, in every published configuration."""

import dataclasses

import networks
import pytest
import reference
import torch
from seeded import close, published_name
from test_checkpoints import GOLDEN
from test_priors import aligned

from i2r.nets.encoder import encode_episode

CALM = {"dropout": 0.0, "reduce_dropout": 0.0}


@pytest.mark.parametrize("size", [(161, 161), (193, 161)])
@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize(("blocks", "cross"), [(6, 5), (5, 4)])
def test_i2r_at_test_with_and_without_ensemble(blocks, cross, shots, size):
    tag = "four" if shots == 1 else "pub5-0"
    data = networks.episode(tag, 1, shots, *size)
    mask_q = data.pop("mask_q")
    outputs = {}
    for ensemble in (True, False):
        net = networks.network("i2r-released", shots, blocks, cross, ensemble=ensemble)
        with torch.no_grad():
            outputs[ensemble] = net(**data)
    with torch.no_grad():
        measured = net(**data, mask_q=mask_q)
    torch.testing.assert_close(measured.final_logits, outputs[False].final_logits)
    assert len(measured.mask_ratio) == cross and 0 < measured.mask_ratio[0] < 0.01
    with_base, without = outputs[True], outputs[False]
    grid = tuple((side + 15) // 16 for side in size)
    assert with_base.final_logits.shape == without.final_logits.shape == (1, 2, *size)
    assert with_base.meta_logits.shape == (1, 2, *grid)
    assert with_base.prior_query.shape == (1, *grid) and with_base.prior_support.shape == (1, shots, *grid)
    assert with_base.cam_query.shape == with_base.cam_support.shape == (1, shots, *size)
    assert with_base.merged_query.shape == (1, 256, *grid)
    assert with_base.merged_support.shape == (1, shots, 256, *grid)
    assert with_base.class_id.shape == (1, shots) and with_base.psi.shape == (1,)
    assert with_base.base_logits.shape[:2] == (1, 16)
    assert with_base.losses == {} and with_base.mask_ratio is None and with_base.support_logits is None
    close(without.meta_logits, with_base.meta_logits)  # the ensemble comes after all else
    assert (with_base.final_logits - without.final_logits).abs().max() > 0.01


@pytest.mark.parametrize("shots", [1, 5])
def test_i2r_in_training(shots):
    data = networks.episode("four" if shots == 1 else "pub5-0", 3 - min(shots, 2), shots)
    batch = len(data["query"])
    losses = {}
    for mask in ("transposed", "dicm", "none"):
        net = networks.network("i2r-released", shots, mask=mask, **CALM).train()
        output = net(**data, base_class=torch.tensor([3, 7][:batch]))
        losses[mask] = output.loss.item()
        assert output.support_logits.shape == (batch, shots, 2, 11, 11)
        assert float(output.mask_ratio[0]) > 0 or mask == "none"
        assert not net.encoder.training and net.meta_learner.decoder.Q_cls_meta[0].training
        if mask == "transposed":
            output.loss.backward()
            learned = dict(net.named_parameters())
            without = {
                published_name(n.removeprefix("meta_learner.")) for n, p in learned.items() if p.grad is None
            }
            frozen = {n for n in without if n.startswith(("encoder.", "backbone.", "ppm.", "cls."))}
            assert without - frozen == {"down_query.0.weight", "down_supp.0.weight", "cam_mask_init.weight"}
            assert {n for n in learned if n.startswith("encoder.")} <= {
                n for n, p in learned.items() if p.grad is None
            }
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("kind", ["bam", "bam-vgg16"])
@pytest.mark.parametrize("shots", [1, 5])
def test_bam(kind, shots):
    data = networks.episode("four" if shots == 1 else "pub5-0", 1, shots)
    labels = networks.base_labels("four", 1)
    net = networks.network(kind, shots, **CALM)
    with torch.no_grad():
        at_test = net(**data, base_class=torch.tensor([3]), base_labels=labels)
        plain = net(**data)
    assert torch.equal(at_test.final_logits, plain.final_logits)  # the class is left out in training only
    assert plain.cam_query is None and plain.class_id is None and plain.support_logits is None
    assert plain.losses["aux2"] == 0 and at_test.losses["aux2"] > 0
    output = net.train()(**data, base_class=torch.tensor([3]), base_labels=labels)
    close(output.losses["aux2"], at_test.losses["aux2"])
    assert output.losses["main"] != at_test.losses["main"]
    output.loss.backward()
    assert [name for name, p in net.meta_learner.named_parameters() if p.grad is None] == []


def compared(output, expected, tolerance=1e-5):
    """Assert that final scores differ by at most a share of their maximum, and losses by 5e-6."""
    close(output.final_logits, expected["final_logits"], tolerance)
    for name in ("main", "aux1", "aux2"):
        assert abs(output.losses[name].item() - expected[name].item()) <= 5e-6, name


def doubled(tensors):
    """Floating-point tensors in float64, others unchanged."""
    return {
        name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in tensors.items()
    }


@pytest.mark.parametrize(
    ("shots", "blocks", "cross", "size", "ensemble"),
    [(1, 6, 5, (161, 161), True), (5, 5, 4, (161, 161), True), (2, 5, 4, (193, 161), False)],
)
def test_i2r_is_what_was_written_down_a_second_time(shots, blocks, cross, size, ensemble):
    weights = networks.checkpoint("i2r-released", shots, blocks, cross)
    batch = 2 if shots < 5 else 1
    data = networks.episode("four" if shots < 5 else "pub5-0", batch, shots, *size)
    classes = torch.tensor([3, 7][:batch])
    inputs = None
    for training, mask in ((False, "none"), (True, "transposed"), (True, "dicm"), (True, "none")):
        net = networks.network("i2r-released", shots, blocks, cross, ensemble=ensemble, mask=mask, **CALM)
        inputs = inputs or encode_episode(net.encoder, **data, options=net.options)  # the same for every mask
        meta_learner = net.meta_learner.train(training)
        inputs.episode_class = left_out = classes if training else None
        if (
            training
        ):  # near ties decide which cells are masked, and in float32 they depend on the CPU's rounding
            meta_learner.double()
            inputs = dataclasses.replace(inputs, **doubled(vars(inputs)))
            weights = doubled(weights)
        with torch.no_grad():
            output = meta_learner(inputs)
            merged, masks = (output.merged_query, output.merged_support), (data["masks"], data["mask_q"])
            fused = (output.base_logits, output.psi, left_out) if ensemble else None
            expected = reference.i2r(weights, *merged, *masks, mask, training, fused)
        compared(output, expected, 2e-4 if training else 1e-5)  # batch statistics amplify rounding


@pytest.mark.parametrize("shots", [1, 5])
def test_bam_is_what_was_written_down_a_second_time(shots):
    weights, classes = networks.checkpoint("bam", shots), torch.tensor([3])
    data = networks.episode("four" if shots == 1 else "pub5-0", 1, shots)
    labels = networks.base_labels("four", 1)
    net = networks.network("bam", shots, **CALM)
    for training in (False, True):
        with torch.no_grad():
            output = net.train(training)(**data, base_class=classes, base_labels=labels)
            left_out = classes if training else None
            fused = output.base_logits, output.psi, left_out, labels
            compared(output, reference.bam(weights, output.merged_query, data["mask_q"], *fused))


@pytest.mark.parametrize("shots", [1, 2])
def test_a_side_whose_masks_are_soft_on_the_grid(shots):
    """At 161 the grid's cells coincide with pixels; at 169, as at 473, they are between pixels and mix them."""
    data = networks.episode("four", 1, shots, 169, 169)
    data.pop("mask_q")
    torch.manual_seed(0)
    data["masks"] *= torch.randint(
        0, 2, data["masks"].shape
    )  # of single pixels, so that most cells are mixed
    net = networks.network(shots=shots)
    merge_inputs = []
    net.meta_learner.init_merge[0].register_forward_pre_hook(lambda _, args: merge_inputs.append(args[0][0]))
    with torch.no_grad():
        output = net(**data)
        query, supports = net.encoder.images(data["query"]), net.encoder.images(data["supports"][0])
    embedding = net.meta_learner.cam_mask_init.weight
    pick = torch.arange(6) * 169 // 6  # nearest, by the floor
    priors = []
    for k in range(shots):
        area = data["masks"][0, k] == 1
        assert ((soft(area) > 0.01) & (soft(area) < 0.99)).float().mean() > 0.05
        plus_s, plus_q = output.cam_support[0, k] > 0.7, output.cam_query[0, k] > 0.7
        regions = (area & plus_s, area & ~plus_s)
        x4 = net.encoder.backbone.layer4(supports.x3[k : k + 1] * soft(area))[0]
        maps = torch.zeros(6, 6)
        for region, row, keep in zip(regions, (0, 2), (plus_q, ~plus_q), strict=True):
            v = mean(x4, soft(region, 6)) + embedding[row]
            v = v / v.norm()
            inside = keep[pick][:, pick]
            u = query.x4[0] * inside
            cosines = torch.einsum("chw,c->hw", u / (u.norm(dim=0) + 1e-5), v / (v.norm() + 1e-5))[inside]
            if len(cosines):
                maps[inside] += (cosines - cosines.min()) / (cosines.max() - cosines.min() + 1e-5)
        priors.append(maps)
        if shots == 1:  # the supports' part of the merge is what the query's shares
            features, c = merge_inputs[1][:256], soft(plus_s)
            p, p1, p2 = (mean(features, soft(region))[:, None, None] for region in (area, *regions))
            close(merge_inputs[1][256:512], p.expand(-1, 11, 11))
            close(merge_inputs[1][512:768], p1 * c + p2 * (1 - c))
    weights = shot_weights(net, query.x2, supports.x2)
    large = sum(w * soft(maps) for w, maps in zip(weights, priors, strict=True)).clamp(0, 1)
    close(output.prior_query[0], large)
    close(merge_inputs[0][768], large)


def soft(mask, side=11):
    """A map resized bilinearly to side x side, by the slow reference."""
    return torch.tensor(aligned(mask.numpy().astype(float), (side, side)), dtype=torch.float32)


def mean(features, area):
    return (features * area).sum((1, 2)) / (area.sum() + 1e-5)


def shot_weights(net, x2_q, x2_s):
    """Weights of the shots (K,), by the released layers on sorted distances."""
    if len(x2_s) == 1:
        return torch.ones(1)
    rows = torch.cat([x2_q, x2_s]).flatten(2)  # (1 + K, C, n)
    norms = rows.norm(dim=2)
    grams = rows @ rows.transpose(1, 2) / (norms[:, :, None] * norms[:, None] + 1e-7)
    distance = torch.stack([(g - grams[0]).norm() / len(g) for g in grams[1:]])
    order = distance.argsort()
    first, _, second = net.meta_learner.kshot_rw
    hidden = (first.weight[:, :, 0, 0] @ distance[order] + first.bias).relu()
    scores = torch.empty(len(x2_s))
    scores[order] = (second.weight[:, :, 0, 0] @ hidden + second.bias).detach()
    return scores.softmax(0)


def test_outputs_hold_the_published_building_blocks():
    """Outputs of the complete module; its parts are compared in test_cam, test_priors and test_bam."""
    with torch.no_grad():
        i2r = networks.network()(**networks.episode("four", 2, 1))
        many = networks.network(shots=3)(**networks.episode("pub3-2", 1, 3))
        bam = networks.network("bam", 5)(**networks.episode("pub5-0", 1, 5))
    close(i2r.prior_query, GOLDEN["i2r_priors"]["t07/query_prior"])
    close(i2r.prior_support.transpose(0, 1), GOLDEN["i2r_priors"]["t07/support_prior"])
    close(i2r.psi[:, None], GOLDEN["i2r_priors"]["t07/est_val"].reshape(2, 1))
    close(i2r.cam_query[:, 0, ::4, ::4], GOLDEN["i2r_cams"]["XGradCAM/layer3/query/final_s4"], 1e-4)
    close(i2r.cam_support[:, 0, ::4, ::4], GOLDEN["i2r_cams"]["XGradCAM/layer3/support/final_s4"], 1e-4)
    assert i2r.class_id[:, 0].tolist() == GOLDEN["i2r_cams"]["class_ids"].tolist()
    close(many.prior_query, GOLDEN["i2r_priors"]["3shot/query_prior"])
    close(bam.prior_query, GOLDEN["bam_prior"]["5shot/prior"])
    close(bam.psi, GOLDEN["bam_prior"]["5shot/est_val"].reshape(1))


def test_shapes_that_do_not_fit_are_named():
    net = networks.network("bam")
    data = networks.episode("four", 1, 1)
    with pytest.raises(ValueError, match=r"expected .* got .* masks \(1, 1, 160, 161\)"):
        net(**{**data, "masks": data["masks"][:, :, 1:]})
    with pytest.raises(ValueError, match=r"got .* supports \(1, 3, 161, 161\)"):
        net(**{**data, "supports": data["supports"][:, 0]})
    with pytest.raises(ValueError, match=r"K at least 1, got .* supports \(1, 0, 3, 161, 161\)"):
        net(**{**data, "supports": data["supports"][:, :0], "masks": data["masks"][:, :0]})
