"""The zoo is complete: whatever is public is under the exactness tests."""

import pytest
from zoo import BIJECTIONS, MODELS, SPLITS

import steadyflow.bijections
from steadyflow.bijections import Bijection, Split, Transform
from steadyflow.models import MODELS as REGISTERED
from steadyflow.models import model_class
from steadyflow.models.flow_model import FlowModel


def public(base: type) -> list[type]:
    """The concrete classes of `base` that the package offers."""
    named = [getattr(steadyflow.bijections, name) for name in steadyflow.bijections.__all__]
    return [c for c in named if isinstance(c, type) and issubclass(c, base) and c is not base]


@pytest.mark.parametrize("wanted", public(Bijection))
def test_every_bijection_is_in_the_zoo(wanted):
    present = {type(part) for case in BIJECTIONS.values() for part in case.build().modules()}
    assert wanted in present, f"add {wanted.__name__} to BIJECTIONS in tests/zoo.py"


@pytest.mark.parametrize("wanted", public(Transform))
def test_every_transform_is_in_the_zoo(wanted):
    cases = [*BIJECTIONS.values(), *MODELS.values()]
    parts = [part for case in cases for part in case.build().modules()]
    present = {type(part.transform) for part in parts if hasattr(part, "transform")}
    assert wanted in present, f"add {wanted.__name__} to TRANSFORMS or BIJECTIONS in tests/zoo.py"


@pytest.mark.parametrize("wanted", public(Split))
def test_every_split_is_in_the_zoo(wanted):
    present = {type(build(False)) for build, _ in SPLITS.values()}
    assert wanted in present, f"add {wanted.__name__} to SPLITS in tests/zoo.py"


@pytest.mark.parametrize("name", REGISTERED)
def test_every_flow_model_is_in_the_zoo(name):
    wanted = model_class(name)
    if not issubclass(wanted, FlowModel):
        pytest.skip(f"{wanted.__name__} is not one flow: it has exactness tests of its own")
    present = {type(case.build()) for case in MODELS.values()}
    assert wanted in present, f"add {wanted.__name__} to MODELS in tests/zoo.py"
