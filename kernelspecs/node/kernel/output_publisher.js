"use strict";
/** Publishes texts on iopub, joined for a short while; and everything else in order with them. */

const { StringDecoder } = require("node:string_decoder");

const JOIN_MS = 20; // for which texts are joined after one was sent
const FULL_BATCH_BYTES = 64 * 1024; // that are sent without waiting for more
const MAX_MESSAGE_CHARS = 1024 * 1024;
const NEWLINE = 10;
const LAST_WORDS = Buffer.from("<--- Last few GCs --->"); // of V8: the process ends in a moment

class OutputPublisher {
  /** `send(type, content, parent)` sends one message. */
  constructor(send) {
    this.send = send;
    this.parent = null;
    this.decoders = null;
    this.texts = []; // pairs of a stream's name and a string
    this.size = 0;
    this.endsLine = true;
    this.firstAt = 0;
    this.lastSentAt = 0;
    this.timer = null;
    this.isEnding = false;
    this.begin(null);
  }

  /** Makes all output from here on that of a run, whose request had this header. */
  begin(parent) {
    this.flush();
    this.parent = parent;
    this.isEnding = false;
    this.decoders = { stdout: new StringDecoder("utf8"), stderr: new StringDecoder("utf8") };
  }

  /** Sends what is left of the run, incomplete characters too. */
  finish() {
    for (const name of ["stdout", "stderr"]) this.addText(name, this.decoders[name].end());
    this.flush();
  }

  /** Takes bytes that were written to a stream. */
  write(name, bytes) {
    const now = performance.now();
    if (!this.texts.length) this.firstAt = now;
    this.addText(name, this.decoders[name].write(bytes));
    this.size += bytes.length;
    this.endsLine = bytes[bytes.length - 1] === NEWLINE;
    this.isEnding ||= name === "stderr" && bytes.includes(LAST_WORDS);
    if (this.isEnding) this.flush();
    else this.schedule(now);
  }

  /** Publishes a message behind all texts. */
  publish(type, content) {
    this.flush();
    this.send(type, content, this.parent);
  }

  addText(name, text) {
    if (!text) return;
    const last = this.texts[this.texts.length - 1];
    if (last?.[0] === name) last[1] += text;
    else this.texts.push([name, text]);
  }

  /** Sends now, or later together with what comes meanwhile. Parts of lines wait for their ends. */
  schedule(now) {
    const start = this.endsLine ? this.lastSentAt : Math.max(this.lastSentAt, this.firstAt);
    const wait = start + JOIN_MS - now;
    if (wait <= 0 || this.size >= FULL_BATCH_BYTES) this.flush();
    else this.timer ??= setTimeout(() => this.onTimer(), wait);
  }

  onTimer() {
    this.timer = null;
    if (this.texts.length) this.schedule(performance.now() + 1);
  }

  flush() {
    if (this.timer !== null) {
      clearTimeout(this.timer);
      this.timer = null;
    }
    const texts = this.texts;
    if (!texts.length) return;
    this.texts = [];
    this.size = 0;
    for (const [name, text] of texts) {
      for (const part of splitText(text)) this.send("stream", { name, text: part }, this.parent);
    }
    this.lastSentAt = performance.now();
  }
}

/** Returns the text in parts of at most MAX_MESSAGE_CHARS, no character in two of them. */
function* splitText(text) {
  for (let start = 0; start < text.length; ) {
    let end = start + MAX_MESSAGE_CHARS;
    if (end < text.length && (text.charCodeAt(end - 1) & 0xfc00) === 0xd800) end -= 1;
    yield text.slice(start, end);
    start = end;
  }
}

module.exports = { OutputPublisher };
