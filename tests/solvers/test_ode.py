"""The ODE solver: order, interval, independence, endings; torchdiffeq as the oracle."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow.solvers import Solution, SolverError, solve, trajectory
from steadyflow.solvers.tableaus import METHODS

ADAPTIVE = ["bosh3", "dopri5", "tsit5"]
FIXED = ["euler", "midpoint", "heun", "rk4"]


def pendulum(t, x):
    """Nonlinear and dependent on time; the batch couples nothing."""
    t = t.view(-1, 1) if t.dim() else t
    return torch.stack((x[:, 1], -torch.sin(x[:, 0])), 1) * (1 + 0.5 * torch.cos(3 * t))


@pytest.fixture
def start(generator):
    return torch.randn(7, 2, generator=generator, dtype=torch.float64)


@pytest.fixture
def end(start):
    return solve(pendulum, start, 0.0, 2.0, rtol=1e-13, atol=1e-13).x


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_are_consistent(method):
    t = METHODS[method]
    assert math.isclose(sum(t.b), 1, abs_tol=1e-14)
    assert math.isclose(sum(b * c for b, c in zip(t.b, t.c, strict=True)), 0.5, abs_tol=1e-14) or (
        t.order == 1
    )
    for c, row in zip(t.c[1:], t.a, strict=True):
        assert math.isclose(sum(row), c, abs_tol=1e-13)
    if t.e:
        assert abs(sum(t.e)) < 1e-14
        assert t.first_same_as_last


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("euler", 1),
        ("midpoint", 2),
        ("heun", 2),
        ("rk4", 4),
        ("bosh3", 3),
        ("dopri5", 5),
        ("tsit5", 5),
    ],
)
def test_order(method, order, start, end):
    steps = (40, 80) if order < 5 else (20, 40)
    errors = [
        (solve(pendulum, start, 0.0, 2.0, method=method, steps=n).x - end).abs().max()
        for n in steps
    ]
    assert order - 0.35 < math.log2(errors[0] / errors[1]) < order + 1


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("tol", [1e-4, 1e-7, 1e-10])
def test_the_error_follows_the_tolerance(method, per_example, tol, start, end):
    if method == "bosh3" and tol < 1e-7:
        pytest.skip("a third-order method would take thousands of steps")
    done = solve(
        pendulum, start, 0.0, 2.0, method=method, rtol=tol, atol=tol, per_example=per_example
    )
    assert done.ok
    assert (done.x - end).abs().max() < 30 * tol
    back = solve(
        pendulum, done.x, 2.0, 0.0, method=method, rtol=tol, atol=tol, per_example=per_example
    )
    assert (back.x - start).abs().max() < 60 * tol


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4", "euler", "midpoint"])
def test_torchdiffeq_agrees(method, start):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    span = torch.tensor([0.0, 2.0], dtype=torch.float64)
    if method in ADAPTIVE:
        theirs = torchdiffeq.odeint(pendulum, start, span, method="dopri8", rtol=1e-11, atol=1e-11)
        ours = solve(pendulum, start, 0.0, 2.0, method=method, rtol=1e-8, atol=1e-8)
        assert_close(ours.x, theirs[-1], rtol=0, atol=1e-6)
        return
    n = 16
    theirs = torchdiffeq.odeint(
        pendulum,
        start,
        torch.linspace(0, 2, n + 1, dtype=torch.float64),
        method=method,
        options={"perturb": False},
    )
    ours = solve(pendulum, start, 0.0, 2.0, method=method, steps=n)
    # torchdiffeq's rk4 is the 3/8 rule: another method of the same order
    assert_close(ours.x, theirs[-1], rtol=0, atol=1e-4 if method == "rk4" else 1e-12)


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 1e-3), (80.0, 0.002), (-3.0, -2.9999)])
@pytest.mark.parametrize("speed", [1e-9, 1.0, 1e6])
def test_the_field_is_never_asked_outside_the_interval(method, per_example, span, speed, start):
    low, high = min(span), max(span)

    def field(t, x):
        assert (low <= t).all(), f"{t} lies before {low}"
        assert (t <= high).all(), f"{t} lies beyond {high}"
        return speed * torch.cos(x) / (high - low)

    steps = None if METHODS[method].e else 7
    done = solve(
        field,
        start,
        *span,
        method=method,
        steps=steps,
        per_example=per_example,
        rtol=1e-2,
        atol=1e-2,
        max_evaluations=300,
    )
    assert done.ok or speed > 1


@pytest.mark.parametrize("method", ADAPTIVE)
def test_an_example_does_not_depend_on_its_neighbours(method, start):
    stiff = torch.tensor([1.0, 3.0, 40.0, 1.0, 9.0, 2.0, 1.0], dtype=torch.float64)

    def field(t, x, rate):
        return rate[:, None] * pendulum(t, x)

    done = solve(field, start, 0.0, 1.0, method=method, per_example=True, args=[stiff], rtol=1e-4)
    for i in (0, 2, 5):
        alone = solve(
            field,
            start[i : i + 1],
            0.0,
            1.0,
            method=method,
            per_example=True,
            args=[stiff[i : i + 1]],
            rtol=1e-4,
        )
        assert_close(alone.x[0], done.x[i], rtol=0, atol=1e-13)
        assert alone.steps[0] == done.steps[i]
    assert done.steps[2] > 3 * done.steps[0]
    assert done.work < done.evaluations * len(start) / 2, "finished examples stay in the batch"


def test_parts_of_a_state_have_errors_of_their_own(start):
    def field(t, state):
        x, _ = state
        return pendulum(t, x), 1e3 * torch.cos(30 * x[:, 0])

    x, extra = solve(field, (start, start.new_zeros(7)), 0.0, 2.0, per_example=True).x
    assert x.shape == (7, 2)
    assert extra.shape == (7,)
    few = solve(pendulum, start, 0.0, 2.0, per_example=True)
    many = solve(field, (start, start.new_zeros(7)), 0.0, 2.0, per_example=True)
    assert many.steps.sum() > 2 * few.steps.sum()
    image = solve(
        lambda t, s: (-s[0], -2 * s[1]), (torch.ones(2, 1, 3, 3), torch.ones(2, 4)), 0.0, 1.0
    )
    assert image.x[0].shape == (2, 1, 3, 3)
    assert_close(image.x[1], torch.full((2, 4), math.exp(-2)), rtol=0, atol=1e-4)


def test_endings_say_who_and_when():
    def field(t, x):
        return x.square()  # reaches infinity at t = 1 / x(0)

    x = torch.tensor([[0.5], [2.0], [0.1]], dtype=torch.float64)
    done = solve(field, x, 0.0, 1.0, per_example=True)
    assert not done.ok
    assert done.unfinished.tolist() == [1]
    assert float(done.t[1]) == pytest.approx(0.5, abs=1e-3)
    assert done.t[[0, 2]].tolist() == [1.0, 1.0]
    assert_close(done.x[0], torch.tensor([1.0], dtype=torch.float64), rtol=0, atol=1e-4)
    with pytest.raises(SolverError, match=r"1 of 3 examples \(1\) stopped between t=0.50"):
        done.require()
    shared = solve(field, x, 0.0, 1.0)
    assert shared.status in ("step", "not finite", "evaluations")
    assert 0.4 < float(shared.t[0]) < 0.51


@pytest.mark.parametrize("per_example", [False, True])
def test_a_limit_on_evaluations_gives_what_there_is(per_example, start):
    done = solve(
        lambda t, x: 100 * pendulum(t, x),
        start,
        0.0,
        2.0,
        per_example=per_example,
        max_evaluations=60,
    )
    assert done.status == "evaluations"
    assert done.evaluations <= 60
    assert done.unfinished.tolist() == list(range(7))
    assert (done.t > 0).all()
    assert (done.t < 2).all()
    assert "60" not in done.status
    assert "max_evaluations" in str(done)


@pytest.mark.parametrize("per_example", [False, True])
def test_fields_that_are_not_finite(per_example, start):
    def field(t, x):
        return torch.where(x[:, :1] > 100, torch.nan, 1.0) * x

    start[3] = 200.0
    done = solve(field, start, 0.0, 1.0, per_example=per_example)
    assert done.status == "not finite"
    assert done.unfinished.tolist() == [3]
    assert (done.t[[0, 1]] == (1.0 if per_example else 0.0)).all()
    fixed = solve(field, start, 0.0, 1.0, method="rk4", steps=3)
    assert fixed.unfinished.tolist() == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dopri"}, "did you mean 'dopri5'"),
        ({"method": "rk4"}, "fixed steps"),
        ({"steps": 0}, "at least 1"),
        ({"rtol": -1.0}, "rtol"),
        ({"t1": math.inf}, "finite"),
        ({"grid": [0.0, 0.5]}, "must begin at t0=0 and end at t1=1"),
        ({"grid": [0.0, 0.7, 0.5, 1.0]}, "one way"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, "float tensor"),
        ({"x": torch.zeros(3)}, r"\(batch, \*event\)"),
        ({"x": torch.tensor([[1.0], [math.nan]])}, "first at 1"),
        ({"field": lambda t, x: x[:, :1]}, "derivative of the state's shape"),
        ({"max_evaluations": 0}, "max_evaluations"),
    ],
)
def test_bad_input(change, message):
    given = {"field": lambda t, x: -x, "x": torch.ones(3, 2), "t0": 0.0, "t1": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        solve(**given)


@pytest.mark.parametrize("options", [{"method": "rk4", "steps": 5}, {}, {"per_example": True}])
def test_gradients_flow_through_a_solve(options, start):
    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    tight = {} if "method" in options else {"rtol": 1e-12, "atol": 1e-12}

    def end(x, w):
        return solve(lambda t, x: torch.tanh(x @ w), x, 0.0, 1.0, **options, **tight).x

    x = start[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(end, (x, weight), eps=1e-5, atol=1e-5)


def test_empty_batches_and_empty_ways(start):
    assert solve(pendulum, start[:0], 0.0, 1.0).x.shape == (0, 2)
    assert torch.equal(solve(pendulum, start, 1.0, 1.0).x, start)


def test_trajectory_passes_through_the_times(start, end):
    states = trajectory(pendulum, start, [0.0, 0.5, 2.0], rtol=1e-9, atol=1e-9)
    assert states.shape == (3, 7, 2)
    assert torch.equal(states[0], start)
    assert_close(states[-1], end, rtol=0, atol=1e-7)


def test_single_precision_and_inference_mode(start):
    with torch.inference_mode():
        done = solve(pendulum, start.float(), 0.0, 2.0, per_example=True)
    assert isinstance(done, Solution)
    assert done.x.dtype == torch.float32
