"""The deployment's template: what is in it for a plan, and that CloudFormation's own linter finds nothing."""

import inspect
import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywren_ng import deployment
from pywren_ng.deploy import plan as plans
from pywren_ng.deploy import setup, template
from pywren_ng.deploy.plan import Plan, check, filled, plus
from pywren_runtime import wire
from pywren_runtime.errors import ConfigError, DeploymentError

NAME = "pywren-ng"
LAYER = "arn:aws:lambda:eu-west-3:123456789012:layer:py{0}-{1}:7"
PLAIN = filled(Plan(pythons=("3.12",)), NAME)
FULL = filled(
    Plan(
        pythons=("3.11", "3.13"),
        archs=("x86_64", "arm64"),
        memories=(2048, 512),
        copies=2,
        disk=4096,
        reads=("s3://data/in", "s3://whole"),
        writes=("s3://data/in", "s3://data/out/"),
        boundary="arn:aws:iam::123456789012:policy/boundary",
        subnets=("subnet-0123456789abcdef0",),
        groups=("sg-0123456789abcdef0",),
        password=True,
    ),
    NAME,
)
GIVEN = filled(
    Plan(pythons=("3.12",), bucket="theirs", folder="team", role="arn:aws:iam::123456789012:role/theirs"), NAME
)


class Loader(yaml.SafeLoader):
    """YAML as CloudFormation reads it, `!Ref X` being `{"Ref": X}`."""


Loader.add_multi_constructor(
    "!",
    lambda loader, tag, node: {
        tag if tag == "Ref" else f"Fn::{tag}": loader.construct_scalar(node)
        if isinstance(node, yaml.ScalarNode)
        else loader.construct_sequence(node, deep=True)
    },
)


def rendered(plan: Plan) -> str:
    return template.render(
        plan,
        NAME,
        {runtime: LAYER.format(runtime.python.replace(".", ""), runtime.arch) for runtime in plan.runtimes()},
    )


def resources(plan: Plan, kind: str) -> list[dict[str, Any]]:
    found = yaml.load(rendered(plan), Loader)["Resources"].values()
    return [each["Properties"] for each in found if each["Type"] == f"AWS::{kind}"]


@pytest.mark.parametrize("plan", [PLAIN, FULL, GIVEN], ids=["plain", "full", "given"])
def test_cfn_lint_finds_nothing(plan: Plan) -> None:
    from cfnlint.api import lint_all  # a second, which others who only collect need not wait

    found = [match for match in lint_all(rendered(plan)) if not match.rule.id.startswith("I")]
    assert found == []


def test_the_package_has_the_file() -> None:
    here = files("pywren_ng.deploy").joinpath("template.yaml").read_text()
    assert here == (Path(__file__).parents[2] / "runtime" / "template.yaml").read_text()


def test_a_function_for_each_python_processor_size_and_copy() -> None:
    functions = resources(FULL, "Lambda::Function")
    expected = {
        deployment.function_name(NAME, python, arch, memory, copy)
        for python in ("3.11", "3.13")
        for arch in ("x86_64", "arm64")
        for memory in (2048, 512)
        for copy in (0, 1)
    }
    assert {each["FunctionName"] for each in functions} == expected and len(functions) == len(expected)
    for each in functions:
        python, arch = each["Runtime"].removeprefix("python"), each["Architectures"][0]
        assert each["Layers"] == [LAYER.format(python.replace(".", ""), arch)]
        assert f"-py{python.replace('.', '')}-{arch}-{each['MemorySize']}" in each["FunctionName"]
        assert (each["Timeout"], each["EphemeralStorage"]) == (900, {"Size": 4096})
        assert each["VpcConfig"] == {"SubnetIds": [*FULL.subnets], "SecurityGroupIds": [*FULL.groups]}


def test_aws_tries_nothing_again_by_itself() -> None:
    events = resources(FULL, "Lambda::EventInvokeConfig")
    assert len(events) == len(resources(FULL, "Lambda::Function"))
    assert {(each["MaximumRetryAttempts"], each["MaximumEventAgeInSeconds"]) for each in events} == {(0, 60)}


def test_no_two_functions_share_a_name_in_the_template() -> None:
    many = filled(Plan(pythons=("3.12",), memories=(512, 5123, 5122), copies=3), NAME)
    assert len(resources(many, "Lambda::Function")) == 9


@pytest.mark.parametrize(
    ("secret", "variable"), [("Key", "PYWREN_NG_INTERNAL_KEY"), ("RedisPassword", "REDISCLI_AUTH")]
)
def test_a_secret_stands_nowhere_but_in_the_functions_environment(secret: str, variable: str) -> None:
    loaded = yaml.load(rendered(FULL), Loader)
    assert loaded["Parameters"][secret]["NoEcho"] is True
    functions = resources(FULL, "Lambda::Function")
    assert json.dumps(loaded).count(f'{{"Ref": "{secret}"}}') == len(functions)
    assert {json.dumps(each["Environment"]["Variables"][variable]) for each in functions} == {f'{{"Ref": "{secret}"}}'}
    assert secret not in template.parameters(FULL)


def test_a_password_is_in_the_environment_only_if_there_is_one() -> None:
    (function,) = resources(PLAIN, "Lambda::Function")
    assert "REDISCLI_AUTH" not in function["Environment"]["Variables"]


def test_what_lambda_would_show_in_its_own_error_is_not_sent() -> None:
    variables = {"REDISCLI_AUTH": "hidden", "OWN": "x" * 4100}
    with pytest.raises(DeploymentError, match=r"would be 4,1\d\d bytes, and Lambda takes 4,096: .* OWN") as refused:
        setup.check_room("there-w1", {"Environment": {"Variables": variables}})
    assert "hidden" not in str(refused.value)
    setup.check_room("there-w1", {"MemorySize": 1})


def test_everything_that_is_put_has_its_rule() -> None:
    """Each function in `wire` that builds a key: what lies there goes by itself."""
    (bucket,) = resources(PLAIN, "S3::Bucket")
    rules = [rule for rule in bucket["LifecycleConfiguration"]["Rules"] if "ExpirationInDays" in rule]
    prefixes = [rule["Prefix"]["Fn::Sub"].removeprefix("${Folder}/") for rule in rules]
    builders = {name: each for name, each in vars(wire).items() if name.endswith("_key") and inspect.isfunction(each)}
    assert len(builders) >= 8 and "shuffles/" in prefixes
    samples: dict[Any, object] = {bytes: b"\1" * 32, str: "x", int: 1}
    for name, builder in builders.items():
        given = [samples[parameter.annotation] for parameter in inspect.signature(builder).parameters.values()]
        key = builder(*given)
        assert [prefix for prefix in prefixes if key.startswith(prefix)], f"{name} puts {key}, which stays for ever"


def test_a_bucket_and_a_role_that_are_there_are_used() -> None:
    loaded = yaml.load(rendered(GIVEN), Loader)
    assert "Permissions" not in loaded["Resources"]
    (function,) = resources(GIVEN, "Lambda::Function")
    assert function["Role"] == GIVEN.role
    assert "s3://theirs/" in function["Environment"]["Variables"]["PYWREN_NG_INTERNAL_STORE"]["Fn::Sub"]


def test_a_template_that_is_too_long_is_refused_before_anything_is_made() -> None:
    many = filled(Plan(pythons=("3.12",), memories=tuple(range(128, 228))), NAME)
    with pytest.raises(ConfigError, match=r"a template of 100 functions .* a second deployment with --name"):
        rendered(many)


# -- Plans


def test_set_ups_add_up_and_a_default_stays() -> None:
    first = Plan(pythons=("3.12",), memories=(2048,), reads=("s3://a",), tags=(("team", "x"), ("cost", "1")), copies=3)
    second = Plan(pythons=("3.13",), memories=(8192, 2048), reads=("s3://b",), tags=(("team", "y"),), disk=1024)
    both = plus(first, second)
    assert (both.pythons, both.memories, both.reads) == (("3.12", "3.13"), (2048, 8192), ("s3://a", "s3://b"))
    assert (both.tags, both.copies, both.disk) == ((("cost", "1"), ("team", "y")), 3, 1024)


def test_a_plan_survives_the_stack() -> None:
    assert Plan.decode(FULL.encode()) == FULL
    assert Plan.decode('{"memories":[512],"of a later release":1}') == Plan(memories=(512,))


def test_functions_of_another_release_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = Plan(layers=(("3.12", "x86_64", wire.VERSION, "new"), ("3.11", "arm64", wire.VERSION + 1, "old")))
    plan = filled(plus(deployed, Plan(pythons=("3.12",))), NAME)
    (other,) = plan.others()
    assert [each.name for each in plan.functions(NAME)] == [
        deployment.function_name(NAME, "3.12", "x86_64", 2048),
        deployment.function_name(NAME, "3.11", "arm64", 2048, wire=wire.VERSION + 1),
    ]
    text = template.render(plan, NAME, {plan.runtimes()[0]: "new", **plan.others()})
    assert re.search(rf'-w{wire.VERSION + 1}-py311-arm64-2048".*"Layers":\["old"\]', text) and other.arch == "arm64"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Plan(memories=(64,)), "128 to 10240 MB"),
        (Plan(pythons=("3.9",)), r"there are 3\.11"),
        (Plan(disk=100), "512 to 10240"),
        (Plan(subnets=("subnet-1",)), "go together"),
        (Plan(reads=("s3://*",)), "is no place in S3"),
        (Plan(reads=("s3://b/${x}",)), "is no place in S3"),
        (Plan(role="theirs"), "arn:aws:iam::123456789012:role/name"),
        (Plan(boundary="arn:aws:iam::123456789012:role/x"), ":policy/name"),
        (Plan(role="arn:…", reads=("s3://data",)), "policy worker"),
    ],
)
def test_what_aws_would_refuse_later_is_refused_now(wish: Plan, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(filled(wish, NAME))


def test_a_plan_too_long_for_a_stack_is_refused() -> None:
    with pytest.raises(ConfigError, match="name fewer buckets"):
        Plan(reads=tuple(f"s3://bucket-{number:060}" for number in range(60))).encode()


def test_names_of_places() -> None:
    assert plans.parse_place("s3://data/a/b/") == ("data", "a/b/")
    assert plans.parse_place("arn:aws:s3:::data/a") == ("data", "a")
    assert plans.parse_place("data") == ("data", "")


# -- The user's file


def test_a_file_about_another_deployment_stays(tmp_path: Path) -> None:
    one = deployment.Deployment("eu-west-3", "s3://one/x", bytes(32), prefix="one")
    two = deployment.Deployment("eu-west-3", "s3://two/x", bytes(32), prefix="two")
    file = str(tmp_path / "pywren-ng" / "deployment.toml")
    assert str(deployment.write(one, file, over=False)) == file
    beside = deployment.write(two, file, over=False)
    assert beside.name == "two-eu-west-3.toml" and deployment.load(str(beside)) == two
    assert deployment.load(file) == one
    again = deployment.write(replace(one, memory=512), file, over=False)
    assert str(again) == file and deployment.load(file).memory == 512
    assert str(deployment.write(two, file, over=True)) == file and deployment.load(file) == two
    assert {each.stat().st_mode & 0o777 for each in again.parent.iterdir()} == {0o600}
