"""The published networks as whole modules, with weights by seed, in every configuration that was published."""

import networks
import pytest
import torch
from seeded import close, published_name
from test_checkpoints import GOLDEN

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
    assert with_base.main is None and with_base.mask_ratio is None and with_base.support_logits is None
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
        assert not net.encoder.training and net.head.decoder.Q_cls_meta[0].training
        if mask == "transposed":
            output.loss.backward()
            learned = dict(net.named_parameters())
            without = {published_name(n.removeprefix("head.")) for n, p in learned.items() if p.grad is None}
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
    assert plain.aux2 == 0 and at_test.aux2 > 0
    output = net.train()(**data, base_class=torch.tensor([3]), base_labels=labels)
    close(output.aux2, at_test.aux2)
    assert output.main != at_test.main
    output.loss.backward()
    assert [name for name, p in net.head.named_parameters() if p.grad is None] == []


def test_outputs_hold_the_published_building_blocks():
    """Of the whole module; the parts on their own are compared in test_cam, test_priors and test_bam."""
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
