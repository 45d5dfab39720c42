"use strict";
/**
 * Reports the stack and the variables of the program while it runs, by the inspector. No getter and
 * no other code of the program is run.
 */

const RESPONSE_MS = 10; // for the event loop to show that no code runs
const PAUSE_MS = 1000; // for the code that runs to be stopped for a look at it
const MAX_FRAMES = 200;
const MAX_VARIABLES = 1000;
const MAX_ITEMS = 100; // of a value that is reported whole
const MAX_TEXT_CHARS = 1000;
const MAX_VALUE_CHARS = 512 * 1024; // of all values together
const MAX_SOURCE_CHARS = 500;
const GROUP = "era-inspection";

class Inspection {
  /** Calls of functions in `directory` are the kernel's own, and are not reported. */
  constructor(main, directory) {
    this.main = main;
    this.directory = directory;
    this.onWhere = () => {}; // gets what the main thread tells of where it waits
    this.builtins = new Set(); // names of the global object that no cell declared
  }

  // ---------------------------------------------------------------- the stack

  /** Returns the calls that the program is in, innermost last; or the await that it waits at. */
  async stack() {
    if (await this.main.isResponsive(RESPONSE_MS)) {
      this.main.post({ kind: "where" });
      const frames = await new Promise((resolve) => {
        this.onWhere = resolve;
        setTimeout(resolve, PAUSE_MS, []);
      });
      return { status: "ok", frames };
    }
    const session = this.main.connect();
    const urls = new Map();
    const onScript = ({ params }) => urls.set(params.scriptId, params.url);
    session.on("Debugger.scriptParsed", onScript);
    try {
      const paused = new Promise((resolve) => session.once("Debugger.paused", resolve));
      const late = new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      await this.main.command("Debugger.enable");
      await this.main.command("Debugger.pause");
      const event = await Promise.race([paused, late]);
      return { status: "ok", frames: event ? await this.describeFrames(event.params, urls) : [] };
    } catch (error) {
      this.main.logFault(error);
      return { status: "ok", frames: [] };
    } finally {
      session.off("Debugger.scriptParsed", onScript);
      await this.main.command("Debugger.disable").catch(() => {});
    }
  }

  async describeFrames({ callFrames }, urls) {
    const file = ({ location }) => (urls.get(location.scriptId) ?? "").replace(/^file:\/\//, "");
    const end = callFrames.findIndex((frame) => file(frame).startsWith(this.directory));
    const own = (end < 0 ? callFrames : callFrames.slice(0, end)).slice(0, MAX_FRAMES);
    const sources = new Map();
    const frames = [];
    for (const frame of own) {
      const { functionName, location } = frame;
      if (file(frame) === "node:inspector") continue; // by which the kernel calls the program
      const { scriptId, lineNumber } = location;
      if (!sources.has(scriptId)) sources.set(scriptId, await this.sourceLines(scriptId));
      const source = sources.get(scriptId)[lineNumber] ?? "";
      frames.push({
        file: file(frame),
        line: lineNumber + 1,
        function: functionName || "<anonymous>",
        source: source.trim().slice(0, MAX_SOURCE_CHARS),
      });
    }
    return frames.reverse();
  }

  async sourceLines(scriptId) {
    const found = await this.main.command("Debugger.getScriptSource", { scriptId });
    return found.scriptSource.split("\n");
  }

  // ---------------------------------------------------------------- variables

  /** Notes the names that are there before the first cell. */
  noteBuiltins(names) {
    this.builtins = new Set(names);
  }

  async variables() {
    const budget = { chars: MAX_VALUE_CHARS };
    const variables = [];
    try {
      const found = await this.findVariables();
      for (const [name, remote] of found.slice(0, MAX_VARIABLES)) {
        variables.push(await this.describe(name, remote, budget));
      }
      const truncated = found.length > MAX_VARIABLES || budget.chars < 0;
      return { status: "ok", variables, truncated };
    } catch (error) {
      this.main.logFault(error);
      return { status: "ok", variables, truncated: true };
    } finally {
      this.main.command("Runtime.releaseObjectGroup", { objectGroup: GROUP }).catch(() => {});
    }
  }

  async findVariables() {
    const found = [];
    const { names } = await this.main.command("Runtime.globalLexicalScopeNames");
    for (const name of names.filter((one) => !one.startsWith("_"))) {
      const options = { objectGroup: GROUP, silent: true, throwOnSideEffect: true };
      const { result, exceptionDetails } = await this.main.command("Runtime.evaluate", {
        expression: name,
        ...options,
      });
      if (!exceptionDetails) found.push([name, result]);
    }
    for (const { name, value } of await this.globalProperties()) {
      const isOwn = value && !this.builtins.has(name) && !name.startsWith("_");
      if (isOwn && !names.includes(name)) found.push([name, value]);
    }
    return found.filter(([, remote]) => remote.type !== "function" || isClass(remote));
  }

  async globalProperties() {
    const { result } = await this.main.command("Runtime.evaluate", {
      expression: "globalThis",
      objectGroup: GROUP,
    });
    return this.properties(result.objectId);
  }

  async properties(objectId) {
    const { result } = await this.main.command("Runtime.getProperties", {
      objectId,
      ownProperties: true,
    });
    return result.filter((property) => property.enumerable !== undefined && !property.symbol);
  }

  async describe(name, remote, budget) {
    const described = { name, type: typeName(remote) };
    if (typeof remote.value === "string") described.size = remote.value.length;
    const size = /\((\d+)\)$/.exec(remote.description ?? "");
    if (size !== null && remote.type === "object") described.size = Number(size[1]);
    const value = await this.toPlain(remote, { items: MAX_ITEMS });
    const chars = value === undefined ? 0 : JSON.stringify(value).length;
    budget.chars -= chars;
    if (value !== undefined && budget.chars >= 0) described.value = value;
    return described;
  }

  /** Returns a value as JSON; undefined where it is too large, or no plain data all through. */
  async toPlain(remote, left) {
    left.items -= 1;
    if (left.items < 0) return undefined;
    if (remote.subtype === "null") return null;
    if (remote.type === "string") return remote.value.slice(0, MAX_TEXT_CHARS);
    if (remote.type === "number") return remote.value ?? remote.unserializableValue;
    if (remote.type === "boolean") return remote.value;
    if (remote.type === "bigint") return remote.unserializableValue;
    const isArray = remote.subtype === "array";
    if (remote.type !== "object" || (!isArray && remote.className !== "Object")) return undefined;
    const properties = (await this.properties(remote.objectId)).filter((one) => one.enumerable);
    if (properties.length > left.items) return undefined;
    const result = isArray ? [] : {};
    for (const { name, value } of properties) {
      const plain = value && (await this.toPlain(value, left));
      if (plain === undefined) return undefined;
      if (isArray) result.push(plain);
      else result[name] = plain;
    }
    return result;
  }
}

function isClass(remote) {
  return /^class\b/.test(remote.description ?? "");
}

function typeName(remote) {
  if (remote.subtype === "null") return "null";
  if (remote.type === "function") return "class";
  return remote.type === "object" ? (remote.className ?? "object") : remote.type;
}

module.exports = { Inspection };
