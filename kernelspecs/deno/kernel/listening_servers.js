"use strict";
/** Lets a run end while its servers listen: they go on to serve in the session. */

const net = require("node:net");
const http = require("node:http");

class ListeningServers {
  constructor() {
    this.servers = new Set();
  }

  /** Makes what listens keep no event loop going. */
  install() {
    for (const name of ["listen", "listenTls"]) this.wrapFunction(name, (args) => args);
    this.wrapFunction("serve", withGreeting);
    this.wrapListen(net.Server.prototype);
    if (http.Server.prototype.listen !== net.Server.prototype.listen) {
      this.wrapListen(http.Server.prototype);
    }
  }

  wrapFunction(name, prepare) {
    const original = Deno[name];
    const add = (server) => this.add(server);
    Deno[name] = Object.defineProperty(
      function (...args) {
        return add(original.apply(this, prepare(args)));
      },
      "name",
      { value: name },
    );
  }

  /** Notes what listens, until it is closed. */
  add(server) {
    const { servers } = this;
    server.unref();
    servers.add(server);
    server.finished?.then(() => servers.delete(server));
    const { close } = server;
    if (typeof close === "function") {
      server.close = function (...args) {
        servers.delete(server);
        return close.apply(this, args);
      };
    }
    return server;
  }

  wrapListen(prototype) {
    const { listen } = prototype;
    const { servers } = this;
    prototype.listen = function (...args) {
      const result = listen.apply(this, args);
      this.unref();
      servers.add(this);
      this.once("close", () => servers.delete(this));
      return result;
    };
  }

  isAnyListening() {
    return this.servers.size > 0;
  }
}

/** Makes a server say where it listens: `deno repl --quiet`, as which the kernel runs, does not. */
function withGreeting(args) {
  const at = args.findIndex((one) => typeof one === "object" && one !== null);
  if (at < 0) return typeof args[0] === "function" ? [{ onListen: greet }, args[0]] : args;
  const options = args[at];
  if (options.onListen) return args;
  const onListen = (address) => greet(address, Boolean(options.cert));
  return args.with(at, Object.assign(Object.create(options), { onListen }));
}

function greet({ path, hostname, port }, isSafe = false) {
  if (path !== undefined) return console.error(`Listening on ${path}`);
  const scheme = isSafe ? "https" : "http";
  const host = hostname.includes(":") ? `[${hostname}]` : hostname;
  const isAny = hostname === "0.0.0.0" || hostname === "::";
  const hint = isAny ? ` (${scheme}://localhost:${port}/)` : "";
  return console.error(`Listening on ${scheme}://${host}:${port}/${hint}`);
}

module.exports = { ListeningServers };
