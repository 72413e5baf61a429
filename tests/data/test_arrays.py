import numpy as np
import pytest

from steadyflow import data
from steadyflow.errors import UsageError


@pytest.fixture
def pixels(random):
    return random.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return str(path)


def test_npy_vectors(tmp_path, random):
    x = random.normal(size=(20, 4))
    np.save(tmp_path / "x.npy", x)
    ds = data.open(str(tmp_path / "x.npy"), validation=0, test=0)
    assert ds.kind == "vector"
    assert ds.columns is None
    assert np.allclose(ds.train.x.numpy(), x)
    two = data.open(str(tmp_path / "x.npy"), columns=["3", "0"], validation=0, test=0)
    assert np.allclose(two.train.x.numpy(), x[:, [3, 0]])
    assert two.columns == ["3", "0"]


@pytest.mark.parametrize(
    ("turn", "shape"),
    [
        (lambda x: x, (3, 6, 5)),
        (lambda x: x.transpose(0, 3, 1, 2), (3, 6, 5)),
        (lambda x: x[..., 0], (1, 6, 5)),
        (lambda x: x[..., :1], (1, 6, 5)),
        (lambda x: x.astype("i8"), (3, 6, 5)),
    ],
)
def test_the_channels_are_found(tmp_path, pixels, turn, shape):
    np.save(tmp_path / "x.npy", turn(pixels))
    ds = data.open(str(tmp_path / "x.npy"), validation=0, test=0)
    assert ds.event_shape == shape
    assert np.array_equal(ds.train.x.numpy(), pixels.transpose(0, 3, 1, 2)[:, : shape[0]])


def test_layout_and_kind_decide_what_is_unclear(pixels, random):
    unclear = pixels[:, :3]
    assert data.from_arrays(unclear, layout="NHWC").event_shape == (3, 3, 5)
    assert data.from_arrays(unclear, layout="NCHW").event_shape == (3, 5, 3)
    flat = random.integers(0, 256, (9, 16), dtype=np.uint8)
    assert data.from_arrays(flat, kind="image").event_shape == (1, 4, 4)
    assert data.from_arrays(flat, kind="vector").event_shape == (16,)
    with pytest.raises(data.DataError, match="15 pixels an image are not a square"):
        data.from_arrays(flat[:, :15], kind="image")
    with pytest.raises(UsageError, match="did you mean 'NHWC'"):
        data.from_arrays(unclear, layout="NHCW")
    with pytest.raises(UsageError, match="did you mean 'image'"):
        data.from_arrays(unclear, kind="images")


def test_bits(pixels):
    assert data.from_arrays(pixels).bits == 8
    assert data.from_arrays(pixels > 9).bits == 1
    ds = data.from_arrays(pixels >> 3, bits=5)
    assert ds.bits == 5
    with pytest.raises(data.DataError, match=r"with 5 bits they must be in 0\.\.31"):
        data.from_arrays(pixels, bits=5)
    with pytest.raises(UsageError, match="bits=9"):
        data.from_arrays(pixels, bits=9)


def test_fewer_bits_of_a_file(tmp_path, pixels):
    path = save(tmp_path / "x.npz", x=pixels)
    full, five = (data.open(path, bits=b, validation=0, test=0) for b in (None, 5))
    assert np.array_equal(five.train.x.numpy(), full.train.x.numpy() >> 3)
    assert five.description()["options"] == {"bits": 5}


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("train", "y_train", "valid", "y_valid", "test", "y_test"),
    ],
)
def test_npz_splits_are_kept(tmp_path, pixels, names):
    parts = (pixels, np.arange(12) % 3, pixels[:4], [0, 1, 2, 0], pixels[4:7], [0, 1, 2])
    ds = data.open(save(tmp_path / "x.npz", **dict(zip(names, parts, strict=True))))
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (12, 4, 3)
    assert ds.test.y.tolist() == [0, 1, 2]
    assert ds.official == ["validation", "test"]


def test_npz_with_a_test_only_carves_validation(tmp_path, pixels):
    ds = data.open(save(tmp_path / "x.npz", x_train=pixels, x_test=pixels[:3]), validation=0.25)
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (9, 3, 3)
    assert ds.official == ["test"]


def test_npz_with_names_and_labels(tmp_path, random):
    x = random.normal(size=(20, 2))
    path = save(tmp_path / "x.npz", X=x, y=np.arange(20) % 2, other=x[:, 0], names=["u", "v"])
    ds = data.open(path)
    assert ds.columns == ["u", "v"]
    assert ds.classes == ["0", "1"]
    assert data.open(path, drop=["u"]).columns == ["v"]
    with pytest.raises(UsageError, match="did you mean 'u'"):
        data.open(path, drop=["uu"])


def test_npz_names_can_be_given(tmp_path, pixels):
    path = save(tmp_path / "x.npz", faces=pixels, smile=np.arange(12) % 2)
    with pytest.raises(data.DataError, match=r"the arrays faces \(12, 6, 5, 3\).* with key="):
        data.open(path)
    ds = data.open(path, key="faces", label="smile")
    assert ds.classes == ["0", "1"]
    with pytest.raises(UsageError, match="did you mean 'faces'"):
        data.open(path, key="face")
    path = save(tmp_path / "y.npz", x_train=pixels, smile_train=np.arange(12) % 2)
    assert data.open(path).classes is None
    assert data.open(path, label="smile").classes == ["0", "1"]
    with pytest.raises(UsageError, match=r"unknown array .* 'frown_train'"):
        data.open(path, label="frown")
    with pytest.raises(UsageError, match="holds images"):
        data.open(path, drop=["0"])


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}, None]))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(data.DataError, match="can run code"):
            data.open(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("keep", [0, 4, 60, 200, 2000])
def test_damaged_files_are_named(tmp_path, random, name, keep):
    path = tmp_path / name
    x = random.normal(size=(100, 4))
    if name == "x.npy":
        np.save(path, x)
    else:
        np.savez(path, x=x)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(data.DataError, match=rf"{name} is (damaged|not a)") as caught:
        data.open(str(path))
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path, random):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=random.normal(size=(100, 4)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)
    with pytest.raises(data.DataError, match=r"x.npz is damaged"):
        data.open(str(path))


def test_the_shared_arrays_open(shared):
    ds = data.open(shared("uci_small/red_wine.npz"))
    assert ds.event_shape == (11,)
    assert ds.columns[0] == "fixed acidity"
    ds = data.open(shared("bsds300/bsds300_patches8.npz"))
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (200_000, 10_000, 50_000)
    ds = data.open(shared("faces/lfw_faces_gray_64.npz"), label="smile")
    assert ds.event_shape == (1, 64, 64)
    assert len(ds.test) == 500
    ds = data.open(shared("cifar10_subset/cifar10_subset.npz"))
    assert ds.event_shape == (3, 32, 32)
    assert len(ds.classes) == 10
