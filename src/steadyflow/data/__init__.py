"""Naming, opening, checking and splitting data.

One string names a source; `open` gives it as a `Dataset` with train, validation and test splits:

    data.open("moons")                      a toy, drawn from the seed
    data.open("digits")                     images that come with scikit-learn
    data.open("table.csv", label="class")   a table; also .parquet, .npy, .npz
    data.open("photos/", size=32)           a folder of images, or of MNIST's IDX files
    data.from_arrays(x, y)                  what is in memory already

Everything is checked here, once: what comes out is finite, has one shape and one type. Nothing is
clipped, dropped or filled in. Importing this package imports neither torch nor scikit-learn.
"""

from steadyflow.data.content import DataError
from steadyflow.data.dataset import Dataset, Split
from steadyflow.data.sources import as_dataset, describe, from_arrays, names, open
from steadyflow.data.toys import toy, toy_log_density

__all__ = [
    "DataError",
    "Dataset",
    "Split",
    "as_dataset",
    "describe",
    "from_arrays",
    "names",
    "open",
    "toy",
    "toy_log_density",
]
