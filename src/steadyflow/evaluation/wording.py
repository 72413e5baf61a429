"""A likelihood in words: what the number is, and how many of its digits mean something."""

from __future__ import annotations

import math

from steadyflow.bijections import UniformDequantization
from steadyflow.evaluation import access
from steadyflow.evaluation.access import Model


def meaning(model: Model, draws: int = 1) -> str:
    """One sentence that says what the model's likelihood is, without its full stop."""
    own = getattr(model, "likelihood_in_words", None)
    if own and str(model.likelihood) != "none":
        return str(own)
    word, integers = str(model.likelihood), access.bits_of(model) is not None
    labelled = getattr(model, "num_classes", None) is not None
    given = " given its class" if labelled and not access.classifies(model) else ""
    noise = f"{draws} noise draw{'s' if draws > 1 else ''} per example"
    joined = f"importance-weighted over {noise}" if draws > 1 else noise
    if word == "exact":
        what = "log-probability of the integers" if integers else "log-density of an example"
        return f"exact {what}{given}, by the change of variables"
    if word == "bound" and integers and access.flow_of(model) is not None:
        joined = joined.replace("example", "image")
        uniform = isinstance(model.dequantization, UniformDequantization)
        return (
            f"lower bound on the log-probability of the integer image{given}: "
            f"{'uniform' if uniform else 'learned'} dequantisation, {joined}; the density of the "
            "dequantised image is exact"
        )
    if word == "bound":
        return (
            f"lower bound on the log-likelihood of an example{given}, {joined}; the true value is "
            "higher"
        )
    if word == "estimate" and hasattr(model, "estimate_likelihood"):
        return (
            f"estimate of the log-likelihood of an example{given}: an ODE solved to "
            f"a tolerance of {model.ode.rtol:g}, its divergence "
            + ("exact" if model.ode.exact_log_det else f"by random probes, {noise}")
        )
    how = str(getattr(model, "estimator", ""))
    if word == "estimate" and how:
        of = "a lower bound on the log-probability" if integers else "the log-likelihood"
        return (
            f"unbiased estimate of {of} of an example{given}, {noise}: log-determinants by "
            f"{how}; the noise of each example is its own, so that the standard error "
            "contains it"
        )
    if word == "estimate":
        return (
            f"estimate of the log-likelihood of an example{given}, {noise}: the log-determinant "
            "is itself estimated, so that it can lie on either side of the true value"
        )
    if access.classifies(model):
        return "this model is a classifier: it gives no likelihood"
    return "this model gives no likelihood: compare its samples instead"


def measured(value: float | None, error: float | None) -> str:
    """A value with its standard error, to two figures of the error.

    Example:
        >>> measured(-1234.5678, 2.3456)
        '-1234.6 ± 2.3'
    """
    if value is None:
        return "-"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.4f}"
    places = min(max(1 - math.floor(math.log10(error)), 0), 6)
    return f"{value:.{places}f} ± {error:.{places}f}"
