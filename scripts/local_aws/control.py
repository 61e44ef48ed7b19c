"""The control API below /_local/: knobs, counters, keys, a reset. JSON, and no signature.

GET  /_local/state                       knobs, counters, faults injected, environments
POST /_local/knobs   {"throttle": 0.3, "kill": {"fraction": 1, "times": 1}, "cold_start": 0.2}
POST /_local/reset   {"environments": true}    knobs and counters as at the start; environments end if asked
POST /_local/credentials  {"seconds": 60, "arn": "…", "deny": ["lambda:InvokeFunction"]}
GET  /_local/logs                        what each live environment wrote last
GET  /_local/touched                     files of deployed zips that were changed
"""

import json
from dataclasses import asdict

from local_aws.credentials import Keyring
from local_aws.faults import Knobs
from local_aws.functions import Functions
from local_aws.http1 import Request, Response
from local_aws.invoke import Invoker
from local_aws.pool import Pool


class Control:
    """Answers the control API."""

    def __init__(self, *, knobs: Knobs, pool: Pool, invoker: Invoker, keyring: Keyring, functions: Functions) -> None:
        self.knobs = knobs
        self._pool = pool
        self._invoker = invoker
        self._keyring = keyring
        self._functions = functions

    async def answer(self, request: Request) -> Response:
        """One request of it."""
        name = request.path.removeprefix("/_local/")
        try:
            wish = json.loads(request.body or b"{}")
            value = await self._ask(f"{request.method} {name}", wish)
        except (ValueError, TypeError, KeyError) as error:
            return Response(400, [("Content-Type", "application/json")], json.dumps({"error": str(error)}).encode())
        return Response(200, [("Content-Type", "application/json")], json.dumps(value).encode())

    async def _ask(self, what: str, wish: dict[str, object]) -> object:
        match what:
            case "GET state":
                return self.state()
            case "POST knobs":
                self.knobs.turn(wish)
                return self.state()
            case "POST reset":
                await self._invoker.forget()
                if wish.get("environments"):
                    await self._pool.clear()
                self.knobs.reset()
                return self.state()
            case "POST credentials":
                arn = str(wish.get("arn", self._keyring.root.arn))
                deny = frozenset(wish.get("deny", ()))
                made = self._keyring.mint(seconds=float(wish.get("seconds", 3600)), arn=arn, deny=deny)
                return {
                    "access_key": made.access_key,
                    "secret": made.secret,
                    "token": made.token,
                    "expires": made.expires,
                }
            case "GET logs":
                return {str(each.pid): each.log.decode(errors="replace") for each in self._pool.live}
            case "GET touched":
                return self._functions.touched()
        raise ValueError(f"the control API has no {what!r}")

    def state(self) -> dict[str, object]:
        """All there is to read."""
        live = list(self._pool.live)
        return {
            "settings": asdict(self.knobs.settings),
            "faults": {name: asdict(fault) for name, fault in self.knobs.faults.items()},
            "injected": dict(self.knobs.injected),
            "counters": {"live_environments": len(live), **self.knobs.counters},
            "environments": [{"pid": each.pid, "function": each.function.name, "busy": each.busy} for each in live],
        }
