"""The commands about an account: setup, join, check, teardown, policy. What they do is in `pywren_ng.deploy`."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pywren_ng.config import Setting
    from pywren_ng.deploy.plan import Plan
    from pywren_ng.deploy.setup import Deployed

__all__ = ["add"]


def add(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    whose = argparse.ArgumentParser(add_help=False)
    whose.add_argument("--profile", help="whose credentials: a profile of ~/.aws/config")
    whose.add_argument("--file", help="the deployment's file (default: ~/.config/pywren-ng/deployment.toml)")
    for name, run, text, options in (
        (
            "setup",
            _setup,
            "make a deployment on AWS Lambda in this account and region, or add to it, or upgrade it",
            _asked,
        ),
        ("join", _join, "use a deployment that somebody else has set up: fetch where it is, and its key", _sizes),
        ("check", _check, "see whether the deployment works, and how to mend what does not", _where),
        ("teardown", _teardown, "remove a deployment, with everything that lies in it", _gone),
        ("policy", _policy, "print the least that a user, an admin, or the functions' role must be allowed", _whose),
    ):
        parser = commands.add_parser(name, parents=[shared, whose], help=text, description=text)
        parser.set_defaults(run=run)
        options(parser)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", help="of the deployment, where there are several (default: the file's)")


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", help="default: the profile's, or AWS_REGION")
    parser.add_argument("--name", help="of the deployment, which all its names begin with (default: pywren-ng)")


def _sizes(parser: argparse.ArgumentParser) -> None:
    _which(parser)
    parser.add_argument(
        "--memory", type=int, action="append", default=[], metavar="MB", help="a size of function; may be repeated"
    )
    parser.add_argument("--arch", action="append", default=[], choices=["x86_64", "arm64"], help="may be repeated")


def _sure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _gone(parser: argparse.ArgumentParser) -> None:
    _which(parser)
    _sure(parser)


def _asked(parser: argparse.ArgumentParser) -> None:
    _sizes(parser)
    _sure(parser)
    add = parser.add_argument
    add("--python", action="append", default=[], metavar="3.12", help="default: this one; may be repeated")
    add("--copies", type=int, default=0, help="identical functions of each size: each starts 1,000 workers per 10 s")
    add("--disk", type=int, default=0, metavar="MB", help="ephemeral disk of a worker, 512 to 10240; over 512 costs")
    add("--read", action="append", default=[], metavar="s3://BUCKET/PREFIX", help="tasks may read there; repeatable")
    add("--write", action="append", default=[], metavar="s3://BUCKET/PREFIX", help="tasks may write there; repeatable")
    add("--bucket", default="", metavar="NAME[/PREFIX]", help="a bucket that is there, instead of a new one")
    add("--role-arn", default="", metavar="ARN", help="a role that is there; `policy worker` prints what it needs")
    add("--permissions-boundary", default="", metavar="ARN", help="of the new role")
    add("--tags", nargs="+", default=[], metavar="KEY=VALUE", help="of everything that is made")
    add("--subnets", nargs="+", default=[], metavar="ID", help="run in your network")
    add("--security-groups", nargs="+", default=[], metavar="ID")
    add(
        "--redis-password",
        nargs="?",
        const="",
        metavar="not-here",
        help="the functions get the password of your Redis: from REDISCLI_AUTH, or you are asked; later setups keep it",
    )
    add("--only", action="store_true", help="what is there and not named here goes, instead of staying")


def _plan(asked: argparse.Namespace) -> "Plan":
    from pywren_ng.deploy.plan import Plan, parse_place
    from pywren_ng.requirements import HERE
    from pywren_runtime.errors import ConfigError

    if wrong := [tag for tag in asked.tags if "=" not in tag]:
        raise ConfigError(f"--tags {wrong[0]}: a tag looks like this: team=research")
    bucket, folder = parse_place(asked.bucket) if asked.bucket else ("", "")
    return Plan(
        pythons=tuple(asked.python) or (HERE,),
        archs=tuple(asked.arch),
        memories=tuple(asked.memory),
        copies=asked.copies,
        disk=asked.disk,
        reads=tuple(asked.read),
        writes=tuple(asked.write),
        bucket=bucket,
        folder=folder.strip("/"),
        role=asked.role_arn,
        boundary=asked.permissions_boundary,
        subnets=tuple(asked.subnets),
        groups=tuple(asked.security_groups),
        tags=tuple((key, value) for key, _, value in (tag.partition("=") for tag in asked.tags)),
    )


def _own(asked: argparse.Namespace) -> "Mapping[str, Setting]":
    """The settings that say who asks and where, with what was typed before all."""
    from pywren_ng import config

    return config.load({"profile": asked.profile, "region": getattr(asked, "region", None), "deployment": asked.file})


def _file(asked: argparse.Namespace) -> str:
    from pywren_ng import deployment

    return str(_own(asked)["deployment"].value or deployment.default_file())


def _deployed(asked: argparse.Namespace, *, known: bool = False) -> "Deployed":
    """The account and the deployment's name: with `known`, those of the deployment's file unless others are named."""
    from pywren_ng import deployment
    from pywren_ng.deploy.account import Account
    from pywren_ng.deploy.plan import NAME, check_name
    from pywren_ng.deploy.setup import Deployed

    settings, file, name = _own(asked), _file(asked), asked.name
    profile, region = settings["profile"].value, settings["region"].value
    if known and not (name and region) and os.path.exists(file):
        where = deployment.load(file)
        name, region = name or where.prefix, region or where.region
    return Deployed(Account(profile, region), check_name(name or NAME), file, over=bool(asked.file))


def _ask(asked: argparse.Namespace) -> Callable[[str], bool]:
    from pywren_runtime.errors import ConfigError

    def ask(question: str) -> bool:
        if asked.yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigError("nobody is here to be asked: say --yes, and nothing is asked")
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    return ask


def _setup(asked: argparse.Namespace) -> None:
    from pywren_ng.deploy.setup import setup

    password = _password(asked.redis_password) if asked.redis_password is not None else ""
    plan = _plan(asked)
    _written(asked, setup(_deployed(asked), plan, only=asked.only, say=_say, ask=_ask(asked), password=password))


def _password(typed: str) -> str:
    """From the environment, or whoever is there; never from the command line, which others see."""
    from pywren_ng.deploy.plan import check_password
    from pywren_runtime.errors import ConfigError
    from pywren_runtime.stores.redis_settings import PASSWORD

    if typed:
        raise ConfigError(
            "a password on the command line stands in the shell's history and in everybody's list of processes: say"
            f" --redis-password alone, and you are asked, or put it into {PASSWORD} before"
        )
    if found := os.environ.get(PASSWORD):
        return check_password(found)
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody is here to be asked for the password of Redis: put it into {PASSWORD} before")
    from getpass import getpass

    return check_password(getpass("Password of Redis (nothing is shown): "))


def _join(asked: argparse.Namespace) -> None:
    from pywren_ng.deploy.plan import Plan
    from pywren_ng.deploy.setup import join

    wish = Plan(archs=tuple(asked.arch), memories=tuple(asked.memory))
    _written(asked, join(_deployed(asked), wish))


def _written(asked: argparse.Namespace, file: "Path") -> None:
    _say(f"Wrote {file}, which only you can read.")
    asked.file = None
    if str(file) != _file(asked):
        _say(f"To use this one: export PYWREN_NG_DEPLOYMENT={file}")
    _say(NEXT)


def _teardown(asked: argparse.Namespace) -> None:
    from pywren_ng.deploy.teardown import teardown

    teardown(_deployed(asked, known=True), say=_say, ask=_ask(asked))


def _check(asked: argparse.Namespace) -> int:
    from pywren_ng.deploy import checks

    own = _own(asked)
    file, profile, region, bad = _file(asked), own["profile"].value, own["region"].value, 0
    with _environment(PYWREN_NG_DEPLOYMENT=file):
        for found in checks.look_at(profile, region, file, lambda invoke: _run_a_task(profile, region, invoke)):
            _say(f"{'ok  ' if found.is_good else 'FAIL'}  {found.name:<12} {found.text}")
            if found.fix:
                _say(f"      {found.fix}")
            bad += not found.is_good
    return 1 if bad else 0


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if value})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run_a_task(profile: str | None, region: str | None, invoke: str) -> str:
    from time import perf_counter

    from pywren_ng import Executor
    from pywren_runtime.errors import DeploymentError

    begun = perf_counter()
    with (
        _environment(PYWREN_NG_INVOKE=invoke),
        Executor(
            "lambda", profile=profile, region=region, progress=False, retries=0, max_workers=1, name="check"
        ) as ex,
    ):
        job = ex.map(int, [0])
        job.results()
        if any(attempt.attempt > 1 for attempt in job.stats):
            raise DeploymentError(
                f"the first attempt gave no sign of life, and the next ran ({invoke}): perhaps the functions' role may"
                " not write to the bucket. `pywren-ng policy worker` prints what it needs; see the log group, too"
            )
    return f"ran, {perf_counter() - begun:.2f} s"


def _whose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("who", choices=["user", "admin", "worker"])
    parser.add_argument("--account", help="the account's number (default: any)")
    _asked(parser)


def _policy(asked: argparse.Namespace) -> None:
    import json

    from pywren_ng.deploy import policies
    from pywren_ng.deploy.plan import filled

    name = asked.name or "pywren-ng"
    plan = filled(_plan(asked), name)
    bucket = plan.bucket or f"{name.lower()}-data-*"
    place = policies.Place(name, bucket, plan.folder, asked.region or "*", asked.account or "*")
    if asked.who == "worker":
        found = policies.worker(plan, name, bucket, place.arn)
    elif asked.who == "user":
        found = policies.user(place)
    else:
        found = policies.admin(place, own_bucket=not plan.bucket, own_role=not plan.role)
    _say(json.dumps(found, indent=2))


def _say(text: str) -> None:
    print(text, flush=True)


NEXT = """
Your turn:

    from pywren_ng import Executor

    with Executor("lambda") as ex:
        print(list(ex.map(lambda x: x * x, range(10))))

`pywren-ng check` sees whether all of it works; `pywren-ng teardown` removes it."""
