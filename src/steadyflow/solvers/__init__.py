"""Numerical methods that know no model."""

from steadyflow.solvers.divergence import (
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
    standard_error,
)
from steadyflow.solvers.ode import solve, trajectory
from steadyflow.solvers.solution import Solution, SolverError

__all__ = [
    "Solution",
    "SolverError",
    "draw_probes",
    "exact_divergence",
    "hutchinson_divergence",
    "solve",
    "standard_error",
    "trajectory",
]
