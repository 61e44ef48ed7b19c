"""What the views of one executor share."""

import pytest

from pywren_ng import Executor
from pywren_runtime.stores import check_key


@pytest.mark.parametrize("name", ["my job", "päng", "a/b", "..", "-", "x" * 300, "train.v2=ok", "日本"])
def test_a_job_may_have_any_name(name: str) -> None:
    with Executor("inline", name=name) as ex:
        jobs = [ex.map(bytearray, [100_000]) for _ in range(2)]
        assert [len(result) for job in jobs for result in job] == [100_000, 100_000]
    for job in jobs:
        check_key(f"jobs/{job.id}/results")
        assert len(job.id) < 100
    assert jobs[0].id != jobs[1].id


def test_a_jobs_name_begins_with_the_users() -> None:
    with Executor("inline", name="train models") as ex:
        assert ex.map(abs, []).id.startswith("train-models-")
