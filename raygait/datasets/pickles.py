"""Pickled NumPy arrays, read without unpickling: what OpenGait's trees are made of.

A pickle is a program, and `pickle.load` runs it. Here nothing of it is run: its opcodes are listed
(`pickletools.genops`), and a small interpreter follows what they would put together. It knows
numbers, texts, bytes, tuples and three shapes of call, those that NumPy writes for an array; names
of functions are compared, never imported or called. What comes out is one array over the bytes of
the file, or an error.

Understood are pickles of NumPy 1 and 2, protocols 0 to 5 (of Python 2: 1 and 2), of arrays of bool,
integers and floats in any order of bytes and axes. Arrays of Python objects, structured arrays,
lists of arrays and everything else are refused by name.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygait.errors import BadArray, UnsafePickle

MAX_PICKLE_BYTES = 2**30
"""Largest file that is read: 260,000 frames of 64×64, far more than any walk has."""

# An array takes under a hundred; a pickle made to be big takes as many as it likes.
_MAX_OPCODES = 4096
_MAX_AXES = 8
_MAX_NAME = 60
_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")

_RECONSTRUCT = "_reconstruct"
_FROM_BUFFER = "_frombuffer"
_DTYPE_CALL = "dtype"
_ARRAY_CLASS = "ndarray"
_ENCODE = "encode"
_BYTES = "bytes"
# Name in the file -> what the interpreter does when it is called.
_KNOWN = {
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.core.numeric._frombuffer": _FROM_BUFFER,
    "numpy._core.numeric._frombuffer": _FROM_BUFFER,
    "numpy.dtype": _DTYPE_CALL,
    "numpy.ndarray": _ARRAY_CLASS,
    "_codecs.encode": _ENCODE,
    "__builtin__.bytes": _BYTES,
    "builtins.bytes": _BYTES,
}


class _Name(NamedTuple):
    """A function or class of `_KNOWN`, by what it does."""

    does: str


class _Mark:
    """Where a tuple or a list of arguments began."""


class _Other(NamedTuple):
    """A value that is no part of an array; only what it is is kept."""

    what: str


class _Dtype:
    """Kind and size of values, and their order of bytes once that is told."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.byte_order: Literal["<", ">", "=", "|"] = "="

    def to_numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.byte_order)


class _Array:
    """An array, empty until its state is told."""

    values: NDArray[Any] | None = None


def read_array(path: Path | str, *, max_bytes: int = MAX_PICKLE_BYTES) -> NDArray[Any]:
    """The one array that a pickle file holds; nothing in the file is run.

    Args:
        path: A `.pkl` file.
        max_bytes: Larger files are refused unread.

    Returns:
        The array, read-only, of the file's dtype and order.

    Raises:
        UnsafePickle: The pickle would import, call or look up something that no array needs; the
            message names it. It was not done.
        BadArray: No such file, not a pickle, cut short, too large, or not one array of bool,
            integers or floats.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise BadArray(f"{path}: no such file, expected a pickled array")
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            # `read` sets aside as much as it is asked for.
            content = file.read(num_bytes) if num_bytes <= max_bytes else b""
    except OSError as error:
        raise BadArray(f"{path}: cannot be read ({error.strerror})") from error
    if num_bytes > max_bytes:
        raise BadArray(f"{path}: {num_bytes} bytes, at most {max_bytes} are read")
    return parse_array(content, str(path))


def parse_array(content: bytes, where: str) -> NDArray[Any]:
    """The one array that a pickle holds; `read_array` for bytes.

    Args:
        content: The whole pickle.
        where: Name of it, for messages.

    Raises:
        UnsafePickle, BadArray: As `read_array`.
    """
    if not content:
        raise BadArray(f"{where}: the file is empty (0 bytes), expected a pickled array")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in damaged texts
            value, end = _Interpreter(where, len(content)).run(content)
    except (UnsafePickle, BadArray):
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        # What `pickletools` says of bytes that are no pickle, or of one that is cut short.
        said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise BadArray(
            f"{where}: not a pickle, or cut short ({len(content)} bytes; {said})"
        ) from error
    if isinstance(value, _Array) and value.values is not None:
        if end != len(content):
            raise BadArray(f"{where}: {len(content) - end} bytes follow the array, expected none")
        return value.values
    raise BadArray(f"{where}: holds {_kind_of(value)}, expected a NumPy array")


class _Interpreter:
    """Follows the opcodes of one pickle on a stack of plain values.

    Memory is bounded by a few times the file: every value is a piece of it, or a few words.
    """

    def __init__(self, where: str, num_bytes: int) -> None:
        self._where = where
        # Texts that stand for bytes are copied; no array has more of them than its file.
        self._num_encodable = num_bytes
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> tuple[Any, int]:
        """The value on the stack at the end, and how many bytes were read."""
        for number, (opcode, argument, position) in enumerate(pickletools.genops(content)):
            if number >= _MAX_OPCODES:
                raise BadArray(
                    f"{self._where}: over {_MAX_OPCODES} opcodes, an array takes under a hundred"
                )
            name = opcode.name
            if name == "STOP":
                return self._pop(), (position or 0) + 1
            if name in _PUSHES:
                self._stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise UnsafePickle(
                    f"{self._where}: uses the opcode {name}{_shown(argument)}, which no array "
                    "needs, or is no pickle at all; nothing was run"
                )
        raise BadArray(f"{self._where}: cut short, it has no end")

    # Steps, by opcode

    def _mark(self, _: Any) -> None:
        self._stack.append(_Mark)

    def _tuple(self, length: int | None) -> None:
        if length is None:
            items = self._pop_to_mark()
        else:
            items = [self._pop() for _ in range(length)][::-1]
        self._stack.append(tuple(items))

    def _put(self, key: int | None) -> None:
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def _get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    def _constant(self, value: Any) -> None:
        self._stack.append(value)

    def _list_items(self, _: Any) -> None:
        self._pop_to_mark()

    def _list_item(self, _: Any) -> None:
        self._pop()

    def _dict_item(self, _: Any) -> None:
        self._pop()
        self._pop()

    def _from_mark(self, what: str) -> None:
        self._pop_to_mark()
        self._stack.append(_Other(what))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_name(f"{module}.{name}")

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise UnsafePickle(f"{self._where}: names a function by something else than a text")
        self._push_name(f"{module}.{name}")

    def _push_name(self, name: str) -> None:
        if name not in _KNOWN:
            raise UnsafePickle(
                f"{self._where}: asks for {name[:_MAX_NAME]!r}, which no array needs; it was not "
                "imported and nothing was run"
            )
        self._stack.append(_Name(_KNOWN[name]))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not (isinstance(function, _Name) and isinstance(arguments, tuple)):
            raise UnsafePickle(
                f"{self._where}: calls {_kind_of(function)} with {_kind_of(arguments)}; nothing "
                "was run"
            )
        self._stack.append(self._call(function.does, arguments))

    def _call(self, does: str, arguments: tuple[Any, ...]) -> Any:
        match does, arguments:
            case "_reconstruct", (_Name("ndarray"), (0,), (b"b" | "b")):
                return _Array()
            case "dtype", (str(code), *flags) if len(flags) <= 2 and set(map(type, flags)) <= {
                bool,
                int,
            }:
                return self._dtype(code)
            case "encode", (str(text), "latin1" | "latin-1"):
                return self._encoded(text)
            case "bytes", ():
                return b""
            case "_frombuffer", (buffer, _Dtype() as dtype, shape, ("C" | "F") as order):
                array = _Array()
                array.values = self._view(buffer, dtype, shape, order)
                return array
            case "_frombuffer", (buffer, _Dtype() as dtype, shape, "K", tuple(axes)):
                array = _Array()
                values = self._view(buffer, dtype, shape, "C")
                if not all(type(axis) is int for axis in axes) or sorted(axes) != list(
                    range(values.ndim)
                ):
                    raise BadArray(f"{self._where}: its axes are not in an order")
                array.values = values.transpose(axes)
                return array
        kinds = ", ".join(map(_kind_of, arguments[:_MAX_AXES]))
        raise UnsafePickle(
            f"{self._where}: calls {does} with ({kinds}), as no array of NumPy does; nothing was "
            "run"
        )

    def _dtype(self, code: str) -> _Dtype:
        if not _DTYPE.fullmatch(code):
            meaning = ", Python objects" if code.startswith("O") else ""
            raise BadArray(
                f"{self._where}: an array of dtype {code[:_MAX_NAME]!r}{meaning}; expected bool, "
                "integers or floats"
            )
        return _Dtype(code)

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._stack[-1]
        match target, state:
            case _Dtype(), (int(), ("<" | ">" | "=" | "|") as order, None, None, None, *_):
                target.byte_order = order
            case _Array(values=None), (int(), shape, _Dtype() as dtype, is_fortran, data):
                order = "F" if is_fortran is True or is_fortran == 1 else "C"
                # Python 2 wrote the values as a text of bytes.
                data = self._encoded(data) if isinstance(data, str) else data
                target.values = self._view(data, dtype, shape, order)
            case _:
                raise UnsafePickle(
                    f"{self._where}: gives {_kind_of(target)} a state ({_kind_of(state)}) that no "
                    "array of NumPy has; nothing was run"
                )

    def _encoded(self, text: str) -> bytes:
        self._num_encodable -= len(text)
        if self._num_encodable < 0:
            raise BadArray(f"{self._where}: spells the same bytes again and again")
        return text.encode("latin-1")

    def _view(self, data: Any, dtype: _Dtype, shape: Any, order: str) -> NDArray[Any]:
        """An array over the bytes that are there; nothing is allocated."""
        if not isinstance(data, bytes | bytearray):
            raise BadArray(f"{self._where}: the values are {_kind_of(data)}, expected bytes")
        if not (
            isinstance(shape, tuple)
            and len(shape) <= _MAX_AXES
            and all(type(length) is int and 0 <= length < 2**40 for length in shape)
        ):
            raise BadArray(f"{self._where}: impossible shape, expected up to {_MAX_AXES} lengths")
        kind = dtype.to_numpy()
        expected = math.prod(shape) * kind.itemsize
        if expected != len(data):
            raise BadArray(
                f"{self._where}: {kind} {list(shape)} takes {expected} bytes, it has {len(data)}"
            )
        flat = np.frombuffer(data, kind) if expected else np.empty(0, kind)
        flat.flags.writeable = False
        return flat.reshape(shape, order="F" if order == "F" else "C")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _Mark:
            raise BadArray(f"{self._where}: not a pickle: a value is missing")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while (value := self._stack.pop()) is not _Mark:
            items.append(value)
        return items[::-1]


# Their argument is the value.
_PUSHES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),  # `str` of Python 2, bytes as Latin-1
    )
)


def _with(step: Callable[[_Interpreter, Any], None], value: Any) -> Callable[..., None]:
    return lambda interpreter, _: step(interpreter, value)


def _nothing(_: _Interpreter, __: Any) -> None:
    pass


_STEPS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _Interpreter._mark,
    "NONE": _with(_Interpreter._constant, None),
    "NEWTRUE": _with(_Interpreter._constant, True),
    "NEWFALSE": _with(_Interpreter._constant, False),
    "EMPTY_TUPLE": _with(_Interpreter._constant, ()),
    "TUPLE": _with(_Interpreter._tuple, None),
    "TUPLE1": _with(_Interpreter._tuple, 1),
    "TUPLE2": _with(_Interpreter._tuple, 2),
    "TUPLE3": _with(_Interpreter._tuple, 3),
    "PUT": _Interpreter._put,
    "BINPUT": _Interpreter._put,
    "LONG_BINPUT": _Interpreter._put,
    "MEMOIZE": _with(_Interpreter._put, None),
    "GET": _Interpreter._get,
    "BINGET": _Interpreter._get,
    "LONG_BINGET": _Interpreter._get,
    "GLOBAL": _Interpreter._global,
    "STACK_GLOBAL": _Interpreter._stack_global,
    "REDUCE": _Interpreter._reduce,
    "BUILD": _Interpreter._build,
    # Lists and dicts are no arrays; they are followed to their end, so that a call inside of them
    # is told as what it is.
    "EMPTY_LIST": _with(_Interpreter._constant, _Other("a list")),
    "EMPTY_DICT": _with(_Interpreter._constant, _Other("a dict")),
    "EMPTY_SET": _with(_Interpreter._constant, _Other("a set")),
    "LIST": _with(_Interpreter._from_mark, "a list"),
    "DICT": _with(_Interpreter._from_mark, "a dict"),
    "FROZENSET": _with(_Interpreter._from_mark, "a set"),
    "APPEND": _Interpreter._list_item,
    "APPENDS": _Interpreter._list_items,
    "ADDITEMS": _Interpreter._list_items,
    "SETITEM": _Interpreter._dict_item,
    "SETITEMS": _Interpreter._list_items,
}


def _kind_of(value: Any) -> str:
    """What a value is, in a word; never what it contains."""
    if isinstance(value, _Other):
        return value.what
    if isinstance(value, _Name):
        return f"the function {value.does}"
    names = {_Array: "an array", _Dtype: "a dtype", tuple: "a tuple", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")


def _shown(argument: Any) -> str:
    if argument is None:
        return ""
    return f" ({str(argument)[:_MAX_NAME]!r})"
