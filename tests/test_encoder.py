"""The encoder on episodes: classes of shots, masks, and parts that BAM does not need."""

import pytest
import torch
import torch.nn.functional as F
from networks import backbone_params
from seeded import close, options

from i2r.nets.backbone.base import build_backbone
from i2r.nets.encoder import Encoder, encode_episode, episode_class_ids
from i2r.nets.pspnet import PSPNet


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    backbone = build_backbone(backbone_params("small"), 30)
    backbone.fc.weight.data.normal_()
    return Encoder(backbone, PSPNet(128, 3, 16))


@pytest.fixture(scope="module")
def data(net):
    """Two episodes with four shots of 41x57 pixels; shot 2 of each repeats shot 0."""
    torch.manual_seed(1)
    supports, masks = torch.randn(2, 4, 3, 41, 57) * 2, (torch.rand(2, 4, 41, 57) < 0.4).long()
    supports[:, 2], masks[:, 2] = supports[:, 0], masks[:, 0]
    masks[..., -4:] = 255
    usual = [net.support(net.images(s).x3, m)[1].mean(0) for s, m in zip(supports, masks, strict=True)]
    net.backbone.fc.bias.data -= torch.stack(usual).mean(0)  # the common mean would dominate the classes
    return {"query": torch.randn(2, 3, 41, 57), "supports": supports, "masks": masks}


def test_every_shot_gives_the_query_a_map_of_its_class(net, data):
    out = encode_episode(net, **data, options=options())
    assert (out.class_id[:, 0] == out.class_id[:, 2]).all() and len(out.class_id.unique()) > 2
    assert out.cam_q.shape == out.cam_s.shape == (2, 4, *out.x3_q.shape[-2:])
    for b in range(2):
        query = net.images(data["query"][b : b + 1])
        close(out.x4_q[b], query.x4[0])
        close(out.base[b], query.base[0])
        for k in range(4):
            support = net.images(data["supports"][b, k][None])
            ids = out.class_id[b, k][None]
            x4, logits = net.support(support.x3, data["masks"][b, k][None])
            assert logits.argmax().item() == ids.item()
            close(out.x4_s[b, k], x4[0])
            for ours, x3 in ((out.cam_q, query.x3), (out.cam_s, support.x3)):
                alone = net.cams(x3, ids, "xgradcam", "layer3")[0]
                torch.testing.assert_close(ours[b, k], alone, rtol=1e-3, atol=1e-4 * alone.max().item())


def test_a_class_that_shots_share_costs_the_query_one_map(net, data):
    sizes = []
    hook = net.fused().backbone.layer4.register_forward_hook(
        lambda _, inputs, __: sizes.append(len(inputs[0]))
    )
    out = encode_episode(net, **data, options=options())
    hook.remove()
    different = sum(len(row.unique()) for row in out.class_id)
    assert different < 8
    assert sizes == [8, different + 8]  # masked supports; then queries by class, and unmasked supports


def test_a_graph_that_cannot_read_the_classes_gives_the_same(net, data, monkeypatch):
    usual = encode_episode(net, **data, options=options())
    monkeypatch.setattr("i2r.nets.encoder.recording", lambda device: True)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: pytest.fail("a value was read"))
    copied = encode_episode(net, **data, options=options())
    for name in ("x4_q", "cam_q", "cam_s", "class_id"):
        close(getattr(copied, name), getattr(usual, name))


def test_majority_takes_the_most_frequent_class_then_the_stronger():
    logits = torch.zeros(2, 4, 5)
    for b, row in enumerate([[1, 3, 3, 0], [1, 4, 4, 1]]):
        logits[b, range(4), row] = 1.0
    logits[1, 0, 1] = 3
    assert episode_class_ids(logits, "episode").tolist() == [[1, 3, 3, 0], [1, 4, 4, 1]]
    assert episode_class_ids(logits, "majority").tolist() == [[3] * 4, [1] * 4]


def test_support_features_see_the_object_only(net):
    x3, mask = torch.randn(1, 64, 6, 8).relu(), torch.zeros(1, 41, 57, dtype=torch.long)
    mask[:, 8:30, 10:40] = 1
    unknown = torch.where(mask == 0, 255, mask)
    x4, logits = net.support(x3, mask)
    small = F.interpolate(mask[:, None].float(), (6, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(x4, net.backbone.layer4(x3 * small))
    for other in (unknown, mask.to(torch.uint8)):
        torch.testing.assert_close(net.support(x3, other)[0], x4)
    empty, logits = net.support(x3, torch.zeros_like(mask))
    assert empty.isfinite().all() and logits.isfinite().all()


def test_bam_needs_no_cam_and_no_classifier(net, data):
    bare = Encoder(build_backbone(backbone_params("small"), 30), None)
    bare.backbone.load_state_dict(net.backbone.state_dict())
    bare.backbone.fc = None
    bam = options("bam")
    out = encode_episode(bare, **data, options=bam)
    assert out.cam_q is None and out.cam_s is None and out.base is None
    torch.testing.assert_close(out.x4_q, encode_episode(net, **data, options=bam).x4_q)
    with pytest.raises(ValueError, match="no classifier"):
        encode_episode(bare, **data, options=options())


def test_nothing_of_it_learns_or_leaves_eval_mode(net, data):
    whole = torch.nn.Sequential(net).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    out = encode_episode(net, **data, options=options(cam="gradcam++", cam_layer="layer4"))
    assert not net.backbone.layer0[2].training and whole.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(value.requires_grad for value in vars(out).values() if isinstance(value, torch.Tensor))


def test_other_precision_around_it_changes_nothing(net, data):
    plain = encode_episode(net, **data, options=options())
    with torch.autocast("cpu", torch.bfloat16):
        inside = encode_episode(net, **data, options=options())
    torch.testing.assert_close(inside.cam_q, plain.cam_q)
    assert inside.x4_q.dtype == torch.float32


def test_bf16_stays_close_and_returns_float32(net, data):
    lowered = Encoder(net.backbone, net.base_learner, "bf16")
    ours, usual = (encode_episode(one, **data, options=options()) for one in (lowered, net))
    for name in ("x2_q", "x3_q", "x4_q", "x3_s", "x4_s", "base"):
        a, b = getattr(ours, name), getattr(usual, name)
        assert a.dtype == torch.float32
        assert 0 < (a - b).norm() / b.norm() < 0.03, name
    assert next(net.backbone.parameters()).dtype == torch.float32
    close(encode_episode(net, **data, options=options()).x4_q, usual.x4_q)
