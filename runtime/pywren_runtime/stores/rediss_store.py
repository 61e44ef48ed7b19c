"""Redis over TLS, which has a scheme of its own: `rediss://host`."""

from pywren_runtime.stores.redis_store import open_store

__all__ = ["open_store"]
