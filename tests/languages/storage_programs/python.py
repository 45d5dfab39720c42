"""Python's programs for the table of the storage SDK."""

from __future__ import annotations

from tests.languages.storage_programs.programs import StoragePrograms

BEGIN = """import hashlib, json, os
from concurrent.futures import ThreadPoolExecutor
from era_storage import KVStorage, StorageError, d1, kv, r2
a = json.loads(os.environ["ARGUMENTS"])
"""


def shows(expression: str) -> str:
    return f"{BEGIN}print(json.dumps({expression}))"


PROGRAMS = StoragePrograms(
    column="python",
    language="python",
    kv_set=shows("kv.set(a[0], a[1], a[2], a[3])"),
    kv_get=shows("[kv.get(a[0], key) for key in a[1]]"),
    kv_list=shows("[[one['name'], one['metadata']] for one in kv.list(a[0], a[1], a[2])]"),
    kv_delete=shows("kv.delete(a[0], a[1])"),
    d1_exec=shows("d1.exec(a[0], a[1], [a[2], bytes.fromhex(a[3]), int(a[4])])['meta']['changes']"),
    d1_query=shows("[[one['t'], one['b'].hex(), str(one['i'])] for one in d1.query(a[0], a[1])]"),
    r2_put=shows("r2.put(a[0], a[1], bytes.fromhex(a[2]) * a[3], a[4])"),
    r2_get=shows(
        "[None if found is None else hashlib.sha256(found).hexdigest()"
        " for found in (r2.get(a[0], key) for key in a[1])]"
    ),
    r2_list=shows("[[one['key'], one['size']] for one in r2.list(a[0])]"),
    r2_delete=shows("r2.delete(a[0], a[1])"),
    fails=(
        f"{BEGIN}try:\n    kv.get(a[0], 'k')\nexcept StorageError as error:\n"
        "    print(json.dumps([error.code, error.status, str(error)[:13].lower()]))"
    ),
    at_once=(
        f"{BEGIN}with ThreadPoolExecutor(16) as pool:\n"
        "    done = list(pool.map(lambda n: kv.set(a[0], f'k{n}', f'k{n}'), range(a[1])))\n"
        "print(json.dumps(all(done)))"
    ),
)
