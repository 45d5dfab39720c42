"""Reads and writes the storage of the server: keys and values, SQL databases, objects.

    from era_storage import kv, d1, r2

    kv.set("app", "greeting", "hello")
    kv.get("app", "greeting")                            # 'hello'
    d1.exec("app", "CREATE TABLE IF NOT EXISTS t (x)")
    d1.query("app", "SELECT * FROM t WHERE x > ?", [1])  # a list of dicts
    r2.put("app", "photo.png", data)                     # bytes, or a file open for reading

Inside a session nothing has to be set up, and no network is needed. Elsewhere `ERA_STORAGE_URL` is
the address of the server and `ERA_STORAGE_TOKEN` (or `ERA_API_TOKEN`) a token; both are read at
each call. What fails raises StorageError. Threads and forked processes may use all of this at once.
"""

from .d1 import D1Storage
from .errors import StorageError
from .kv import KVStorage
from .r2 import R2Storage

kv = KVStorage
d1 = D1Storage
r2 = R2Storage

__all__ = ["D1Storage", "KVStorage", "R2Storage", "StorageError", "d1", "kv", "r2"]
