import numpy as np
import pytest

from steadyflow import data

rows = np.random.default_rng(0).normal(size=(40, 3))


def with_value(value, row=4, column=1):
    x = rows.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (with_value(np.nan), r"column 'b' has missing \(NaN\) values, in 1 of 40 rows .* row 5"),
        (with_value(-np.inf), "column 'b' has infinite values, in 1 of 40 rows"),
        (with_value(1e300), "column 'b' has values beyond 3.4e38"),
        (np.full_like(rows, 7.0), r"column 'a', 'b', 'c' has one value only \(7"),
        (rows[:1], "1 rows are too few .* 4 or more rows are needed"),
        (rows[:0], "nothing in it"),
        (rows[:, :0], "nothing in it"),
        (rows + 1j, "type complex128"),
        (rows.astype(str), "type <U.* real numbers are expected"),
        (rows.astype(object), "type object"),
        (np.ma.masked_less(rows, 0), "values are masked"),
        (rows[:, 0], r"shape \(40,\).* vectors have shape \(N, D\)"),
        (np.zeros((2, 2, 2, 2, 2), "u1"), "reshape it"),
        (rows[:, :, None], "images are integers"),
        (np.zeros((40, 3), "u1"), "kind='vector' or kind='image'"),
        (np.zeros((9, 3, 8, 3), "u1"), "both axis 1 and axis 3 .* layout='NHWC'"),
        (np.zeros((9, 8, 8, 8), "u1"), "neither axis 1 nor axis 3"),
        (np.zeros((9, 8, 8, 3)), "pixels must be integers in 0..255"),
        (np.full((9, 8, 8), 300), "pixels run from 300 to 300"),
        (np.full((9, 8, 8), 5, "u1"), "every pixel of every image is 5"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(x, message):
    columns = ["a", "b", "c"] if x.ndim == 2 and x.shape[1] == 3 else None
    with pytest.raises(data.DataError, match=message) as caught:
        data.from_arrays(x, columns=columns)
    assert "\n" not in str(caught.value)


def test_a_column_without_a_name_is_called_by_its_number():
    with pytest.raises(data.DataError, match=r"column '0', '1' .* drop=\['0', '1'\]"):
        data.from_arrays(np.full((40, 2), 7.0))


def test_names_must_be_as_many_as_columns():
    with pytest.raises(data.DataError, match="2 names were given for 3 columns"):
        data.from_arrays(rows, columns=["a", "b"])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i2", "i8", "u4"])
def test_every_kind_of_number_becomes_float32(dtype):
    x = np.round(rows * 10).astype("i2").astype(dtype)
    ds = data.from_arrays(np.abs(x), validation=0, test=0)
    assert str(ds.train.x.dtype) == "torch.float32"
    assert np.array_equal(ds.train.x.numpy(), np.abs(x).astype("f4"))
    assert ds.integer_columns == [0, 1, 2]


def test_integer_columns_are_found_before_rounding_to_float32():
    x = rows.copy()
    x[:, 1] = np.arange(40)
    x[:, 2] = 1e9 + 100 * np.arange(40) + 0.5  # whole in float32, not in what was given
    assert data.from_arrays(x).integer_columns == [1]


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        ([0, 1, 3, 3], ["0", "1", "2", "3"], [0, 1, 3, 3]),
        ([1, 2, 3, 2], ["1", "2", "3"], [0, 1, 2, 1]),
        ([-1, 1, 1, -1], ["-1", "1"], [0, 1, 1, 0]),
        ([0, 900, 900, 0], ["0", "900"], [0, 1, 1, 0]),
        (["dog", "cat", "cat", "dog"], ["cat", "dog"], [1, 0, 0, 1]),
        (["10", "9", "9", "10"], ["9", "10"], [1, 0, 0, 1]),
        ([True, False, False, True], ["0", "1"], [1, 0, 0, 1]),
        ([1.0, 0.0, 0.0, 1.0], ["0", "1"], [1, 0, 0, 1]),
        ([[1], [0], [0], [1]], ["0", "1"], [1, 0, 0, 1]),
        (np.array(["a", "b", "b", "a"], dtype=object), ["a", "b"], [0, 1, 1, 0]),
    ],
)
def test_labels_become_codes_and_names(y, classes, codes):
    ds = data.from_arrays(rows[:4], y, validation=0, test=0)
    assert ds.classes == classes
    assert ds.train.y.tolist() == codes
    assert str(ds.train.y.dtype) == "torch.int64"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1], "4 examples but 2 labels"),
        ([0.5, 1, 2, 3], "labels must be classes"),
        ([0, 1, np.nan, 3], "labels must be classes"),
        (["a", "", "b", "b"], "1 of 4 labels are missing"),
        (np.zeros((4, 2)), "one class for each example"),
    ],
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(data.DataError, match=message):
        data.from_arrays(rows[:4], y, validation=0, test=0)
