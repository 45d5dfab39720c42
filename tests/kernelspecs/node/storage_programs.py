"""Programs that use the storage SDK, with what they must print, and what may go wrong around it."""

KEYS = (
    "['a', 'a/b', '../../x', '.', '..', '/', '//', 'a b', 'a+b', 'a%2Fb', '%', 'ä/漢/😀', '?x=1&key=2',"
    " '#', 'a\\nb', '\\0', 'x'.repeat(512), 'key', '=']"
)
TELL = (
    "const tell = async (call) => { try { console.log(await call()) } catch (e) {"
    " console.log(e.name, e.code, e.status, e.message) } };\n"
)
# A program inside an async function, and its output.
PROGRAMS = {
    "any key": (
        f"for (const key of {KEYS}) {{\n"
        "  if (await kv.get('app', key) !== null) console.log('there', key);\n"
        "  await kv.set('app', key, 'v'); await r2.put('app', key, Buffer.from('v'));\n"
        "  const names = (await kv.list('app')).map((one) => one.name);\n"
        "  if (names.join() !== key) console.log(names, key);\n"
        "  if (await kv.get('app', key) !== 'v') console.log('lost', key);\n"
        "  if (`${await r2.get('app', key)}` !== 'v') console.log('lost', key);\n"
        "  await kv.delete('app', key); await r2.delete('app', key);\n"
        "  if (await r2.get('app', key) !== null) console.log('there', key);\n}",
        "",
    ),
    "any value": (
        "for (const v of ['', 'x', 'ä漢😀', '{\"json\": 1}', 'a\\0b\\r\\n', 'x'.repeat(1e6)]) {\n"
        "  console.log(await kv.set('app', 'k', v), await kv.get('app', 'k') === v);\n}",
        "true true\n" * 6,
    ),
    "metadata": (
        "await kv.set('app', 'k', 'v', { a: [1, null] }, 60);\n"
        "console.log(JSON.stringify(await kv.getWithMetadata('app', 'k')));\n"
        "await kv.set('app', 'k', ''); console.log(await kv.getWithMetadata('app', 'k'));\n"
        "console.log(await kv.getWithMetadata('app', 'none'), await kv.delete('app', 'none'))",
        '{"value":"v","metadata":{"a":[1,null]}}\n{ value: \'\', metadata: {} }\nnull true\n',
    ),
    "lists": (
        "const all = Array.from({ length: 1100 }, (_, n) => `k${String(n).padStart(4, '0')}`);\n"
        "await Promise.all(all.map((key) => kv.set('many', key, 'v')));\n"
        "await kv.set('many', 'other', 'v', { a: 1 });\n"
        "for (const limit of [0, 1, 99, 1000, 1001, 5000, null, undefined])\n"
        "  console.log(limit, (await kv.list('many', 'k', limit)).length);\n"
        "console.log(await kv.list('many', 'o'), await kv.list('app'))",
        "0 0\n1 1\n99 99\n1000 1000\n1001 1001\n5000 1100\nnull 1100\nundefined 100\n"
        "[ { name: 'other', metadata: { a: 1 } } ] []\n",
    ),
    "parameters": (
        "const values = [1, -1.5, 'ä', null, true, NaN, -Infinity, 2n ** 62n, -(2n ** 63n), 7n,"
        " 2 ** 53, '9007199254740993', 'a\"9007199254740993\\\\', new Date(0), new Date(NaN)];\n"
        "console.log(Object.values((await d1.query('app', '?', values))[0]));\n"
        "console.log(await d1.query('app', '?', { a: 9007199254740993n, __proto: 'x' }))",
        "[\n  1,\n  -1.5,\n  'ä',\n  null,\n  true,\n  null,\n  null,\n  4611686018427387904n,\n"
        "  -9223372036854775808n,\n  7,\n  9007199254740992n,\n  '9007199254740993',\n"
        "  'a\"9007199254740993\\\\',\n  '1970-01-01T00:00:00.000Z',\n  null\n]\n"
        "[ { ca: 9007199254740993n, c__proto: 'x' } ]\n",
    ),
    "blobs": (
        "const text = Buffer.from('xabcx'); const view = new Uint8Array(text.buffer,"
        " text.byteOffset + 1, 3);\n"
        "const rows = await d1.query('app', '?', [Buffer.alloc(0), Buffer.from([0, 255]), view,"
        " new DataView(new ArrayBuffer(2)), new ArrayBuffer(1), new Uint16Array([258])]);\n"
        "console.log(Object.values(rows[0]).map((one) => Buffer.isBuffer(one) &&"
        " one.toString('hex')).join())",
        ",00ff,616263,0000,00,0201\n",
    ),
    "no parameters": (
        f"{TELL}for (const wrong of [undefined, {{}}, [1], Symbol.iterator, () => 1, new Map()])\n"
        "  await tell(() => d1.query('app', '?', [1, wrong]));\n"
        "for (const wrong of ['abc', 5, Buffer.from('a'), true])\n"
        "  await tell(() => d1.exec('app', '?', wrong));\n"
        "await tell(() => d1.batch('app', [['?', { a: {} }]]))",
        "".join(
            f"TypeError undefined undefined parameter 2 is of type {name}: pass a number, a text,"
            " bytes or null\n"
            for name in ("undefined", "Object", "Array", "symbol", "function", "Map")
        )
        + (
            "TypeError undefined undefined params must be an array or an object of values, not"
            " one value\n"
        )
        * 4
        + "TypeError undefined undefined parameter a is of type Object: pass a number, a text,"
        " bytes or null\n",
    ),
    "exec and batch": (
        "console.log(JSON.stringify(await d1.exec('app', 'INSERT', [1])));\n"
        "console.log((await d1.batch('app', ['A', ['B', [1]], { sql: 'C', params: { n: 2 } },"
        " ['D', new Set([1])]])).length)",
        '{"success":true,"meta":{"changes":1},"results":[{"c0":1}]}\n2\n',
    ),
    "contents": (
        "const big = require('crypto').randomBytes(3e6); const fs = require('fs');\n"
        "fs.writeFileSync('file', big); const file = await fs.promises.open('file');\n"
        "async function* pieces() { for (let n = 0; n < 30; n++) { await kv.get('app', 'k');"
        " yield big.subarray(n * 1e5, (n + 1) * 1e5) } }\n"
        "for (const content of [big, new Uint8Array(big), fs.createReadStream('file'), pieces(),"
        " new Blob([big]), new Blob([big]).stream(), file, [big.subarray(0, 9), Buffer.alloc(0),"
        " big.subarray(9)], require('url').pathToFileURL('file'), new Blob([big]).stream()"
        ".pipeThrough(new TransformStream()), require('stream').Readable.from([big])])\n"
        "  console.log(await r2.put('app', 'k', content),"
        " big.equals(await r2.get('app', 'k')));\n"
        "await file.close();\n"
        "console.log(await r2.put('app', 'k', new Uint8Array()), await r2.get('app', 'k'))",
        "true true\n" * 11 + "true <Buffer >\n",
    ),
    "no contents": (
        f"{TELL}for (const wrong of ['text', 5, null, undefined, {{}}, ['x'], [5],"
        " require('stream').Readable.from(['text'])])\n"
        "  await tell(async () => { try { await r2.put('app', 'k', wrong) } catch (e) {"
        " return e.name } });\n"
        "await tell(() => r2.put('app', 'k', (function* () { throw new RangeError('own') })()));\n"
        "await tell(() => r2.put('app', 'k', new URL('file:///nowhere/file')));\n"
        "console.log(await r2.get('app', 'k'))",
        "TypeError\n" * 8 + "RangeError undefined undefined own\n"
        "Error ENOENT undefined ENOENT: no such file or directory, open '/nowhere/file'\nnull\n",
    ),
    "metadata of objects": (
        "for (const m of [{ a: 'b' }, { 'a-1': 'x y', b: '' }, { Case: 'x' }, { ä: '1' }, { a: 'ä' },"
        " { a: 'x\\r\\nEvil: 1' }, { a: ' ' }, { '': 'x' }])\n"
        "  console.log(await r2.put('app', 'k', Buffer.from('d'), m), `${await r2.get('app', 'k')}`)",
        "true d\n" * 8,
    ),
    "errors": (
        f"{TELL}for (const call of [() => kv.set('other', 'k', 'v'), () => kv.get('other', 'k'),\n"
        "  () => kv.delete('other', 'k'), () => kv.list('other'), () => r2.get('other', 'k'),\n"
        "  () => r2.put('other', 'k', Buffer.from('x')), () => r2.delete('other', 'k'),\n"
        "  () => r2.list('other'), () => d1.query('other', ''), () => d1.exec('other', ''),\n"
        "  () => d1.batch('other', [])]) {\n"
        "  try { await call() } catch (e) { console.log(e instanceof StorageError, e.code, e.status,"
        " e.message.split(': ').slice(0, 2).join(': ')) }\n}\n"
        "await tell(() => d1.query('app', 'wrong'))",
        "".join(
            f"true STORAGE_SCOPE 403 {what} failed: Outside the storage scope\n"
            for what in (
                "KV set", "KV get", "KV delete", "KV list", "R2 get", "R2 put", "R2 delete",
                "R2 list", "D1 query", "D1 exec", "D1 batch",
            )
        )
        + 'StorageError SQL_ERROR 400 D1 query failed: The statement is wrong. (near "wrong":'
        " syntax error)\n",
    ),
    "no keys": (
        "for (const key of [null, undefined, 5, Buffer.from('k'), '\\ud800'])\n"
        "  for (const call of [kv.get, kv.delete, r2.get, r2.delete, kv.set])\n"
        "    await call('app', key, 'v').catch((e) => { if (!(e instanceof TypeError)) throw e });\n"
        "for (const name of ['', 'a b', '../x', 'a/b', '.', 'ä', 'a?b', 'x'.repeat(65)])\n"
        "  await kv.get(name, 'k').catch((e) => console.log(e.status === 400 || e.status === 404));",
        "true\n" * 8,
    ),
    "no JSON": (
        f"{TELL}await tell(() => kv.set('app', 'k', 5n));\n"
        "await tell(() => kv.set('app', 'k', 'v', { a: NaN }));\n"
        "const round = {}; round.round = round;\n"
        "await kv.set('app', 'k', 'v', round).catch((e) => console.log(e instanceof StorageError))",
        "StorageError null null KV set failed: Do not know how to serialize a BigInt\n"
        "StorageError null null KV set failed: JSON has no NaN\ntrue\n",
    ),
    "too large": (
        "const big = Buffer.alloc(9e6); let read = 0;\n"
        "await kv.set('app', 'k', `${big}`).catch((e) => console.log(e.code, e.status));\n"
        "console.log(await kv.set('app', 'k', 'v'))",
        "TOO_LARGE 413\ntrue\n",
    ),
    "names": (
        "console.log(kv === KVStorage, d1 === D1Storage, r2 === R2Storage,"
        " Object.keys(require('era_storage')).join());\n"
        "const { get, list } = kv; console.log(await get('app', 'k'), (await list('app')).length)",
        "true true true D1Storage,KVStorage,R2Storage,StorageError,d1,kv,r2\nnull 0\n",
    ),
    "an address for each call": (
        "await kv.set('app', 'k', 'v'); const url = process.env.ERA_STORAGE_URL;\n"
        "process.env.ERA_STORAGE_URL = 'http://127.0.0.1:9';\n"
        "await kv.get('app', 'k').catch((e) => console.log(e.status));\n"
        "process.env.ERA_STORAGE_URL = url + '/'; console.log(await kv.get('app', 'k'))",
        "null\nv\n",
    ),
    "at once": (
        "const all = Array.from({ length: 200 }, (_, n) => n);\n"
        "await Promise.all(all.map((n) => kv.set('app', `k${n}`, `${n}`)));\n"
        "const found = await Promise.all(all.map((n) => kv.get('app', `k${n}`)));\n"
        "console.log(found.every((v, n) => v === `${n}`));\n"
        "await Promise.all(all.slice(0, 20).map((n) => r2.put('app', `o${n}`, (async function* () {"
        " yield Buffer.from(await kv.get('app', `k${n}`)) })())));\n"
        "console.log(`${await r2.get('app', 'o19')}`)",
        "true\n19\n",
    ),
}  # fmt: skip

ADDRESSES = [
    (None, "ERA_STORAGE_URL is not set"),
    ("", "ERA_STORAGE_URL is not set"),
    ("ftp://x", "ERA_STORAGE_URL must begin with"),
    ("nonsense", "ERA_STORAGE_URL must begin with"),
    ("http://", "ERA_STORAGE_URL must begin with"),
    ("http://127.0.0.1:1", "ECONNREFUSED"),
    ("http://127.0.0.1:99999", "port"),
    ("http+unix://%2Fnowhere%2Fs", "ENOENT"),
    ("http+unix://", ""),
    ("http+unix://%", ""),
]
REPLIES = [
    b"",
    b"nonsense\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\n<html>",
    b"HTTP/1.1 404 Not\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]",
]

# What programs replace for their tests, in a cell before they load the package.
PATCHES = {
    "fetch": "globalThis.fetch = () => { throw new Error('no network') }",
    "http": "for (const name of ['request', 'get', 'Agent', 'ClientRequest', 'globalAgent'])\n"
    "  require('http')[name] = function () { throw new Error('no network') }",
    "net": "for (const name of ['connect', 'createConnection'])\n"
    "  require('net')[name] = function () { throw new Error('no network') }",
    "JSON": "JSON.parse = JSON.stringify = () => { throw new Error('no JSON') }",
    "JSON itself": "globalThis.JSON = undefined",
    "Buffer": "for (const name of ['from', 'alloc', 'allocUnsafe', 'allocUnsafeSlow', 'concat'])\n"
    "  Buffer[name] = () => { throw new Error('no Buffer') }",
    "Buffer itself": "globalThis.Buffer = undefined",
    "timers": "globalThis.setTimeout = globalThis.setImmediate = globalThis.queueMicrotask = () => 0\n"
    "require('timers').setImmediate = () => 0",
    "Promise": "globalThis.Promise = class { then() { throw new Error('no Promise') } }",
    "globals": "for (const name of ['URL', 'BigInt', 'encodeURIComponent'])\n"
    "  globalThis[name] = undefined",
    "performance": "globalThis.performance = undefined; Date.now = () => 0",
}

FORMS = {
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9;x=y\r\n"
    b'{"value":\r\n5\r\n"abc"\r\n1\r\n}\r\n0\r\nT: t\r\n\r\n',
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n"
    b'{"value":"abc"}',
    "1.0": b'HTTP/1.0 200 OK\r\n\r\n{"value":"abc"}',
    "until the end": b'HTTP/1.1 200 \r\nConnection: close\r\n\r\n{"value":"abc"}',
}
