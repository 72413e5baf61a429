"""Files and folders are the old ones or the new ones, whatever happens in between."""

import errno
import os
import stat

import pytest

from steadyflow import storage
from steadyflow.storage import recover_folder, replace_file, replace_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# one file


def test_a_file_is_written_and_replaced(tmp_path):
    target = tmp_path / "deep" / "er" / "file.txt"
    for content in ("one", "two"):
        with replace_file(target) as aside:
            assert aside.parent == target.parent
            aside.write_text(content)
        assert target.read_text() == content
    assert names(target.parent) == ["file.txt"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with replace_file(str(target)) as aside:
        aside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write():
        with replace_file(target) as aside:
            aside.write_text("half of the ne")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, when):
    target = tmp_path / "file.txt"
    target.write_text("old")
    monkeypatch.setattr(storage.os, when, full_disk)

    def write():
        with replace_file(target) as aside:
            aside.write_text("new")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_permissions_are_the_users_own(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with replace_file(tmp_path / "file") as aside:
        aside.write_text("")
    with replace_folder(tmp_path / "folder"):
        pass
    (tmp_path / "made").mkdir()
    for ours, users in (("file", "plain"), ("folder", "made")):
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (ours, users)]
        assert modes[0] == modes[1]


# a folder


def fill(folder, content):
    with replace_folder(folder) as aside:
        assert names(aside) == []
        (aside / "deep").mkdir()
        (aside / "deep" / "file").write_text(content)


def test_a_folder_is_written_and_replaced(tmp_path):
    target = tmp_path / "deep" / "folder"
    fill(target, "one")
    (target / "leftover").write_text("")
    fill(target, "two")
    assert (target / "deep" / "file").read_text() == "two"
    assert names(target) == ["deep"]
    assert names(target.parent) == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder(tmp_path, error):
    target = tmp_path / "folder"
    fill(target, "old")

    def write():
        with replace_folder(target) as aside:
            (aside / "file").write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert (target / "deep" / "file").read_text() == "old"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_failure_of_either_rename_leaves_the_old_folder(tmp_path, monkeypatch, which):
    target = tmp_path / "folder"
    fill(target, "old")
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(a)
        if len(calls) == which + 1:
            full_disk()
        real(a, b)

    monkeypatch.setattr(storage.os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        fill(target, "new")
    assert (target / "deep" / "file").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    fill(target, "old")
    monkeypatch.setattr(storage.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fill(target, "new")
    assert (target / "deep" / "file").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_folder_cut_off_between_its_renames_is_put_back(tmp_path):
    target = tmp_path / "folder"
    fill(target, "old")
    os.replace(target, tmp_path / ".folder.old")  # killed here
    recover_folder(target)
    assert (target / "deep" / "file").read_text() == "old"
    recover_folder(target)
    assert names(tmp_path) == ["folder"]
    recover_folder(tmp_path / "never")
    assert names(tmp_path) == ["folder"]


def test_a_left_over_old_folder_is_no_obstacle(tmp_path):
    target = tmp_path / "folder"
    fill(tmp_path / ".folder.old", "older")
    fill(target, "new")
    fill(target, "newer")
    assert (target / "deep" / "file").read_text() == "newer"
    assert names(tmp_path) == ["folder"]


def test_a_file_in_the_way_is_named_and_kept(tmp_path):
    target = tmp_path / "folder"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match="is a file"):
        fill(target, "new")
    assert target.read_text() == "precious"


def test_a_link_to_a_folder_stays_one(tmp_path):
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "deep" / "file").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


def test_a_relative_name_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill("folder", "one")
    with replace_file("file") as aside:
        aside.write_text("two")
    assert names(tmp_path) == ["file", "folder"]
