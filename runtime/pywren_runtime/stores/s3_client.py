"""The client library's client: how patient it is, who it says it is, and a race between two of its writers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywren_runtime.stores.s3_faults import Patience
from pywren_runtime.stores.s3_settings import Settings

if TYPE_CHECKING:
    from pywren_runtime.aws import Credentials

__all__ = ["Login", "make_client", "race"]

_RENEWED_AFTER = 60.0  # seconds after which the credentials are asked for again; who gives them keeps them


class Login:
    """Credentials in the library's words; `refusal` is why there were none when they were last asked for."""

    def __init__(self, credentials: "Callable[[], Credentials]") -> None:
        self.refusal: BaseException | None = None
        self._credentials = credentials

    def __call__(self) -> dict[str, object]:
        from datetime import UTC, datetime, timedelta

        try:
            found = self._credentials()
        except BaseException as error:
            self.refusal = error
            raise
        return {
            "access_key_id": found.key_id,
            "secret_access_key": found.secret,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_RENEWED_AFTER),
        }


def make_client(library: Any, settings: Settings, patience: Patience, *, bulk: bool, login: Login | None) -> Any:
    """A client so patient; one for bulk sends each part again by itself."""
    from datetime import timedelta

    return library.store.S3Store(
        settings.bucket,
        config=settings.config(),
        client_options=settings.client_options()
        | {
            "connect_timeout": timedelta(seconds=patience.connect),
            "read_timeout": timedelta(seconds=patience.silence),
            "timeout": timedelta(days=1),  # of a whole request, whose object may be as large as it likes
        },
        # Only a stream cannot be sent again by us: its parts are, by the library.
        retry_config={
            "max_retries": 10 if bulk else 0,
            "retry_timeout": timedelta(seconds=patience.total),
            "backoff": {
                "init_backoff": timedelta(seconds=patience.first_pause),
                "max_backoff": timedelta(seconds=patience.longest_pause),
                "base": 2,
            },
        },
        credential_provider=login,
    )


def race(run: Callable[[], bool]) -> int:
    """How many of two threads that begin at once get True; what one raises comes out."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    barrier = Barrier(2)

    def start(_: int) -> bool:
        barrier.wait()
        return run()

    with ThreadPoolExecutor(2) as pool:
        try:
            return sum(pool.map(start, range(2)))
        except BaseException:
            barrier.abort()  # if there can be no second thread, the first would wait for it without end
            raise
