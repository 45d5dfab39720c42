"""The SDK in a session against the real stores: what code writes, callers of the API read."""

from __future__ import annotations

from tests.client import Client, SessionClient
from tests.contract.checks import check

KV = """
from era_storage import kv
print(kv.set("sdk", "../a b/ä", "", {"n": 1}), kv.get_with_metadata("sdk", "../a b/ä"))
for number in range(1100):
    kv.set("sdk-many", f"k{number:04}", "v")
print(len(kv.list("sdk-many", limit=1050)), kv.list("sdk-many", "k109", 2)[1]["name"])
print(kv.get("sdk", "none"), kv.delete("sdk", "none"), kv.set("sdk", "short", "v", None, 0.05))
import time
time.sleep(0.1)
print(kv.get("sdk", "short"))
"""
D1 = """
from era_storage import d1, StorageError
d1.exec("sdk", "CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB, x)")
done = d1.exec("sdk", "INSERT INTO t (b, x) VALUES (?, ?)", [b"\\0\\xff", 2**62])
print(done["meta"]["last_row_id"])
print(d1.query("sdk", "SELECT * FROM t WHERE id = :id", {"id": 1}))
print([one["results"] for one in d1.batch("sdk", [("INSERT INTO t (x) VALUES (?)", [5]),
    {"sql": "SELECT count(*) AS n FROM t"}])])
for sql in ("SELECT * FROM missing", "DELETE FROM t"):
    try:
        d1.query("sdk", sql)
    except StorageError as error:
        print(error.code, error)
"""
R2 = """
import io, os
from era_storage import r2
data = os.urandom(3_000_000)
open("file", "wb").write(data)
with open("file", "rb") as file:
    print(r2.put("sdk", "..", file, {"kind": "model"}), r2.get("sdk", "..") == data)
class Pieces(io.RawIOBase):
    pieces = [b"a" * 100_000] * 30
    def read(self, size=-1):
        return self.pieces.pop() if self.pieces else b""
print(r2.put("sdk", "pieces", Pieces()), len(r2.get("sdk", "pieces")))
print(r2.put("sdk", "odd", b"", {"Größe": "ß", "a": " x "}), r2.get("sdk", "odd"))
print([(one["key"], one["size"]) for one in r2.list("sdk")], r2.get("sdk", "none"))
"""


def test_kv(session: SessionClient, client: Client) -> None:
    """Keys of any characters, empty values, long lists, values that expire."""
    printed = "True ('', {'n': 1})\n1050 k1091\nNone True True\nNone\n"
    check(session.run(KV, timeout=90), stdout=printed, exit_code=0)
    answer = client.http.get("/api/storage/kv/sdk", params={"key": "../a b/ä"})
    assert answer.json() == {"value": "", "metadata": {"n": 1}}


def test_d1(session: SessionClient, client: Client) -> None:
    """Blobs and large integers come back exactly; errors have the words of SQLite."""
    printed = "1\n[{'id': 1, 'b': b'\\x00\\xff', 'x': 4611686018427387904}]\n[[], [{'n': 2}]]\n"
    answer = session.run(D1)
    assert answer["stdout"].startswith(printed), answer
    told = answer["stdout"].removeprefix(printed).splitlines()
    assert told[0].startswith("SQL_ERROR D1 query failed: ") and "no such table: missing" in told[0]
    assert told[1].startswith("SQL_READ_ONLY D1 query failed: ")
    rows = client.http.post("/api/storage/d1/sdk/query", json={"sql": "SELECT b FROM t"}).json()
    assert rows["results"][0] == {"b": {"base64": "AP8="}}


def test_r2(session: SessionClient, client: Client) -> None:
    """Files with and without a size are streamed; metadata of any characters arrives."""
    sizes = "[('..', 3000000), ('odd', 0), ('pieces', 3000000)]"
    printed = f"True True\nTrue 3000000\nTrue b''\n{sizes} None\n"
    check(session.run(R2), stdout=printed, exit_code=0)
    odd = client.http.get("/api/storage/r2/sdk", params={"key": "odd"}).json()
    assert odd["customMetadata"] == {"Größe": "ß", "a": " x "}
    file = client.http.get("/api/storage/r2/sdk", params={"key": ".."}).json()
    assert (file["customMetadata"], file["size"]) == ({"kind": "model"}, 3_000_000)


def test_values_outlive_their_session(client: Client) -> None:
    """What one session wrote, another reads after the first is deleted."""
    first = client.session("python")
    first.run("from era_storage import kv; kv.set('shared', 'k', 'left behind')")
    first.delete()
    body = {"language": "python", "code": "import era_storage as e; print(e.kv.get('shared', 'k'))"}
    assert client.http.post("/api/execute", json=body).json()["stdout"] == "left behind\n"
