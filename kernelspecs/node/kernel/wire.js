"use strict";
/** Jupyter's wire protocol: sockets of a connection file, and signed messages. */

const { createHmac, randomUUID, timingSafeEqual } = require("node:crypto");

const DELIMITER = Buffer.from("<IDS|MSG>");
const PROTOCOL_VERSION = "5.4";
const CHANNELS = ["shell", "control", "stdin", "iopub", "hb"];

/** Makes and reads messages that are signed with the key of a connection. */
class MessageFormat {
  constructor(key, scheme) {
    this.key = key;
    this.algorithm = (scheme || "hmac-sha256").replace(/^hmac-/, "");
    this.sessionId = randomUUID();
    this.count = 0;
  }

  /** Returns the frames of a message; `parent` is the header of the request that it answers. */
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
      Buffer.from(JSON.stringify(part)),
    );
    return [...identities, DELIMITER, Buffer.from(this.sign(parts)), ...parts];
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

/** Sends on one socket: zeromq takes the next message only when it has taken the one before. */
class SendQueue {
  constructor(socket) {
    this.socket = socket;
    this.waiting = [];
    this.sending = null;
  }

  send(frames) {
    this.waiting.push(frames);
    this.sending ??= this.drain();
  }

  /** Waits until all that was given has been taken by zeromq. */
  async flush() {
    while (this.sending) await this.sending;
  }

  async drain() {
    try {
      while (this.waiting.length) {
        const batch = this.waiting;
        this.waiting = [];
        for (const frames of batch) await this.socket.send(frames);
      }
    } catch {
      this.waiting = []; // the socket is closed: nobody is there any more
    } finally {
      this.sending = null;
    }
  }
}

/** Returns the address of one of CHANNELS, as jupyter_client makes it. */
function address(connection, channel) {
  const port = connection[`${channel}_port`];
  if (connection.transport === "ipc") return `ipc://${connection.ip}-${port}`;
  return `${connection.transport || "tcp"}://${connection.ip}:${port}`;
}

/** Opens and binds all sockets that a connection file names; returns them by channel. */
async function bindSockets(zeromq, connection) {
  const make = {
    shell: () => new zeromq.Router({ sendHighWaterMark: 0, linger: 1000 }),
    control: () => new zeromq.Router({ sendHighWaterMark: 0, linger: 1000 }),
    stdin: () => new zeromq.Router({ sendHighWaterMark: 0, linger: 0 }),
    iopub: () => new zeromq.Publisher({ sendHighWaterMark: 0, linger: 2000 }),
    hb: () => new zeromq.Reply({ linger: 0 }),
  };
  const sockets = {};
  const named = CHANNELS.filter((channel) => connection[`${channel}_port`] !== undefined);
  await Promise.all(
    named.map(async (channel) => {
      sockets[channel] = make[channel]();
      await sockets[channel].bind(address(connection, channel));
    }),
  );
  return sockets;
}

module.exports = { MessageFormat, PROTOCOL_VERSION, SendQueue, address, bindSockets };
