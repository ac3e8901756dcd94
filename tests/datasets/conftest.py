"""Permissions that count, also where tests run as root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's folder as a relative path; whom the test is run as may be denied things in it."""
    is_root = os.geteuid() == 0
    monkeypatch.chdir(tmp_path)
    if is_root:
        os.chown(tmp_path, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield Path()
    finally:
        for folder, folders, _ in os.walk(Path()):
            for name in folders:
                Path(folder, name).chmod(0o755)  # so that it can be removed
        if is_root:
            os.seteuid(0)
