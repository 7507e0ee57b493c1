"""Episodes in pairs and with pasted objects: drawn by number alone, with masks that say what the image shows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from i2r.data.episodes import Pasted, train_episode
from i2r.data.lists import fold_lists
from i2r.data.paste import image_and_mask, paste

TEST_CLASSES = {1, 2, 3, 4, 5}  # of fold 0


@pytest.fixture(scope="module")
def lists():
    """Classes 6 to 8; every third image of class 6 shows 7 as well, and images of 8 show a test class too."""
    train = {f"six {i}": {"6": 500, **({"7": 500} if i % 3 == 0 else {})} for i in range(30)}
    train |= {f"eight {i}": {"8": 500, "1": 500} for i in range(10)}
    index = {"classes": [f"class {c}" for c in range(1, 21)], "train": train, "val": {"v": {"1": 500}}}
    return fold_lists(index, 0, novel="keep", min_area=100)


def episodes(lists, count=400, seed=0, sampling="pairs", shots=2, **options):
    return [train_episode(lists, seed, 0, i, shots, sampling, **options) for i in range(count)]


def test_a_pair_asks_one_query_for_two_of_its_classes(lists):
    made = episodes(lists)
    two = 0
    for first, second in zip(made[::2], made[1::2], strict=True):
        both = len(lists["train_of"][first.query]) == 2
        assert (first.query == second.query and first.cls != second.cls) == both
        two += both
        for episode in (first, second):
            assert episode.cls in lists["train_of"][episode.query] and episode.pasted is None
            assert len({episode.query, *episode.supports}) == 3
            assert all(episode.cls in lists["train_of"][name] for name in episode.supports)
    assert two == 50  # of 200 pairs: ten of forty images
    first_of_pairs = [episode.query for episode in made[::2]]
    assert sorted(first_of_pairs[:40]) == sorted(lists["train"])  # each image once in an epoch


def test_balanced_pairs_draw_their_first_class_evenly(lists):
    made = episodes(lists, 1200, sampling="balanced-pairs")
    firsts = [episode.cls for episode in made[::2]]
    assert all(abs(firsts.count(cls) - 200) < 50 for cls in (6, 7, 8))
    for first, second in zip(made[::2], made[1::2], strict=True):
        both = len(lists["train_of"][first.query]) == 2
        assert (first.query == second.query and first.cls != second.cls) or not both
        assert second.cls in lists["train_of"][second.query] and second.query not in second.supports
    partners = [
        b.cls for a, b in zip(made[::2], made[1::2], strict=True) if len(lists["train_of"][a.query]) == 1
    ]
    assert set(partners) == {6, 7, 8}


@pytest.mark.parametrize("sampling", ["image", "balanced", "pairs", "balanced-pairs"])
def test_a_query_is_asked_for_its_own_class_and_for_the_pasted_one(lists, sampling):
    made = episodes(lists, sampling=sampling, paste=0.5)
    pasted = [episode for episode in made if episode.pasted]
    assert abs(len(pasted) - 200) < 50
    asked = [episode.cls == episode.pasted.cls for episode in pasted]
    assert abs(sum(asked) - len(pasted) / 2) < 4 * np.sqrt(len(pasted)) / 2
    for episode in pasted:
        assert episode.pasted.cls not in lists["train_of"][episode.query]
        assert episode.pasted.cls in lists["train_of"][episode.pasted.donor]
        assert episode.pasted.donor not in episode.supports or episode.cls != episode.pasted.cls
        assert all(episode.cls in lists["train_of"][name] for name in episode.supports)
    if "pairs" in sampling:
        for first, second in zip(made[::2], made[1::2], strict=True):
            if first.pasted or second.pasted:
                assert (first.query, first.pasted) == (second.query, second.pasted)
                assert {first.cls, second.cls} == {first.cls, first.pasted.cls}


@pytest.mark.parametrize("sampling", ["image", "balanced", "pairs", "balanced-pairs"])
def test_no_object_of_a_test_class_is_pasted(lists, sampling):
    """Not even from an image that shows one beside a training class."""
    made = episodes(lists, sampling=sampling, paste=1.0)
    assert {episode.pasted.cls for episode in made if episode.pasted} <= {6, 7, 8}
    assert any(episode.pasted.donor.startswith("eight") for episode in made if episode.pasted)
    donor_mask = np.zeros((20, 20), np.uint8)
    donor_mask[:10], donor_mask[10:] = 8, 1
    donor = np.full((20, 20, 3), 200, np.uint8)
    donor[10:] = 90
    for seed in range(20):
        clean = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60), np.uint8)
        image, mask = paste(*clean, donor, donor_mask, 8, np.random.default_rng(seed))
        assert set(np.unique(mask)) == {0, 8} and not TEST_CLASSES & set(np.unique(mask))
        inner = mask == 8
        assert image[~inner].max() == 0 and image.max() == 200


def test_episodes_depend_on_their_number_alone(lists):
    options = {"sampling": "pairs", "paste": 0.5, "views": 2}
    one = episodes(lists, 60, **options)
    again = [train_episode(lists, 0, 0, i, 2, **options) for i in reversed(range(60))]
    assert one == again[::-1]
    assert one != episodes(lists, 60, seed=1, **options)


def test_pasted_images_come_again_where_views_are_fixed(lists):
    """So a cache of features holds at most `views` of each query more."""
    kept = episodes(lists, 2000, sampling="image", paste=0.5, views=2)
    shown = {}
    for episode in kept:
        if episode.pasted:
            shown.setdefault(episode.query, set()).add(episode.pasted)
    assert max(map(len, shown.values())) == 2 and len(shown) == 40
    fresh = [episode.pasted for episode in episodes(lists, 2000, sampling="image", paste=0.5)]
    fresh = [pasted for pasted in fresh if pasted]
    assert len(set(fresh)) == len(fresh)


def test_nothing_is_pasted_into_a_query_that_shows_every_class():
    train = {f"both {i}": {"6": 500, "7": 500} for i in range(5)}
    index = {"classes": [f"class {c}" for c in range(1, 21)], "train": train, "val": {"v": {"1": 500}}}
    lists = fold_lists(index, 0, novel="drop", min_area=100)
    assert all(episode.pasted is None for episode in episodes(lists, 40, paste=1.0))


def scene():
    """An image with an object of class 6 and unknown pixels, and one with an object of class 7."""
    image, mask = np.full((80, 100, 3), 50, np.uint8), np.zeros((80, 100), np.uint8)
    mask[20:60, 10:50], mask[60:64, 10:50] = 6, 255
    donor, donor_mask = np.full((40, 40, 3), 250, np.uint8), np.zeros((40, 40), np.uint8)
    donor_mask[5:35, 10:30] = 7
    return image, mask, donor, donor_mask


def test_the_mask_after_pasting_says_what_is_visible():
    image, mask, donor, donor_mask = scene()
    for seed in range(30):
        made, labels = paste(image, mask, donor, donor_mask, 7, np.random.default_rng(seed))
        new = labels == 7
        assert new.any() and np.array_equal(labels[~new], mask[~new])
        assert np.array_equal(made[~new], image[~new]) and (made[new] > image[new]).all()
        assert (labels == 6).sum() == ((mask == 6) & ~new).sum() >= (mask == 6).sum() / 2
        rows, columns = np.nonzero(new)
        assert 0.3 * 80 - 2 <= np.ptp(rows) + 1 <= 0.7 * 80 + 1  # its longer side
        assert np.ptp(columns) < np.ptp(rows)
    assert (mask == 6).sum() == 1600 and (image == 50).all()  # the inputs are not changed


def test_a_small_object_of_the_image_stays_visible():
    image, mask, donor, donor_mask = scene()
    mask[:] = 0
    mask[40, 50] = 6
    for seed in range(20):
        _, labels = paste(image, mask, donor, donor_mask, 7, np.random.default_rng(seed))
        assert (labels == 6).sum() == 1 and (labels == 7).any()


def test_classes_beyond_255_keep_their_numbers():
    image, mask, donor, donor_mask = scene()
    wide, other = mask.astype(np.int16), np.where(donor_mask == 7, 900, 0).astype(np.int16)
    wide[mask == 255] = -1
    _, labels = paste(image, wide, donor, other, 900, np.random.default_rng(0))
    assert labels.dtype == np.int16 and set(np.unique(labels)) == {-1, 0, 6, 900}


def test_a_donor_without_the_class_is_an_error():
    image, mask, donor, donor_mask = scene()
    with pytest.raises(ValueError, match="no pixel of the class"):
        paste(image, mask, donor, donor_mask, 8, np.random.default_rng(0))


def test_an_image_is_the_same_each_time_it_is_read():
    image, mask, donor, donor_mask = scene()
    data = {"q": (image, mask), "d": (donor, donor_mask)}
    dataset = SimpleNamespace(image=lambda name: data[name][0], mask=lambda name: data[name][1])
    first, again, other = (image_and_mask(dataset, "q", Pasted("d", 7, seed)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert image_and_mask(dataset, "q")[1] is mask
