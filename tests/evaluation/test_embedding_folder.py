"""Runs that claim one folder, and folders that cannot be made."""

import errno
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

from raygait.errors import EmbeddingsError
from raygait.evaluation.embedding_folder import claim

_REFUSED = re.compile("another run is writing here|another run has just ended and taken the folder")


def test_runs_that_end_at_once_refuse_each_other_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "new" / "out"
    escaped: list[BaseException] = []

    def run() -> None:
        for _ in range(200):
            try:
                with claim(root, tmp_path):
                    raise KeyError
            except KeyError:
                pass
            except BaseException as error:
                if isinstance(error, EmbeddingsError) and _REFUSED.search(str(error)):
                    continue
                escaped.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert escaped == []
    assert not list(tmp_path.rglob(".lock"))


def test_what_a_link_in_place_of_the_lock_leads_to_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "other").write_text("data")
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(EmbeddingsError, match="cannot be a folder of embeddings"):
        claim(tmp_path / "out", tmp_path).__enter__()
    assert (tmp_path / "other").read_text() == "data"


def test_a_run_whose_folder_was_taken_away_ends_by_its_own_error(tmp_path: Path) -> None:
    def fail() -> None:
        with claim(tmp_path / "out", tmp_path):
            shutil.rmtree(tmp_path / "out")
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_a_lock_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    with pytest.raises(EmbeddingsError, match=r"out: cannot be a folder of embeddings: .*\.lock"):
        claim(tmp_path / "out", tmp_path).__enter__()


def test_a_folder_that_is_made_half_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def full(path: Path, *mode: int) -> None:
        if Path(path).name == "out" and Path(path).parent.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(EmbeddingsError, match="No space left on device"):
        claim(tmp_path / "new" / "deeper" / "out", tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_folder_can_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingsError, match="File name too long"):
        claim(tmp_path / "new" / ("x" * 300), tmp_path).__enter__()
    assert not list(tmp_path.iterdir())
