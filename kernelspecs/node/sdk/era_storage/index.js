"use strict";
/**
 * Reads and writes the storage of the server: keys and values, SQL databases, objects.
 *
 *     const { kv, d1, r2 } = require("era_storage"); // or: import { kv, d1, r2 } from "era_storage"
 *
 *     await kv.set("app", "greeting", "hello");
 *     await kv.get("app", "greeting"); // 'hello'
 *     await d1.exec("app", "CREATE TABLE IF NOT EXISTS t (x)");
 *     await d1.query("app", "SELECT * FROM t WHERE x > ?", [1]); // an array of objects
 *     await r2.put("app", "photo.png", data); // bytes, or a stream of them
 *
 * Inside a session nothing has to be set up, and no network is needed. Elsewhere `ERA_STORAGE_URL`
 * is the address of the server and `ERA_STORAGE_TOKEN` (or `ERA_API_TOKEN`) a token; both are read
 * at each call. What fails rejects with a StorageError.
 */

const { D1Storage } = require("./d1.js");
const { StorageError } = require("./errors.js");
const { KVStorage } = require("./kv.js");
const { R2Storage } = require("./r2.js");

const kv = KVStorage;
const d1 = D1Storage;
const r2 = R2Storage;

// Node finds the names for `import` in this very form.
module.exports = { D1Storage, KVStorage, R2Storage, StorageError, d1, kv, r2 };
