"use strict";
/** Objects: bytes of any size. */

const early = require("./early.js");
const requests = require("./requests.js");
const { toBytes } = require("./sql_values.js");

const MISSING = "OBJECT_NOT_FOUND";
const BYTES = "application/octet-stream";
const HEADER = "X-Era-Meta-";
// Names and values that a header carries as they are.
const HEADER_NAME = /^[a-z0-9][a-z0-9_-]*$/;
const HEADER_VALUE = /^([!-~]([ !-~]*[!-~])?)?$/;

/** Stores objects under keys, in namespaces. Methods reject with a StorageError if they fail. */
class R2Storage {
  /** Resolves to the content of an object, null where there is no such object. */
  static async get(namespace, key) {
    const path = requests.keyPath("r2", namespace, key);
    const call = { what: "R2 get", method: "GET", path, headers: { Accept: BYTES } };
    const answer = await requests.send({ ...call, missingCode: MISSING });
    return answer.status === 404 ? null : answer.body;
  }

  /**
   * Stores an object, durably. Its content is bytes (a Buffer, an ArrayBuffer or a view of one), or
   * what is sent piece by piece and may be larger than the memory: a stream or another iterable of
   * bytes, a Blob, a file handle, or the `file:` URL of a file. An object of that key is replaced
   * with its metadata.
   */
  static async put(namespace, key, content, metadata) {
    const path = requests.keyPath("r2", namespace, key);
    const bytes = toBytes(content);
    const pieces = bytes === null ? toPieces(content) : null;
    const named = Object.entries(metadata ?? {});
    if (!named.every(([name, value]) => fitsHeader(name, value))) {
      return await putJson(path, bytes ?? (await readAll(pieces)), Object.fromEntries(named));
    }
    const headers = { "Content-Type": BYTES };
    for (const [name, value] of named) headers[HEADER + name] = value;
    const body = bytes ?? pieces;
    const call = { what: "R2 put", method: "PUT", path, headers, body };
    const answer = await requests.send({ ...call, isRepeatable: pieces === null });
    return Boolean(requests.load("R2 put", answer).success);
  }

  /** Deletes an object; fine where there is none. */
  static async delete(namespace, key) {
    const path = requests.keyPath("r2", namespace, key);
    const answer = await requests.send({ what: "R2 delete", method: "DELETE", path });
    return Boolean(requests.load("R2 delete", answer).success);
  }

  /**
   * Resolves to up to `limit` objects whose keys begin with `prefix`, sorted by key: `key`, `size`,
   * `uploaded` and `etag` of each. With a limit of null, to all of them.
   */
  static list(namespace, prefix = "", limit = 100) {
    return requests.pages("R2 list", "r2", namespace, "objects", prefix, limit);
  }
}

function fitsHeader(name, value) {
  return typeof value === "string" && HEADER_NAME.test(name) && HEADER_VALUE.test(value);
}

/** Returns an async iterable of the bytes of a content. Throws a TypeError if it has none. */
function toPieces(content) {
  const source = openSource(content);
  const iterate = source?.[Symbol.asyncIterator] ?? source?.[Symbol.iterator];
  if (typeof source !== "object" || typeof iterate !== "function") {
    const type = typeof content === "object" ? (content?.constructor?.name ?? "null") : typeof content;
    throw new early.TypeError(
      "the content of an object must be bytes, a stream or another iterable of bytes, a Blob, " +
        `a file handle or the file: URL of a file, not ${type}`,
    );
  }
  return eachPiece(source);
}

function openSource(content) {
  if (typeof content !== "object" || content === null) return null;
  if (content instanceof early.URL) return early.createReadStream(content);
  if (typeof content.createReadStream === "function") {
    return content.createReadStream({ autoClose: false }); // a file handle stays its owner's
  }
  if (content[Symbol.asyncIterator] === undefined && typeof content.stream === "function") {
    return content.stream(); // of a Blob
  }
  return content;
}

async function* eachPiece(source) {
  for await (const piece of source) {
    const bytes = toBytes(piece);
    if (bytes === null) {
      throw new early.TypeError(`the pieces of a content must be bytes, not ${typeof piece}`);
    }
    yield bytes;
  }
}

async function readAll(pieces) {
  const all = [];
  for await (const piece of pieces) all.push(piece);
  return early.concat(all);
}

/** Sends the object as JSON, which carries any metadata, and holds it in memory. */
async function putJson(path, bytes, metadata) {
  const text = requests.toJson("R2 put", { content: bytes.toString("base64"), metadata });
  return Boolean((await requests.sendJson("R2 put", "PUT", path, text)).success);
}

module.exports = { R2Storage };
