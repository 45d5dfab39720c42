"use strict";
/** Makes one request to the server and turns what fails into a StorageError. */

const connections = require("./connections.js");
const early = require("./early.js");
const { StorageError } = require("./errors.js");

const MAX_PAGE = 1000; // entries that the server lists at once
const MAX_ERROR = 300; // bytes of an answer that is no JSON

/**
 * Returns the path of a namespace below `/api/storage`, with a query. A key is in the query:
 * programs on the way change `.` and `..` in a path.
 */
function path(kind, namespace, query = {}) {
  if (typeof namespace !== "string") {
    throw new early.TypeError(`a namespace must be a string, not ${typeof namespace}`);
  }
  const text = Object.entries(query).map(([name, value]) => `${name}=${encode(String(value))}`);
  return `${kind}/${encode(namespace)}${text.length ? "?" : ""}${text.join("&")}`;
}

/** Returns the path of a key in a namespace. Throws a TypeError for a key that is no string. */
function keyPath(kind, namespace, key) {
  if (typeof key !== "string") {
    throw new early.TypeError(`a key must be a string, not ${key === null ? "null" : typeof key}`);
  }
  return path(kind, namespace, { key });
}

function encode(text) {
  try {
    return early.encodeURIComponent(text);
  } catch {
    throw new early.TypeError("half of a surrogate pair is no text");
  }
}

/** Returns the JSON of a value. Throws a StorageError where JSON has no such value. */
function toJson(what, value) {
  try {
    return early.stringify(value, refuseNonFinite);
  } catch (error) {
    throw new StorageError(`${what} failed: ${error?.message ?? error}`, { cause: error });
  }
}

function refuseNonFinite(name, value) {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new early.TypeError(`JSON has no ${value}`);
  }
  return value;
}

/** Sends JSON; resolves to the answer, which has these names. Rejects with a StorageError. */
async function sendJson(what, method, target, text, options = {}) {
  const { names = [], isRepeatable = true, parse } = options;
  const headers = { "Content-Type": "application/json" };
  const body = early.bytesOf(text, "utf8");
  const answer = await send({ what, method, path: target, headers, body, isRepeatable });
  return load(what, answer, names, parse);
}

/** Resolves to up to `limit` entries of a list (null: all), whose pages have them under `name`. */
async function pages(what, kind, namespace, name, prefix, limit) {
  const most = limit ?? Infinity;
  const query = prefix ? { prefix } : {};
  const entries = [];
  while (entries.length < most) {
    query.limit = Math.min(most - entries.length, MAX_PAGE);
    const answer = await send({ what, method: "GET", path: path(kind, namespace, query) });
    const page = load(what, answer, [name]);
    for (const entry of page[name]) if (entries.length < most) entries.push(entry);
    if (!page.cursor) break;
    query.cursor = page.cursor;
  }
  return entries;
}

/** Returns the JSON object of an answer. Throws a StorageError if it is none with these names. */
function load(what, answer, names = [], parse = early.parse) {
  const value = parseObject(answer, parse);
  if (value !== null && names.every((name) => name in value)) return value;
  throw new StorageError(`${what} failed: the answer is not the server's: ${beginning(answer)}`);
}

function parseObject(answer, parse = early.parse) {
  try {
    const value = parse(answer.body.toString("utf8"));
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function beginning(answer) {
  return answer.body.subarray(0, MAX_ERROR).toString("utf8").trim();
}

/**
 * Resolves to the status and the body of the answer to a call: `what` names it for people, `path`
 * lies below `/api/storage`, `isRepeatable` is true when a second time does no harm. Rejects with a
 * StorageError unless the status is 2xx; a 404 with `missingCode` is an answer, too: the key is not
 * there.
 */
async function send(call) {
  const { what, missingCode } = call;
  const answer = await exchange(call);
  if (answer.status >= 200 && answer.status < 300) return answer;
  const problem = problemOf(answer);
  if (answer.status === 404 && missingCode !== undefined && problem.code === missingCode) {
    return answer;
  }
  const code = typeof problem.code === "string" ? problem.code : null;
  throw new StorageError(sentence(what, problem), { code, status: answer.status });
}

async function exchange({ what, method, path: target, headers = {}, body, isRepeatable = true }) {
  const url = early.process.env.ERA_STORAGE_URL;
  if (!url) throw new StorageError(`${what} failed: ERA_STORAGE_URL is not set`);
  try {
    const address = connections.parseAddress(url);
    const request = {
      method,
      path: `${address.path}/api/storage/${target}`,
      headers: { Host: address.host, ...authorization(), ...headers },
      body,
    };
    return await connections.exchange(address, request, isRepeatable);
  } catch (error) {
    if (error instanceof connections.SourceError) throw error.cause;
    throw new StorageError(`${what} failed: ${reason(error)}`, { cause: error });
  }
}

function reason(error) {
  const inner = error?.errors?.[0] ?? error; // of several addresses that were tried
  return inner?.message || inner?.code || String(inner);
}

function authorization() {
  const token = early.process.env.ERA_STORAGE_TOKEN || early.process.env.ERA_API_TOKEN;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Returns the error that the server answered with. */
function problemOf(answer) {
  const problem = parseObject(answer);
  if (problem !== null && Object.keys(problem).length) return problem;
  return { error: `HTTP status ${answer.status}`, message: beginning(answer) };
}

/** Returns such as `KV set failed: Too large: The value is larger than 25 MiB.`. */
function sentence(what, problem) {
  let text = `${what} failed`;
  for (const part of [problem.error, problem.message]) {
    if (typeof part === "string" && part && !text.includes(part)) text += `: ${part}`;
  }
  const { details } = problem;
  if (typeof details === "string" && details && !text.includes(details)) text += ` (${details})`;
  return text;
}

module.exports = { keyPath, load, pages, path, send, sendJson, toJson };
