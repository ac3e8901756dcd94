"""Pickles: arrays come out as NumPy wrote them, nothing is run, and all else is a named error."""

import io
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raygait.datasets.pickles import parse_array, read_array
from raygait.errors import BadArray, UnsafePickle

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 44), np.uint8)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        FRAMES,
        np.asfortranarray(FRAMES),
        FRAMES.transpose(1, 2, 0),
        FRAMES[:, ::2],
        np.linspace(0, 1, 7),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([[True, False]]),
        np.zeros((0, 64, 64), np.uint8),
        np.float32([[1.5]]),
        np.array(7, np.int16),
    ],
    ids=["c", "fortran", "axes", "strided", "f8", "big-endian", "bool", "empty", "f4", "scalar"],
)
def test_an_array_comes_out_as_it_went_in(array: np.ndarray, protocol: int) -> None:
    found = parse_array(pickle.dumps(array, protocol), "a.pkl")
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert (found == array).all()


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_numpy_1_are_read_like_those_of_numpy_2(protocol: int) -> None:
    old = pickle.dumps(FRAMES, protocol).replace(b"numpy._core", b"numpy.core")
    if protocol >= 4:  # short texts say their length
        for name in (b"numpy.core.multiarray", b"numpy.core.numeric"):
            old = old.replace(bytes([len(name) + 1]) + name, bytes([len(name)]) + name)
    assert b"numpy.core" in old
    assert (parse_array(old, "a.pkl") == FRAMES).all()


def test_an_array_that_python_2_wrote_is_read() -> None:
    values = FRAMES.tobytes()
    text = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03K@K,\x87cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(values))
    )
    assert (parse_array(text + values + b"tb.", "a.pkl") == FRAMES).all()


def test_the_array_is_a_view_of_the_file_and_cannot_be_written() -> None:
    for protocol in (4, 5):
        found = parse_array(pickle.dumps(FRAMES, protocol), "a.pkl")
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0


# What must never happen, and how the reject names it.

TRAP = Path("/tmp")


def _call(function: Callable[..., object], *arguments: object) -> object:
    class Call:
        def __reduce__(self) -> tuple[object, ...]:
            return function, arguments

    return Call()


def hostile(mark: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that would make a folder if anything ran them, and what their reject must say."""
    name, argument = b"os\nmkdir\n", mark.encode()
    text = b"X" + struct.pack("<I", len(argument)) + argument
    shell = b"cos\nsystem\n(V" + b"mkdir " + argument + b"\ntR."
    make = _call(os.mkdir, mark)
    array = pickle.dumps(FRAMES, 2)
    return {
        "GLOBAL and REDUCE": (b"c" + name + b"(" + text + b"tR.", "os.mkdir"),
        "a shell": (shell, "os.system"),
        "STACK_GLOBAL": (pickle.dumps(make, 4), "posix.mkdir"),
        "protocol 0": (pickle.dumps(make, 0), "posix"),
        "INST": (b"(" + text + b"i" + name + b".", "INST ('os mkdir')"),
        "OBJ": (b"(c" + name + text + b"o.", "os.mkdir"),
        "NEWOBJ": (b"\x80\x02c" + name + text + b"\x85\x81.", "os.mkdir"),
        "NEWOBJ of a known name": (b"cnumpy\nndarray\nK\x01\x85\x81.", "NEWOBJ"),
        "NEWOBJ_EX": (b"cnumpy\nndarray\n)}\x92.", "NEWOBJ_EX"),
        "BUILD": (b"cnumpy\nndarray\n}b.", "state"),
        "BUILD of an array again": (array[:-1] + b"Nb.", "state"),
        "EXT1": (b"\x82\x01.", "EXT1"),
        "EXT4": (b"\x84\x01\x00\x00\x00.", "EXT4"),
        "PERSID": (b"Psome name\n.", "PERSID ('some name')"),
        "BINPERSID": (b"K\x01Q.", "BINPERSID"),
        "a buffer from outside": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "builtins.eval": (pickle.dumps(_call(eval, f"__import__('os').mkdir('{mark}')")), "eval"),
        "getattr": (pickle.dumps(_call(getattr, FRAMES, "tofile")), "getattr"),
        "in a list": (pickle.dumps([FRAMES, make]), "posix.mkdir"),
        "in a dict": (pickle.dumps({"silhouettes": FRAMES, "x": make}), "posix.mkdir"),
        "in a tuple": (pickle.dumps((1, (2, make))), "posix.mkdir"),
        "after an array": (array[:-1] + b"c" + name + b"(" + text + b"tR.", "os.mkdir"),
        "a pickle inside": (pickle.dumps(_call(pickle.loads, pickle.dumps(make))), "_pickle.loads"),
        "numpy.load": (pickle.dumps(_call(np.load, "x.npy", None, True)), "numpy.load"),
        "encode by another codec": (
            b"c_codecs\nencode\n(Vx\nVbz2\ntR.",
            "calls encode",
        ),
        "a dtype with a callable": (b"cnumpy\ndtype\n(cnumpy\nndarray\ntR.", "calls dtype"),
        "an array of a class": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntC\x01btR.",
            "calls _reconstruct",
        ),
        "a subclass": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy.core.memmap\nmemmap\n(I0\ntC\x01btR.",
            "numpy.core.memmap.memmap",
        ),
        "a name by a number": (b"K\x01K\x02\x93.", "something else than a text"),
        "a call of a call": (b"c_codecs\nencode\nNR.", "calls"),
    }


@pytest.mark.parametrize("kind", hostile("x"))
def test_a_pickle_that_would_run_something_runs_nothing_and_says_so(
    kind: str, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    content, expected = hostile(str(trap))[kind]
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UnsafePickle) as told:
        read_array(tmp_path / "a.pkl")
    assert expected in str(told.value)
    assert not trap.exists()


def test_the_traps_of_these_tests_would_work(tmp_path: Path) -> None:
    for kind in ("GLOBAL and REDUCE", "STACK_GLOBAL", "INST", "in a dict", "a shell"):
        trap = tmp_path / kind.replace(" ", "-")
        pickle.loads(hostile(str(trap))[kind][0])
        assert trap.is_dir()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not a pickle"),
        (b"text\n" * 10, "not a pickle"),
        (pickle.dumps(FRAMES)[:-20], "cut short"),
        (pickle.dumps(FRAMES)[:-1], "cut short"),
        (pickle.dumps(FRAMES) + b"\0", "1 bytes follow"),
        (pickle.dumps([FRAMES, FRAMES]), "a list"),
        (pickle.dumps({"a": FRAMES}), "a dict"),
        (pickle.dumps((FRAMES,)), "a tuple"),
        (pickle.dumps({1, 2}), "a set"),
        (pickle.dumps("silhouettes"), "a text"),
        (pickle.dumps(1.5), "a float"),
        (pickle.dumps(None), "a NoneType"),
        (pickle.dumps(np.array([{}, None])), "Python objects"),
        (pickle.dumps(np.array(["a"])), "dtype 'U1'"),
        (pickle.dumps(np.array([b"a"])), "dtype 'S1'"),
        (pickle.dumps(np.zeros(1, [("x", "u1")])), "dtype 'V1'"),
        (pickle.dumps(np.array([1j])), "dtype 'c16'"),
        (pickle.dumps(np.array(["2020"], "M8[D]")), "dtype 'M8'"),
        (pickle.dumps(list(range(100_000))), "opcodes"),
        (pickle.dumps(FRAMES, 4).replace(b"K\x03K@K,", b"K\x04K@K,"), "takes 11264 bytes"),
        (b"h\x00.", "not a pickle"),
        (b"t.", "not a pickle"),
        (b"(R.", "a value is missing"),
    ],
)
def test_what_is_no_array_is_refused_by_what_it_is(content: bytes, expected: str) -> None:
    with pytest.raises(BadArray, match=expected):
        parse_array(content, "a.pkl")


def test_a_shape_that_claims_terabytes_allocates_nothing() -> None:
    content = pickle.dumps(FRAMES, 2).replace(
        b"K\x03K@K,\x87", b"\x8a\x05\xff\xff\xff\xff\x7fK@K,\x87"
    )
    tracemalloc.start()
    with pytest.raises(BadArray, match=r"\[549755813887, 64, 44\] takes"):
        parse_array(content, "a.pkl")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_text_that_is_spelled_into_bytes_again_and_again_is_refused() -> None:
    text = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    tracemalloc.start()
    with pytest.raises(BadArray, match="again and again"):
        parse_array(text + b"q\x00" + again * 800 + b".", "a.pkl")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_deeply_nested_values_are_an_error_like_any_other() -> None:
    with pytest.raises(BadArray, match="a tuple"):
        parse_array(b"(" * 2000 + b"t" * 2000 + b".", "a.pkl")
    with pytest.raises(BadArray, match="opcodes"):
        parse_array(b"N" + b"\x85" * 1_000_000 + b".", "a.pkl")


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.pkl"
    with path.open("wb") as file:
        file.truncate(2**33)
    tracemalloc.start()
    with pytest.raises(BadArray, match="8589934592 bytes, at most 1048576"):
        read_array(path, max_bytes=2**20)
    path.write_bytes(pickle.dumps(FRAMES))
    assert read_array(path).shape == FRAMES.shape
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    for name in ("gone.pkl", "pipe.pkl", "."):
        with pytest.raises(BadArray, match="no such file"):
            read_array(tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_damaged_pickles_give_an_array_or_a_named_error(protocol: int) -> None:
    generator = np.random.default_rng(protocol)
    small = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    whole = pickle.dumps(small, protocol)
    told, most_bytes = 0, 0
    tracemalloc.start()
    for _ in range(1500):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 4)):
            damaged[place] = generator.integers(0, 256)
        content = bytes(damaged)
        if generator.random() < 0.3:
            content = content[: generator.integers(0, len(whole))]
        if generator.random() < 0.2:
            content += generator.bytes(5)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            assert isinstance(parse_array(content, "a.pkl"), np.ndarray)
        except (BadArray, UnsafePickle):
            told += 1
        most_bytes = max(most_bytes, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert most_bytes < 100_000
    assert 500 < told < 1500


def test_every_truncation_is_an_error() -> None:
    whole = pickle.dumps(np.arange(12, dtype=np.uint8).reshape(3, 4), 4)
    for length in range(len(whole)):
        with pytest.raises(BadArray):
            parse_array(whole[:length], "a.pkl")


def test_pickles_as_pickle_dump_streams_them_to_a_file_are_read() -> None:
    file = io.BytesIO()
    big = np.zeros((40, 64, 64), np.uint8)  # over a frame of protocol 4
    pickle.dump(big, file)
    assert parse_array(file.getvalue(), "a.pkl").shape == (40, 64, 64)
