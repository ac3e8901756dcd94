"""Trees that are made of links: where each leads, and how often the file system is asked."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raygait.datasets import DATASETS, casiab

VIEWS = [f"{view:03d}" for view in range(0, 181, 18)]


def store(root: Path) -> list[str]:
    """Frames of ten subjects in `.store`, which nobody looks through."""
    walks = [f"{number:03d}/nm-01/{view}" for number in range(1, 11) for view in VIEWS]
    for walk in walks:
        (root / ".store" / walk).mkdir(parents=True)
        (root / ".store" / walk / "001.png").write_bytes(b"")
    return walks


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("level", [1, 2, 3], ids=["subjects", "conditions", "views"])
def test_a_folder_that_links_lead_to_is_looked_at_once(
    level: int, is_absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = store(tmp_path)
    links = sorted({"/".join(walk.split("/")[:level]) for walk in walks})
    for link in links:
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        to_root = str(tmp_path) if is_absolute else "/".join([".", *[".."] * (level - 1)])
        (tmp_path / link).symlink_to(f"{to_root}/.store/{link}")
    asked: list[str] = []

    def noting(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def looked(path: str, **how: bool) -> os.stat_result:
            asked.append(os.fspath(path))
            return look(path, **how)

        return looked

    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", noting(os.lstat))
        patched.setattr(os, "stat", noting(os.stat))
        scan = casiab.ADAPTER.scan(tmp_path)
    assert [sequence.source for sequence in scan.sequences] == walks
    assert not scan.duplicated
    # The root; each link's end; and each part of a folder that links lead to, of ten at most.
    num_parts = len(tmp_path.parts) + 2 * level
    assert len(asked) <= num_parts + len(links) + 10 * num_parts


@pytest.mark.parametrize(
    ("links", "linked"),
    [
        ({"003": ".a", ".a": ".b", ".b": "001"}, "003/nm-01/000"),
        ({"003/nm-01/000": "../.c/000", "003/.c": "../001/nm-01"}, "003/nm-01/000"),
        ({"003": ".d/002", ".d": "001/nm-01/..", "001/002": "../001"}, "003/nm-01/000"),
        ({"003/nm-01": "../001/nm-01/000/.."}, "003/nm-01/000"),
        ({"003/nm-01": "../001/nm-01/."}, "003/nm-01/000"),
        ({"003": ".e/", ".e": "001"}, "003/nm-01/000"),
        ({"003": ".f", ".f/nm-01": "../001/nm-01"}, "003/nm-01/000"),
    ],
)
def test_links_by_way_of_links_lead_where_the_file_system_says(
    links: dict[str, str], linked: str, tmp_path: Path
) -> None:
    (tmp_path / "001/nm-01/000").mkdir(parents=True)
    (tmp_path / "001/nm-01/000/001.png").write_bytes(b"")
    for link, target in links.items():
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(target)
    assert (tmp_path / linked).resolve() == tmp_path / "001/nm-01/000"
    scan = DATASETS["casiab"].scan(tmp_path)
    assert linked in {one.path for one in scan.duplicated}
    assert [s.source for s in scan.sequences if not s.source.startswith("001/002")] == [
        "001/nm-01/000"
    ]
