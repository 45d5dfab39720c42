"use strict";
/**
 * The worker thread owns all sockets, the read ends of descriptors 1 and 2, and the means to stop
 * the main thread. It answers by itself what needs no code of the program, also while that runs.
 */

const { workerData } = require("node:worker_threads");

const { InputRequests } = require("./input_requests.js");
const { Inspection } = require("./inspection.js");
const { Interrupts } = require("./interrupts.js");
const { MainThread } = require("./main_thread.js");
const { PipeMerger } = require("./pipe_merger.js");
const { OutputPublisher } = require("./output_publisher.js");
const { markPrefix } = require("./pipe_marks.js");
const { ShellQueue } = require("./shell_queue.js");
const { History, STATIC_REQUESTS, describeKernel } = require("./standard_requests.js");
const { MessageFormat, SendQueue, openSockets } = require("./wire.js");

const FENCE_MIME = "application/vnd.era.fence+json";
const SEND_MS = 20; // for zeromq's own thread to send what it has taken
const INPUT_CHANNEL = "stdin";

class WireWorker {
  /** `Main` is the class that stands for the main thread, `directory` that of the kernel's code. */
  constructor({ Main = MainThread, directory = __dirname } = {}) {
    this.connection = workerData.connection;
    this.format = new MessageFormat(this.connection.key, this.connection.signature_scheme);
    this.sockets = {};
    this.queues = {};
    this.main = new Main(
      workerData,
      (message) => this.onMainMessage(message),
      (message) => this.onMark(message),
    );
    this.output = new OutputPublisher((type, content, parent) =>
      this.publish(type, content, parent),
    );
    this.merger = new PipeMerger(
      markPrefix(workerData.secret),
      (name, bytes) => this.output.write(name, bytes),
      (number) => this.onMark(this.main.take(number)),
      () => this.queues.iopub.isFull,
    );
    this.history = new History();
    this.shell = new ShellQueue((request) => this.start(request));
    this.inspection = new Inspection(this.main, directory);
    this.interrupts = new Interrupts(this.main, () => this.shell.current?.isRun === true);
    this.inputs = new InputRequests(this.main, (identities, content, parent) =>
      this.send(INPUT_CHANNEL, "input_request", content, parent, identities),
    );
    this.info = describeKernel(workerData.language);
  }

  async serve() {
    this.sockets = await openSockets(require(workerData.zeromq), this.connection);
    for (const [channel, socket] of Object.entries(this.sockets)) {
      if (channel === "hb") continue;
      this.queues[channel] = new SendQueue(socket, () => this.onSent());
    }
    this.publish("status", { execution_state: "starting" }, null);
    if (workerData.pipes) this.merger.read(workerData.pipes);
    this.main.start();
    for (const channel of ["shell", "control", "stdin"]) this.receive(channel);
    if (this.sockets.hb) this.echo(this.sockets.hb);
  }

  // ---------------------------------------------------------------- what is sent

  onSent() {
    this.main.noteSent();
    this.merger.resume();
  }

  send(channel, type, content, parent, identities) {
    this.queues[channel].send(this.format.encode(type, content, parent, identities));
  }

  publish(type, content, parent) {
    this.send("iopub", type, content, parent, [Buffer.from(`kernel.${type}`)]);
  }

  reply(request, content) {
    const type = request.header.msg_type.replace(/_(request|reply)$/, "") + "_reply";
    this.send(request.channel, type, content, request.header, request.identities);
  }

  /** Answers a request that is done, as a client sees it: busy, the reply, idle. */
  answer(request, content) {
    this.publish("status", { execution_state: "busy" }, request.header);
    if (content !== null) this.reply(request, content);
    this.publish("status", { execution_state: "idle" }, request.header);
  }

  // ---------------------------------------------------------------- what comes from clients

  async receive(channel) {
    for await (const frames of this.sockets[channel]) {
      const request = this.format.decode(frames);
      if (request === null || typeof request.header?.msg_type !== "string") continue;
      request.channel = channel;
      try {
        this.dispatch(request);
      } catch (error) {
        this.main.logFault(error);
      }
    }
  }

  async echo(socket) {
    for await (const frames of socket) await socket.send(frames);
  }

  dispatch(request) {
    const { channel } = request;
    const type = request.header.msg_type;
    request.content ??= {};
    if (type === "kernel_info_request") this.answer(request, this.info);
    else if (type in STATIC_REQUESTS) this.answer(request, STATIC_REQUESTS[type](request.content));
    else if (type === "history_request") this.answer(request, this.history.answer(request.content));
    else if (type === "shutdown_request") this.shutdown(request);
    else if (channel === "stdin") this.inputs.onStdinReply(request);
    else if (channel === "control") this.onControl(type, request);
    else if (type === "comm_open") this.refuseComm(request);
    else if (type.startsWith("comm_")) this.answer(request, null);
    else this.shell.add(request);
  }

  onControl(type, request) {
    if (type === "interrupt_request") {
      this.interrupts.interrupt();
      this.answer(request, { status: "ok" });
    } else if (type === "input_reply") {
      this.reply(request, this.inputs.onReply(request.content));
    } else if (type === "activity_request") {
      this.reply(request, { status: "ok", is_program_running: this.shell.current !== null });
    } else if (type === "stack_request") {
      this.inspection.stack().then((content) => this.reply(request, content));
    } else if (type === "variables_request") {
      this.inspection.variables().then((content) => this.reply(request, content));
    } else {
      this.shell.add(request);
    }
  }

  refuseComm(request) {
    this.publish("status", { execution_state: "busy" }, request.header);
    const content = { comm_id: request.content.comm_id, data: {} };
    this.publish("comm_close", content, request.header);
    this.publish("status", { execution_state: "idle" }, request.header);
  }

  // ---------------------------------------------------------------- what the main thread does

  /** Gives a request to the main thread. Returns false when it was answered at once. */
  start(request) {
    const type = request.header.msg_type;
    if (type === "execute_request") return this.startRun(request);
    if (!["complete_request", "inspect_request", "is_complete_request"].includes(type)) {
      this.publish("status", { execution_state: "busy" }, request.header);
      this.publish("status", { execution_state: "idle" }, request.header);
      return false;
    }
    this.main.post({ kind: "request", type, content: request.content });
    return true;
  }

  startRun(request) {
    const { content } = request;
    const era = request.metadata?.era ?? null;
    if (request.isAborted || typeof content.code !== "string") {
      const problem = { ename: "TypeError", evalue: "the code of a run is a string" };
      const refused = { status: "error", ...problem, traceback: [] };
      this.answer(request, request.isAborted ? { status: "aborted" } : refused);
      return false;
    }
    const isSilent = content.silent === true;
    const isStored = content.store_history !== false && !isSilent;
    const number = this.history.add(content.code, isStored, era?.number);
    request.isRun = true;
    request.number = number;
    this.interrupts.begin();
    this.inputs.begin(content.allow_stdin === true || era?.nonce ? request : null);
    this.main.post({
      kind: "run",
      run: {
        code: content.code,
        number,
        cellName: isStored || era ? `<cell-${number}>` : this.history.unstoredName(),
        isSilent,
        era,
        expressions: content.user_expressions ?? {},
        canAsk: this.inputs.canAsk,
        header: request.header,
      },
    });
    return true;
  }

  /** Handles a message of the main thread that stands in order with the output. */
  onMark(message) {
    if (message === undefined) return;
    if (message.kind === "text") {
      this.output.write(message.name, message.bytes);
      return;
    }
    if (message.kind === "flush") {
      this.flush();
      return;
    }
    const request = this.shell.current;
    if (message.kind === "begin") {
      this.queues.iopub.setBound();
      this.output.begin(request.header);
      this.publish("status", { execution_state: "busy" }, request.header);
      if (!request.content.silent) {
        const content = { code: request.content.code, execution_count: request.number };
        this.publish("execute_input", content, request.header);
      }
    } else if (message.kind === "publish") {
      this.output.publish(message.type, message.content);
    } else if (message.kind === "ask") {
      this.output.flush();
      this.inputs.ask(message, (content) => this.output.publish("input_request", content));
    } else if (message.kind === "end") {
      this.endRun(request, message.reply);
    }
  }

  endRun(request, reply) {
    const era = request.metadata?.era;
    this.output.finish();
    this.inputs.begin(null);
    if (!era && reply.status === "error") {
      const { ename, evalue, traceback } = reply;
      this.output.publish("error", { ename, evalue, traceback });
    }
    if (typeof era?.nonce === "string") {
      const data = { [FENCE_MIME]: { nonce: era.nonce } };
      this.output.publish("display_data", { data, metadata: {}, transient: {} });
    }
    this.reply(request, { ...reply, execution_count: request.number });
    this.publish("status", { execution_state: "idle" }, request.header);
    const stops = !era && reply.status === "error" && request.content.stop_on_error !== false;
    this.shell.finish(stops);
  }

  /** Handles a message of the main thread that is in no order with the output. */
  onMainMessage(message) {
    if (message.kind === "reply") {
      this.answer(this.shell.current, message.content);
      this.shell.finish(false);
    } else if (message.kind === "late") {
      this.publish("stream", { name: message.name, text: message.text }, message.parent);
    } else if (message.kind === "builtins") {
      this.inspection.noteBuiltins(message.names);
    } else if (message.kind === "where") {
      this.inspection.onWhere(message.frames);
    } else if (message.kind === "wake") {
      setTimeout(() => this.main.post({ kind: "wake" }), 1);
    } else if (message.kind === "closed") {
      this.merger.readRest(workerData.pipes);
      this.main.onMarked = (marked) => this.onMark(marked);
      this.onMark(this.main.take(message.number));
    } else if (message.kind === "exit") {
      this.end(message.code);
    }
  }

  /** Sends all output, and tells the main thread, which waits for that. */
  async flush() {
    this.output.flush();
    await this.queues.iopub.flush();
    setTimeout(() => this.main.noteFlush(), SEND_MS);
  }

  shutdown(request) {
    const content = { status: "ok", restart: request.content.restart === true };
    this.publish("status", { execution_state: "busy" }, request.header);
    this.reply(request, content);
    this.publish("shutdown_reply", content, request.header);
    this.publish("status", { execution_state: "idle" }, request.header);
    if (this.shell.current !== null) this.end(0);
    else this.main.post({ kind: "shutdown" });
  }

  /** Sends what is left and ends the process, also when the main thread is busy. */
  async end(code) {
    this.output.finish();
    this.queues.iopub.liftBound();
    await Promise.all(Object.values(this.queues).map((queue) => queue.flush()));
    for (const socket of Object.values(this.sockets)) socket.close();
    setTimeout(() => this.main.endProcess(code), SEND_MS);
  }
}

/** Serves until the process ends, which a fault ends at once. */
function serveForever(worker) {
  worker.serve().catch((error) => {
    require("node:fs").writeSync(workerData.stderr, `${error.stack}\n`);
    process.kill(process.pid, "SIGKILL");
  });
}

module.exports = { WireWorker, serveForever };
