import concurrent.futures
import dataclasses
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from raygait import assets
from raygait.assets import ASSETS, AssetError, asset, cache_dir

SMALL = "blazepose-detector"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYGAIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PATH", "")


def place_wheel(cache: Path, contents: dict[str, bytes]) -> Path:
    """A wheel where a person without a network would put it."""
    cache.mkdir(exist_ok=True)
    archive = cache / ASSETS[SMALL].package.archive
    with zipfile.ZipFile(archive, "w") as wheel:
        for member, content in contents.items():
            wheel.writestr(member, content)
    return archive


def real_contents(package: assets.Package) -> dict[str, bytes]:
    """The package's members as `asset` gives them from the shared cache."""
    return {
        entry.member: asset(entry.name).read_bytes()
        for entry in ASSETS.values()
        if entry.package == package
    }


@pytest.mark.parametrize("name", ASSETS)
def test_every_asset_can_be_had_and_has_the_recorded_digest(name: str) -> None:
    path = asset(name)
    assert path.is_relative_to(cache_dir())
    assert path.stat().st_size == ASSETS[name].size_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ASSETS[name].sha256


def test_names_paths_and_digests_of_assets_differ() -> None:
    entries = list(ASSETS.values())
    assert len({entry.sha256 for entry in entries}) == len(entries)
    assert len({(entry.package.name, entry.file_name) for entry in entries}) == len(entries)


def test_every_asset_states_a_licence_and_a_purpose() -> None:
    assert {entry.licence for entry in ASSETS.values()} <= {"Apache-2.0", "BSD-3-Clause"}
    assert all(entry.purpose for entry in ASSETS.values())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="sports2d-demo"):
        asset("sport2d-demo")


@pytest.mark.usefixtures("offline")
def test_offline_the_error_says_which_file_to_place_where(empty_cache: Path) -> None:
    with pytest.raises(AssetError) as caught:
        asset(SMALL)
    message = str(caught.value)
    assert str(empty_cache / "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl") in message
    assert "pip download" in message
    assert "--python-version 3.11" in message


@pytest.mark.usefixtures("offline")
def test_without_npm_the_error_says_so_and_which_file_to_place_where(empty_cache: Path) -> None:
    with pytest.raises(AssetError, match="`npm`, which is not installed") as caught:
        asset("ssd-mobilenetv2-oidv4")
    assert "mediapipe-objectron-0.4.1675468480.tgz" in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_placed_archive_serves_every_asset_of_its_package_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = real_contents(ASSETS[SMALL].package)
    cache = tmp_path / "cache"
    monkeypatch.setenv("RAYGAIT_CACHE", str(cache))
    archive = place_wheel(cache, contents | {"mediapipe/other.py": b"import nothing"})
    path = asset(SMALL)
    archive.unlink()  # one reading is enough for all of them
    assert asset("blazepose-landmark-full").parent == path.parent
    written = {file.name for file in cache.rglob("*") if file.is_file() and file.name != ".lock"}
    assert written == {"pose_detection.tflite", "pose_landmark_full.tflite"}


@pytest.mark.usefixtures("offline")
def test_a_byte_range_is_cut_out_of_its_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ASSETS["ssd-mobilenetv2-oidv4"]
    content = asset(wanted.name).read_bytes()
    assert wanted.byte_range is not None
    first, end = wanted.byte_range
    assert end - first == wanted.size_bytes
    cache = tmp_path / "cache"
    cache.mkdir()
    with tarfile.open(cache / wanted.package.archive, "w:gz", compresslevel=1) as tarball:
        member = tarfile.TarInfo(wanted.member)
        member.size = end + 7
        tarball.addfile(member, io.BytesIO(b"h" * first + content + b"t" * 7))
    monkeypatch.setenv("RAYGAIT_CACHE", str(cache))
    assert asset(wanted.name).read_bytes() == content


@pytest.mark.usefixtures("offline")
def test_a_package_with_other_content_is_refused_and_nothing_is_written(empty_cache: Path) -> None:
    members = [entry.member for entry in ASSETS.values() if entry.package.name == "mediapipe"]
    place_wheel(empty_cache, dict.fromkeys(members, b"somebody else's weights"))
    with pytest.raises(AssetError, match="not the one recorded here"):
        asset(SMALL)
    assert not list(empty_cache.rglob("*.tflite"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "content", [b"", b"not a zip archive"], ids=["empty archive", "not an archive"]
)
def test_a_damaged_archive_is_named_in_the_error(empty_cache: Path, content: bytes) -> None:
    empty_cache.mkdir()
    archive = empty_cache / ASSETS[SMALL].package.archive
    archive.write_bytes(content)
    with pytest.raises(AssetError, match=archive.name):
        asset(SMALL)


def damaged_stream(archive: Path, member: str) -> None:
    """Bytes that are no deflate stream where the member's begins."""
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as wheel:
        begin = wheel.getinfo(member).header_offset + 30 + len(member)
    content[begin : begin + 64] = b"\xff" * 64
    archive.write_bytes(content)


def set_in_both_headers(archive: Path, offset: int, value: int) -> None:
    """Set two bytes of the local and of the central header (APPNOTE 4.3.7, 4.3.12)."""
    content = bytearray(archive.read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = content.index(signature) + offset + shift
        content[at : at + 2] = struct.pack("<H", value)
    archive.write_bytes(content)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "damage",
    [
        lambda archive, member: damaged_stream(archive, member),
        lambda archive, _: set_in_both_headers(archive, 6, 1),
        lambda archive, _: set_in_both_headers(archive, 8, 99),
    ],
    ids=["damaged stream", "password", "unknown compression"],
)
def test_a_damaged_member_is_named_in_the_error(empty_cache: Path, damage) -> None:
    wanted = ASSETS["blazepose-landmark-full"]
    empty_cache.mkdir()
    archive = empty_cache / wanted.package.archive
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(wanted.member, bytes(wanted.size_bytes))
    damage(archive, wanted.member)
    with pytest.raises(AssetError, match=f"cannot read {wanted.member}"):
        asset(wanted.name)


@pytest.mark.usefixtures("offline")
def test_a_member_of_another_size_is_refused_before_it_is_read(empty_cache: Path) -> None:
    wanted = ASSETS["blazepose-landmark-full"]
    archive = place_wheel(empty_cache, {wanted.member: bytes(wanted.size_bytes + 1)})
    # Reading it would fail on its checksum.
    content = bytearray(archive.read_bytes())
    content[60] ^= 1
    archive.write_bytes(content)
    with pytest.raises(AssetError, match=f"has {wanted.size_bytes + 1} bytes, expected"):
        asset(wanted.name)


@pytest.mark.usefixtures("offline")
def test_a_damaged_file_in_the_cache_is_replaced_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    contents = real_contents(ASSETS[SMALL].package)
    monkeypatch.setenv("RAYGAIT_CACHE", str(tmp_path / "cache"))
    place_wheel(tmp_path / "cache", contents)
    path = asset(SMALL)
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    assert asset(SMALL).read_bytes() == good
    assert "fetched again" in caplog.text


def test_a_cache_that_cannot_be_written_is_an_asset_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RAYGAIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="set RAYGAIT_CACHE"):
        asset(SMALL)


def test_processes_that_ask_at_once_all_get_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = real_contents(ASSETS[SMALL].package)
    cache = tmp_path / "cache"
    place_wheel(cache, contents)
    monkeypatch.setenv("RAYGAIT_CACHE", str(cache))
    start = time.time() + 1.0
    program = (
        "import time, hashlib; from raygait.assets import asset; "
        f"time.sleep(max(0, {start} - time.time())); "
        f"print(hashlib.sha256(asset('{SMALL}').read_bytes()).hexdigest())"
    )
    root = Path(__file__).parents[1]

    def ask(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) == {ASSETS[SMALL].sha256}
    assert not list(cache.rglob(".partial-*"))


def test_assets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ASSETS[SMALL].sha256 = "0"  # type: ignore[misc]
