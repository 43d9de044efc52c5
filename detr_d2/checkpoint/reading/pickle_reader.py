"""Pickles as data: the operations that make plain values, and none that calls what a file names.

Differs from `pickle.Unpickler` in that nothing is imported or called; that no length and no index in a file asks for
more memory than the file has bytes; and that keys of dictionaries and sets are plain, since the hash of deeply nested
tuples ends the process.
"""

from __future__ import annotations

import codecs
import os
import pickletools
from typing import IO, Any, NamedTuple

from .plain_data import DamagedError, NotDataError, check_key, require, set_items

# A training state of a thousand tensors takes 100,000 operations; each takes up to some 100 bytes of memory.
_MOST_OPERATIONS = 2_000_000

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME"}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


class Name(NamedTuple):
    """What a file refers to by module and name; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class BoundedFile:
    """A file opened for reading whose `read` makes room for what is left at most."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = self._left = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._left)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


class PickleReader:
    """Reads pickles of any protocol, one after the other.

    A subclass says which names there may be and what is made of them.

    Args:
        stream: positioned at a pickle; its `read` and `readline` must not make room for more than is there.
        size: bytes of the file, which is also what `take` may give out.
    """

    names: frozenset[Name] = frozenset()

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self._budget = size
        self._operations = 0

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        """What calling `name` would return."""
        raise NotDataError(f"it calls {name} with {len(args)} arguments")

    def new(self, name: Name, args: tuple[Any, ...]) -> Any:
        """A new object of the class `name`."""
        raise NotDataError(f"it makes a {name} of {len(args)} arguments")

    def build(self, value: Any, state: Any) -> None:
        """Sets the state of what `call` or `new` has returned."""
        raise NotDataError(f"it sets a {type(value).__name__} to the state of a {type(state).__name__}")

    def persistent(self, key: Any) -> Any:
        """What a file keeps outside of the pickle."""
        raise NotDataError(f"it refers by a {type(key).__name__} to what is not in it")

    def take(self, size: int) -> None:
        """Counts memory that a value takes besides the file's own bytes; all of it together may be as much as those.

        Raises:
            DamagedError: there would be more.
        """
        self._budget -= size
        if self._budget < 0:
            raise DamagedError("it unpacks to more than it holds")

    def ordered(self, items: Any = ()) -> dict[Any, Any]:
        """What OrderedDict returns, as a plain dictionary."""
        self.take(16 * len(items))
        made: dict[Any, Any] = {}
        for key, value in items:
            set_items(made, [key, value])
        return made

    def encoded(self, text: Any, encoding: Any) -> bytes:
        """What `_codecs.encode` returns, which stands for bytes in protocols 0 to 2."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise NotDataError("it has text in another encoding than Latin-1")
        self.take(len(text))
        return text.encode("latin-1")

    def load(self) -> Any:
        """Reads one pickle.

        Raises:
            NotDataError: it holds more than plain values and what the subclass allows.
            DamagedError: it is not a whole pickle.
        """
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        try:
            while (step := self._step()) != "STOP":
                self._do(*step)
            return self._stack.pop()
        except (NotDataError, DamagedError):
            raise
        except (IndexError, KeyError, AttributeError) as error:
            raise DamagedError("its operations do not fit together") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise DamagedError(str(error)) from error

    def _step(self) -> tuple[str, Any] | str:
        """The next operation and its argument."""
        opcode = _OPCODES.get(code := self._stream.read(1))
        self._operations += 1
        if opcode is None:
            raise DamagedError("it ends too soon" if not code else "it is no pickle")
        if self._operations > _MOST_OPERATIONS:
            raise DamagedError(f"it has more than {_MOST_OPERATIONS:,} values")
        if opcode.name == "STOP":
            return "STOP"
        if opcode.name == "STRING":  # pickletools knows ASCII only, Python 2 wrote bytes
            return opcode.name, _python2_string(self._stream.readline())
        return opcode.name, None if opcode.arg is None else opcode.arg.reader(self._stream)

    def _do(self, operation: str, arg: Any) -> None:
        stack = self._stack
        if operation in _VALUES:
            stack.append(arg)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in _EMPTY:
            stack.append(_EMPTY[operation]())
        elif operation in _TUPLES:
            count = _TUPLES[operation]
            items = tuple(stack[len(stack) - count :])
            require(len(items) == count)
            stack[len(stack) - count :] = [items]
        elif operation not in _IGNORED:
            handler = getattr(self, f"_{operation.lower()}", None)
            if handler is None:
                raise NotDataError(f"it uses the operation {operation}")
            handler(arg)

    def _mark(self, _: None) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_mark(self, _: None = None) -> list[Any]:
        """What has come since the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _dup(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def _list(self, _: None) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _tuple(self, _: None) -> None:
        items = tuple(self._pop_mark())
        self._stack.append(items)

    def _dict(self, _: None) -> None:
        items = self._pop_mark()
        self._stack.append({})
        set_items(self._stack[-1], items)

    def _frozenset(self, _: None) -> None:
        items = frozenset(map(check_key, self._pop_mark()))
        self._stack.append(items)

    def _append(self, _: None) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def _appends(self, _: None) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _setitem(self, _: None) -> None:
        items = [self._stack.pop(), self._stack.pop()]
        set_items(self._top(dict), items[::-1])

    def _setitems(self, _: None) -> None:
        items = self._pop_mark()
        set_items(self._top(dict), items)

    def _additems(self, _: None) -> None:
        items = self._pop_mark()
        self._top(set).update(map(check_key, items))

    def _top(self, kind: type) -> Any:
        require(type(self._stack[-1]) is kind)
        return self._stack[-1]

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    def _global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._refer(module, name)

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        require(isinstance(name, str) and isinstance(module, str))
        self._refer(module, name)

    def _refer(self, module: str, name: str) -> None:
        if (found := Name(module, name)) not in self.names:
            raise NotDataError(f"it refers to {found}")
        self._stack.append(found)

    def _reduce(self, _: None) -> None:
        args, name = self._stack.pop(), self._stack.pop()
        require(isinstance(args, tuple) and isinstance(name, Name))
        self._stack.append(self.call(name, args))

    def _newobj(self, _: None) -> None:
        args, name = self._stack.pop(), self._stack.pop()
        require(isinstance(args, tuple) and isinstance(name, Name))
        self._stack.append(self.new(name, args))

    def _build(self, _: None) -> None:
        state = self._stack.pop()
        self.build(self._stack[-1], state)

    def _binpersid(self, _: None) -> None:
        self._stack.append(self.persistent(self._stack.pop()))


def _python2_string(line: bytes) -> str:
    text = line.strip()
    if len(text) < 2 or text[:1] not in b"'\"" or text[:1] != text[-1:]:
        raise DamagedError("it has a text without quotes")
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")
