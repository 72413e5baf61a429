"""Two sets of examples: do they come from one distribution, and is one a copy of the other?

    k(x, y)  = (x . y / D + 1)^3
    MMD^2    = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

unbiased: its mean is 0 if both come from one distribution, so that it can be negative. Gretton et
al., "A kernel two-sample test" (2012), eq. 3, with the kernel of Binkowski et al., "Demystifying
MMD GANs" (2018), here on the variables themselves instead of a network's features: it sees the
first three moments.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from steadyflow.errors import UsageError


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """An unbiased squared distance between two distributions.

    Attributes:
        value: mean over the subsets; near 0 (or below) if the two are the same.
        standard_error: of `value`, from the scatter of the subsets.
        subsets: how many disjoint subsets.
        subset_size: examples of each set in one subset.
    """

    value: float
    standard_error: float
    subsets: int
    subset_size: int

    def __str__(self) -> str:
        return f"MMD^2 = {self.value:.2e} ± {self.standard_error:.1e}"


def kernel_distance(
    x: Tensor, y: Tensor, *, subsets: int = 10, seed: int = 0, white: float = 255
) -> KernelDistance:
    """Unbiased MMD^2 with the cubic kernel, and its standard error.

    Both sets are shuffled and cut into disjoint subsets, whose values are independent: their
    scatter gives an honest standard error.

    Args:
        x: (N, *event); integer images are scaled to [0, 1]. Bring the columns of vectors to one
            scale first, the kernel weighs them as they are.
        y: (M, *event).
        subsets: how many; each gets min(N, M) / subsets examples of each set.
        seed: of the shuffle.
        white: the largest value of an integer pixel.

    Raises:
        UsageError: if the shapes differ or a subset would have less than two examples.
    """
    if x.shape[1:] != y.shape[1:]:
        raise UsageError(
            f"both sets need examples of one shape, got {tuple(x.shape[1:])} "
            f"and {tuple(y.shape[1:])}"
        )
    size = min(len(x), len(y)) // max(subsets, 1)
    if subsets < 2 or size < 2:
        raise UsageError(
            f"{subsets} subsets of at least 2 examples can not be made of "
            f"{len(x)} and {len(y)} examples (2 subsets are the least)"
        )
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        flat(v[torch.randperm(len(v), generator=generator)[: size * subsets]].cpu(), white)
        for v in (x, y)
    )
    values = torch.stack(
        [squared_mmd(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
    )
    return KernelDistance(
        value=float(values.mean()),
        standard_error=float(values.std() / math.sqrt(subsets)),
        subsets=subsets,
        subset_size=size,
    )


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2 of x: (n, D) and y: (m, D), a scalar, with the cubic kernel."""
    return _within(x) + _within(y) - 2 * _kernel(x, y).mean()


def flat(x: Tensor, white: float = 255) -> Tensor:
    """(N, *event) to (N, D) in float64; integers are divided by the value of white."""
    rows = x.flatten(1).double()
    return rows if x.is_floating_point() else rows / white


@dataclasses.dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier tells two sets of vectors apart.

    Attributes:
        accuracy: on held-out examples, the mean over the folds: 0.5 where it can not, 1 at best.
        standard_error: over the folds.
    """

    accuracy: float
    standard_error: float

    def __str__(self) -> str:
        return f"C2ST {self.accuracy:.3f} ± {self.standard_error:.3f}"


def classifier_test(x: Tensor, y: Tensor, *, folds: int = 5, seed: int = 0) -> ClassifierTest:
    """The classifier two-sample test, as the benchmark of simulation-based inference has it.

    A perceptron with two hidden layers of 10 D learns to tell x and y apart, both standardised by
    x, on all folds but one, which it is tested on. Lopez-Paz & Oquab (2017); Lueckmann et al.,
    "Benchmarking Simulation-Based Inference" (2021).

    Args:
        x: (N, D), the reference.
        y: (M, D); as many of both make 0.5 the value for equal distributions.
        folds: of the cross-validation.
        seed: of the folds and the classifier.
    """
    import numpy as np
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    x, y = x.double().cpu(), y.double().cpu()
    mean, std = x.mean(0), x.std(0)
    together = torch.cat(((x - mean) / std, (y - mean) / std)).numpy()
    labels = np.repeat([0, 1], [len(x), len(y)])
    size = 10 * x.shape[1]
    classifier = MLPClassifier((size, size), max_iter=1000, random_state=seed)
    split = KFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_score(classifier, together, labels, cv=split, scoring="accuracy")
    return ClassifierTest(float(scores.mean()), float(scores.std(ddof=1) / math.sqrt(folds)))


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest training example of each sample.

    Attributes:
        distances: Euclidean, (N,), float64; pixels on [0, 1].
        indices: positions in the training set, (N,).
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(
    samples: Tensor, train: Tensor, *, batch_size: int = 256, white: float = 255
) -> Neighbours:
    """For each sample the nearest training example: a distance of 0 is a copy.

    Compare the distances with those of held-out examples: samples that lie much nearer to the
    training data than new data does are memorised.

    Args:
        samples: (N, *event); integer images are scaled to [0, 1].
        train: (M, *event).
        batch_size: samples at once.
        white: the largest value of an integer pixel.
    """
    drawn, known = flat(samples.cpu(), white), flat(train.cpu(), white)
    coarse = known.float()
    indices = torch.cat(
        [torch.cdist(part.float(), coarse).argmin(1) for part in drawn.split(batch_size)]
    )
    # the search rounds; the distance of the one that it found is computed again
    return Neighbours((drawn - known[indices]).square().sum(1).sqrt(), indices)


def _within(x: Tensor) -> Tensor:
    gram = _kernel(x, x)
    return (gram.sum() - gram.diagonal().sum()) / (len(x) * (len(x) - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
