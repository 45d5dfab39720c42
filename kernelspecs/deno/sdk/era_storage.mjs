/** The module `era_storage` as programs of Deno import it: Node's, with its names as exports. */

import { createRequire } from "node:module";

const storage = createRequire(import.meta.url)("../../node/sdk/era_storage/index.js");

export const { kv, d1, r2, StorageError } = storage;
export default storage;
