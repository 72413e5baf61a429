"""The interface of every model: its config, its conditions, and its two files."""

import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from steadyflow.models import MODELS, GenerativeModel, model_class
from steadyflow.models.nice import NICE
from steadyflow.models.realnvp import RealNVP

SMALL = {"hidden_features": [8, 8], "couplings": 2}


def small(**config):
    return RealNVP(**{"event_shape": [2], **SMALL, **config})


# config


def test_the_config_is_the_constructors_arguments_with_their_defaults():
    model = NICE(event_shape=(4,), hidden_features=8, hidden_layers=1)
    assert model.config == {
        "event_shape": [4],
        "num_classes": None,
        "context_features": None,
        "couplings": 4,
        "hidden_features": 8,
        "hidden_layers": 1,
        "base": "logistic",
        "bits": 8,
    }
    assert json.loads(json.dumps(model.config)) == model.config
    again = NICE(**model.config)
    assert again.config == model.config


def test_numbers_of_numpy_and_torch_become_plain():
    model = small(
        event_shape=np.zeros((5, 3)).shape[1:],
        num_classes=np.int64(4),
        bound=np.float32(1.5),
        hidden_features=torch.Size([8, 8]),
    )
    assert model.config["event_shape"] == [3]
    assert model.config["num_classes"] == 4
    assert type(model.config["num_classes"]) is int
    assert model.config["bound"] == 1.5
    assert model.config["hidden_features"] == [8, 8]


def test_a_subclass_records_its_own_arguments():
    class Narrow(RealNVP):
        name = "narrow"

        def __init__(self, *, event_shape, width: int = 4):
            super().__init__(event_shape=event_shape, hidden_features=[width], couplings=2)

    class Same(Narrow):
        name = "same"

    for model in (Narrow(event_shape=[2], width=8), Same(event_shape=[2], width=8)):
        assert model.config == {"event_shape": [2], "width": 8}


def test_a_constructor_takes_keywords_only_and_says_so():
    with pytest.raises(TypeError):
        NICE([2])
    with pytest.raises(TypeError, match="hidden_feature"):
        NICE(event_shape=[2], hidden_feature=8)
    with pytest.raises(TypeError, match="event_shape"):
        NICE()


@pytest.mark.parametrize("shape", [[], [0], [2, 3], [1, 2, 3, 4], 5, [2.5], "ab", None, [-1]])
def test_wrong_event_shapes_are_named(shape):
    with pytest.raises(ValueError, match="event_shape must be"):
        RealNVP(event_shape=shape)


@pytest.mark.parametrize("config", [{"num_classes": 0}, {"context_features": -1}])
def test_wrong_numbers_of_classes_are_named(config):
    with pytest.raises(ValueError, match="at least 1"):
        small(**config)


def test_classes_and_contexts_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        small(num_classes=3, context_features=2)


def test_an_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'realnvp'"):
        model_class("realnpv")
    for name in MODELS:
        assert model_class(name).name == name


# conditions


def test_labels_are_one_hot():
    model = small(num_classes=3)
    assert_close(model.condition(torch.tensor([2, 0]), 2), torch.eye(3)[[2, 0]])
    for one in (torch.tensor(1), torch.tensor([1])):
        assert_close(model.condition(one, 4), torch.eye(3)[[1]].expand(4, 3))
    for dtype in (torch.uint8, torch.int32):
        assert model.log_prob(torch.zeros(2, 2), torch.tensor([0, 2], dtype=dtype)).shape == (2,)


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (None, "needs class labels, integers from 0 to 2"),
        (torch.tensor([0, 1, 3, 0]), "label 3 is out of range: this model knows 0 to 2"),
        (torch.tensor([0, -1, 2, 0]), "label -1 is out of range"),
        (torch.tensor([0.0, 1, 2, 0]), r"must be integers of shape \(4,\), got torch.float32"),
        (torch.zeros(4, 3, dtype=torch.int64), r"of shape \(4, 3\)"),
        (torch.zeros(3, dtype=torch.int64), "4 examples need 4 rows of context, got 3"),
    ],
)
def test_wrong_labels_are_named(context, words):
    model = small(num_classes=3)
    x = torch.zeros(4, 2)
    for use in (model.log_prob, model.loss, model.encode, model.decode, model.initialize):
        with pytest.raises(ValueError, match=words):
            use(x, context)
    with pytest.raises(ValueError, match=words):
        model.sample(4, context)


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (None, "needs a context of 3 numbers"),
        (torch.zeros(4, 2), r"shape \(4, 3\), got \(4, 2\)"),
        (torch.zeros(3, 3), "4 examples need 4 rows of context, got 3"),
        (torch.zeros(2, 4, 3), r"got \(2, 4, 3\)"),
    ],
)
def test_wrong_contexts_are_named(context, words):
    model = small(context_features=3)
    with pytest.raises(ValueError, match=words):
        model.log_prob(torch.zeros(4, 2), context)
    with pytest.raises(ValueError, match=words):
        model.sample(4, context)


def test_a_context_that_nobody_wants_is_refused():
    for context in (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"unconditional.*num_classes or context_features"):
            small().log_prob(torch.zeros(4, 2), context)


def test_the_likelihood_is_named():
    assert small().likelihood == "exact"
    assert RealNVP(event_shape=[1, 4, 4], hidden_channels=4).likelihood == "bound"
    assert RealNVP(event_shape=[1, 4, 4], hidden_channels=4, bits=0).likelihood == "exact"


# files


@pytest.fixture
def saved(tmp_path):
    """A folder with a saved RealNVP."""
    small().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_two_files_and_nothing_else(saved):
    assert sorted(os.listdir(saved)) == ["config.json", "model.safetensors"]
    assert json.loads((saved / "config.json").read_text())["model"] == "realnvp"
    assert os.listdir(saved.parent) == ["model"]


def test_any_model_is_read_by_its_own_class_or_the_general_one(saved):
    for reader in (GenerativeModel, RealNVP):
        assert type(reader.from_pretrained(saved)) is RealNVP
        assert type(reader.from_pretrained(str(saved))) is RealNVP
    with pytest.raises(ValueError, match="holds a RealNVP, not a NICE"):
        NICE.from_pretrained(saved)


def test_saving_replaces_the_old_model(saved):
    other = small(event_shape=[3])
    other.save_pretrained(saved)
    assert GenerativeModel.from_pretrained(saved).event_shape == (3,)


def test_saving_keeps_what_else_lies_in_the_folder(saved):
    (saved / "README.md").write_text("mine")
    (saved / "notes").mkdir()
    small(event_shape=[3]).save_pretrained(saved)
    assert (saved / "README.md").read_text() == "mine"
    assert (saved / "notes").is_dir()
    assert GenerativeModel.from_pretrained(saved).event_shape == (3,)
    empty = saved / "notes"
    small().save_pretrained(empty)
    assert GenerativeModel.from_pretrained(empty).event_shape == (2,)


def test_saving_into_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        small().save_pretrained(".")
        assert type(GenerativeModel.from_pretrained(".")) is RealNVP


@pytest.mark.parametrize("others", [False, True])
def test_a_full_disk_loses_nothing(saved, monkeypatch, others):
    if others:
        (saved / "README.md").write_text("mine")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        small(event_shape=[3]).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert os.listdir(saved.parent) == ["model"]


def test_a_replacement_that_was_cut_off_is_read_all_the_same(saved):
    os.replace(saved, saved.with_name(".model.old"))
    assert type(GenerativeModel.from_pretrained(saved)) is RealNVP


def test_a_missing_folder_is_named(tmp_path):
    for source in (tmp_path / "nowhere", str(tmp_path / "no" / "where"), "nowhere", "./nowhere"):
        with pytest.raises(FileNotFoundError, match=r"nowhere|where"):
            GenerativeModel.from_pretrained(source)


def test_a_hub_that_can_not_be_reached_is_one_sentence(monkeypatch):
    import huggingface_hub

    def offline(name, **options):
        assert name == "owner/model"
        assert options["allow_patterns"] == ["config.json", "model.safetensors"]
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=r"'owner/model' is neither a folder.*no network"):
        GenerativeModel.from_pretrained("owner/model")


def test_a_model_comes_from_the_hub(saved, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(saved))
    assert type(GenerativeModel.from_pretrained("owner/model")) is RealNVP


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, missing):
    (saved / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"is not a saved model: it has no {missing}"):
        GenerativeModel.from_pretrained(saved)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"model_type": "bert"}',
        b'{"model": 3, "config": {}}',
        b'{"model": "nice", "config": []}',
    ],
)
def test_a_foreign_config_is_refused(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="was not written by steadyflow, or is damaged"):
        GenerativeModel.from_pretrained(saved)


@pytest.mark.parametrize("name", ["realnpv", "../realnvp", "os", "steadyflow.models.nice", ""])
def test_a_model_name_is_only_looked_up_in_the_list(saved, name):
    edit(saved, lambda content: content.update(model=name))
    with pytest.raises(ValueError, match="unknown model"):
        GenerativeModel.from_pretrained(saved)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"event_shape": [3]}, {"couplings": 3}])
def test_a_config_that_does_not_fit_is_refused(saved, change):
    edit(saved, lambda content: content["config"].update(change))
    with pytest.raises(ValueError, match="does not fit"):
        GenerativeModel.from_pretrained(saved)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_damaged_weights_are_refused(saved, cut):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        GenerativeModel.from_pretrained(saved)


def test_no_pickle_is_ever_opened(saved):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a stranger's code has run",))

    (saved / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        GenerativeModel.from_pretrained(saved)


def test_weights_of_another_model_are_refused(saved, tmp_path):
    NICE(event_shape=[2], hidden_features=4, hidden_layers=1).save_pretrained(tmp_path / "other")
    os.replace(tmp_path / "other" / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit its config"):
        GenerativeModel.from_pretrained(saved)


def test_a_double_model_stays_double(tmp_path):
    model = small().double()
    torch.nn.init.normal_(model.flow.bijection[1].conditioner.layers[-1].weight)
    model.save_pretrained(tmp_path / "model")
    other = GenerativeModel.from_pretrained(tmp_path / "model")
    x = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(model.log_prob(x), other.log_prob(x))


def test_the_interface_is_abstract():
    model = GenerativeModel(event_shape=[2])
    for use in (lambda: model.loss(None), lambda: model.log_prob(None), lambda: model.sample(1)):
        with pytest.raises(NotImplementedError):
            use()
    with pytest.raises(NotImplementedError):
        _ = model.likelihood
    assert model.initialize(None) is None
