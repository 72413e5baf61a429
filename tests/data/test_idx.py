import gzip
import struct

import numpy as np
import pytest

from steadyflow import data


def write(path, array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    raw = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def folder(tmp_path, random):
    pixels, labels = random.integers(0, 256, (20, 5, 4)), np.arange(20) % 3
    write(tmp_path / "train-images-idx3-ubyte.gz", pixels)
    write(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    write(tmp_path / "t10k-images-idx3-ubyte", pixels[:6])
    write(tmp_path / "t10k-labels-idx1-ubyte", labels[:6])
    return tmp_path


def test_a_folder_keeps_the_official_test(folder):
    ds = data.open(str(folder), validation=0.2)
    assert (ds.kind, ds.event_shape, ds.bits) == ("image", (1, 5, 4), 8)
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (16, 4, 6)
    assert ds.test.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert ds.official == ["test"]


def test_one_file_finds_its_labels(folder):
    ds = data.open(str(folder / "train-images-idx3-ubyte.gz"))
    assert len(ds.train) + len(ds.validation) + len(ds.test) == 20
    assert ds.classes == ["0", "1", "2"]
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert data.open(str(folder / "t10k-images-idx3-ubyte")).classes is None
    with pytest.raises(data.DataError, match="'test' has no labels"):
        data.open(str(folder))


def test_a_file_with_and_without_gzip_counts_once(folder):
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    (folder / "train-images-idx3-ubyte").write_bytes(raw)
    assert len(data.open(str(folder)).test) == 6


def test_several_sets_in_a_folder_are_unclear(folder, random):
    write(folder / "letters-train-images-idx3-ubyte", random.integers(0, 9, (4, 5, 4)))
    with pytest.raises(data.DataError, match="several sets of images"):
        data.open(str(folder))


def test_a_file_of_labels_is_not_images(folder):
    with pytest.raises(data.DataError, match="is a file of labels"):
        data.open(str(folder / "train-labels-idx1-ubyte.gz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-7], "should have .* bytes .* it is damaged"),
        (lambda raw: raw + b"more", "should have .* bytes"),
        (lambda raw: raw[:9], "should have .* bytes|damaged"),
        (lambda raw: b"GIF89a" + raw, "is not an IDX file"),
        (lambda raw: b"", "is not an IDX file"),
        (lambda raw: raw[:3] + b"\1" + raw[4:], "1 axes, but images have"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "values of type 13"),
        (lambda raw: gzip.compress(raw)[:-20], "is a damaged gzip file"),
    ],
)
def test_damaged_files_are_named(folder, change, message):
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(data.DataError, match=rf"t10k-images-idx3-ubyte.*({message})"):
        data.open(str(path))


def test_mnist(shared):
    ds = data.open(shared("mnist"))
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (54_000, 6_000, 10_000)
    assert ds.test.y[:5].tolist() == [7, 2, 1, 0, 4]
