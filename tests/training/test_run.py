import pytest
import torch

from steadyflow import RealNVP, data
from steadyflow.data import DataError
from steadyflow.errors import UsageError
from steadyflow.training import Run, TrainingOptions, load
from steadyflow.training.run import describe


@pytest.fixture
def record(points, small):
    return describe(small(), points, TrainingOptions().plain(), "steadyflow train")


def test_says_what_was_trained_and_how(tmp_path, record, points):
    Run.create(tmp_path / "run", record)
    config = Run.open(tmp_path / "run").config
    assert config == record
    assert config["model"]["name"] == "realnvp"
    assert config["data"]["fingerprint"] == points.fingerprint
    assert config["command"] == "steadyflow train"
    assert {"steadyflow", "torch", "seed", "training"} <= set(config)


def test_opens_the_same_data_again(tmp_path, record, points):
    reopened = Run.create(tmp_path / "run", record).data()
    assert torch.equal(reopened.test.x, points.test.x)


def test_notices_that_the_data_changed(tmp_path, small):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(50)))
    model = small()
    record = describe(model, data.open(str(table)), TrainingOptions().plain())
    run = Run.create(tmp_path / "run", record)
    assert len(run.data().train) == 40
    table.write_text(table.read_text() + "9,9\n")
    with pytest.raises(DataError, match="has changed since the run began"):
        run.data()


def test_data_in_memory_can_not_be_opened_again(tmp_path, small, labelled):
    record = describe(small(), labelled, TrainingOptions().plain())
    with pytest.raises(UsageError, match=r"in memory .*two classes.*: give the data"):
        Run.create(tmp_path / "run", record).data()


def test_a_run_is_not_replaced_unless_asked(tmp_path, record):
    run = Run.create(tmp_path / "run", record)
    run.path("samples.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"--resume.*--overwrite.*another folder"):
        Run.create(tmp_path / "run", record)
    Run.create(tmp_path / "run", record, overwrite=True)
    assert not run.path("samples.png").exists()


def test_a_folder_of_something_else_is_never_deleted(tmp_path, record):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        Run.create(tmp_path, record, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(UsageError, match="is a file"):
        Run.create(tmp_path / "thesis.tex", record)


def test_an_empty_folder_is_taken(tmp_path, record):
    assert Run.create(tmp_path, record).path("config.yaml").is_file()


def test_what_is_not_a_run_suggests_one(tmp_path, record):
    Run.create(tmp_path / "moons", record)
    with pytest.raises(UsageError, match=r"there is no run .*moon; did you mean .*moons\?"):
        Run.open(tmp_path / "moon")
    with pytest.raises(UsageError, match=r"is not a run: it has no config\.yaml; did you mean"):
        Run.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[1, 2]", "model: realnvp", "a: [", "!!python/name:x"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="not written by steadyflow, or is damaged"):
        Run.open(tmp_path)


def test_without_weights_there_is_no_model(tmp_path, record):
    with pytest.raises(FileNotFoundError, match="no trained model yet"):
        Run.create(tmp_path / "run", record).model()


def test_load_takes_a_run_or_a_saved_model(tmp_path, record, small):
    run = Run.create(tmp_path / "run", record)
    model = small()
    model.save_pretrained(run.path("model"))
    for source in (tmp_path / "run", str(tmp_path / "run"), run, run.path("model")):
        loaded = load(source)
        assert isinstance(loaded, RealNVP)
        assert not loaded.training
    with pytest.raises(UsageError, match="is not a run"):
        load(tmp_path)
    with pytest.raises((UsageError, FileNotFoundError), match="there is no"):
        load(tmp_path / "nothing")
