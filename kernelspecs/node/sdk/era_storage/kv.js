"use strict";
/** Keys and values. */

const requests = require("./requests.js");

const MISSING = "KEY_NOT_FOUND";

/** Stores texts under keys, in namespaces. Every method rejects with a StorageError if it fails. */
class KVStorage {
  /** Resolves to the value of a key, null where there is no such key. */
  static async get(namespace, key) {
    const found = await KVStorage.getWithMetadata(namespace, key);
    return found === null ? null : found.value;
  }

  /** Resolves to `{ value, metadata }` of a key, null where there is no such key. */
  static async getWithMetadata(namespace, key) {
    const call = { what: "KV get", method: "GET", path: requests.keyPath("kv", namespace, key) };
    const answer = await requests.send({ ...call, missingCode: MISSING });
    if (answer.status === 404) return null;
    const { value, metadata } = requests.load(call.what, answer, ["value"]);
    return { value, metadata: metadata ?? {} };
  }

  /**
   * Sets the value of a key, durably; `expirationTtl` is in seconds from now. Metadata that the key
   * had is replaced, too.
   */
  static async set(namespace, key, value, metadata, expirationTtl) {
    const body = { value };
    if (metadata !== undefined && metadata !== null) body.metadata = metadata;
    if (expirationTtl !== undefined && expirationTtl !== null) body.expiration_ttl = expirationTtl;
    const path = requests.keyPath("kv", namespace, key);
    const text = requests.toJson("KV set", body);
    return Boolean((await requests.sendJson("KV set", "PUT", path, text)).success);
  }

  /** Deletes a key; fine where there is none. */
  static async delete(namespace, key) {
    const path = requests.keyPath("kv", namespace, key);
    const answer = await requests.send({ what: "KV delete", method: "DELETE", path });
    return Boolean(requests.load("KV delete", answer).success);
  }

  /**
   * Resolves to up to `limit` keys that begin with `prefix`, sorted: name and metadata of each. With
   * a limit of null, to all of them.
   */
  static list(namespace, prefix = "", limit = 100) {
    return requests.pages("KV list", "kv", namespace, "keys", prefix, limit);
  }
}

module.exports = { KVStorage };
