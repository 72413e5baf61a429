"""A page on which a person plays with a trained model; `steadyflow explore` opens it."""

from steadyflow.explorer.session import Explorer

__all__ = ["Explorer"]
