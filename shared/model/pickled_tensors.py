"""The language of `torch.save`, read without running it: a stack machine of data opcodes only.

A pickle is a program. This interpreter knows the few instructions that build dictionaries, lists,
tuples, numbers and text, and one kind of call: those by which torch describes a tensor. It imports
nothing, calls nothing and looks up no name; whatever else a file asks for is refused. It reads
descriptions of tensors, never their bytes, and knows no torch.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from shared.base.errors import InvalidInputError

MAX_INSTRUCTIONS = 1_000_000
MAX_DIMENSIONS = 8
STORAGE_TYPES = {
    f"torch {name}Storage": dtype
    for name, dtype in (
        ("Float", "float32"),
        ("Half", "float16"),
        ("BFloat16", "bfloat16"),
        ("Double", "float64"),
        ("Long", "int64"),
        ("Int", "int32"),
    )
}
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
KNOWN_NAMES = frozenset({ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *STORAGE_TYPES})


@dataclass(frozen=True, slots=True)
class _Name:
    """A global's name. It stays a name."""

    text: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A block of numbers in the archive."""

    key: str
    dtype: str
    """A torch dtype's name."""
    numel: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """How a tensor lies in a storage; checked to stay inside it."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """Where a group on the stack begins."""


MARK: Final = _Mark()


def read_pickled_tensors(program: bytes) -> Any:
    """Return what the pickle describes: dicts, lists, tuples, numbers, text, `TensorRef`s.

    Raises InvalidInputError, naming the offending instruction or name, for anything else.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if count > MAX_INSTRUCTIONS:
                raise InvalidInputError(f"The pickle has more than {MAX_INSTRUCTIONS} steps.")
            if opcode.name == "STOP":
                return machine.result()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"The pickle is damaged: {error}.") from error
    raise InvalidInputError("The pickle has no end.")


class _Machine:
    """The stack, the memo, and one method an instruction."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The one value that is left."""
        (value,) = self._stack
        return value

    def step(self, name: str, argument: Any) -> None:
        """Obey one instruction."""
        if name in LITERALS:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name not in IGNORED:
            instruction = INSTRUCTIONS.get(name)
            if instruction is None:
                raise _refused(f"the instruction {name}")
            instruction(self, argument)

    def _group(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        start = len(self._stack) - 1
        while self._stack[start] is not MARK:
            start -= 1
            if start < 0:
                raise ValueError("a mark is missing")
        group = self._stack[start + 1 :]
        del self._stack[start:]
        return group

    def _take(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise ValueError("the stack is empty")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._group()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._group())

    def _dict(self, _: Any) -> None:
        self._stack.append(dict(_pairs(self._group())))

    def _append(self, _: Any) -> None:
        (item,) = self._take(1)
        _expect(self._stack[-1], list).append(item)

    def _appends(self, _: Any) -> None:
        group = self._group()
        _expect(self._stack[-1], list).extend(group)

    def _set_item(self, _: Any) -> None:
        key, value = self._take(2)
        _expect(self._stack[-1], dict)[_key(key)] = value

    def _set_items(self, _: Any) -> None:
        group = self._group()
        _expect(self._stack[-1], dict).update(_pairs(group))

    def _global(self, argument: str) -> None:
        self._push_name(argument)

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        self._push_name(f"{module} {name}")

    def _push_name(self, text: str) -> None:
        if text not in KNOWN_NAMES:
            raise _refused(f"{text.replace(' ', '.')[:100]!r}")
        self._stack.append(_Name(text))

    def _build(self, _: Any) -> None:
        """An ordered dictionary's attributes (`_metadata`) say nothing about the weights."""
        self._take(1)
        _expect(self._stack[-1], dict)

    def _persistent_id(self, _: Any) -> None:
        (identity,) = self._take(1)
        kind, name, key, _location, numel = _expect(identity, tuple)
        if kind != "storage" or not isinstance(name, _Name) or name.text not in STORAGE_TYPES:
            raise _refused("a persistent object that is no tensor storage")
        dtype = STORAGE_TYPES[name.text]
        self._stack.append(StorageRef(_expect(key, str), dtype, _natural(numel)))

    def _reduce(self, _: Any) -> None:
        name, arguments = self._take(2)
        name, arguments = _expect(name, _Name), _expect(arguments, tuple)
        if name.text == ORDERED_DICT and not arguments:
            self._stack.append({})
        elif name.text == REBUILD_TENSOR:
            self._stack.append(_tensor(*arguments))
        elif name.text == REBUILD_PARAMETER:
            self._stack.append(_expect(arguments[0], TensorRef))
        else:
            raise _refused(f"a call of {name.text.replace(' ', '.')}")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    sizes = tuple(_natural(item) for item in _expect(size, tuple))
    strides = tuple(_natural(item) for item in _expect(stride, tuple))
    tensor = TensorRef(_expect(storage, StorageRef), _natural(offset), sizes, strides)
    steps = [(length - 1) * step for length, step in zip(sizes, strides, strict=True)]
    last = tensor.offset + sum(steps)
    outside = math.prod(sizes) > 0 and last >= tensor.storage.numel
    if outside or len(sizes) > MAX_DIMENSIONS or math.prod(sizes) > tensor.storage.numel:
        raise _refused("a tensor that reaches beyond its storage")
    return tensor


def _pairs(group: list[Any]) -> list[tuple[Any, Any]]:
    return [(_key(key), value) for key, value in zip(group[::2], group[1::2], strict=True)]


def _key(value: Any) -> str | int:
    """Only plain keys: hashing nested tuples recurses without a limit."""
    if not isinstance(value, str | int):
        raise ValueError(f"a {type(value).__name__} is no key")
    return value


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {kind.__name__} is needed, not a {type(value).__name__}")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a {type(value).__name__} is no count, or a negative one")
    return value


def _refused(what: str) -> InvalidInputError:
    return InvalidInputError(
        f"The file asks for {what}, which no checkpoint of this kind needs: it was not run.",
        hint="Do not open this file with torch.load either.",
    )


LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    }
)
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: MARK,
}
IGNORED = frozenset({"PROTO", "FRAME"})
INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MEMOIZE": _Machine._memoize,
    "POP": _Machine._pop,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._stack.append(tuple(machine._take(1))),
    "TUPLE2": lambda machine, _: machine._stack.append(tuple(machine._take(2))),
    "TUPLE3": lambda machine, _: machine._stack.append(tuple(machine._take(3))),
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent_id,
    "REDUCE": _Machine._reduce,
}
