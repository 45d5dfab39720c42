"use strict";
/**
 * Keeps connections to the server, which hold up the end of no program unless a call uses them.
 *
 * It speaks HTTP by itself: programs put their own functions into the module `http` for their tests.
 */

const callOwner = require("./call_owner.js");
const { Connection, SourceError } = require("./connection.js");
const early = require("./early.js");

// Calls of this thread at once, and of those the calls with streams. The server works on eight
// requests of a session at a time: streams must leave some, whose sources may make calls, too.
const MAX_CALLS = 8;
const MAX_STREAMS = 4;
const TURN = 20; // ms until a connection is tried again
const MAX_TURNS = 500;

const pools = new early.Map(); // URL → its pool

/** Returns where a URL leads. Throws an Error for a URL of another kind. */
function parseAddress(url) {
  const unix = /^http\+unix:\/\/([^/?#]*)([^?#]*)/.exec(url);
  if (unix !== null) {
    const socket = { path: early.decodeURIComponent(unix[1]) };
    return { url, socket, host: "localhost", path: withoutSlash(unix[2]), isSecure: false };
  }
  let parts = null;
  if (/^https?:\/\/[^/]/.test(url)) {
    try {
      parts = new early.URL(url);
    } catch (error) {
      throw new early.Error(`the port or the host in ERA_STORAGE_URL is wrong: ${error.message}`);
    }
  }
  if (parts === null) {
    throw new early.Error("ERA_STORAGE_URL must begin with http://, https:// or http+unix://");
  }
  const isSecure = parts.protocol === "https:";
  const host = parts.hostname.replace(/^\[|\]$/g, "");
  const socket = { host, port: Number(parts.port) || (isSecure ? 443 : 80), noDelay: true };
  return { url, socket, host: parts.host, path: withoutSlash(parts.pathname), isSecure };
}

function withoutSlash(path) {
  return path.replace(/\/+$/, "");
}

/** Sends a request on one of the connections; resolves to the status and body of the answer. */
async function exchange(address, request, isRepeatable) {
  const caller = callOwner.current();
  let pool = pools.get(address.url);
  if (pool === undefined) pools.set(address.url, (pool = new Pool(address)));
  // What cannot be repeated must not meet a connection whose end was not yet noticed.
  if (!isRepeatable && pool.idle.length) await lookAtSockets();
  for (let turn = 0; ; turn++) {
    try {
      return await exchangeOnce(pool, request, caller, turn > 0);
    } catch (error) {
      // The server may close a connection that nobody uses while the next request is on its way.
      const wasClosed = turn === 0 && isRepeatable && error?.isClosedWhenIdle;
      if (!wasClosed && (!isCrowded(error) || turn === MAX_TURNS)) throw error;
      if (!wasClosed) await new early.Promise((resolve) => early.setTimeout(resolve, TURN));
    }
  }
}

/** Returns whether so many wait at a unix socket that one cannot even wait there. */
function isCrowded(error) {
  return error?.code === "EAGAIN" && error.syscall === "connect";
}

async function exchangeOnce(pool, request, caller, isFresh) {
  if (caller?.isDead) return await never();
  const isStream = request.body !== undefined && typeof request.body.byteLength !== "number";
  const connection = await pool.take(caller, isStream, isFresh);
  const { wasUsed } = connection;
  let answer, problem;
  try {
    answer = await connection.exchange(request);
  } catch (error) {
    if (wasUsed && error?.isClosedBefore) error.isClosedWhenIdle = true;
    problem = error;
  }
  pool.release(connection);
  if (caller?.isDead) return await never();
  if (problem !== undefined) throw problem;
  return answer;
}

/** Resolves when everything that had arrived at sockets was read. */
function lookAtSockets() {
  return new early.Promise((resolve) => {
    // The first one may come before Node looks at its sockets again.
    early.setImmediate(() => early.setImmediate(() => early.nextTick(resolve)));
  });
}

function never() {
  return new early.Promise(() => {});
}

/** Calls of one kind that may be made at once, each with a ticket; the others wait. */
class Lane {
  constructor(limit) {
    this.limit = limit;
    this.tickets = new early.Set();
    this.waiting = [];
  }

  /** Returns the ticket of a call, or a promise of it. */
  enter(caller) {
    const ticket = { caller, lane: this };
    // Who was stopped gives nothing back.
    for (const one of this.tickets) if (one.caller?.isDead) this.tickets.delete(one);
    if (this.tickets.size >= this.limit) {
      return new early.Promise((resolve) => this.waiting.push({ ticket, resolve }));
    }
    this.tickets.add(ticket);
    return ticket;
  }

  leave(ticket) {
    this.tickets.delete(ticket);
    while (this.waiting.length && this.tickets.size < this.limit) {
      const { ticket: next, resolve } = this.waiting.shift();
      if (next.caller?.isDead) continue;
      this.tickets.add(next);
      resolve(next);
    }
  }
}

/** The connections to one address. */
class Pool {
  constructor(address) {
    this.address = address;
    this.idle = [];
    this.calls = new Lane(MAX_CALLS);
    this.streams = new Lane(MAX_STREAMS);
  }

  /** Resolves to a connection that nobody else has until it is released. */
  async take(caller, isStream, isFresh) {
    const entry = (isStream ? this.streams : this.calls).enter(caller);
    const ticket = entry.lane === undefined ? await entry : entry;
    let connection = null;
    while (!isFresh && connection === null && this.idle.length) {
      const last = this.idle.pop();
      if (last.isUsable) connection = last;
    }
    connection ??= this.open();
    connection.ticket = ticket;
    connection.socket.ref();
    return connection;
  }

  open() {
    // When the code that has a connection is stopped, it is closed, and never released.
    const connection = new Connection(this.address, () => {
      const index = this.idle.indexOf(connection);
      if (index >= 0) this.idle.splice(index, 1);
      this.leave(connection);
    });
    return connection;
  }

  release(connection) {
    if (connection.isUsable && this.idle.length < MAX_CALLS) {
      connection.socket.unref();
      this.idle.push(connection);
    } else {
      connection.close();
    }
    this.leave(connection);
  }

  leave(connection) {
    const { ticket } = connection;
    connection.ticket = null;
    ticket?.lane.leave(ticket);
  }
}

module.exports = { SourceError, exchange, parseAddress };
