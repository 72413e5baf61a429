"""Which examples are for training, validation and test."""

from __future__ import annotations

import numpy as np

from steadyflow.data.content import DataError
from steadyflow.errors import UsageError

TRAINING_ROWS = 2  # one row has no spread, so no density


def carve(
    n: int, *, validation: float, test: float, seed: int, where: str
) -> dict[str, np.ndarray | None]:
    """Draws the rows of each split: disjoint, complete, and the same for the same seed.

    The test rows do not depend on `validation`. A share above zero gets at least one row.

    Args:
        n: how many rows there are.
        validation: the share for validation, in [0, 1).
        test: the share for the test, in [0, 1).
        seed: 0 or more.
        where: the name of the source, for the messages.

    Returns:
        Row numbers for 'train', 'validation' and 'test', in ascending order; None for a 'train'
        that is everything, so that nothing is copied.

    Raises:
        UsageError: for shares that are negative or leave nothing, or a negative seed.
        DataError: if there are too few rows.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UsageError(
            f"validation={validation} and test={test} were given: both must be 0 or more, and "
            "together below 1"
        )
    if seed < 0:
        raise UsageError(f"seed={seed} is negative: give 0 or more")
    n_test, n_validation = (
        max(1, round(n * share)) if share else 0 for share in (test, validation)
    )
    needed = TRAINING_ROWS + bool(validation) + bool(test)
    if n < needed or n - n_test - n_validation < TRAINING_ROWS:
        raise DataError(
            f"{where}: {n} rows are too few to split with validation={validation:g} and "
            f"test={test:g}: at least {TRAINING_ROWS} must be left to train on and 1 for each "
            f"share that is not 0, so {needed} or more rows are needed"
        )
    if not (n_test or n_validation):
        none = np.arange(0)
        return {"train": None, "validation": none, "test": none}
    # [seed, 1]: not the stream that a toy's points are drawn from
    rows = np.random.default_rng([seed, 1]).permutation(n)
    cuts = np.split(rows, [n_test, n_test + n_validation])
    return dict(zip(("test", "validation", "train"), map(np.sort, cuts), strict=True))
