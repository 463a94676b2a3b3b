"""Holds out a part of train to choose the best checkpoint on."""

from collections.abc import Sequence

import numpy as np

from input_pipeline import DataError


def carve_validation(
    labels: np.ndarray, validation: float, seed: int, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training set in two, with the same share of each class in both.

    Args:
        labels: int32[n].
        validation: the part held out: a fraction, or a count if above 1.
        seed: the same seed and labels give the same split.
        class_names: for messages; by default classes are called by their numbers.

    Returns:
        The indices of what remains to train on and of what is held out, both sorted int64.

    Raises:
        DataError: if so many cannot be held out, or not from each class.
    """
    from sklearn.model_selection import train_test_split

    total = len(labels)
    classes, counts = np.unique(labels, return_counts=True)
    lonely = classes[(counts == 1) & (classes >= 0)]
    if len(lonely):
        named = ', '.join(class_names[k] if class_names else str(k) for k in lonely[:5])
        raise DataError(
            f'config.dataset.validation={validation:g}: there is only one training image of '
            f'{named}, and each class needs one to train on and one to hold out. Add images, or set '
            '--config.dataset.validation=0.'
        )
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
            f'of {len(classes)} classes, each of which must be in both parts: {error}. One '
            f'of each class is --config.dataset.validation={len(classes)}; a split of your own is '
            '--config.dataset.validation=0 --config.dataset.validation_split=NAME.'
        ) from error
    return np.sort(train), np.sort(held_out)
