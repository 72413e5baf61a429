"""The package from outside: its names, a light import that changes nothing, examples that run."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import steadyflow

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(steadyflow.__path__, "steadyflow.")
    if not module.name.endswith("__main__")
)


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_is_there():
    for name in steadyflow.__all__:
        assert getattr(steadyflow, name).__name__ == name
        assert name in dir(steadyflow)
    assert steadyflow.__version__
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = steadyflow.Nonsense


@pytest.mark.parametrize("module", ["steadyflow.bijections", "steadyflow.networks"])
def test_every_name_of_a_package_is_there(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        assert hasattr(package, name)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("models.model", "FlowModel CONFIG WEIGHTS"),
        ("models.energy", "flattened steady_weights"),
        ("models.probability_flow", "MatchedNormal Normalization Shrinking"),
        ("networks.lipschitz", "CLipSwish LipSwish LipschitzLayer lipschitz_activation"),
        ("networks.fused_masked", "hooked ordinary plain"),
        ("paths", "DDPM EDM Path canonical_field make_path rows"),
        ("solvers.mcmc", "KERNELS"),
    ],
)
def test_names_that_have_moved_are_still_where_they_were(module, names):
    module = importlib.import_module(f"steadyflow.{module}")
    for name in names.split():
        assert hasattr(module, name)
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = module.Nonsense


def test_models_are_found_by_their_names():
    import steadyflow.models as models

    for name, entry in models.MODELS.items():
        found = models.model_class(name)
        assert found.__name__ == entry[1]
        assert getattr(models, found.__name__) is found
        assert found.__name__ in dir(models)
        assert found.__name__ in steadyflow.__all__
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = models.Nonsense


def test_importing_the_package_is_light():
    heavy = ["torch", "lightning", "numpy", "matplotlib", "sklearn", "huggingface_hub"]
    code = f"import sys, steadyflow; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"


def test_the_models_do_not_bring_the_trainer():
    heavy = ["lightning", "matplotlib", "sklearn", "huggingface_hub", "pandas"]
    code = f"""
import sys
from steadyflow import Flow, RealNVP
print([module for module in {heavy} if module in sys.modules])
"""
    assert run(code) == "[]"


def test_importing_everything_changes_no_global_state():
    names = [name for name in MODULES if ".training" not in name and ".cli" not in name]
    code = f"""
import importlib, random, warnings
import numpy, sklearn.base, torch  # scikit-learn adds a filter for its own warnings
from torch.distributions import Distribution
torch.manual_seed(1); numpy.random.seed(1); random.seed(1)
def state():
    return (
        Distribution._Distribution__default_validate_args
        if hasattr(Distribution, "_Distribution__default_validate_args")
        else Distribution._validate_args,
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.get_default_device(), torch.backends.cudnn.benchmark,
        torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate(),
        numpy.geterr(), list(warnings.filters), torch._C._get_cpu_capability(),
    )
before = state()
for name in {names}:
    importlib.import_module(name)
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    assert run(code) == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not results.failed


@pytest.mark.parametrize("name", MODULES)
def test_public_things_say_what_they_are(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for thing, value in vars(module).items():
        own = getattr(value, "__module__", None) == name
        if own and not thing.startswith("_") and (inspect.isclass(value) or callable(value)):
            assert value.__doc__, f"{name}.{thing} has no docstring"
