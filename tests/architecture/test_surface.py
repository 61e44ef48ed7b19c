"""What users see: the exported names, and a docstring on each."""

import importlib
import inspect
import pkgutil
import re
from types import FunctionType
from typing import Any, get_overloads

import pytest

import pywren_ng
import pywren_runtime
import pywren_shuffle
from pywren_runtime import errors

PACKAGES = (pywren_ng, pywren_runtime, pywren_shuffle)
MODULES = sorted(
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not module.name.endswith("__main__")
)


def test_exported_names() -> None:
    assert sorted(pywren_ng.__all__) == sorted(["Executor", "Job", "__version__", *errors.__all__])


@pytest.mark.parametrize("name", sorted(pywren_ng.__all__))
def test_an_exported_name_is_there(name: str) -> None:
    assert getattr(pywren_ng, name) is not None
    assert name in dir(pywren_ng)


def test_errors_are_the_runtimes_own() -> None:
    assert all(getattr(pywren_ng, name) is getattr(errors, name) for name in errors.__all__)
    assert all(issubclass(getattr(errors, name), errors.PywrenError) for name in errors.__all__)


def test_one_version() -> None:
    assert pywren_ng.__version__ == pywren_runtime.__version__


@pytest.mark.parametrize("name", MODULES)
def test_modules_classes_and_functions_have_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} says nothing about itself"
    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == name]
    public = [thing for thing in own if is_public(thing)]
    assert [thing.__name__ for thing in public if not inspect.getdoc(thing)] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_protocol_promises_is_written_on_it(name: str) -> None:
    things = vars(importlib.import_module(name)).values()
    protocols = [thing for thing in things if getattr(thing, "_is_protocol", False) and is_public(thing)]
    assert [silent for protocol in protocols for silent in silent_members(protocol)] == []


@pytest.mark.parametrize("name", sorted(set(pywren_ng.__all__) - {"__version__"}))
def test_members_of_exported_classes_have_a_docstring(name: str) -> None:
    assert silent_members(getattr(pywren_ng, name)) == []


def is_public(thing: Any) -> bool:
    """A class or function whose name has no leading underscore."""
    return (inspect.isfunction(thing) or inspect.isclass(thing)) and not thing.__name__.startswith("_")


def silent_members(of: type) -> list[str]:
    """The public methods and properties written in a class that have no docstring, not even inherited."""
    written = {name: member for name, member in vars(of).items() if not name.startswith("_")}
    kinds = (FunctionType, property, classmethod, staticmethod)
    members = [name for name, member in written.items() if isinstance(member, kinds)]
    return [f"{of.__name__}.{name}" for name in members if not inspect.getdoc(getattr(of, name))]


@pytest.mark.parametrize("name", ["Executor", "Job"])
def test_no_exported_signature_says_any(name: str) -> None:
    exported = getattr(pywren_ng, name)
    own = [each for each in exported.__mro__ if each.__module__.startswith("pywren_ng")]
    said = [
        f"{each.__name__}.{member}: {annotation}"
        for each in own
        for member, thing in vars(each).items()
        if not member.startswith("_") or member in ("__init__", "__iter__", "__next__", "__aiter__", "__anext__")
        for annotation in annotations_of(thing)
        if re.search(r"\bAny\b", annotation)
    ]
    assert len(own) >= 1 and said == []


def annotations_of(thing: object) -> list[str]:
    """What stands in the signatures of a method, its overloads included, or a property."""
    plain = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    if not isinstance(plain, FunctionType):
        return []
    return [str(annotation) for each in (plain, *get_overloads(plain)) for annotation in each.__annotations__.values()]
