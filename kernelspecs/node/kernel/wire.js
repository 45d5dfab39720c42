"use strict";
/** Jupyter's wire protocol: sockets of a connection file, and signed messages. */

const { createHmac, randomUUID, timingSafeEqual } = require("node:crypto");

const DELIMITER = Buffer.from("<IDS|MSG>");
const PROTOCOL_VERSION = "5.4";
const FULL_QUEUE_MESSAGES = 256; // that wait for zeromq: then the program waits, too
const BOUND_MESSAGES = 128; // that a publisher keeps for each reader
const READER_MS = 3000; // for a reader to take a message before it counts as one that never does
const RETRY_MS = 1;
const CHANNELS = ["shell", "control", "stdin", "iopub", "hb"];

/** Makes and reads messages that are signed with the key of a connection. */
class MessageFormat {
  constructor(key, scheme) {
    this.key = key;
    this.algorithm = (scheme || "hmac-sha256").replace(/^hmac-/, "");
    this.sessionId = randomUUID();
    this.count = 0;
  }

  /**
   * Returns the frames of a message; `parent` is the header of the request that it answers. They are
   * strings, which zeromq copies: a buffer it would keep until this thread has time to let go of it.
   */
  encode(type, content, parent, identities = [], metadata = {}) {
    const header = {
      msg_id: `${this.sessionId}_${++this.count}`,
      session: this.sessionId,
      username: "kernel",
      date: new Date().toISOString(),
      msg_type: type,
      version: PROTOCOL_VERSION,
    };
    const parts = [header, parent || {}, metadata, content].map((part) =>
      JSON.stringify(part),
    );
    return [...identities, DELIMITER, this.sign(parts), ...parts];
  }

  /** Returns a message, or null for frames that are none or whose signature is wrong. */
  decode(frames) {
    const at = frames.findIndex((frame) => DELIMITER.equals(frame));
    if (at < 0 || frames.length < at + 6) return null;
    const parts = frames.slice(at + 2, at + 6);
    const signature = Buffer.from(this.sign(parts));
    const given = frames[at + 1];
    if (given.length !== signature.length || !timingSafeEqual(given, signature)) return null;
    try {
      const [header, parent, metadata, content] = parts.map((part) => JSON.parse(part.toString()));
      return { identities: frames.slice(0, at), header, parent, metadata, content };
    } catch {
      return null;
    }
  }

  sign(parts) {
    if (!this.key) return "";
    const digest = createHmac(this.algorithm, this.key);
    for (const part of parts) digest.update(part);
    return digest.digest("hex");
  }
}

/**
 * Sends on one socket: zeromq takes the next message only when it has taken the one before. `onSent`
 * is called with each message that was taken.
 */
class SendQueue {
  constructor(socket, onSent = () => {}) {
    this.socket = socket;
    this.onSent = onSent;
    this.waiting = [];
    this.sentCount = 0; // of the messages in `waiting`
    this.sending = null;
    this.isBound = false;
    this.hasReaders = true; // as far as is known, readers make room
  }

  get isFull() {
    return this.waiting.length - this.sentCount >= FULL_QUEUE_MESSAGES;
  }

  send(frames) {
    this.waiting.push(frames);
    this.sending ??= this.drain();
  }

  /** Waits until all that was given has been taken by zeromq. */
  async flush() {
    while (this.sending) await this.sending;
  }

  /** Makes a publisher take no more than its readers can follow, as long as they read at all. */
  setBound() {
    this.isBound = true;
    this.socket.sendHighWaterMark = BOUND_MESSAGES;
  }

  /** Gives zeromq all there is, however much that takes: when the process ends, or nobody reads. */
  liftBound() {
    this.isBound = false;
    this.socket.sendHighWaterMark = 0;
  }

  async drain() {
    try {
      while (this.sentCount < this.waiting.length) {
        const frames = this.waiting[this.sentCount];
        this.waiting[this.sentCount++] = null;
        await this.sendOne(frames);
        if (this.sentCount >= FULL_QUEUE_MESSAGES) this.forgetSent();
        this.onSent();
      }
    } catch {
      this.sentCount = this.waiting.length;
      this.onSent(); // the socket is closed: nobody is there any more
    } finally {
      this.forgetSent();
      this.sending = null;
    }
  }

  forgetSent() {
    this.waiting = this.waiting.slice(this.sentCount);
    this.sentCount = 0;
  }

  /** Sends one message, when there is room for it or nobody makes any. */
  async sendOne(frames) {
    const end = performance.now() + READER_MS;
    for (;;) {
      try {
        await this.socket.send(frames);
        this.hasReaders ||= this.isBound;
        return;
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
      }
      if (performance.now() >= end) this.hasReaders = false;
      if (this.hasReaders) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      else this.liftBound();
    }
  }
}

/** Returns the address of one of CHANNELS, as jupyter_client makes it. */
function address(connection, channel) {
  const port = connection[`${channel}_port`];
  if (connection.transport === "ipc") return `ipc://${connection.ip}-${port}`;
  return `${connection.transport || "tcp"}://${connection.ip}:${port}`;
}

/**
 * Opens all sockets that a connection file names; returns them by channel. They are bound, or with
 * `connect` in the file connected to who listens there.
 */
async function openSockets(zeromq, connection) {
  const make = {
    shell: () => new zeromq.Router({ sendHighWaterMark: 0, linger: 1000 }),
    control: () => new zeromq.Router({ sendHighWaterMark: 0, linger: 1000 }),
    stdin: () => new zeromq.Router({ sendHighWaterMark: 0, linger: 0 }),
    iopub: () => new zeromq.Publisher({ sendHighWaterMark: 0, noDrop: true, linger: 2000 }),
    hb: () => new zeromq.Reply({ linger: 0 }),
  };
  const sockets = {};
  const named = CHANNELS.filter((channel) => connection[`${channel}_port`] !== undefined);
  await Promise.all(
    named.map(async (channel) => {
      sockets[channel] = make[channel]();
      const place = address(connection, channel);
      if (connection.connect) await sockets[channel].connect(place);
      else await sockets[channel].bind(place);
    }),
  );
  return sockets;
}

module.exports = { MessageFormat, PROTOCOL_VERSION, SendQueue, address, openSockets };
