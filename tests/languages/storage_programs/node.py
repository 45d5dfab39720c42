"""JavaScript's programs for the table of the storage SDK."""

from __future__ import annotations

from tests.languages.storage_programs.programs import StoragePrograms

BEGIN = """const { kv, d1, r2, StorageError } = require("era_storage");
const sha256 = (bytes) => require("crypto").createHash("sha256").update(bytes).digest("hex");
const a = JSON.parse(process.env.ARGUMENTS);
"""


def shows(expression: str) -> str:
    return f"{BEGIN}console.log(JSON.stringify({expression}))"


PROGRAMS = StoragePrograms(
    column="node",
    language="node",
    kv_set=shows("await kv.set(a[0], a[1], a[2], a[3])"),
    kv_get=(
        f"{BEGIN}const found = [];\n"
        "for (const key of a[1]) found.push(await kv.get(a[0], key));\n"
        "console.log(JSON.stringify(found))"
    ),
    kv_list=shows("(await kv.list(a[0], a[1], a[2])).map((one) => [one.name, one.metadata])"),
    kv_delete=shows("await kv.delete(a[0], a[1])"),
    d1_exec=shows(
        "(await d1.exec(a[0], a[1], [a[2], Buffer.from(a[3], 'hex'), BigInt(a[4])])).meta.changes"
    ),
    d1_query=shows(
        "(await d1.query(a[0], a[1])).map((one) => [one.t, one.b.toString('hex'), String(one.i)])"
    ),
    r2_put=(
        f"{BEGIN}const piece = Buffer.from(a[2], 'hex');\n"
        "async function* pieces() { for (let n = 0; n < a[3]; n++) yield piece }\n"
        "console.log(JSON.stringify(await r2.put(a[0], a[1], pieces(), a[4])))"
    ),
    r2_get=(
        f"{BEGIN}const found = [];\n"
        "for (const key of a[1]) found.push(await r2.get(a[0], key));\n"
        "console.log(JSON.stringify(found.map((one) => one && sha256(one))))"
    ),
    r2_list=shows("(await r2.list(a[0])).map((one) => [one.key, one.size])"),
    r2_delete=shows("await r2.delete(a[0], a[1])"),
    fails=(
        f"{BEGIN}await kv.get(a[0], 'k').catch((error) => {{\n"
        "  if (!(error instanceof StorageError)) throw error;\n"
        "  const text = error.message.slice(0, 13).toLowerCase();\n"
        "  console.log(JSON.stringify([error.code, error.status, text]));\n});"
    ),
    at_once=(
        f"{BEGIN}const names = Array.from({{ length: a[1] }}, (_, n) => `k${{n}}`);\n"
        "const all = names.map((name) => kv.set(a[0], name, name));\n"
        "console.log(JSON.stringify((await Promise.all(all)).every(Boolean)))"
    ),
)
