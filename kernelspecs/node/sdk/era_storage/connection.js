"use strict";
/** One connection to the server: sends a request, reads its answer, then the next. */

const early = require("./early.js");
const { AnswerReader } = require("./answer_reader.js");

const CONNECT_TIMEOUT = 10_000; // ms
const ANSWER_TIMEOUT = 600_000; // ms between two pieces of an answer
const ONE_WRITE = 64 * 1024; // bytes of a body that are sent together with the head
const FIELD = /^[\t\x20-\x7e\x80-\xff]*$/;

/** What a program's own source of bytes threw; `cause` is that error. */
class SourceError extends early.Error {
  constructor(cause) {
    super("the source of the content failed", { cause });
  }
}

class Connection {
  /** Calls `onClosed()` when the connection is closed, by whomever. */
  constructor({ socket: options, host, isSecure }, onClosed) {
    this.ticket = null; // of the call that uses it
    this.reader = null; // of the answer that is expected
    this.isReusable = true; // false after an answer that is the last, or was not read to its end
    this.isClosed = false;
    this.wasUsed = false;
    this.problem = null;
    this.finish = null; // settles the exchange
    this.resume = null; // continues to send a body
    this.socket = isSecure ? openSecure(options, host) : new early.Socket();
    this.listen(onClosed);
    this.socket.setTimeout(CONNECT_TIMEOUT);
    if (!isSecure) this.socket.connect(options);
  }

  listen(onClosed) {
    const { socket } = this;
    socket.on("connect", () => socket.setTimeout(ANSWER_TIMEOUT));
    socket.on("data", (chunk) => this.onData(chunk));
    socket.on("end", () => this.onEnd());
    socket.on("drain", () => this.resume?.());
    socket.on("timeout", () => {
      // While nobody uses it, the server decides how long it is kept.
      if (this.reader !== null) socket.destroy(new early.Error("the server does not answer"));
    });
    socket.on("error", (error) => {
      this.problem = error;
    });
    socket.on("close", () => {
      this.isClosed = true;
      this.onEnd();
      onClosed();
    });
  }

  get isUsable() {
    return this.isReusable && !this.isClosed && this.reader === null && !this.socket.destroyed;
  }

  /** Sends a request; resolves to the answer. The body is bytes, or an async iterable of them. */
  exchange(request) {
    return new early.Promise((resolve, reject) => {
      this.finish = (error, answer) => {
        this.finish = null;
        this.reader = null;
        this.wasUsed = true;
        this.resume?.();
        if (error) reject(error);
        else resolve(answer);
      };
      this.reader = new AnswerReader();
      this.write(request);
    });
  }

  write({ method, path, headers, body }) {
    const { socket } = this;
    const isStream = body !== undefined && typeof body.byteLength !== "number";
    let head = `${method} ${path} HTTP/1.1\r\n`;
    for (const [name, value] of Object.entries(headers)) {
      if (!FIELD.test(value)) throw new early.Error(`the header ${name} has a wrong character`);
      head += `${name}: ${value}\r\n`;
    }
    if (isStream) head += "Transfer-Encoding: chunked\r\n";
    else if (body !== undefined || method !== "GET") {
      head += `Content-Length: ${body?.byteLength ?? 0}\r\n`;
    }
    head += "\r\n";
    if (isStream) {
      socket.write(head, "latin1");
      this.sendPieces(body);
    } else if (body === undefined) {
      socket.write(head, "latin1");
    } else if (body.byteLength <= ONE_WRITE) {
      socket.write(early.concat([early.bytesOf(head, "latin1"), body]));
    } else {
      socket.write(head, "latin1");
      socket.write(body);
    }
  }

  async sendPieces(pieces) {
    const { socket } = this;
    try {
      for await (const piece of pieces) {
        if (this.finish === null) return; // the server has answered already
        if (piece.byteLength === 0) continue;
        socket.cork();
        socket.write(`${piece.byteLength.toString(16)}\r\n`, "latin1");
        socket.write(piece);
        const isFull = !socket.write("\r\n", "latin1");
        socket.uncork();
        if (isFull) await this.drained();
        if (this.finish === null) return;
      }
      socket.write("0\r\n\r\n", "latin1");
    } catch (error) {
      this.isReusable = false;
      this.finish?.(new SourceError(error));
      socket.destroy();
    }
  }

  drained() {
    return new early.Promise((resolve) => {
      this.resume = () => {
        this.resume = null;
        resolve();
      };
    });
  }

  onData(chunk) {
    if (this.reader === null) {
      this.close(); // what nobody has asked for
      return;
    }
    try {
      if (this.reader.feed(chunk)) this.onAnswer();
    } catch (error) {
      this.isReusable = false;
      this.finish?.(error);
      this.close();
    }
  }

  onAnswer() {
    const { answer, isLast } = this.reader;
    if (isLast || this.socket.writableLength > 0) this.isReusable = false;
    this.finish(null, answer);
  }

  /** Is called when nothing will be read any more. */
  onEnd() {
    this.isReusable = false;
    const { finish, reader } = this;
    if (finish === null) return;
    if (reader.end()) {
      this.onAnswer();
    } else if (this.isClosed) {
      finish(this.closingError());
    }
  }

  closingError() {
    if (!this.reader.hasBegun && !this.problem?.syscall?.startsWith("connect")) {
      const isTimeout = this.problem !== null && this.problem.code === undefined;
      const message = isTimeout ? this.problem.message : "the server closed the connection";
      const error = new early.Error(message, { cause: this.problem });
      return Object.assign(error, { isClosedBefore: !isTimeout });
    }
    return this.problem ?? new early.Error("the connection was closed before the answer's end");
  }

  close() {
    this.isReusable = false;
    this.socket.destroy();
  }
}

function openSecure(options, servername) {
  const name = servername.replace(/:\d+$/, "");
  return require("node:tls").connect({ ...options, servername: /[a-z]/i.test(name) ? name : "" });
}

module.exports = { Connection, SourceError };
