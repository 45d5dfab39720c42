"use strict";
/** Asks those who follow a run for input, and gives the program their answers. */

const { randomBytes } = require("node:crypto");

const { INPUT_READY } = require("./shared_state.js");

class InputRequests {
  /** `askOnStdin(identities, content, parent)` asks a client of plain Jupyter. */
  constructor(main, askOnStdin) {
    this.main = main;
    this.askOnStdin = askOnStdin;
    this.request = null;
    this.keys = new Set(); // of requests that wait for answers on control
    this.isWaitingOnStdin = false;
  }

  /** Sets the run whose client may be asked; null: nobody. */
  begin(request) {
    this.request = request;
    this.keys.clear();
    this.isWaitingOnStdin = false;
  }

  get canAsk() {
    return this.request !== null;
  }

  /** Asks for a line; `publish` asks those who follow the run by the server. */
  ask({ prompt, password }, publish) {
    const content = { prompt, password };
    if (this.request === null) {
      this.answer(null);
    } else if (this.request.metadata?.era?.nonce) {
      const key = randomBytes(8).toString("hex");
      this.keys.add(key);
      publish({ ...content, key });
    } else {
      this.isWaitingOnStdin = true;
      this.askOnStdin(this.request.identities, content, this.request.header);
    }
  }

  /** Takes an answer that came on control; returns the reply to it. */
  onReply(content) {
    const isTaken = this.keys.delete(String(content.key));
    if (isTaken) this.answer(content.value);
    return { status: "ok", taken: isTaken };
  }

  onStdinReply(message) {
    if (message.header.msg_type !== "input_reply" || !this.isWaitingOnStdin) return;
    this.isWaitingOnStdin = false;
    this.answer(message.content.value);
  }

  answer(value) {
    this.main.post({ kind: "input", value: typeof value === "string" ? value : null });
    Atomics.add(this.main.shared, INPUT_READY, 1);
    Atomics.notify(this.main.shared, INPUT_READY);
  }
}

module.exports = { InputRequests };
