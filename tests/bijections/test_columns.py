"""Tables as they are: each kind of column keeps its promise."""

import math

import pytest
import torch
from torch.testing import assert_close

from steadyflow import MAF, SplineFlow
from steadyflow.bijections import Columns

KINDS = [
    {"name": "age", "width": 1.0, "origin": 18.0},
    {"name": "country", "value": 3.0},
    {"name": "share", "low": 0.0, "high": 1.0},
    {"name": "height"},
    {"name": "income", "low": 0.0},
]


def rows(n, generator, dtype=torch.float64):
    x = torch.randn(n, 5, generator=generator, dtype=dtype)
    x[:, 0] = torch.randint(18, 80, (n,), generator=generator).to(dtype)
    x[:, 1] = 3
    x[:, 2] = torch.rand(n, generator=generator, dtype=dtype) * 0.98 + 0.01
    x[:, 4] = x[:, 4].exp()
    return x


def test_rows_become_reals_and_come_back(generator):
    columns, x = Columns(KINDS), rows(200, generator)
    y, change = columns(x)
    assert y.shape == (200, 4)
    assert (change == 0).all()
    assert ((y[:, 0] + 18 - x[:, 0]).abs() <= 0.5).all()
    assert_close(columns.inverse(y), x)
    assert_close(columns.middle(x)[:, 1:], x[:, 2:])
    assert not columns.exact


@pytest.mark.parametrize(("column", "value"), [(1, 2.0), (2, 1.0), (2, -0.1), (4, 0.0)])
def test_rows_that_can_not_be_have_probability_zero(column, value, generator):
    model, x = MAF(event_shape=[5], columns=KINDS), rows(50, generator, torch.float32)
    model.initialize(x)
    x[7, column] = value
    found = model.log_prob(x)
    assert found[7] == -math.inf
    assert found.isfinite().sum() == 49
    assert not found.isnan().any()


def test_a_missing_value_is_said_with_its_column(generator):
    model, x = MAF(event_shape=[5], columns=KINDS), rows(9, generator, torch.float32)
    x[4, 2] = math.nan
    with pytest.raises(ValueError, match=r"column 'share' has the value nan in row 5"):
        model.log_prob(x)


@torch.no_grad()
@pytest.mark.parametrize("make", [MAF, SplineFlow])
def test_draws_are_rows_of_the_table(make, generator):
    model, x = make(event_shape=[5], columns=KINDS), rows(400, generator, torch.float32)
    model.initialize(x)
    drawn = model.sample(500)
    assert (drawn[:, 0] == drawn[:, 0].round()).all()
    assert (drawn[:, 1] == 3).all()
    assert ((drawn[:, 2] > 0) & (drawn[:, 2] < 1)).all()
    assert (drawn[:, 4] > 0).all()
    assert model.likelihood == "bound"
    assert model.log_prob(drawn).isfinite().all()


@torch.no_grad()
def test_probabilities_of_integers_add_up(generator):
    torch.manual_seed(0)
    columns = [{"name": "n", "width": 1.0, "origin": 0.0}]
    model = MAF(event_shape=[1], columns=columns, transforms=2).double()
    for p in model.parameters():
        p.normal_(std=0.3, generator=generator)
    model.flow.bijection.bijection[0].std.fill_(3.0)
    n = torch.arange(-40.0, 40.0, dtype=torch.float64)[:, None]
    draws = torch.stack([model.log_prob(n) for _ in range(400)])
    assert (draws.logsumexp(0) - math.log(400)).exp().sum() == pytest.approx(1, abs=0.01)
    assert model.likelihood == "bound"


@torch.no_grad()
def test_a_bounded_density_is_one_inside_its_bounds(generator):
    columns = [{"name": "a", "low": 0.0, "high": 2.0}]
    model = MAF(event_shape=[1], columns=columns, transforms=2).double()
    for p in model.parameters():
        p.normal_(std=0.3, generator=generator)
    way = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    x, slope = 2 * way.sigmoid()[:, None], 2 * way.sigmoid() * (-way).sigmoid()
    assert (model.log_prob(x).exp() * slope).sum() * 0.003 == pytest.approx(1, abs=1e-6)
    assert model.likelihood == "exact"
    assert model.check(x[5000:15000:500]).ok


def test_saved_and_loaded(tmp_path, generator):
    model, x = SplineFlow(event_shape=[5], columns=KINDS), rows(60, generator, torch.float32)
    model.initialize(x)
    model.save_pretrained(tmp_path / "m")
    again = SplineFlow.from_pretrained(tmp_path / "m")
    assert again.config["columns"] == KINDS
    torch.manual_seed(1)
    expected = model.log_prob(x)
    torch.manual_seed(1)
    assert_close(again.log_prob(x), expected)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([{"name": "a", "widht": 1.0}, {}], "widht"),
        ([{"name": "a", "width": 0.0}, {}], "'a': its width"),
        ([{"name": "a", "low": 1.0, "high": 1.0}, {}], "'a': its lower bound"),
        ([{"value": 1.0}, {"value": 2.0}], "all columns are constant"),
        ([{}], "1 columns were described"),
    ],
)
def test_wrong_descriptions(columns, said):
    with pytest.raises(ValueError, match=said):
        MAF(event_shape=[2], columns=columns)
