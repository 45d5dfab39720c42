"use strict";
/**
 * Sockets that speak ZMTP 3.0, the protocol of ZeroMQ, as far as kernels need them: `Router`,
 * `Publisher` and `Reply` with the methods of the package `zeromq`. That package's library is for
 * Node alone: in Deno it misses messages.
 */

const GREETING_BYTES = 64;
const MORE = 1;
const LONG = 2;
const COMMAND = 4;
const READ_BYTES = 64 * 1024;
const IDENTITY = "Identity";
const MAX_EARLY = 1000; // messages of a publisher that are kept for the first subscriber

/** Reads exact numbers of bytes from a connection. */
class ByteReader {
  constructor(connection) {
    this.connection = connection;
    this.parts = [];
    this.size = 0;
  }

  /** Returns so many bytes. Throws at the end of the connection. */
  async take(count) {
    while (this.size < count) {
      const buffer = Buffer.allocUnsafe(READ_BYTES);
      const got = await this.connection.read(buffer);
      if (got === null) throw new Error("the connection has ended");
      this.parts.push(buffer.subarray(0, got));
      this.size += got;
    }
    const all = this.parts.length === 1 ? this.parts[0] : Buffer.concat(this.parts);
    this.size -= count;
    this.parts = this.size ? [all.subarray(count)] : [];
    return all.subarray(0, count);
  }
}

function makeGreeting() {
  const greeting = Buffer.alloc(GREETING_BYTES);
  greeting[0] = 0xff;
  greeting[9] = 0x7f;
  greeting[10] = 3;
  greeting.write("NULL", 12, "latin1");
  return greeting;
}

function makeFrame(body, flags) {
  const isLong = body.length > 255;
  const head = Buffer.alloc(isLong ? 9 : 2);
  head[0] = flags | (isLong ? LONG : 0);
  if (isLong) head.writeBigUInt64BE(BigInt(body.length), 1);
  else head[1] = body.length;
  return [head, body];
}

function makeReady(type) {
  const property = (name, value) => {
    const size = Buffer.alloc(4);
    size.writeUInt32BE(value.length);
    return Buffer.concat([Buffer.from([name.length]), Buffer.from(name), size, Buffer.from(value)]);
  };
  const body = [Buffer.from("\x05READY", "latin1"), property("Socket-Type", type)];
  return Buffer.concat(makeFrame(Buffer.concat(body), COMMAND));
}

/** Returns the identity in the body of a READY command; empty when there is none. */
function readIdentity(body) {
  for (let at = 1 + body[0]; at < body.length; ) {
    const name = body.toString("latin1", at + 1, at + 1 + body[at]);
    at += 1 + body[at];
    const size = body.readUInt32BE(at);
    const value = body.subarray(at + 4, at + 4 + size);
    if (name === IDENTITY) return value;
    at += 4 + size;
  }
  return Buffer.alloc(0);
}

/** Returns what Deno calls an address of ZeroMQ. */
function parseAddress(address) {
  const [, transport, place] = /^(\w+):\/\/(.*)$/.exec(address);
  if (transport === "ipc") return { transport: "unix", path: place };
  const [, hostname, port] = /^(.*):(\d+)$/.exec(place);
  return { hostname, port: Number(port) };
}

/** One connection to a socket. */
class Peer {
  constructor(connection, type) {
    this.connection = connection;
    this.reader = new ByteReader(connection);
    this.type = type;
    this.identity = Buffer.alloc(0);
    this.prefixes = []; // to which it has subscribed
    this.isOpen = true;
  }

  async handshake() {
    await this.writeAll(makeGreeting());
    await this.reader.take(GREETING_BYTES);
    await this.writeAll(makeReady(this.type));
    for (;;) {
      const { flags, body } = await this.readFrame();
      if (flags & COMMAND && body.toString("latin1", 1, 1 + body[0]) === "READY") {
        this.identity = Buffer.from(readIdentity(body));
        return;
      }
    }
  }

  async readFrame() {
    const [flags, short] = await this.reader.take(2);
    let size = short;
    if (flags & LONG) {
      const rest = await this.reader.take(7);
      size = Number(Buffer.concat([Buffer.from([short]), rest]).readBigUInt64BE());
    }
    return { flags, body: size ? await this.reader.take(size) : Buffer.alloc(0) };
  }

  /** Returns the frames of the next message. */
  async readMessage() {
    const frames = [];
    for (;;) {
      const { flags, body } = await this.readFrame();
      if (flags & COMMAND) continue;
      frames.push(Buffer.from(body));
      if (!(flags & MORE)) return frames;
    }
  }

  async sendMessage(frames) {
    const last = frames.length - 1;
    const parts = frames.flatMap((frame, index) => makeFrame(Buffer.from(frame), index < last ? MORE : 0));
    await this.writeAll(Buffer.concat(parts));
  }

  /** Writes all bytes; whoever cannot be written to is gone. */
  async writeAll(bytes) {
    try {
      let rest = bytes;
      while (rest.length) rest = rest.subarray(await this.connection.write(rest));
    } catch {
      this.close();
    }
  }

  close() {
    if (!this.isOpen) return;
    this.isOpen = false;
    try {
      this.connection.close();
    } catch {
      // it is closed already
    }
  }
}

/** A socket that is bound or connected: what its peers send, and the peers. */
class PeerSocket {
  constructor(type) {
    this.type = type;
    this.listener = null;
    this.peers = new Map(); // identity in hexadecimal → peer
    this.count = 0;
    this.received = []; // messages that nobody has taken
    this.wake = null;
    this.isClosed = false;
  }

  async bind(address) {
    this.listener = Deno.listen(parseAddress(address));
    this.accept();
  }

  /** Connects to who listens at the address. Throws when nobody does. */
  async connect(address) {
    const connection = await Deno.connect(parseAddress(address));
    this.serve(new Peer(connection, this.type)).catch(() => {});
  }

  async accept() {
    for await (const connection of this.listener) {
      connection.setNoDelay?.();
      this.serve(new Peer(connection, this.type)).catch(() => {});
    }
  }

  async serve(peer) {
    let key;
    try {
      await peer.handshake();
      if (!peer.identity.length) peer.identity = Buffer.from([0, ...Buffer.from(`${++this.count}`)]);
      key = peer.identity.toString("hex");
      this.peers.set(key, peer);
      for (;;) this.onMessage(peer, await peer.readMessage());
    } finally {
      peer.close();
      if (this.peers.get(key) === peer) this.peers.delete(key);
    }
  }

  push(message) {
    this.received.push(message);
    this.wake?.();
  }

  async *[Symbol.asyncIterator]() {
    while (!this.isClosed) {
      if (this.received.length) yield this.received.shift();
      else await new Promise((resolve) => (this.wake = resolve));
    }
  }

  close() {
    this.isClosed = true;
    this.listener?.close();
    for (const peer of this.peers.values()) peer.close();
    this.wake?.();
  }
}

/** Knows its peers by their identities, the first frame of each message. */
class Router extends PeerSocket {
  constructor() {
    super("ROUTER");
  }

  onMessage(peer, frames) {
    this.push([peer.identity, ...frames]);
  }

  async send([identity, ...frames]) {
    await this.peers.get(Buffer.from(identity).toString("hex"))?.sendMessage(frames);
  }
}

/**
 * Sends to all that have subscribed. What is sent before anybody has, the first one gets: clients try
 * again at times of their own where nobody listens yet, so that a request may come before.
 */
class Publisher extends PeerSocket {
  constructor() {
    super("PUB");
    this.early = []; // messages of before the first subscription; null after it
  }

  onMessage(peer, [frame]) {
    const prefix = frame.subarray(1);
    if (frame[0] === 1) this.subscribe(peer, prefix);
    else if (frame[0] === 0) peer.prefixes = peer.prefixes.filter((one) => !one.equals(prefix));
  }

  subscribe(peer, prefix) {
    peer.prefixes.push(prefix);
    const { early } = this;
    this.early = null;
    for (const frames of early ?? []) this.send(frames);
  }

  async send(frames) {
    if (this.early !== null) {
      if (this.early.length < MAX_EARLY) this.early.push(frames);
      return;
    }
    const begins = (prefix) => prefix.equals(frames[0].subarray(0, prefix.length));
    const interested = [...this.peers.values()].filter((peer) => peer.prefixes.some(begins));
    await Promise.all(interested.map((peer) => peer.sendMessage(frames)));
  }
}

/** Answers each message to the peer that has sent it. */
class Reply extends PeerSocket {
  constructor() {
    super("REP");
    this.asking = null;
  }

  onMessage(peer, frames) {
    const at = frames.findIndex((frame) => !frame.length);
    this.push(Object.assign(frames.slice(at + 1), { peer, envelope: frames.slice(0, at + 1) }));
  }

  async *[Symbol.asyncIterator]() {
    for await (const message of super[Symbol.asyncIterator]()) {
      this.asking = message;
      yield message;
    }
  }

  async send(frames) {
    const { peer, envelope } = this.asking;
    await peer.sendMessage([...envelope, ...frames]);
  }
}

module.exports = { Publisher, Reply, Router };
