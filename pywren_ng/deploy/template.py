"""The text of a deployment's CloudFormation template: what never changes stands in a file, the rest comes from a Plan.

    template.yaml ─────────────┐
    Plan ─► functions, policy ─┴─► text

What is added is JSON, which is YAML too: one line for each resource.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from pywren_ng.deploy import policies
from pywren_ng.deploy.plan import Function, Plan, Runtime
from pywren_runtime.errors import ConfigError
from pywren_runtime.stores.redis_settings import PASSWORD

LARGEST = 51_200  # bytes of a template that is not in a bucket; one that is could be changed there
TIMEOUT = 900
ENTRY = "index.handle"  # CloudFormation calls the file so
STORE, KEY = "PYWREN_NG_INTERNAL_STORE", "PYWREN_NG_INTERNAL_KEY"  # variables of each function
TOLD = "?conditional=trusted"  # a worker need not find out whether AWS honours conditions
_CODE = "from pywren_runtime.handler import handle  # it is in the layer\n"


def static() -> str:
    """The file."""
    return files("pywren_ng.deploy").joinpath("template.yaml").read_text()


def render(plan: Plan, name: str, layers: Mapping[Runtime, str]) -> str:
    """The template; `layers` are the versions of which the functions are made."""
    resources: dict[str, Any] = {}
    bucket = plan.bucket or "${Data}"
    if not plan.role:
        document = policies.worker(plan, name, bucket, _arn)
        resources["Permissions"] = _resource(
            "IAM::Policy", PolicyName="tasks", Roles=[{"Ref": "Role"}], PolicyDocument=document
        )
    for function in plan.functions(name):
        id = function.name.removeprefix(f"{name}-").replace("_", "").replace("-", "x")
        resources[id] = _function(plan, function, bucket, layers[function.runtime])
        # Two more tries by AWS would run a task that kills its worker three times for each attempt of ours, and an
        # event that waited for hours would run what has long been settled.
        resources[f"{id}Events"] = _resource(
            "Lambda::EventInvokeConfig",
            FunctionName={"Ref": id},
            Qualifier="$LATEST",
            MaximumRetryAttempts=0,
            MaximumEventAgeInSeconds=60,
        )
    lines = [f"  {id}: {json.dumps(resource, separators=(',', ':'))}\n" for id, resource in resources.items()]
    text = static() + "".join(lines)
    if len(text) > LARGEST:
        raise ConfigError(
            f"a template of {len(plan.functions(name))} functions is {len(text):,} bytes long, and CloudFormation takes"
            f" {LARGEST:,}: ask for fewer sizes, Pythons or copies, or make a second deployment with --name"
        )
    return text


def parameters(plan: Plan) -> dict[str, str]:
    """All but the secrets."""
    return {
        "Setup": plan.encode(),
        "Bucket": plan.bucket,
        "Folder": plan.folder,
        "RoleArn": plan.role,
        "Boundary": plan.boundary,
    }


def _function(plan: Plan, function: Function, bucket: str, layer: str) -> dict[str, Any]:
    variables = {STORE: {"Fn::Sub": f"s3://{bucket}/${{Folder}}{TOLD}"}, KEY: {"Ref": "Key"}}
    if plan.password:
        variables[PASSWORD] = {"Ref": "RedisPassword"}
    properties: dict[str, Any] = {
        "FunctionName": function.name,
        "Runtime": f"python{function.runtime.python}",
        "Architectures": [function.runtime.arch],
        "MemorySize": function.memory,
        "EphemeralStorage": {"Size": plan.disk},
        "Timeout": TIMEOUT,
        "Handler": ENTRY,
        "Code": {"ZipFile": _CODE},
        "Layers": [layer],
        "Role": plan.role or {"Fn::GetAtt": ["Role", "Arn"]},
        "LoggingConfig": {"LogGroup": {"Ref": "Log"}},
        "Environment": {"Variables": variables},
    }
    if plan.subnets:
        properties["VpcConfig"] = {"SubnetIds": list(plan.subnets), "SecurityGroupIds": list(plan.groups)}
    return {**_resource("Lambda::Function", **properties), **({} if plan.role else {"DependsOn": "Permissions"})}


def _resource(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::{kind}", "Properties": properties}


def _arn(text: str) -> dict[str, str]:
    here = "${AWS::Region}:${AWS::AccountId}"
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:{text.replace('{here}', here)}"}
