"""Why something cannot be pickled: which part of it, and the path by which that part is reached.

    explain ──► _search ────────────────► _parts ─────────────────────► _sentence
                breadth first, so the     what cloudpickle itself       the path, the culprit,
                shortest path is found    would pickle next, labelled   the next step

The parts are those of cloudpickle's own reductions (a function's used globals, closure and defaults, a
class's dict, an object's `__reduce_ex__`), and a culprit counts only after the pickler has refused it by
itself; so what the sentence says is what happened, not a guess. Runs in the client (functions, arguments)
and in workers (results).
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pickle import PickleBuffer, PicklingError
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from pywren_runtime.culprits import UNKNOWN, Kind, kind_of

__all__ = ["explain"]

_OBJECTS = 20_000  # visited at most
_SECONDS = 2.0  # searched at most, but for one call into the user's own __reduce__
_MANY = 256  # a container with more parts than this is bisected by pickling, not walked

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, CodeType, PickleBuffer})
_HOOKS = ("__getstate__", "__reduce_ex__", "__reduce__", "__getnewargs_ex__", "__getnewargs__")

_Part = tuple[str, object, object]  # the word for it ("attribute"), its name ("pool") or None, the part itself


@dataclass(frozen=True, slots=True)
class _Step:
    """One object on the way from what was pickled to the culprit."""

    value: object
    word: str = ""
    key: object = None
    before: "_Step | None" = None


def explain(obj: object, name: str, error: BaseException) -> str:
    """Say which part of `obj` cannot be pickled (that raised `error`), how it is reached, and what to do.

    `name` is the subject of the sentence: "the function train", "the result of task 7". Never raises, and
    looks at a bounded number of objects: past that the sentence tells what the error said.
    """
    try:
        deadline = time.monotonic() + _SECONDS
        found = _search(obj, deadline, bisect=True) or _search(obj, deadline, bisect=False)
        if found is not None:
            return _sentence(name, *found)
    except Exception:  # the user's code runs in here (__reduce__, __repr__): it must not hide the first error
        pass
    if isinstance(error, RecursionError) or "recursion" in _text(error):
        advice = "It is nested too deeply to pickle: send it flat, as a list or a table."
    elif "changed size during iteration" in _text(error):
        advice = "Another thread was changing it: send a copy of it."
    else:
        advice = "The part at fault was not found: try its parts one by one with cloudpickle.dumps()."
    return f"{name} cannot be pickled: {_text(error)}. {advice}"


def _search(root: object, deadline: float, *, bisect: bool) -> tuple[_Step, Exception] | None:
    """The nearest part that fails by itself, with its own error; None if there is none within the bounds."""
    queue = deque([_Step(root)])
    seen = {id(root)}
    visited: list[_Step] = []  # keeps what reductions made alive, so that no id comes back as another object
    while queue:
        step = queue.popleft()
        visited.append(step)
        if time.monotonic() > deadline:
            return None
        try:
            parts = _parts(step.value)
            crowd = [part for part in parts if type(part[2]) not in _ATOMS] if parts is not None else []
        except Exception:  # its reduction raises: this is the culprit, or the real pickler knows better
            parts = None
        if parts is None:
            failure = _failure(step.value)
            if failure is not None:
                return step, failure
            continue
        if bisect and len(crowd) > _MANY:
            crowd = _first_failing(crowd)
        for word, key, value in crowd:
            if id(value) not in seen and len(seen) < _OBJECTS:
                seen.add(id(value))
                queue.append(_Step(value, word, key, step))
    return None


class _Nowhere:
    """A file that keeps nothing: only whether pickling succeeds is of interest."""

    def write(self, data: object) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]  # the pickler writes bytes-like objects


def _failure(value: object) -> Exception | None:
    """What the pickler raises for this value alone; buffers stay out of band, so nothing large is copied."""
    try:
        _pickler().dump(value)
    except Exception as error:
        return error
    return None


def _pickler() -> Any:
    from pywren_runtime.strict import StrictPickler

    return StrictPickler(_Nowhere(), protocol=5, buffer_callback=_leave_out)


def _leave_out(buffer: PickleBuffer) -> None:
    """Tell the pickler that this buffer travels by itself."""


def _first_failing(parts: list[_Part]) -> list[_Part]:
    while len(parts) > 1:
        half = len(parts) // 2
        ahead = parts[:half]
        parts = ahead if _failure([value for _, _, value in ahead]) is not None else parts[half:]
    return parts


# ── the parts of an object, as cloudpickle reaches them ─────────────────────────────────────────────────────


def _parts(value: object) -> Iterable[_Part] | None:
    """What is pickled with `value`; None if it goes by its name alone. Raises what its reduction raises."""
    if type(value) is dict:
        return [("item", k, v) for k, v in value.items()] + [("key", k, k) for k in value]
    if type(value) in (list, tuple):
        return (("item", at, v) for at, v in enumerate(value))  # type: ignore[var-annotated, arg-type]
    if type(value) in (set, frozenset):
        return [("element", None, v) for v in value]  # type: ignore[attr-defined]
    reduction = _reduction(value)
    if reduction is None:
        return None
    if isinstance(value, FunctionType):
        return list(_function_parts(value, reduction))
    if isinstance(value, type):
        return list(_class_parts(value, reduction))
    return list(_instance_parts(value, reduction))


def _reduction(value: object) -> tuple[Any, ...] | None:
    """The reduce value that the pickler would use, as six fields; None for what is pickled by name."""
    pickler = _pickler()
    reduced = pickler.reducer_override(value)
    if reduced is NotImplemented:
        if issubclass(type(value), type | FunctionType):
            return None
        reducer = pickler.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(5) if reducer is None else reducer(value)
    if isinstance(reduced, str):
        return None
    if not (isinstance(reduced, tuple) and 2 <= len(reduced) <= 6 and isinstance(reduced[1], tuple)):
        raise PicklingError("__reduce__ returned what pickle cannot use")
    return (*reduced, None, None, None, None)[:6]


def _function_parts(function: FunctionType, reduction: tuple[Any, ...]) -> Iterator[_Part]:
    attributes, slots = reduction[2]
    code = function.__code__
    for name, cell in zip(code.co_freevars, slots.pop("__closure__") or (), strict=True):
        try:
            yield "closure variable", name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from _named("global", slots.pop("__globals__"))
    defaults = slots.pop("__defaults__") or ()
    arguments = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    yield from (("default of argument", name, value) for name, value in zip(arguments, defaults, strict=True))
    yield from _named("default of argument", slots.pop("__kwdefaults__") or {})
    yield from _named("attribute", attributes)
    yield from _named("annotation of", slots.pop("__annotations__", None) or {})
    yield from _named("attribute", slots)


def _class_parts(cls: type, reduction: tuple[Any, ...]) -> Iterator[_Part]:
    _, args, state, *_ = reduction
    namespace = state[0] if isinstance(state, tuple) else {}
    for name, value in namespace.items():
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        yield "method" if isinstance(value, FunctionType) else "class attribute", name, value
    for base in getattr(cls, "__orig_bases__", cls.__bases__):
        yield "base", getattr(base, "__name__", None), base
    if type(cls) is not type:
        yield "metaclass", type(cls).__name__, type(cls)
    for value in args:
        if type(value) is dict:  # an enumeration's members
            yield from _named("member", value)


def _instance_parts(value: object, reduction: tuple[Any, ...]) -> Iterator[_Part]:
    make, args, state, items, pairs, setter = reduction
    owned = {id(part): name for name, part in _attributes(value)}
    is_slotted = isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict)
    for half in state if is_slotted else (state,):  # the instance's dict, and the slots' values
        members: Iterable[tuple[object, object]] = [(None, half)]
        if type(half) is dict:
            members = half.items()
        elif type(half) in (list, tuple):
            members = enumerate(half)
        for key, part in members:
            name = owned.get(id(part))
            yield ("attribute", name, part) if name is not None else ("state item", key, part)
    yield from (("item", at, part) for at, part in enumerate(items or ()))
    for key, part in pairs or ():
        yield "item", key, part
        yield "key", key, key
    for at, part in enumerate(args):
        if part is type(value):
            yield "class", type(value).__name__, part
        elif id(part) in owned:
            yield "attribute", owned[id(part)], part
        elif make is getattr and at == 0:
            yield "attribute", "__self__", part
        elif isinstance(value, ModuleType) and type(part) is dict:
            yield from _named("attribute", part)
        else:
            yield "constructor argument", at, part
    yield "constructor", None, make
    if setter is not None:
        yield "state setter", None, setter


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """The instance's own attributes with their names: its dict, its slots, a named tuple's fields."""
    try:
        yield from vars(value).items()
    except TypeError:
        pass
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, MemberDescriptorType):
                try:
                    yield name, member.__get__(value)
                except AttributeError:  # a slot without a value
                    continue
    if isinstance(value, tuple):
        yield from zip(getattr(value, "_fields", ()), value, strict=False)


def _named(word: str, parts: dict[Any, Any]) -> Iterator[_Part]:
    for key, value in parts.items():
        yield word, key, value


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────


def _sentence(name: str, culprit: _Step, failure: Exception) -> str:
    steps: list[_Step] = []
    step: _Step | None = culprit
    while step is not None:
        steps.insert(0, step)
        step = step.before
    # A thread is the culprit, not the lock three attributes down in it: stop at the first thing known.
    known = next((at for at, each in enumerate(steps) if kind_of(each.value) is not None), len(steps) - 1)
    path, last = steps[1 : known + 1], steps[known]
    kind = kind_of(last.value)
    where = "its " + " → ".join(_label(each) for each in path) if path else "it"
    what = _type_name(type(last.value))
    article = "an" if what.lstrip("_")[:1].lower() in ("a", "e", "i", "o", "u") else "a"
    noun = f" ({_noun(kind, last.value)})" if kind is not None and kind.noun else ""
    why = _own_words(failure) if last is culprit else ""
    advice = _advice(kind, path)
    if name.startswith("the result"):
        advice = _for_result(advice)
    return f"{name} cannot be pickled: {where} is {article} {what}{noun}{why}. {advice}"


def _advice(kind: Kind | None, path: list[_Step]) -> str:
    getstate = ""
    if path and path[-1].word == "attribute" and path[-1].before is not None:
        holder = type(path[-1].before.value)
        if holder not in (FunctionType, ModuleType) and not issubclass(holder, type):
            getstate = f", or leave it out in {holder.__name__}.__getstate__"
    return (kind or UNKNOWN).advice.format(getstate=getstate)


def _for_result(advice: str) -> str:
    """The same for what a function returns, and does not get."""
    if advice.startswith(("Create", "Make", "Open", "Pass", "Start")):
        return "Return what it was made from, or what was got from it, instead."
    return advice.replace("Send ", "Return ").replace("send ", "return ")


def _noun(kind: Kind, value: object) -> str:
    path = getattr(value, "name", None)
    return f"{kind.noun}, {path!r}" if kind.noun == "an open file" and isinstance(path, str | bytes) else kind.noun


def _own_words(failure: Exception) -> str:
    """What the culprit itself said, where that is more than "cannot pickle 'x' object"."""
    trace = failure.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name in _HOOKS:
            return f", and its {trace.tb_frame.f_code.co_name} raised {_text(failure)}"
        trace = trace.tb_next
    return "" if str(failure).startswith("cannot pickle") else f", which said {_text(failure)}"


def _label(step: _Step) -> str:
    if step.key is None:
        return step.word
    if not isinstance(step.key, str | int | float | bytes | tuple | bool):
        return step.word if step.key is step.value else f"{step.word} of key {_type_name(type(step.key))}"
    key = repr(step.key)
    return f"{step.word} {key if len(key) <= 60 else key[:57] + '...'}"


def _type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".rstrip(". ")
    except Exception:  # a user's __str__
        return type(error).__name__
