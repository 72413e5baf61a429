"""Two-dimensional toys: point clouds whose shape a picture shows at once.

Each is a function of a generator; `toy` draws it by name. Where the density has a closed form,
`toy_log_density` gives it exactly. The recipes are scikit-learn's and FFJORD's (Grathwohl et al.
2019, https://github.com/rtqichen/ffjord, lib/toy_data.py), so that pictures can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from steadyflow.errors import UsageError, unknown

RING_RADII = np.array([1.0, 2.0])
RING_WIDTH = 0.08
GAUSSIAN_RADIUS = 4 / np.sqrt(2)
GAUSSIAN_WIDTH = 0.5 / np.sqrt(2)


def toy(name: str, n: int, seed: int = 0) -> np.ndarray:
    """Draws a toy data set.

    Args:
        name: one of `TOYS`.
        n: how many points.
        seed: the same seed gives the same points.

    Returns:
        Points, float32 (n, 2), independent of each other and in no order.

    Raises:
        UsageError: for an unknown name, an `n` below 1 or a negative seed.

    Example:
        >>> toy("moons", 100).shape
        (100, 2)
    """
    if name not in TOYS:
        raise unknown("toy", name, TOYS)
    if n < 1:
        raise UsageError(f"n={n} points of '{name}' were asked for: give n=1 or more")
    if seed < 0:
        raise UsageError(f"seed={seed} is negative: give 0 or more")
    return TOYS[name](np.random.default_rng(seed), n).astype(np.float32)


def toy_log_density(name: str, x: np.ndarray) -> np.ndarray:
    """The exact log-density of a toy.

    Args:
        name: one of `DENSITIES` (the other toys have no closed form).
        x: points, (batch, 2).

    Returns:
        log p(x), float64 (batch,) in nats; -inf outside the support.

    Raises:
        UsageError: for a toy whose density has no closed form.
    """
    if name not in DENSITIES:
        raise unknown("toy with a closed-form density", name, DENSITIES)
    return DENSITIES[name](np.asarray(x, dtype=np.float64))


def moons(random: np.random.Generator, n: int) -> np.ndarray:
    """Two half circles of radius 1 that reach into each other, blurred by 0.05."""
    angle = np.pi * random.random(n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(random.random((n, 1)) < 0.5, upper, lower)
    return x + 0.05 * random.standard_normal((n, 2))


def two_rings(random: np.random.Generator, n: int) -> np.ndarray:
    """Two circles around the origin, of radius 1 and 2, blurred by 0.08 along the radius."""
    radius = random.choice(RING_RADII, n) + RING_WIDTH * random.standard_normal(n)
    angle = 2 * np.pi * random.random(n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def eight_gaussians(random: np.random.Generator, n: int) -> np.ndarray:
    """Eight round spots on a circle of radius 2.83, each with standard deviation 0.354."""
    centers = _centers()[random.integers(0, 8, n)]
    return centers + GAUSSIAN_WIDTH * random.standard_normal((n, 2))


def checkerboard(random: np.random.Generator, n: int) -> np.ndarray:
    """The dark squares of a 4 x 4 board on [-4, 4): uniform inside, zero outside."""
    across = 4 * random.random(n) - 2
    up = random.random(n) - 2 * random.integers(0, 2, n) + np.floor(across) % 2
    return 2 * np.stack([across, up], axis=1)


def pinwheel(random: np.random.Generator, n: int) -> np.ndarray:
    """Five bent blades around the origin, reaching to about 4."""
    blade = np.stack(
        [1 + 0.3 * random.standard_normal(n), 0.1 * random.standard_normal(n)], axis=1
    )
    angle = 2 * np.pi * random.integers(0, 5, n) / 5 + 0.25 * np.exp(blade[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = blade[:, 0], blade[:, 1]
    return 2 * np.stack([cos * x + sin * y, cos * y - sin * x], axis=1)


def two_spirals(random: np.random.Generator, n: int) -> np.ndarray:
    """Two arms of one and a half turns, opposite each other, reaching to about 3."""
    angle = 3 * np.pi * np.sqrt(random.random(n))
    arm = np.stack([-np.cos(angle), np.sin(angle)], axis=1) * angle[:, None]
    arm = arm + 0.5 * random.random((n, 2))
    sign = random.choice([-1.0, 1.0], (n, 1))
    return sign * arm / 3 + 0.1 * random.standard_normal((n, 2))


def swiss_roll(random: np.random.Generator, n: int) -> np.ndarray:
    """One arm of one and a half turns that starts away from the centre, reaching to about 3."""
    angle = 1.5 * np.pi * (1 + 2 * random.random(n))
    arm = np.stack([np.cos(angle), np.sin(angle)], axis=1) * angle[:, None]
    return (arm + random.standard_normal((n, 2))) / 5


def _centers() -> np.ndarray:
    angle = 2 * np.pi * np.arange(8) / 8
    return GAUSSIAN_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _eight_gaussians_density(x: np.ndarray) -> np.ndarray:
    """The mean over c of N(x; c, s^2 I)."""
    squares = ((x[:, None] - _centers()) ** 2).sum(-1) / GAUSSIAN_WIDTH**2
    return np.logaddexp.reduce(-squares / 2, axis=1) - np.log(16 * np.pi * GAUSSIAN_WIDTH**2)


def _two_rings_density(x: np.ndarray) -> np.ndarray:
    """(q(r) + q(-r)) / (2 pi r) at r = |x|, where q mixes N(1, s^2) and N(2, s^2) evenly."""
    r = np.maximum(np.linalg.norm(x, axis=1), np.finfo(np.float64).tiny)
    signed = np.stack([r, -r], axis=1)[:, :, None]
    exponent = -(((signed - RING_RADII) / RING_WIDTH) ** 2) / 2
    total = np.logaddexp.reduce(exponent.reshape(len(x), -1), axis=1)
    return total - np.log(2 * RING_WIDTH * np.sqrt(2 * np.pi)) - np.log(2 * np.pi * r)


def _checkerboard_density(x: np.ndarray) -> np.ndarray:
    """1 / 32 on the eight dark squares, each of area 4."""
    dark = np.floor(x / 2).sum(-1) % 2 == 0
    inside = ((x >= -4) & (x < 4)).all(-1)
    return np.where(dark & inside, -np.log(32.0), -np.inf)


TOYS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "moons": moons,
    "two-rings": two_rings,
    "eight-gaussians": eight_gaussians,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "two-spirals": two_spirals,
    "swiss-roll": swiss_roll,
}
DENSITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "two-rings": _two_rings_density,
    "eight-gaussians": _eight_gaussians_density,
    "checkerboard": _checkerboard_density,
}
