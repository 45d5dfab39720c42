"""Groups the stores whose contents outlive sessions."""

from __future__ import annotations

from dataclasses import dataclass

from era_kernels.storage.d1.store import D1Store
from era_kernels.storage.kv import KVStore
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.stored_items import StoredItemIndex


@dataclass(frozen=True, slots=True)
class ResourceStores:
    """Holds KV, D1 and R2, and the index of all that they hold."""

    kv: KVStore
    d1: D1Store
    r2: R2Store
    index: StoredItemIndex
