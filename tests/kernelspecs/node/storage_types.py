"""Programs that use the storage's types, and the errors that TypeScript must have for wrong use."""

RIGHT = {
    "names": "import storage, { kv, KVStorage } from 'era_storage'; storage.kv === KVStorage; kv",
    "required": "import storage = require('era_storage'); storage.d1.query('a', 'b')",
    "dynamic": "const { r2 } = await import('era_storage'); const l: { key: string }[] = "
    "await r2.list('a'); export {}",
    "value": "import { kv } from 'era_storage'; const v: string | null = await kv.get('a', 'k')",
    "set": "import { kv } from 'era_storage'; const done: boolean = "
    "await kv.set('a', 'k', 'v', { a: [1, null], b: { c: 'd' } }, 60)",
    "metadata": "import { kv } from 'era_storage'; const f = await kv.getWithMetadata('a', 'k'); "
    "if (f) { const v: string = f.value; f.metadata.any }",
    "list": "import { kv } from 'era_storage'; for (const { name, metadata } of "
    "await kv.list('a', 'p', null)) { const text: string = name; metadata.n }",
    "parameters": "import { d1 } from 'era_storage'; await d1.query('a', 's', [1, 2n, 'x', null, "
    "true, new Date(), new Uint8Array(1), new ArrayBuffer(1)]); await d1.exec('a', 's', { x: 1 })",
    "rows": "import { d1 } from 'era_storage'; interface Tea { name: string } const teas: Tea[] = "
    "await d1.query<Tea>('a', 's'); const any = (await d1.query('a', 's'))[0]?.column",
    "answer": "import { d1 } from 'era_storage'; const { meta, results } = await d1.exec('a', 's'); "
    "const n: number = meta.changes; const id = meta.last_row_id; results?.[0]",
    "batch": "import { d1 } from 'era_storage'; const done = await d1.batch('a', ['s', ['s', [1]], "
    "{ sql: 's', params: { x: 1n } }]); done[0]?.meta.changes",
    "contents": "import { r2 } from 'era_storage'; async function* pieces() { "
    "yield new Uint8Array(1) } await r2.put('a', 'k', pieces(), { a: 'b' }); "
    "await r2.put('a', 'k', new Uint8Array(1)); await r2.put('a', 'k', [new Uint8Array(1)])",
    "bytes": "import { r2 } from 'era_storage'; const b: Uint8Array | null = "
    "await r2.get('a', 'k'); const n: number = b?.byteLength ?? 0",
    "errors": "import { StorageError } from 'era_storage'; try {} catch (error) { if (error "
    "instanceof StorageError) { const c: string | null = error.code; error.status?.toFixed() } }",
}
# The number of TypeScript's error for each.
WRONG = {
    "no such name": ("import { kvs } from 'era_storage'", 2305),
    "no such method": ("import { kv } from 'era_storage'; kv.put('a', 'k', 'v')", 2339),
    "no value": ("import { kv } from 'era_storage'; kv.set('a', 'k')", 2554),
    "a number as value": ("import { kv } from 'era_storage'; kv.set('a', 'k', 5)", 2345),
    "a number as key": ("import { kv } from 'era_storage'; kv.get('a', 5)", 2345),
    "null forgotten": ("import { kv } from 'era_storage'; const v: string = await kv.get('a', 'k')", 2322),
    "await forgotten": ("import { kv } from 'era_storage'; const v: string | null = kv.get('a', 'k')", 2322),
    "a function in metadata": ("import { kv } from 'era_storage'; kv.set('a', 'k', 'v', { f() {} })", 2322),
    "one parameter": ("import { d1 } from 'era_storage'; d1.query('a', 's', 'x')", 2345),
    "an object as parameter": ("import { d1 } from 'era_storage'; d1.query('a', 's', [{}])", 2322),
    "undefined as parameter": ("import { d1 } from 'era_storage'; d1.query('a', 's', [undefined])", 2322),
    "a text as content": ("import { r2 } from 'era_storage'; r2.put('a', 'k', 'text')", 2345),
    "texts as content": ("import { r2 } from 'era_storage'; r2.put('a', 'k', ['text'])", 2345),
    "a number as metadata": (
        "import { r2 } from 'era_storage'; r2.put('a', 'k', new Uint8Array(1), { a: 1 })", 2322),
    "new": ("import { kv } from 'era_storage'; new kv()", 2673),
}  # fmt: skip

# Tells, for each program, the errors that TypeScript has: `[number, text]`. The package is found in
# `node_modules`, in both ways in which TypeScript looks for packages.
CHECKER = """
const ts = require("typescript");
const programs = Object.entries(JSON.parse(require("fs").readFileSync(0, "utf8")));
const sources = new Map(
  programs.map(([, source], index) => [`${process.cwd()}/${index}.mts`, source]),
);
const { ModuleKind, ModuleResolutionKind } = ts;
const node = { module: ModuleKind.NodeNext, moduleResolution: ModuleResolutionKind.NodeNext };
const bundler = { module: ModuleKind.ESNext, moduleResolution: ModuleResolutionKind.Bundler };
const answers = Object.fromEntries(programs.map(([name]) => [name, []]));
for (const way of [node, bundler]) {
  const options = { strict: true, noEmit: true, exactOptionalPropertyTypes: true, types: [],
    noUncheckedIndexedAccess: true, target: ts.ScriptTarget.ES2022, ...way };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (file) => sources.has(file) || fileExists(file);
  host.readFile = (file) => sources.get(file) ?? readFile(file);
  host.getSourceFile = (file, target, ...rest) => sources.has(file)
    ? ts.createSourceFile(file, sources.get(file) + "\\nexport {}", target)
    : getSourceFile(file, target, ...rest);
  const program = ts.createProgram([...sources.keys()], options, host);
  programs.forEach(([name, source], index) => {
    if (way === bundler && source.includes("= require(")) return;
    const file = program.getSourceFile(`${process.cwd()}/${index}.mts`);
    const found = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
    answers[name].push(found.map(({ code, messageText }) =>
      [code, ts.flattenDiagnosticMessageText(messageText, "\\n")]));
  });
  const own = program.getSourceFiles().filter(({ fileName }) => /era_storage/.test(fileName));
  answers[`the types themselves`] = own.map((file) =>
    program.getSemanticDiagnostics(file).map(({ code, messageText }) => [code, messageText]));
}
console.log(JSON.stringify(answers));
"""
