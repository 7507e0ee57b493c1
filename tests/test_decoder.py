"""Attention modules and decoder: published numbers, skipped parts, losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import weights_by_seed
from seeded import close, normal

from i2r.nets.decoder.attention import CrossAttention, Labels, SelfAttention
from i2r.nets.decoder.blocks import Decoder
from i2r.nets.ensemble import Ensemble, base_foreground, gram, gram_distance, gram_weights, shot_layers
from i2r.nets.output import query_target, two_class_loss
from i2r.nets.resize import bilinear, nearest

GOLDEN = np.load(Path(__file__).parent / "golden" / "i2r_modules.npz")


def golden(name):
    return torch.tensor(GOLDEN[name])


def fill(module, prefix):
    """Load seeded weights by published name; the module is then in eval mode."""
    weights = {
        name: weights_by_seed.tensor(prefix + name, value.shape)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return module.eval()


def tokens(maps):
    """(B, d, h, w) -> (B, 1, n, d)"""
    return maps.flatten(2).transpose(1, 2).unsqueeze(1)


def test_self_attention_equals_the_published_one():
    block = fill(SelfAttention(32, 0.1), "Q_block.0.")
    close(block(tokens(normal("modules/x", (2, 32, 5, 5)))), tokens(golden("sa_eval")))
    close(block(tokens(normal("modules/x_3x7", (1, 32, 3, 7)))), tokens(golden("sa_eval_3x7")))


@pytest.mark.parametrize(
    ("key", "mask"),
    [("train_released", "transposed"), ("train_intended", "dicm"), ("train_off", "none"), ("eval", "none")],
)
def test_cross_attention_equals_the_published_one(key, mask):
    block = fill(CrossAttention(32, 0.1), "CrossAttn.0.")
    x, x_s = (tokens(normal(name, (2, 32, 5, 5))) for name in ("modules/x", "modules/x_s"))
    labels = Labels(golden("ym_s").flatten(2) == 1, golden("ym").flatten(2) == 1, None)
    out, ratio = block(x, x_s, labels, mask)
    close(out, tokens(golden(f"ca_{key}")))
    torch.testing.assert_close(ratio[:, 0], golden(f"ca_{key}_ratio"))


def test_gram_equals_the_published_one():
    a, b = normal("modules/gram_a", (2, 16, 5, 4)).relu(), normal("modules/gram_b", (2, 16, 7, 6)).relu()
    close(gram(a), golden("gram_a"))
    close(gram_distance(a, b.unsqueeze(1))[:, 0], golden("gram_est_val"))


def test_gram_weights_do_not_depend_on_the_order_of_shots():
    layers = shot_layers(4)
    distance, order = torch.rand(3, 4), torch.tensor([2, 0, 3, 1])
    weights = gram_weights(layers, distance)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(gram_weights(layers, distance[:, order]), weights[:, order])


def test_ensemble_starts_as_the_meta_learner():
    meta, base = torch.randn(2, 2, 5, 7), torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(Ensemble()(meta, base, torch.rand(2)), meta.softmax(1))


def test_base_foreground_leaves_the_episodes_class_out():
    base = torch.randn(2, 6, 3, 4)
    p = base.softmax(1)
    torch.testing.assert_close(base_foreground(base, None)[:, 0], p[:, 1:].sum(1))
    without = base_foreground(base, torch.tensor([0, 3]))
    torch.testing.assert_close(without[0, 0], p[0, 2:].sum(0))
    torch.testing.assert_close(without[1, 0], p[1, [1, 2, 3, 5]].sum(0))


@pytest.fixture
def episode():
    """Merged query and two supports on a 5 x 7 grid, with labels."""
    torch.manual_seed(0)
    labels = Labels(torch.rand(2, 2, 35) < 0.5, torch.rand(2, 1, 35) < 0.5, None)
    return torch.randn(2, 8, 5, 7), torch.randn(2, 2, 8, 5, 7), labels


def test_decoder_shapes(episode):
    query, support, labels = episode
    decoded = Decoder(8, 3, 2, 0.1, True)(query, support, labels, "dicm")
    assert decoded.query.shape == (2, 2, 5, 7)
    assert decoded.support.shape == (2, 2, 2, 5, 7)
    assert decoded.side_query.shape == (2, 2, 2, 5, 7)
    assert decoded.side_support.shape == (2, 2, 2, 2, 5, 7)
    assert len(decoded.mask_ratio) == 2 and all(ratio > 0 for ratio in decoded.mask_ratio)


@pytest.mark.parametrize(("blocks", "cross"), [(1, 0), (1, 1), (3, 0), (3, 2), (3, 3)])
@pytest.mark.parametrize("support_branch", [True, False])
def test_what_is_skipped_feeds_nothing(episode, blocks, cross, support_branch):
    query, support, _ = episode
    decoder = Decoder(8, blocks, cross, 0.1, support_branch).eval()
    full = decoder(query, support)
    short = decoder(query, support if cross else None, side_outputs=False)
    torch.testing.assert_close(short.query, full.query)
    assert short.support is None and short.side_query is None and short.side_support is None
    assert (full.support is not None) == support_branch
    assert (full.side_query is not None) == (blocks > 1)


def test_every_weight_learns(episode):
    decoder = Decoder(8, 3, 2, 0.1, True)
    decoded = decoder(*episode, "dicm")
    sum(part.square().mean() for part in decoded[:4]).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []


def test_support_norms_take_one_shot_at_a_time(episode):
    query, support, _ = episode
    decoder = Decoder(8, 2, 1, 0.0, True).train()
    decoded = decoder(query, support)
    assert decoder.S_cls_meta[0].num_batches_tracked == 2 and decoder.Q_cls_meta[0].num_batches_tracked == 1
    alone = decoder(query, support[:, :1])
    torch.testing.assert_close(decoded.support[:, :1], alone.support)


def test_more_cross_blocks_than_blocks():
    with pytest.raises(ValueError, match=r"cross \(3\).*blocks \(2\)"):
        Decoder(8, 2, 3, 0.1, True)


@pytest.mark.parametrize("ignore", ["255", "background"])
def test_loss_is_cross_entropy_at_image_size(ignore):
    torch.manual_seed(1)
    logits, masks = torch.randn(3, 2, 2, 4, 5), torch.randint(0, 3, (2, 25, 33))
    masks[masks == 2] = 255
    target = query_target(masks, ignore)
    large = F.interpolate(logits.flatten(0, 1), (25, 33), mode="bilinear", align_corners=True)
    plain = masks if ignore == "255" else masks.where(masks == 1, 0)
    expected = F.cross_entropy(large, plain.repeat(3, 1, 1), ignore_index=255)
    torch.testing.assert_close(two_class_loss(logits, target), expected)


def test_resizing_keeps_leading_dimensions():
    maps = torch.rand(2, 3, 4, 9, 17)
    assert bilinear(maps, (3, 5)).shape == (2, 3, 4, 3, 5)
    labels = torch.randint(0, 3, (2, 9, 17)) * 100
    expected = F.interpolate(labels[:, None].float(), (5, 6), mode="nearest")[:, 0].long()
    assert torch.equal(nearest(labels, (5, 6)), expected)
    assert nearest(labels > 0, (5, 6)).dtype == torch.bool
