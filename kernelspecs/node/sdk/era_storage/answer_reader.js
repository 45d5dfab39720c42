"use strict";
/** Reads one answer of HTTP/1.1 from the pieces in which it arrives. */

const early = require("./early.js");

const MAX_HEAD = 64 * 1024; // bytes
const END_OF_HEAD = "\r\n\r\n";

class AnswerReader {
  constructor() {
    this.hasBegun = false;
    this.rest = null; // bytes that were not yet read
    this.read = this.readHead;
    this.answer = null; // { status, body }, when it is whole
    this.isLast = false; // the server closes the connection then
    this.status = 0;
    this.missing = 0; // bytes of the body, or of the chunk
    this.body = null;
    this.pieces = [];
  }

  /** Takes bytes; returns whether the answer is whole. Throws an Error for what is no HTTP. */
  feed(bytes) {
    this.hasBegun = true;
    this.rest = this.rest === null ? bytes : early.concat([this.rest, bytes]);
    while (this.answer === null && this.rest !== null && this.read());
    if (this.answer !== null && this.rest !== null) this.isLast = true; // it is more than that
    return this.answer !== null;
  }

  /** Notes that nothing will come any more; returns whether the answer is whole by that. */
  end() {
    if (this.answer === null && this.read === this.readUntilEnd) this.finish(early.concat(this.pieces));
    return this.answer !== null;
  }

  finish(body) {
    this.answer = { status: this.status, body };
  }

  // Each of these reads what it can, and returns whether the next one may go on.

  readHead() {
    const end = this.rest.indexOf(END_OF_HEAD, 0, "latin1");
    if (end < 0) {
      if (this.rest.length > MAX_HEAD) throw new early.Error("the head of the answer is too long");
      return false;
    }
    const [first, ...lines] = this.rest.toString("latin1", 0, end).split("\r\n");
    this.skip(end + END_OF_HEAD.length);
    const found = /^HTTP\/1\.(\d) (\d{3})(?: |$)/.exec(first);
    if (found === null) throw new early.Error("the answer is no HTTP");
    this.status = Number(found[2]);
    if (this.status < 200) return true; // the answer itself follows
    const fields = new early.Map();
    for (const line of lines) {
      const colon = line.indexOf(":");
      fields.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    const connection = (fields.get("connection") ?? "").toLowerCase();
    this.isLast = found[1] === "0" ? connection !== "keep-alive" : connection === "close";
    return this.beginBody(fields);
  }

  beginBody(fields) {
    const length = fields.get("content-length");
    if (this.status === 204 || this.status === 304) {
      this.finish(early.allocate(0));
    } else if (/chunked/i.test(fields.get("transfer-encoding") ?? "")) {
      this.read = this.readSize;
    } else if (length !== undefined) {
      if (!/^\d+$/.test(length)) throw new early.Error("the length of the answer is no number");
      this.missing = Number(length);
      this.body = early.allocate(this.missing);
      this.read = this.readBody;
      if (this.missing === 0) this.finish(this.body);
    } else {
      this.isLast = true;
      this.read = this.readUntilEnd;
    }
    return true;
  }

  readBody() {
    const count = Math.min(this.missing, this.rest.length);
    this.rest.copy(this.body, this.body.length - this.missing, 0, count);
    this.missing -= count;
    this.skip(count);
    if (this.missing === 0) this.finish(this.body);
    return false;
  }

  readUntilEnd() {
    this.pieces.push(this.rest);
    this.rest = null;
    return false;
  }

  readSize() {
    const line = this.takeLine();
    if (line === null) return false;
    if (!/^[0-9a-f]+/i.test(line)) throw new early.Error("the size of a chunk is no number");
    this.missing = parseInt(line, 16);
    this.read = this.missing === 0 ? this.readTrailer : this.readChunk;
    return true;
  }

  readChunk() {
    const count = Math.min(this.missing, this.rest.length);
    this.pieces.push(this.rest.subarray(0, count));
    this.missing -= count;
    this.skip(count);
    if (this.missing === 0) this.read = this.readChunkEnd;
    return true;
  }

  readChunkEnd() {
    if (this.takeLine() === null) return false;
    this.read = this.readSize;
    return true;
  }

  readTrailer() {
    const line = this.takeLine();
    if (line === "") this.finish(early.concat(this.pieces));
    return line !== null;
  }

  takeLine() {
    const end = this.rest.indexOf("\r\n", 0, "latin1");
    if (end < 0) return null;
    const line = this.rest.toString("latin1", 0, end);
    this.skip(end + 2);
    return line;
  }

  skip(count) {
    this.rest = count < this.rest.length ? this.rest.subarray(count) : null;
  }
}

module.exports = { AnswerReader };
