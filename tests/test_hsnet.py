"""HSNet: centre-pivot convolution compared with a dense one, hypercorrelations, votes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from i2r.nets.hsnet import CenterPivotConv4d, hypercorrelations, vote


def dense_conv4d(x, kernel, bias, stride):
    """A plain 4D convolution of (N, C, a, b, c, d) with (C', C, k, k, k, k), strided only in c and d."""
    side = kernel.shape[-1]
    half = side // 2
    x = F.pad(x, (half,) * 8)
    sizes = [x.shape[2] - side + 1, x.shape[3] - side + 1]
    sizes += [(x.shape[4] - side) // stride + 1, (x.shape[5] - side) // stride + 1]
    out = bias[:, None, None, None, None].repeat(len(x), 1, *sizes)
    for i, j, u, v in itertools.product(*map(range, sizes)):
        part = x[
            :, :, i : i + side, j : j + side, u * stride : u * stride + side, v * stride : v * stride + side
        ]
        out[:, :, i, j, u, v] += torch.einsum("ncabde,ocabde->no", part, kernel)
    return out


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_centre_pivot_is_a_dense_convolution_with_the_pivoted_kernel(side, stride):
    torch.manual_seed(0)
    layer = CenterPivotConv4d(2, 3, side, stride).double()
    kernel, half = torch.zeros(3, 2, side, side, side, side, dtype=torch.float64), side // 2
    kernel[..., half, half] += layer.query.weight.detach()
    kernel[:, :, half, half] += layer.support.weight.detach()
    x = torch.randn(2, 2, 4, 5, 5, 6, dtype=torch.float64)
    expected = dense_conv4d(x, kernel, (layer.query.bias + layer.support.bias).detach(), stride)
    torch.testing.assert_close(layer(x).detach(), expected)


def test_hypercorrelations_are_cosines_to_the_object():
    torch.manual_seed(0)
    shapes = [(3, 5, 6), (3, 5, 6), (4, 3, 4)]
    query, support = ([torch.randn(1, *shape) for shape in shapes] for _ in range(2))
    mask = torch.zeros(1, 33, 41, dtype=torch.long)
    mask[:, 8:, 20:] = 1
    mask[:, :4] = 255
    first, second, _ = *hypercorrelations(query, support, mask, (2, 1)), None
    assert first.shape == (1, 2, 5, 6, 5, 6) and second.shape == (1, 1, 3, 4, 3, 4)
    area = F.interpolate((mask == 1).float()[:, None], (5, 6), mode="bilinear", align_corners=True)
    a, b = query[1][0, :, 2, 3], (support[1] * area)[0, :, 4, 5]
    expected = F.cosine_similarity(a, b, dim=0).clamp(min=0)
    torch.testing.assert_close(first[0, 1, 2, 3, 4, 5], expected, atol=1e-4, rtol=0)
    assert (first[..., 0, :] == 0).all() and (first >= 0).all()


def test_half_of_the_largest_vote_is_foreground():
    foreground = torch.tensor([[[1, 1, 0, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]], [[1, 0, 1, 0]]])  # (K, 1, W)
    logits = torch.stack([1 - foreground, foreground], 1)[None].float()  # (1, K, 2, 1, W)
    assert vote(logits).argmax(1).tolist() == [[[1, 1, 0, 0]]]
    assert not vote(logits[:, :, [1, 0]] * 0 + logits.new_tensor([1.0, 0.0])[:, None, None]).argmax(1).any()
