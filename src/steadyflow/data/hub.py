"""A file of a data set on the Hugging Face hub: ``hub:owner/name/path/to/file.parquet``."""

from __future__ import annotations

from pathlib import Path

from steadyflow.errors import UsageError

PREFIX = "hub:"


def download(source: str) -> Path:
    """Gets the file, or finds it in the hub's cache on this machine.

    Raises:
        UsageError: if the name does not have all of its three parts.
        ConnectionError: if the file can not be had.
    """
    owner, name, file = (*source.removeprefix(PREFIX).split("/", 2), "", "", "")[:3]
    if not file:
        raise UsageError(
            f"'{source}' should name the owner, the data set and a file in it, such as "
            "hub:owner/name/file.parquet"
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{name}", file, repo_type="dataset"))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"'{source}' can not be had from the hub ({reason}): check its name and the "
            "connection, or get the file yourself and give its path"
        ) from error
