"""Numerical methods that know no model."""

from steadyflow.solvers.annealing import Annealed, anneal
from steadyflow.solvers.chains import effective_sample_size, split_r_hat
from steadyflow.solvers.divergence import (
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
    standard_error,
)
from steadyflow.solvers.fixed_point import FixedPoint, fixed_point
from steadyflow.solvers.mcmc import Chains, latent_energy, run_chains
from steadyflow.solvers.ode import solve, trajectory
from steadyflow.solvers.singular import leading_singular
from steadyflow.solvers.solution import Solution, SolverError

__all__ = [
    "Annealed",
    "Chains",
    "FixedPoint",
    "Solution",
    "SolverError",
    "anneal",
    "draw_probes",
    "effective_sample_size",
    "exact_divergence",
    "fixed_point",
    "hutchinson_divergence",
    "latent_energy",
    "leading_singular",
    "run_chains",
    "solve",
    "split_r_hat",
    "standard_error",
    "trajectory",
]
