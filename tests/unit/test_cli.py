"""The command line: what it prints, and the codes that it exits with."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pywren_ng import __version__
from pywren_ng.cli import main

COMMAND = (sys.executable, "-m", "pywren_ng")


@pytest.fixture(autouse=True)
def _an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("PYWREN_NG_")]:
        monkeypatch.delenv(name)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"pywren-ng {__version__}\n"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "hello" in shown.err and "config" in shown.err


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["helo"])
    assert exit.value.code == 2
    assert "helo" in capsys.readouterr().err


def test_config_shows_values_and_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pywren-ng.toml").write_text("retries = 5\n")
    monkeypatch.setenv("PYWREN_NG_MAX_WORKERS", "3")
    assert main(["config"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["retries"] == ["5", str(tmp_path / "pywren-ng.toml")]
    assert rows["max_workers"] == ["3", "PYWREN_NG_MAX_WORKERS"]
    assert rows["backend"] == ["local", "default"]


@pytest.mark.parametrize("command", ["hello", "config"])
def test_an_error_of_ours_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYWREN_NG_MAX_WORKER", "3")
    assert main([command]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("pywren-ng: ") and shown.err.count("\n") == 1
    assert "'PYWREN_NG_MAX_WORKERS'" in shown.err


@pytest.mark.parametrize("arguments", [["--debug", "config"], ["config", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str]) -> None:
    environ = {**os.environ, "PYWREN_NG_BACKENT": "local"}
    ran = subprocess.run([*COMMAND, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("Traceback") and "ConfigError" in ran.stderr


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [*COMMAND, "config"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_hello_runs_on_real_processes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWREN_NG_MAX_WORKERS", "2")
    screen, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    ran = subprocess.Popen([*COMMAND, "hello"], stdout=subprocess.PIPE, stderr=program, text=True)
    os.close(program)
    bar = b""
    try:
        while arrived := os.read(screen, 4096):
            bar += arrived
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(screen)
    said, _ = ran.communicate(timeout=60)
    assert ran.returncode == 0
    assert b"100/100" in bar
    assert "There are 664,579 primes below 10,000,000." in said
    processes = re.findall(r"process (\d+) +█+ +(\d+) tasks", said)
    assert len({number for number, _ in processes} - {str(ran.pid)}) == 2
    assert sum(int(tasks) for _, tasks in processes) == 100
    assert "The slowest was task" in said
    assert "max_workers = 2 (PYWREN_NG_MAX_WORKERS)" in said


def test_ctrl_c_ends_hello_at_once() -> None:
    ran = subprocess.Popen(
        [*COMMAND, "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert ran.stdout is not None
    assert ran.stdout.readline().startswith("Hello")
    assert ran.stdout.readline().startswith("Counting")
    os.killpg(ran.pid, signal.SIGINT)
    said, errors = ran.communicate(timeout=60)
    assert ran.returncode == 130
    assert "primes below" not in said
    assert errors == "pywren-ng: interrupted\n"
