"""scripts/local-aws: start everything, print one line of JSON, stay until standard input ends or Ctrl-C."""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import ssl
import sys
import tempfile
from pathlib import Path

from local_aws import emulator, processes
from local_aws.control import Control
from local_aws.credentials import ACCOUNT, Keyring
from local_aws.faults import Knobs
from local_aws.functions import Function, Functions
from local_aws.gateway import Gateway
from local_aws.http1 import listen
from local_aws.invoke import Invoker
from local_aws.pool import Pool
from local_aws.runtimes import OWN, Runtimes
from local_aws.s3_proxy import S3Proxy
from local_aws.upstream import Upstream

ROLE_SECONDS = 12 * 3600


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/local-aws", description="A local AWS on one loopback port.")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--tls", action="store_true", help="https, with a certificate of its own authority")
    parser.add_argument("--python", action="append", default=[], metavar="RUNTIME=PATH", help="python3.12=/usr/bin/…")
    parser.add_argument("--foreground", action="store_true", help="stay when standard input ends")
    return parser.parse_args()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """TLS for the port, and the file of the authority that vouches for it."""
    import trustme

    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost", "aws.test").configure_cert(tls)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return tls, folder / "ca.pem"


def variables_of(function: Function, keyring: Keyring, endpoint: str, ca: Path | None) -> dict[str, str]:
    """The environment of a function: its template's, and Lambda's own, which win."""
    role = function.role.rpartition("/")[2]
    arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{function.name}"
    key = keyring.mint(seconds=ROLE_SECONDS, arn=arn)
    task = str(function.code)
    own = {
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_REGION": function.region,
        "AWS_DEFAULT_REGION": function.region,
        "AWS_ACCESS_KEY_ID": key.access_key,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_SESSION_TOKEN": key.token or "",
        "AWS_ENDPOINT_URL": endpoint,
        "LAMBDA_TASK_ROOT": task,
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "_HANDLER": function.handler,
        "TZ": ":UTC",
        "LANG": "en_US.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"/lib64:/usr/lib64:{task}:{task}/lib",
    }
    if ca is not None:
        own["AWS_CA_BUNDLE"] = str(ca)
    return {**function.variables, **own}


async def serve(options: argparse.Namespace, folder: Path, port_behind: int) -> None:
    """Everything in this process, until told to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if not options.foreground:
        os.set_blocking(0, False)
        loop.add_reader(0, lambda: os.read(0, 4096) or (loop.remove_reader(0), stop.set()))
    tls, ca = certificate(folder) if options.tls else (None, None)
    keyring, knobs = Keyring(), Knobs()
    functions = Functions(Upstream(port_behind), folder / "code")
    runtimes = Runtimes(folder / "python", dict(each.split("=", 1) for each in options.python))
    runtimes.python(OWN)  # now, so that the first Invoke does not wait for it
    pool = Pool(folder / "run", knobs, runtimes.python, lambda made: variables_of(made, keyring, endpoint, ca))
    invoker = Invoker(functions, pool, knobs)
    control = Control(knobs=knobs, pool=pool, invoker=invoker, keyring=keyring, functions=functions)
    proxy = S3Proxy()
    gateway = Gateway(
        keyring=keyring, functions=functions, invoker=invoker, control=control, proxy=proxy, port=port_behind
    )
    server, port = await listen(gateway.serve, port=options.port, tls=tls)
    endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    said = {
        "endpoint": endpoint,
        "access_key": keyring.root.access_key,
        "secret": keyring.root.secret,
        "region": options.region,
        "control": f"{endpoint}/_local/",
        "ca": str(ca) if ca else None,
        "pid": os.getpid(),
    }
    print(json.dumps(said), flush=True)
    await stop.wait()
    server.close()
    await invoker.forget()
    await pool.close()


def main() -> int:
    """Start and stay; nothing is left behind."""
    options = arguments()
    processes.adopt_orphans_and_lower_root()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    folder = Path(tempfile.mkdtemp(prefix="local-aws-"))
    behind = None
    try:
        behind, port = emulator.start(folder / "emulator", options.region)
        asyncio.run(serve(options, folder, port))
    finally:
        if behind is not None:
            behind.kill()
            behind.wait()
        processes.end_all()
        remove(folder)
    return 0


def remove(folder: Path) -> None:
    """Away with it, read-only folders too."""
    for where, _, _ in os.walk(folder):
        os.chmod(where, 0o755)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
