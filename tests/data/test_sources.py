import subprocess
import sys

import numpy as np
import pytest
import torch

from steadyflow import data
from steadyflow.errors import UsageError


def test_importing_the_room_imports_no_heavy_package():
    code = (
        "import sys, steadyflow.data.sources;"
        "heavy = {'torch', 'sklearn', 'PIL', 'pyarrow', 'huggingface_hub'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits():
    ds = data.open("digits")
    assert (ds.kind, ds.event_shape, ds.bits) == ("image", (1, 8, 8), 5)
    assert ds.train.x.dtype == torch.uint8
    assert ds.train.y.dtype == torch.int64
    assert int(ds.train.x.max()) == 16
    assert ds.classes == [str(i) for i in range(10)]
    assert len(ds.train) + len(ds.validation) + len(ds.test) == 1797
    assert int(data.open("digits", bits=4).train.x.max()) == 8


@pytest.mark.parametrize("name", data.names())
def test_every_bundled_name_opens_and_has_a_line_about_it(name):
    ds = data.open(name)
    assert ds.name == name
    assert len(data.names()[name]) > 20


def test_a_toy_has_n_points_from_the_seed():
    ds = data.open("moons", n=200, seed=5, validation=0.25, test=0)
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (150, 50, 0)
    assert ds.test.x.shape == (0, 2)
    assert ds.train.x.dtype == torch.float32
    assert ds.train.y is None


def test_the_description_is_plain_and_opens_the_same_data_again():
    import yaml

    ds = data.open("moons", n=200, seed=5)
    d = yaml.safe_load(yaml.safe_dump(ds.description()))
    again = data.open(d["source"], seed=d["seed"], **d["fractions"], **d["options"])
    assert again.description() == d
    again.require_unchanged(d)
    with pytest.raises(data.DataError, match="has changed since the run began"):
        data.open("moons", n=201, seed=5).require_unchanged(d)


def test_the_fingerprint_sees_values_labels_and_order(random):
    x, y = random.normal(size=(50, 2)), random.integers(0, 2, 50)
    one = data.from_arrays(x, y).fingerprint
    assert one == data.from_arrays(x.copy(), y).fingerprint
    assert one != data.from_arrays(x, 1 - y).fingerprint
    assert one != data.from_arrays(x[::-1], y[::-1]).fingerprint
    assert one != data.from_arrays(x, y, seed=1).fingerprint
    x[7, 1] += 1
    assert one != data.from_arrays(x, y).fingerprint


def test_describe_adds_statistics_of_the_training_examples():
    d = data.describe("digits")
    assert sum(d["class_counts"].values()) == d["sizes"]["train"]
    assert len(data.describe("moons", n=50)["statistics"]["mean"]) == 2


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("mons", {}, "unknown data source 'mons': did you mean 'moons'"),
        ("nowhere/table.csv", {}, "there is no file or folder 'nowhere/table.csv'"),
        ("table.csv", {}, "there is no file or folder 'table.csv'"),
        ("moons", {"size": 8}, "size=8 does not apply to 'moons', which takes n"),
        ("digits", {"label": "y"}, "does not apply to 'digits'"),
        ("moons", {"n": 0}, "n=0"),
        ("moons", {"bits": 5}, "bits=5 is for images"),
        ("digits", {"bits": 6}, "has 5 bits: give 1 to 5"),
        ("moons", {"validation": 1.0}, "together below 1"),
        ("hub:owner/name", {}, "should name the owner, the data set and a file"),
    ],
)
def test_a_wrong_call_is_answered_by_one_sentence(source, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        data.open(source, **options)
    assert "\n" not in str(caught.value)


def test_a_misspelt_path_names_the_file_beside_it(table):
    path = table("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"did you mean .*table.csv"):
        data.open(path.replace("table", "tabel"))


def test_a_foreign_file_and_an_empty_folder_say_what_is_known(table, tmp_path):
    with pytest.raises(data.DataError, match=r"give one of \.csv"):
        data.open(table("hello", "letter.docx"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DataError, match="a folder without images or IDX files"):
        data.open(str(tmp_path / "empty"))


def test_a_file_of_the_hub_is_opened_and_its_absence_explained(table, monkeypatch):
    import huggingface_hub

    path = table("a,b\n1,2\n2,3\n3,4\n4,5\n5,7\n")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: path)
    assert data.open("hub:owner/name/table.csv").columns == ["a", "b"]

    def offline(*args, **kwargs):
        raise OSError("no connection\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ConnectionError, match=r"hub \(no connection\).*give its path"):
        data.open("hub:owner/name/table.csv")


def test_as_dataset_takes_what_names_or_holds_data(random, table):
    ds = data.open("moons", n=100)
    assert data.as_dataset(ds) is ds
    assert data.as_dataset("moons", n=100).fingerprint == ds.fingerprint
    assert data.as_dataset([[0.0, 1], [1, 0], [2, 2], [3, 5]]).event_shape == (2,)
    x = random.normal(size=(30, 3))
    assert data.as_dataset(torch.tensor(x)).fingerprint == data.as_dataset(x).fingerprint
    assert data.as_dataset(torch.tensor(x).bfloat16()).event_shape == (3,)
    with pytest.raises(UsageError, match="open already"):
        data.as_dataset(ds, seed=1)
    with pytest.raises(UsageError, match="did you mean 'validation'"):
        data.as_dataset(x, validatoin=0.2)
    with pytest.raises(data.DataError, match="different lengths"):
        data.as_dataset([[1.0], [1.0, 2.0]])
    with pytest.raises(data.DataError, match="shape"):
        data.as_dataset(3)


def test_nothing_is_copied_without_need(random):
    for x in (random.normal(size=(9, 2)).astype("f4"), random.integers(0, 9, (9, 2, 2), "u1")):
        ds = data.from_arrays(x, validation=0, test=0)
        assert np.shares_memory(ds.train.x.numpy(), x)


def test_given_splits_are_kept(random):
    x, more = random.normal(size=(20, 2)), random.normal(size=(5, 2))
    ds = data.from_arrays(x, test_x=more, validation_x=more[:3])
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (20, 3, 5)
    assert ds.official == ["validation", "test"]
    assert np.allclose(ds.test.x.numpy(), more)
    with pytest.raises(data.DataError, match="different shapes"):
        data.from_arrays(x, test_x=more[:, :1])
    with pytest.raises(data.DataError, match="'test' has no labels"):
        data.from_arrays(x, np.arange(20) % 2, test_x=more)


def test_a_data_frame_gives_the_names_of_its_columns(random):
    class Frame:
        columns = ("a", "b")

        def __array__(self, dtype=None, copy=None):
            return np.arange(20.0).reshape(10, 2)

    assert data.from_arrays(Frame()).columns == ["a", "b"]
