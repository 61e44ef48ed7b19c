"""What a user asks for as packages, and uv or pip, which find and fetch it for a worker's Python and platform.

    ["scikit-learn"] or "requirements.lock" ──► Requirements ──┐
    the worker's Python and platform ─────────► Target ────────┴─► uv, else pip ──► a folder of installed wheels

It runs as the user's own uv or pip does: with their indexes, proxies, certificates and caches. Only wheels are taken,
since a build would be for this machine. Where pip stands in for uv, what is said to one is said to the other.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pywren_runtime.errors import ConfigError, PackagesError

if TYPE_CHECKING:
    import subprocess

__all__ = ["HERE", "Requirements", "Target", "fetch", "fingerprint", "interpreter", "on_lambda", "platforms", "read"]

HERE: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"
_BROUGHT: Final = frozenset(  # by our own layer, and by Lambda
    "cloudpickle hiredis obstore redis tblib awslambdaric boto3 botocore dateutil jmespath pip pkg_resources"
    " runtime_client s3transfer setuptools simplejson six snapshot_restore_py urllib3".split()
)
_SAID: Final = 12  # lines of uv's or pip's own words in an error


@dataclass(frozen=True, slots=True)
class Target:
    """Where packages are to run."""

    python: str  # "3.12"
    platform: str = ""  # as uv names it: "x86_64-manylinux_2_34"; empty for this machine
    others: frozenset[str] | None = field(
        default=None, compare=False, repr=False
    )  # modules that it has besides, if known

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform or 'this machine'}"


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines as in a requirements file, and the file if they come from one."""

    text: str
    path: str = ""

    def __str__(self) -> str:
        return self.path or repr(self.text.splitlines())

    @property
    def is_whole(self) -> bool:
        """Whether the text says it all, and names no further file or folder."""
        return not re.search(r"^\s*(-|\.|/|file:)|@\s*file:", self.text, re.MULTILINE)


def on_lambda(python: str, arch: str) -> Target:
    """The target for a function: Python 3.11 runs on Amazon Linux 2 (glibc 2.26), later ones on that of 2023 (2.34)."""
    libc = "2014" if python == "3.11" else "_2_34"
    return Target(python, f"{'aarch64' if arch == 'arm64' else arch}-manylinux{libc}", _BROUGHT)


def read(given: "str | os.PathLike[str] | Iterable[str]") -> Requirements:
    """What `requirements=` was given: a list of packages, or a file's name. ConfigError if it is neither."""
    if isinstance(given, str | os.PathLike):
        path = os.path.abspath(os.path.expanduser(given))
        try:
            with open(path, encoding="utf-8") as file:
                return Requirements(file.read(), path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"requirements={os.fspath(given)!r} is no file that can be read ({error}): give a requirements file, "
                f"or a list of packages, such as requirements=[{os.fspath(given)!r}]"
            ) from error
    lines = list(given)
    for line in lines:
        if not isinstance(line, str) or not line.strip() or "\n" in line:
            raise ConfigError(
                "requirements takes packages as pip does, such as requirements=['scikit-learn', 'pandas>=2'], or a "
                f"file's name, not {line!r} among them"
            )
    return Requirements("".join(f"{line.strip()}\n" for line in lines))


def fetch(requirements: Requirements, target: Target, folder: str) -> None:
    """Install the wheels into `folder`, for that target. PackagesError says why it cannot be done.

    Of a list, uv takes the versions that are installed here where it has the choice.
    """
    import tempfile

    uv = find_uv()
    with tempfile.TemporaryDirectory() as aside:
        variables = _variables(os.environ, aside)
        path = requirements.path or _written(aside, "requirements.txt", requirements.text)
        command = [*(_by_uv(uv, "install", target) if uv else _by_pip(target)), "--target", folder]
        if uv and not requirements.path and requirements.is_whole:
            lock = _written(aside, "lock.txt", "".join(f"{pin}\n" for pin in installed()))
            plain = ["--no-header", "--no-annotate", "--output-file", lock]
            ran = _run([*_by_uv(uv, "compile", target), *plain, path], variables)
            if ran.returncode == 0:  # else the whole of it says why, in the words that everybody knows
                path = lock
                command.append("--no-deps")
        ran = _run([*command, "-r", path], variables)
    if ran.returncode:
        raise _refusal(ran.stdout, requirements, target, "uv" if uv else "pip")


def installed() -> list[str]:
    """What is installed here, `name==version`, by the names of the folders that say so."""
    pins = {}
    for entry in reversed(sys.path):
        with contextlib.suppress(OSError):
            for name in os.listdir(entry or "."):
                found = re.fullmatch(r"([\w.]+)-(\d[\w.!]*)\.dist-info", name)
                if found:
                    pins[found[1]] = found[2]
    return [f"{name}=={pins[name]}" for name in sorted(pins)]


def _written(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _run(command: list[str], variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    import subprocess

    return subprocess.run(
        [*command, "--only-binary", ":all:"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=variables,
    )


def find_uv() -> list[str]:
    """How to call uv: as a package of this Python, or as a program; empty if it is neither."""
    import shutil
    from importlib.util import find_spec

    if find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    program = shutil.which("uv")
    return [program] if program else []


def interpreter(python: str) -> str | None:
    """A Python of that minor version on this machine, such as compiles for it; None if there is none."""
    import shutil
    import subprocess

    if python == HERE:
        return sys.executable
    uv = find_uv()
    found = shutil.which(f"python{python}")
    if uv:
        ran = subprocess.run([*uv, "python", "find", "--no-python-downloads", python], capture_output=True, text=True)
        found = ran.stdout.strip() if ran.returncode == 0 else found
    if found:
        ask = [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(ask, capture_output=True, text=True).stdout.strip() == python:
            return found
    return None


def _by_uv(uv: list[str], verb: str, target: Target) -> list[str]:
    command = [*uv, "pip", verb, "--quiet", "--no-progress", "--color", "never", "--python", sys.executable]
    if target.platform:
        command += ["--python-platform", target.platform]
    return [*command, "--python-version", target.python]


def _by_pip(target: Target) -> list[str]:
    from importlib.util import find_spec

    if find_spec("pip") is None:
        raise PackagesError(
            f"requirements= needs uv or pip to find packages, and neither is here: run `pip install uv`, or see "
            f"https://docs.astral.sh/uv (looked for uv on PATH, and for both beside {sys.executable})"
        )
    plain = ["--no-color", "--no-compile", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command = [sys.executable, "-c", _PIP, target.python, target.platform, "install", *plain]
    if target.platform or target.python != HERE:
        command += ["--implementation", "cp", "--python-version", target.python]
    for platform in platforms(target.platform):
        command += ["--platform", platform]
    return command


# pip chooses wheels for the target, but asks its own Python what `; python_version < "3.12"` means.
_PIP = """
import runpy, sys
python, platform = sys.argv[1:3]
del sys.argv[1:3]
if platform:
    from pip._vendor.packaging import markers
    here = markers.default_environment
    there = dict(python_version=python, python_full_version=python + ".0", os_name="posix", sys_platform="linux",
                 platform_system="Linux", platform_machine=platform.partition("-")[0],
                 implementation_name="cpython", platform_python_implementation="CPython")
    markers.default_environment = lambda: {**here(), **there}
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def platforms(platform: str) -> list[str]:
    """All tags of wheels that run there, for pip, which knows no order among them."""
    if not platform:
        return []
    arch, _, libc = platform.partition("-manylinux")
    newest = 17 if libc == "2014" else int(libc.rpartition("_")[2])
    tags = [f"manylinux_2_{minor}_{arch}" for minor in range(newest, 4, -1)]
    return [*tags, f"manylinux2014_{arch}", f"manylinux2010_{arch}", f"manylinux1_{arch}", f"linux_{arch}"]


# What pip was told holds for uv too, where uv was told nothing.
_SAME: Final = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
    "PIP_CERT": "SSL_CERT_FILE",
}
_OTHERS: Final = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}  # the same, spelled as of old


def _variables(given: Mapping[str, str], aside: str) -> dict[str, str]:
    """The environment for uv or pip: an index, a proxy or an authority that one client here knows, it knows too."""
    variables = dict(given)
    for theirs, ours in _SAME.items():
        if given.get(theirs) and not given.get(ours) and not given.get(_OTHERS.get(ours, ours)):
            variables[ours] = given[theirs]
    private = given.get("AWS_CA_BUNDLE")
    if private and not variables.get("SSL_CERT_FILE") and not variables.get("REQUESTS_CA_BUNDLE"):
        bundle = os.path.join(aside, "authorities.pem")
        _join(bundle, private)
        for name in ("SSL_CERT_FILE", "PIP_CERT"):
            variables.setdefault(name, bundle)
    return variables


def _join(bundle: str, private: str) -> None:
    """The company's authority and those of this machine: the proxy may sign what AWS sends, or everything."""
    import ssl

    with open(bundle, "w", encoding="utf-8") as file:
        for source in (ssl.get_default_verify_paths().cafile, private):
            if source and os.path.isfile(source):
                with open(source, encoding="utf-8", errors="replace") as certificates:
                    file.write(certificates.read() + "\n")


_CAUSES: Final = (
    (
        r"no usable wheels|has no wheels|no wheels with|[Bb]uilding (from source|source distributions) is disabled",
        "a package has no wheel for that, and workers build nothing. Ask for a version that has one, or build one "
        "(pip wheel) and name its file",
    ),
    (
        r"unsatisfiable|ResolutionImpossible|conflict",
        "the requirements conflict. Loosen one of them",
    ),
    (
        r"was not found in the|there is no version|No matching distribution",
        "there is no such package or version, or none with a wheel for that. See how it is spelled, and which index is "
        "asked (UV_DEFAULT_INDEX, PIP_INDEX_URL)",
    ),
    (
        r"[Ff]ailed to fetch|error sending request|Connection|Retrying|timed out|certificate",
        "the index cannot be reached. See HTTPS_PROXY, AWS_CA_BUNDLE and the index's address (UV_DEFAULT_INDEX, "
        "PIP_INDEX_URL)",
    ),
)
_ABSENT: Final = _CAUSES[2]


def _refusal(said: str, requirements: Requirements, target: Target, tool: str) -> PackagesError:
    """One error, with its cause in our words and the proof in theirs."""
    lines = [line for line in said.splitlines() if line.strip() and not line.lstrip().startswith("WARNING")]
    causes = (_ABSENT, *_CAUSES) if re.search(r"was not found in the|there is no version of", said) else _CAUSES
    cause = next((text for pattern, text in causes if re.search(pattern, said)), f"{tool} failed")
    quoted = "".join(f"\n  | {line}" for line in lines[-_SAID:])
    return PackagesError(f"{requirements} cannot be had for {target}: {cause}. {tool} said:{quoted}")


def fingerprint(requirements: Requirements, target: Target) -> str:
    """Equal where the same question would be asked in the same surroundings."""
    told = sorted(item for item in os.environ.items() if item[0].startswith(("UV_", "PIP_")))
    asked = requirements.text, requirements.path, target, [] if requirements.path else installed(), told
    return hashlib.sha256(repr(asked).encode()).hexdigest()
