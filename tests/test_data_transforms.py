"""Training and evaluation views: positions of pixels, and padding."""

import numpy as np
import pytest
import torch

from i2r.config import schema as params
from i2r.data import transforms
from i2r.data.transforms import MEAN, STD, binary, normalise, placement, to_image, train_view

PLAIN = {"views": 0, "scale": (1.0, 1.0), "fit": False, "rotate": 0, "rotate_p": 0, "blur_p": 0, "flip_p": 0}


def augment(**changes):
    return params.Augment(**{**PLAIN, **changes})


def rng(seed=0):
    return np.random.default_rng(seed)


def pair(height, width, seed=0):
    """An image whose red channel is 10 times its mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 7
    mask[height // 2 : 3 * height // 4, width // 2 :] = 3
    image = rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    image[..., 0] = mask * 10
    return image, mask


def test_normalising_is_imagenets_and_can_be_undone():
    image, _ = pair(16, 24)
    view = normalise(image)
    expected = (image.transpose(2, 0, 1) / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert view.dtype == torch.float32
    assert np.allclose(view.numpy(), expected, atol=1e-5)
    assert (to_image(view) == image).all()


def test_binary_keeps_unknown():
    mask = torch.tensor([[0, 7], [3, 255]], dtype=torch.uint8)
    assert binary(mask, 7).tolist() == [[0, 1], [0, 255]]
    assert binary(mask.long(), 3).tolist() == [[0, 0], [1, 255]]


def test_plain_view_of_a_smaller_image_is_the_image_between_mean_and_unknown():
    image, mask = pair(60, 81)
    view, labels = train_view(image, mask, 97, augment(), rng())
    assert view.shape == (3, 97, 97)
    assert labels.shape == (97, 97)
    assert (to_image(view)[18:78, 8:89] == image).all()
    assert (labels[18:78, 8:89].numpy() == mask).all()
    assert (labels[:18] == 255).all() and (labels[78:] == 255).all() and (labels[:, :8] == 255).all()
    assert view[:, :18].abs().max() < 0.01


def test_the_crop_of_a_larger_image_is_a_window_of_it():
    image, mask = pair(120, 140)
    view, labels = train_view(image, mask, 97, augment(), rng(1))
    windows = [
        (top, left)
        for top in range(24)
        for left in range(44)
        if (mask[top : top + 97, left : left + 97] == labels.numpy()).all()
        and (image[top : top + 97, left : left + 97] == to_image(view)).all()
    ]
    assert len(windows) == 1


def test_the_crop_is_drawn_anew_until_the_class_is_inside():
    mask = np.zeros((97, 400), np.uint8)
    mask[20:60, 40:80] = 4
    image = np.zeros((97, 400, 3), np.uint8)

    def inside(cls):
        views = [train_view(image, mask, 97, augment(), rng(i), cls)[1] for i in range(40)]
        return np.mean([int((view == 4).sum()) >= 0.85 * 1600 for view in views])

    assert inside(4) > 0.9
    assert inside(None) < 0.4
    # a class larger than the window never fits, so the last draw is taken
    assert train_view(image, np.full((97, 400), 4, np.uint8), 97, augment(), rng(), 4)[1].shape == (97, 97)


def test_a_view_that_lost_the_class_is_drawn_again():
    image, mask = np.zeros((120, 120, 3), np.uint8), np.zeros((120, 120), np.uint8)
    mask[61, 43] = 4  # a scale of about a half leaves it out more often than not
    options = augment(scale=(0.4, 0.6))
    views = [train_view(image, mask, 97, options, rng(i), 4)[1] for i in range(40)]
    assert all((view == 4).any() for view in views)
    unasked = [train_view(image, mask, 97, options, rng(i))[1] for i in range(40)]
    assert 0 < sum(bool((view == 4).any()) for view in unasked) < 25
    kept = [torch.equal(a, b) for a, b in zip(views, unasked, strict=True) if (b == 4).any()]
    assert all(kept)  # the first view, if it holds the class
    never = train_view(image, mask, 57, augment(scale=(0.475, 0.475)), rng(), 4)[1]
    assert never.shape == (57, 57)  # it ends


def test_images_are_normalised_on_a_device_as_one_by_one():
    images = torch.randint(0, 256, (2, 3, 40, 50, 3), dtype=torch.uint8)
    images[0, 0, 0].flatten()[:150] = torch.arange(150, dtype=torch.uint8)
    whole = transforms.normalised(images)
    assert whole.shape == (2, 3, 3, 40, 50)
    for at in np.ndindex(2, 3):
        assert torch.equal(whole[at], normalise(images[at].numpy()))


def test_scale_is_of_the_image_or_of_the_size():
    image, mask = pair(100, 200)
    _, labels = train_view(image, mask, 97, augment(fit=True), rng())
    assert (labels != 255).sum() == 97 * 48  # round(100 * 97 / 200) rows
    _, labels = train_view(image, mask, 97, augment(scale=(0.5, 0.5), fit=True), rng())
    assert (labels != 255).sum() == 24 * 48
    _, labels = train_view(image, mask, 97, augment(scale=(0.25, 0.25)), rng())
    assert (labels != 255).sum() == 25 * 50
    sizes = {
        int((train_view(image, mask, 401, augment(scale=(0.9, 1.1)), rng(i))[1] != 255).sum())
        for i in range(9)
    }
    assert len(sizes) > 4
    assert all(0.8 * 20000 <= size <= 1.22 * 20000 for size in sizes)


def test_rotation_takes_image_and_mask_along_and_fills_the_corners():
    image, mask = pair(96, 96)
    image[:] = mask[..., None] * 10
    _, still = train_view(image, mask, 97, augment(), rng())
    view, labels = train_view(image, mask, 97, augment(rotate=30, rotate_p=1), rng(2))
    assert (labels != still).any()
    assert (labels[:4, :4] == 255).all() or (labels[:4, -4:] == 255).all()
    red = to_image(view)[..., 0].astype(int)
    for cls in (0, 3, 7):  # except at the rim, where the image is interpolated
        assert np.mean(np.abs(red[labels.numpy() == cls] - 10 * cls) < 3) > 0.85


def test_flip_and_blur():
    image, mask = pair(97, 97)
    view, labels = train_view(image, mask, 97, augment(flip_p=1), rng())
    assert (to_image(view) == image[:, ::-1]).all()
    assert (labels.numpy() == mask[:, ::-1]).all()
    view, labels = train_view(image, mask, 97, augment(blur_p=1), rng())
    assert to_image(view).std() < image.std()
    assert (labels.numpy() == mask).all()


def test_a_view_is_decided_by_its_generator():
    image, mask = pair(130, 110)
    options = augment(scale=(0.8, 1.25), rotate=10, rotate_p=0.5, blur_p=0.5, flip_p=0.5)
    first, second, other = (train_view(image, mask, 97, options, rng(seed), 7) for seed in (5, 5, 6))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("height", "width", "size", "inner"),
    [
        (375, 500, 473, (352, 472)),  # 354.75 and 473, down to multiples of 8
        (500, 333, 473, (472, 312)),
        (96, 80, 97, (96, 80)),
        (500, 500, 641, (640, 640)),
        (4, 400, 97, (8, 96)),
    ],
)
def test_placement(height, width, size, inner):
    assert placement(height, width, size) == (height, width, *inner)


def test_the_evaluation_view_stands_top_left_on_black():
    image, mask = pair(96, 80)
    view, labels, place = transforms.evaluation_view(image, mask, 97)
    assert place == (96, 80, 96, 80)
    seen = to_image(view)
    assert (seen[:96, :80] == image).all()  # images of `shapes` are not resampled
    assert not seen[96:].any() and not seen[:, 80:].any()
    assert (labels[:96, :80].numpy() == mask).all()
    assert (labels[96:] == 255).all() and (labels[:, 80:] == 255).all()
    view_alone, none, _ = transforms.evaluation_view(image, None, 97)
    assert none is None
    assert torch.equal(view, view_alone)


def test_large_images_are_reduced_without_skipping_pixels():
    board = np.indices((800, 800)).sum(axis=0) % 2
    image = np.repeat((255 * board).astype(np.uint8)[..., None], 3, axis=2)
    view, _, _ = transforms.evaluation_view(image, None, 97)
    assert np.abs(to_image(view)[:96, :96].astype(int) - 127).max() < 12


def test_wrong_arrays_are_refused():
    image, mask = pair(40, 40)
    with pytest.raises(ValueError, match="an image must be uint8"):
        transforms.evaluation_view(image.astype(float), None, 97)
    with pytest.raises(ValueError, match="like its image"):
        train_view(image, mask[:-1], 97, augment(), rng())
