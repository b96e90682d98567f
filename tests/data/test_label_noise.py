"""Wrong labels: how many, which ones, and that they stay within the training images."""

import pytest
import torch
from scipy.stats import binomtest, chisquare

from regularization import Digits
from regularization.data.label_noise import corrupt_labels
from tests.training.test_command import Refused

LABELS = torch.arange(20_000) % 10


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 0.9])
def test_the_fraction_is_wrong_and_all_other_classes_are_equally_likely(fraction: float) -> None:
    noisy = corrupt_labels(LABELS, fraction, 10, seed=3)
    wrong = noisy != LABELS
    assert binomtest(int(wrong.sum()), len(LABELS), fraction).pvalue > 1e-3 if fraction else not wrong.any()
    if fraction:
        shifts = torch.bincount((noisy - LABELS)[wrong] % 10, minlength=10)
        assert shifts[0] == 0
        assert chisquare(shifts[1:].numpy()).pvalue > 1e-3


def test_more_noise_keeps_the_labels_that_were_wrong() -> None:
    few, many = (corrupt_labels(LABELS, fraction, 10, seed=0) for fraction in (0.1, 0.3))
    wrong = few != LABELS
    assert torch.equal(few[wrong], many[wrong])
    assert not torch.equal(few, corrupt_labels(LABELS, 0.1, 10, seed=1))


def test_labels_of_validation_and_test_images_are_right() -> None:
    clean, noisy = Digits(val_size=0.2), Digits(val_size=0.2, label_noise=0.5)
    for data in (clean, noisy):
        data.setup("fit")
        data.setup("test")
    for part in ("val_set", "test_set"):
        (one, index), (two, same) = getattr(clean, part), getattr(noisy, part)
        assert torch.equal(index, same)
        assert torch.equal(one.labels[index], two.labels[index])
    (one, index), (two, same) = clean.train_set, noisy.train_set  # type: ignore[misc]
    assert torch.equal(index, same)
    assert 0.4 < (one.labels != two.labels)[index].float().mean() < 0.6


def test_the_fraction_is_checked(refused: Refused) -> None:
    assert "label_noise must be at least 0" in refused("fit", "--config", "quickstart", "--data.label_noise", "1.5")
