"""Holds out a part of train to choose the best checkpoint on."""

import numpy as np

from input_pipeline import DataError


def carve_validation(labels: np.ndarray, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training set in two, with the same share of each class in both.

    Args:
        labels: int32[n].
        validation: the part held out: a fraction, or a count if above 1.
        seed: the same seed and labels give the same split.

    Returns:
        The indices of what remains to train on and of what is held out, both sorted int64.

    Raises:
        DataError: if so many cannot be held out, or not from each class.
    """
    total = len(labels)
    from sklearn.model_selection import train_test_split

    try:
        train, held_out = train_test_split(
            np.arange(total),
            test_size=int(validation) if validation > 1 else validation,
            stratify=labels,
            random_state=seed,
        )
    except ValueError as error:
        raise DataError(
            f'config.dataset.validation={validation:g} does not work for {total:,} training images '
            f'of {len(np.unique(labels))} classes, each of which must be in both parts: {error}'
        ) from error
    return np.sort(train), np.sort(held_out)
