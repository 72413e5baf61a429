import numpy as np
import pytest
from PIL import Image

from steadyflow import data
from steadyflow.errors import UsageError


@pytest.fixture
def write(tmp_path, random):
    """Writes an image of noise (or of one colour) and gives its path."""

    def one(name, size=(6, 5), mode="RGB", colour=None):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        image = Image.fromarray(noise[..., 0] if mode == "L" else noise[..., : len(mode)])
        (image if colour is None else Image.new(mode, size, colour)).save(path)
        return path

    return one


def test_a_flat_folder_has_no_labels(write, tmp_path):
    paths = [write(f"{i}.png") for i in range(5)]
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / ".hidden.png").write_text("not an image")
    ds = data.open(str(tmp_path / "images"), validation=0, test=0)
    assert (ds.kind, ds.event_shape, ds.classes, ds.bits) == ("image", (3, 5, 6), None, 8)
    expected = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])
    assert np.array_equal(ds.train.x.numpy(), expected)


def test_sub_folders_are_classes(write, tmp_path):
    for i in range(3):
        write(f"dog/{i}.png"), write(f"cat/more/{i}.jpg")
    ds = data.open(str(tmp_path / "images"), validation=0, test=0)
    assert ds.classes == ["cat", "dog"]
    assert ds.train.y.tolist() == [0, 0, 0, 1, 1, 1]


def test_folders_of_splits_are_kept(write, tmp_path):
    for split, n in (("train", 5), ("val", 1), ("test", 2)):
        for i in range(n):
            write(f"{split}/cat/{i}.png"), write(f"{split}/dog/{i}.png")
    ds = data.open(str(tmp_path / "images"))
    assert (len(ds.train), len(ds.validation), len(ds.test)) == (10, 2, 4)
    assert ds.classes == ["cat", "dog"]


def test_gray_and_colour(write, tmp_path):
    for i in range(4):
        write(f"{i}.png", mode="L")
    folder = str(tmp_path / "images")
    assert data.open(folder).event_shape == (1, 5, 6)
    write("4.png")
    assert data.open(folder).event_shape == (3, 5, 6)
    assert data.open(folder, gray=True).event_shape == (1, 5, 6)


def test_sizes_that_differ_need_a_size(write, tmp_path):
    for i in range(4):
        write(f"{i}.png")
    write("wide.png", size=(9, 5))
    folder = str(tmp_path / "images")
    with pytest.raises(data.DataError, match=r"0.png is 6 x 5 .* wide.png 9 x 5: .* size=5"):
        data.open(folder)
    assert data.open(folder, size=4).event_shape == (3, 4, 4)
    with pytest.raises(UsageError, match="size=0"):
        data.open(folder, size=0)


def test_the_middle_is_cropped(write, tmp_path):
    path = write("a.png", size=(12, 4), colour=(0, 0, 0))
    image = Image.open(path)
    image.paste((255, 255, 255), (4, 0, 8, 4))
    image.save(path)
    write("b.png", size=(12, 4))
    ds = data.open(str(tmp_path / "images"), size=4, validation=0, test=0)
    assert int(ds.train.x[0].min()) == 255


def test_what_is_transparent_is_white_and_what_is_turned_is_turned_back(write, tmp_path):
    write("a.png", size=(6, 5), mode="RGBA", colour=(0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 6), "red").save(tmp_path / "images" / "b.png", exif=exif)
    ds = data.open(str(tmp_path / "images"), validation=0, test=0)
    assert ds.event_shape == (3, 5, 6)
    assert int(ds.train.x[0].min()) == 255


def test_an_unreadable_image_is_named(write, tmp_path):
    path = write("broken.png", size=(40, 40))
    raw = path.read_bytes()
    write("good.png", size=(40, 40))
    for damage in (
        raw[: len(raw) // 2],
        raw[:20],
        b"hello",
        b"",
        raw[:60] + b"\0" * 80 + raw[140:],
    ):
        path.write_bytes(damage)
        with pytest.raises(data.DataError, match=r"broken.png is not an image that can be read"):
            data.open(str(tmp_path / "images"))


def test_sixteen_bits_are_refused(write, tmp_path):
    path = write("deep.png")
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save(path)
    with pytest.raises(data.DataError, match=r"deep.png has more than 8 bits"):
        data.open(str(tmp_path / "images"))


def test_images_beside_and_inside_folders_are_unclear(write, tmp_path):
    write("a.png"), write("cat/b.png")
    with pytest.raises(data.DataError, match="both beside and inside its sub-folders 'cat'"):
        data.open(str(tmp_path / "images"))


def test_fewer_bits_and_labels_do_not_mix_up(write, tmp_path):
    for i in range(4):
        write(f"{i}.png")
    ds = data.open(str(tmp_path / "images"), bits=3)
    assert int(ds.train.x.max()) <= 7
    with pytest.raises(UsageError, match="label='a' does not apply"):
        data.open(str(tmp_path / "images"), label="a")
