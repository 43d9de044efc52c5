import torch

from detr_d2.layers import downsample_mask, padding_mask, valid_ratios


def test_nothing_padded_is_none():
    assert padding_mask([(4, 6), (4, 6)], (4, 6), "cpu") is None
    assert downsample_mask(None, (2, 3)) is None


def test_true_on_padding_only():
    mask = padding_mask([(2, 3), (3, 2)], (3, 3), "cpu")
    assert mask is not None
    assert mask.int().tolist() == [
        [[0, 0, 0], [0, 0, 0], [1, 1, 1]],
        [[0, 0, 1], [0, 0, 1], [0, 0, 1]],
    ]


def test_a_batch_of_one_padded_by_divisibility_is_masked():
    mask = padding_mask([(5, 7)], (6, 8), "cpu")
    assert mask is not None
    assert int((~mask).sum()) == 35


def test_nearest_downsampling_is_the_authors_not_the_rounded_up_size():
    # 401 pixels, 136 valid, 51 cells at stride 8: cell i looks at pixel floor(i * 401 / 51); 17 * 7.86 = 133.6 is still
    # inside, 18 * 7.86 = 141.5 is not: 18 valid cells, where ceil(136 / 8) = 17.
    mask = padding_mask([(401, 136)], (401, 401), "cpu")
    cells = downsample_mask(mask, (51, 51))
    assert cells is not None
    assert int((~cells[0, 0]).sum()) == 18


def test_the_smallest_image_keeps_a_valid_cell():
    mask = padding_mask([(1, 1), (640, 640)], (640, 640), "cpu")
    cells = downsample_mask(mask, (20, 20))
    assert cells is not None
    assert not cells[0, 0, 0]


def test_valid_ratios_by_hand():
    # Image 0 fills 2 of 4 columns and 3 of 3 rows, image 1 all of 4 columns and 1 of 3 rows.
    fine = padding_mask([(3, 2), (1, 4)], (3, 4), "cpu")
    coarse = padding_mask([(2, 1), (1, 2)], (2, 2), "cpu")
    ratios = valid_ratios([fine, coarse])
    assert ratios is not None
    expected = [[[0.5, 1.0], [0.5, 1.0]], [[1.0, 1 / 3], [1.0, 0.5]]]
    torch.testing.assert_close(ratios, torch.tensor(expected))


def test_no_masks_have_no_ratios():
    assert valid_ratios([None, None]) is None
