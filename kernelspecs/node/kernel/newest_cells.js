"use strict";
/** Keeps what is known of cells, by a key: of the newest only, bounded in number and in text. */

const MAX_CELLS = 1000;
const MAX_CHARS = 4 * 1024 * 1024; // of code, all cells together; the newest is kept whatever its size

class NewestCells {
  constructor() {
    this.cells = new Map(); // key → { size, cell }, the oldest first
    this.size = 0; // characters
  }

  /** Adds a cell whose code has so many characters; one of the same key is replaced. */
  add(key, size, cell) {
    this.remove(key);
    this.cells.set(key, { size, cell });
    this.size += size;
    while (this.cells.size > MAX_CELLS || (this.size > MAX_CHARS && this.cells.size > 1)) {
      this.remove(this.cells.keys().next().value);
    }
  }

  remove(key) {
    this.size -= this.cells.get(key)?.size ?? 0;
    this.cells.delete(key);
  }

  /** Returns a cell; undefined when it is too old or never was there. */
  get(key) {
    return this.cells.get(key)?.cell;
  }

  /** Returns all cells that are kept, the oldest first. */
  all() {
    return Array.from(this.cells.values(), ({ cell }) => cell);
  }
}

module.exports = { NewestCells };
