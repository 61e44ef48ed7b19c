"""An executor's private folder goes with it, also after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from pywren_ng.scratch import Scratch


def test_it_is_there_alone_and_goes(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    assert os.listdir(tmp_path) == [os.path.basename(scratch.path)]
    assert os.stat(scratch.path).st_mode & 0o077 == 0
    scratch.close()
    assert os.listdir(tmp_path) == []


def test_one_that_is_lived_in_stays(tmp_path: Path) -> None:
    first, second = Scratch(str(tmp_path)), Scratch(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(each.path) for each in (first, second))
    first.close()
    second.close()


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    script = (
        f"from pywren_ng.scratch import Scratch; s = Scratch({str(tmp_path)!r}); print(s.path, flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    with process:
        assert process.stdout is not None
        left = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    assert os.path.isdir(left)
    scratch = Scratch(str(tmp_path))
    assert os.listdir(tmp_path) == [os.path.basename(scratch.path)]
    scratch.close()


def test_a_folder_that_a_late_worker_made_again_goes_too(tmp_path: Path) -> None:
    again = tmp_path / f"pywren-ng-{os.getuid()}-0123456789ab"
    (again / "store" / "~partial").mkdir(parents=True)
    (tmp_path / "pywren-ng-of-somebody-else").mkdir()
    scratch = Scratch(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([os.path.basename(scratch.path), "pywren-ng-of-somebody-else"])
    scratch.close()
