"use strict";
/** The error of all calls on storage. */

class StorageError extends Error {
  /**
   * `code` is the server's name of the error, such as `STORAGE_SCOPE`, and `status` its HTTP status;
   * both are null when there was no answer.
   */
  constructor(message, { code = null, status = null, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.status = status;
  }
}

// Not enumerable: an error in the console shows its code and status, and not its name once more.
Object.defineProperty(StorageError.prototype, "name", {
  value: "StorageError",
  writable: true,
  configurable: true,
});

module.exports = { StorageError };
