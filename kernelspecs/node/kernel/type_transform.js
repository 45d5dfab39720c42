"use strict";
/**
 * Makes JavaScript of TypeScript. Types are erased and never checked.
 *
 * Node's own transform is used where it is there and takes the code; decorators and the rest go to
 * the package `typescript`, which is loaded only then.
 */

const Module = require("node:module");

const early = require("./early.js");

const strip = Module.stripTypeScriptTypes;
const REFUSED = new Set(["ERR_INVALID_TYPESCRIPT_SYNTAX", "ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX"]);
const DECORATOR = /@[\w$(]/;
const OLD_DECORATORS = /\bPropertyDescriptor\b|\bReflect\.(?:define|get)?[mM]etadata\b|[(,]\s*@\w/;
const TSX = /<\/\w|<\w[^<>]*\/>/;

/** Returns the function that transforms a cell or a file; `parses(code)` tells JavaScript. */
function makeTransform(options, parses) {
  const compiler = new Compiler(options);
  if (strip) transformByNode("let warm: number;", "strip"); // loads what it needs
  const transform = (code, name, { isCommonJs = false } = {}) => {
    if (strip && !isCommonJs) {
      for (const mode of ["strip", "transform"]) {
        const found = transformByNode(code, mode);
        // Decorators are left by Node as they are.
        if (found !== null && (!DECORATOR.test(code) || parses(found.code))) return found;
      }
    }
    return compiler.transform(code, name, isCommonJs);
  };
  return Object.assign(transform, { isUnfinished: (code) => compiler.isUnfinished(code) });
}

/** Returns `{ code, map }`, or null for code that this mode does not take. */
function transformByNode(code, mode) {
  const { emitWarning } = process;
  process.emitWarning = () => {}; // that this is experimental
  try {
    if (mode === "strip") return { code: strip(code, { mode }), map: null };
    return splitMap(strip(code, { mode, sourceMap: true }));
  } catch (error) {
    if (REFUSED.has(error.code)) return null;
    throw error;
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** Takes the source map off the end of a text, and makes a function of it. */
function splitMap(text) {
  const at = text.lastIndexOf("\n//# sourceMappingURL=");
  const encoded = /base64,(.*)/.exec(text.slice(at))?.[1];
  if (at < 0 || !encoded) return { code: text, map: null };
  const payload = JSON.parse(Buffer.from(encoded, "base64").toString());
  return { code: text.slice(0, at), map: makeMap(payload) };
}

/** Returns a function from a position in the result to one in the original; both from 1. */
function makeMap(payload) {
  let map;
  return ({ line, column }) => {
    map ??= new Module.SourceMap(payload);
    const { originalLine, originalColumn } = map.findEntry(line - 1, column - 1);
    if (originalLine === undefined) return { line, column };
    return { line: originalLine + 1, column: originalColumn + 1 };
  };
}

/** The package `typescript`. */
class Compiler {
  constructor({ resolve }) {
    this.resolve = resolve;
    this.module = null;
    this.oldDecorators = null;
  }

  get typescript() {
    this.module ??= require(this.resolve("typescript"));
    return this.module;
  }

  transform(code, name, isCommonJs) {
    const ts = this.typescript;
    const { outputText, sourceMapText, diagnostics } = ts.transpileModule(code, {
      fileName: TSX.test(code) ? "main.tsx" : "main.ts",
      reportDiagnostics: true,
      compilerOptions: {
        module: isCommonJs ? ts.ModuleKind.CommonJS : ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2022,
        jsx: ts.JsxEmit.React,
        experimentalDecorators: this.hasOldDecorators(code),
        verbatimModuleSyntax: !isCommonJs,
        esModuleInterop: true,
        sourceMap: true,
      },
    });
    const problem = diagnostics.find((one) => one.category === ts.DiagnosticCategory.Error);
    if (problem !== undefined) return this.describe(problem, code, name);
    const text = outputText.replace(/\n\/\/# sourceMappingURL=.*\s*$/, "");
    return { code: text, map: makeMap(JSON.parse(sourceMapText)) };
  }

  /** Returns whether code that cannot be transformed is only the beginning of code that can. */
  isUnfinished(code) {
    const ts = this.typescript;
    const name = TSX.test(code) ? "main.tsx" : "main.ts";
    const [first] = ts.createSourceFile(name, code, ts.ScriptTarget.Latest).parseDiagnostics;
    if (first === undefined) return false;
    if (/^Unterminated (?:string|regular)/.test(first.messageText)) return /\\\r?\n?$/.test(code);
    return first.start >= code.trimEnd().length;
  }

  /** Returns whether decorators are those of before the standard. */
  hasOldDecorators(code) {
    if (this.oldDecorators === null) {
      const file = `${process.cwd()}/tsconfig.json`;
      const text = early.existsSync(file) ? early.readFileSync(file, "utf8") : "";
      this.oldDecorators = /"experimentalDecorators"\s*:\s*true/.test(text);
    }
    return this.oldDecorators || OLD_DECORATORS.test(code);
  }

  /** Returns a mistake in the code as Node tells one. */
  describe({ start, length, messageText }, code, name) {
    const message = this.typescript.flattenDiagnosticMessageText(messageText, "\n");
    const before = code.slice(0, start);
    const line = before.split("\n").length;
    const indent = before.slice(before.lastIndexOf("\n") + 1).replace(/[^\t]/g, " ");
    const source = code.split("\n")[line - 1];
    const arrow = `${name}:${line}\n${source}\n${indent}${"^".repeat(Math.max(1, Math.min(length, 80)))}`;
    const error = new SyntaxError(message);
    return { error, text: `${arrow}\n\nSyntaxError: ${message}\n\nNode.js ${process.version}\n` };
  }
}

module.exports = { Compiler, makeTransform, splitMap };
