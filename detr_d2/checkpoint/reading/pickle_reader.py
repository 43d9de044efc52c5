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
        match operation:
            case _ if operation in _VALUES:
                stack.append(arg)
            case _ if operation in _CONSTANTS:
                stack.append(_CONSTANTS[operation])
            case _ if operation in _EMPTY:
                stack.append(_EMPTY[operation]())
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[arg] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[arg])
            case _:
                self._make(operation, arg)

    def _make(self, operation: str, arg: Any) -> None:
        """Operations that make a value of others, or put others into one."""
        match operation:
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._push(tuple(reversed([self._stack.pop() for _ in range(int(operation[-1]))])))
            case "TUPLE":
                self._push(tuple(self._pop_mark()))
            case "LIST":
                self._push(self._pop_mark())
            case "DICT":
                items = self._pop_mark()
                self._push({})
                set_items(self._top(dict), items)
            case "FROZENSET":
                self._push(frozenset(map(check_key, self._pop_mark())))
            case "APPEND":
                item = self._stack.pop()
                self._top(list).append(item)
            case "APPENDS":
                items = self._pop_mark()
                self._top(list).extend(items)
            case "SETITEM":
                item, key = self._stack.pop(), self._stack.pop()
                set_items(self._top(dict), [key, item])
            case "SETITEMS":
                items = self._pop_mark()
                set_items(self._top(dict), items)
            case "ADDITEMS":
                items = self._pop_mark()
                self._top(set).update(map(check_key, items))
            case _:
                self._refer(operation, arg)

    def _refer(self, operation: str, arg: Any) -> None:
        """Operations with names, and with what a subclass makes of them."""
        match operation:
            case "GLOBAL":
                module, _, name = arg.partition(" ")
                self._push(self._known(module, name))
            case "STACK_GLOBAL":
                name, module = self._stack.pop(), self._stack.pop()
                require(isinstance(name, str) and isinstance(module, str))
                self._push(self._known(module, name))
            case "REDUCE" | "NEWOBJ":
                args, name = self._stack.pop(), self._stack.pop()
                require(isinstance(args, tuple) and isinstance(name, Name))
                self._push(self.call(name, args) if operation == "REDUCE" else self.new(name, args))
            case "BUILD":
                state = self._stack.pop()
                self.build(self._stack[-1], state)
            case "BINPERSID":
                self._push(self.persistent(self._stack.pop()))
            case _:
                raise NotDataError(f"it uses the operation {operation}")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _top(self, kind: type) -> Any:
        require(type(self._stack[-1]) is kind)
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        """What has come since the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _known(self, module: str, name: str) -> Name:
        if (found := Name(module, name)) not in self.names:
            raise NotDataError(f"it refers to {found}")
        return found


def _python2_string(line: bytes) -> str:
    text = line.strip()
    if len(text) < 2 or text[:1] not in b"'\"" or text[:1] != text[-1:]:
        raise DamagedError("it has a text without quotes")
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")
