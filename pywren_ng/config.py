"""Settings, and where each came from: the first of these that gives a key decides that key.

    arguments  >  PYWREN_NG_<KEY>  >  ./pywren-ng.toml  >  ~/.config/pywren-ng/config.toml  >  defaults

`resolve` is a pure function of the four layers; `load` looks at this process's environment and files. Every
layer is checked, also where another one decides: a mistake shows at once and not when its turn comes.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from operator import index
from typing import Any

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import without_password

__all__ = ["Layer", "Setting", "load", "render", "resolve"]

_VARIABLE = "PYWREN_NG_"
_INTERNAL = "PYWREN_NG_INTERNAL_"  # between our own processes
_PROJECT_FILE = "pywren-ng.toml"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and the layer that gave it: `argument`, a variable's name, a file's path or `default`."""

    value: Any
    source: str

    @property
    def shown(self) -> str:
        """The value as it may be printed: a URL without its password."""
        return without_password(str(self.value))


@dataclass(frozen=True, slots=True)
class Layer:
    """What one file says."""

    source: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a key accepts, in words: `parse` makes a value of a variable's text, `check` refuses a bad one."""

    accepts: str
    check: Callable[[Any], object]
    parse: Callable[[str], object]


def resolve(
    arguments: Mapping[str, object],
    environ: Mapping[str, str],
    project: Layer | None = None,
    user: Layer | None = None,
) -> dict[str, Setting]:
    """Every key with its value and source; an argument of None and an empty variable count as not given."""
    settings = {key: Setting(default, "default") for key, (_, default) in _KEYS.items()}
    for layer in (user, project):
        if layer is not None:
            settings |= _from_file(layer)
    settings |= _from_environment(environ)
    settings |= _from_arguments(arguments)
    return settings


def load(arguments: Mapping[str, object]) -> dict[str, Setting]:
    """The settings for these arguments in this process's working directory and environment."""
    environ = {name: os.environ[name] for name in os.environ if name.startswith(_VARIABLE)}
    return resolve(arguments, environ, _read(_PROJECT_FILE), _read(_user_file()))


def render(settings: Mapping[str, Setting]) -> str:
    """The table that `pywren-ng config` prints: key, value, source."""
    rows = [("setting", "value", "from")]
    rows += [(key, setting.shown, setting.source) for key, setting in settings.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}" for key, value, source in rows)


# ── the layers ──


def _from_arguments(arguments: Mapping[str, object]) -> dict[str, Setting]:
    found = {}
    for key, value in arguments.items():
        kind = _kind(key, key, "the arguments", list(_KEYS))
        if value is not None:
            found[key] = Setting(_checked(kind, key, value, f"{key}={value!r} (argument)"), "argument")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    found = {}
    for name, text in environ.items():
        if not name.startswith(_VARIABLE) or name.startswith(_INTERNAL):
            continue
        key = name.removeprefix(_VARIABLE).lower()
        spelled = key if name.isupper() else name  # PYWREN_NG_name is no setting, though PYWREN_NG_NAME is
        kind = _kind(spelled, name, "the environment", [_VARIABLE + known.upper() for known in _KEYS])
        if text:
            written = f"{name}={text!r} (environment variable)"
            found[key] = Setting(_checked(kind, key, text, written, from_text=True), name)
    return found


def _from_file(layer: Layer) -> dict[str, Setting]:
    found = {}
    for key, value in layer.values.items():
        kind = _kind(key, key, layer.source, list(_KEYS))
        written = f"{key} = {value!r} (in {layer.source})"
        found[key] = Setting(_checked(kind, key, value, written), layer.source)
    return found


def _kind(key: str, written: str, source: str, known: list[str]) -> _Kind:
    if key in _KEYS:
        return _KEYS[key][0]
    raise ConfigError(
        f"{written!r} in {source} is no setting{_perhaps(written, known)}."
        f" Correct it, or take it out: the settings are {', '.join(known)}."
    )


def _checked(kind: _Kind, key: str, value: object, written: str, *, from_text: bool = False) -> object:
    try:
        return kind.check(kind.parse(str(value)) if from_text else value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"{written} cannot be used: {key} must be {kind.accepts}. Correct it, or take it out for the default."
        ) from None


def _perhaps(written: str, known: list[str]) -> str:
    from difflib import get_close_matches

    capitals = {name.upper(): name for name in known}
    close = get_close_matches(written.upper(), capitals, n=1)
    return f"; perhaps {capitals[close[0]]!r} is meant" if close else ""


# ── this process's files ──


def _user_file() -> str:
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # the XDG specification: a relative one is to be ignored
        folder = os.path.expanduser("~/.config")
    return f"{folder}/pywren-ng/config.toml"


def _read(path: str) -> Layer | None:
    try:
        file = open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(
            f"the settings in {os.path.abspath(path)} cannot be read: {error.strerror}."
            " Make it a file that this user may read, or take it away."
        ) from error
    import tomllib

    with file:
        try:
            return Layer(os.path.abspath(path), tomllib.load(file))
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"the settings in {os.path.abspath(path)} cannot be read as TOML: {error}."
                " Lines look like this: max_workers = 4"
            ) from error


# ── what each key accepts ──


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _switch_from_text(text: str) -> bool:
    return ("0", "1", "false", "true").index(text.lower()) % 2 == 1


def _one_of(*words: str) -> Callable[[Any], str]:
    return lambda value: words[words.index(value)]


def _at_least(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or index(value) < least:
            raise ValueError
        return index(value)

    return check


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):  # text has none, any number has
        raise TypeError
    seconds = float(value)
    if not (isfinite(seconds) and seconds > 0):
        raise ValueError
    return seconds


_TEXT = _Kind("text, and not empty", _text, str)
_SWITCH = _Kind("true or false (in a variable also 1 or 0)", _switch, _switch_from_text)
_COUNT = _Kind("a whole number, 0 or more", _at_least(0), int)
_POSITIVE = _Kind("greater than 0: a whole number, 1 or more", _at_least(1), int)
_MEGABYTES = _Kind("a whole number of megabytes, 1 or more", _at_least(1), int)
_SECONDS = _Kind("a number of seconds greater than 0", _seconds, float)


def _list(value: object) -> object:
    if isinstance(value, str | os.PathLike):
        return _text(os.fspath(value))
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise TypeError
    return list(value)


def _list_from_text(text: str) -> object:
    return text if len(text.split()) == 1 and os.path.isfile(os.path.expanduser(text)) else text.split()


_PACKAGES = _Kind("a list of packages, or the name of a requirements file", _list, _list_from_text)
_INVOKE = _Kind("'auto', 'sync' or 'async'", _one_of("auto", "sync", "async"), str)

_KEYS: Mapping[str, tuple[_Kind, object]] = {
    "backend": (_TEXT, "local"),
    "store": (_TEXT, None),
    "max_workers": (_POSITIVE, None),
    "memory": (_MEGABYTES, None),
    "time_limit": (_SECONDS, None),
    "retries": (_COUNT, 2),
    "progress": (_SWITCH, None),
    "name": (_TEXT, None),
    "deployment": (_TEXT, None),
    "invoke": (_INVOKE, "auto"),
    "profile": (_TEXT, None),
    "region": (_TEXT, None),
    "requirements": (_PACKAGES, None),
    "check_packages": (_SWITCH, True),
}
