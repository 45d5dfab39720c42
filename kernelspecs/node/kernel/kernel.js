"use strict";
/** Puts the parts of the kernel together, and hands them the messages of the worker. */

const Module = require("node:module");
const process = require("node:process");

const { PARSE_OPTIONS } = require("./cell_syntax.js");
const { makeParserGetter } = require("./cell_parser.js");
const { Cells } = require("./cells.js");
const { CodeRequests } = require("./code_requests.js");
const { plainConsole } = require("./console.js");
const { makeDisplayModule } = require("./display_data.js");
const { Evaluator } = require("./evaluator.js");
const early = require("./early.js");
const { binding } = require("./node_internals.js");
const { ListeningServers } = require("./listening_servers.js");
const { installFlushAtExit } = require("./flush_at_exit.js");
const { CLEANUP, Program } = require("./program.js");
const { ProgramInput } = require("./program_input.js");
const { ProgramModules } = require("./program_modules.js");
const { RunContext } = require("./run_context.js");
const { installStorage } = require("./storage.js");
const { ProgramOutput } = require("./standard_streams.js");
const { RunTimers } = require("./timers.js");
const { CellSources, ErrorTexts, installStackFilter } = require("./user_errors.js");

/** Serves the worker's requests for the rest of the process's life. */
function start(link, options) {
  process.execArgv = early.makeList();
  process.title = "node";
  const isTyped = options.language === "typescript";
  const getParse = makeParserGetter(options);
  const transform = isTyped ? makeTypeTransform(options, getParse) : null;
  const context = new RunContext();
  const sources = new CellSources();
  const evaluator = new Evaluator();
  const timers = new RunTimers(context);
  const servers = new ListeningServers();
  const modules = new ProgramModules(isTyped ? "main.ts" : "main.js", isTyped);
  const cells = new Cells(sources, getParse, transform);
  const errors = new ErrorTexts(sources);
  const parts = { cells, context, errors, evaluator, link, modules, servers, sources, timers };
  const program = new Program(parts);
  const input = new ProgramInput(link, context, program);
  const output = new ProgramOutput(link, context, (run) => program.isActive(run));
  const requests = new CodeRequests(evaluator, getParse, transform);

  installStackFilter(sources);
  output.install();
  input.install(output);
  plainConsole((stream) => output.streams.includes(stream));
  timers.install();
  servers.install();
  modules.install();
  if (isTyped) require("./type_modules.js").install(transform, modules);
  installStorage(context, modules);
  installDisplay(makeDisplayModule((type, content) => program.publish(type, content)));
  installKernelObject(program, evaluator, modules);
  const emit = interceptEvents(program);
  const endProcess = installFlushAtExit(link);
  process.exit = early.makeForeign((...args) => program.exit(...args));
  handleSignal(() => {
    if (!process.listenerCount("SIGINT")) program.onInterrupt(); // else Node calls the listeners
  });

  hideModules(modules);
  link.post({ kind: "builtins", names: Object.getOwnPropertyNames(globalThis) });

  const handlers = {
    run: ({ run }) => {
      input.begin();
      program.start(run);
    },
    request: ({ type, content }) =>
      link.post({ kind: "reply", content: requests.answer(type, content) }),
    interrupt: () => program.onInterrupt(),
    wake: () => program.onStopped(),
    where: () => link.post({ kind: "where", frames: program.waitingFrames() }),
    input: ({ value }) => input.onAnswer(value),
    shutdown: () => {
      emit("exit", 0);
      link.post({ kind: "exit", code: 0 });
    },
    exit: ({ code }) => endProcess(code),
  };
  link.onMessage = (message) => {
    try {
      handlers[message.kind]?.(message);
    } catch (error) {
      program.onFault(error);
    }
  };
}

/** Makes the program's file the only module that a program finds, as in plain Node. */
function hideModules(modules) {
  for (const file of Object.keys(Module._cache)) delete Module._cache[file];
  Module._cache[modules.file] = modules.main;
}

function makeTypeTransform(options, getParse) {
  const parses = (code) => {
    try {
      return Boolean(getParse()(code, PARSE_OPTIONS));
    } catch {
      return false;
    }
  };
  return require("./type_transform.js").makeTransform(options, parses);
}

/** Defines the object that scripts of cells call the kernel by. */
function installKernelObject(program, evaluator, modules) {
  const kernel = {
    at: (line, column, value) => program.at(line, column, value),
    constant: new Proxy(Object.create(null), { get: () => NaN, set: refuseAssignment }),
    end: () => evaluator.end(),
    exports: modules.main.exports,
    import: (name, options) => modules.import(name, options),
    get imported() {
      return program.imported;
    },
    meta: modules.meta,
    result: (value) => [value],
    run: (body) => program.runAsync(body),
    take: (value) => evaluator.take(value),
  };
  Object.defineProperty(globalThis, "__era", { value: Object.freeze(kernel) });
}

function refuseAssignment() {
  const error = new TypeError("Assignment to constant variable.");
  Error.captureStackTrace(error, refuseAssignment);
  throw error;
}

/** Makes `display` a global name that programs may declare anew, and the module "tslab". */
function installDisplay(module) {
  const descriptor = { value: module.display, writable: true, configurable: true };
  Object.defineProperty(globalThis, "display", { ...descriptor, enumerable: false });
  const load = Module._load;
  Module._load = function (name, ...rest) {
    return name === "tslab" ? module : early.apply(load, this, [name, ...rest]);
  };
}

/** Takes the events of Node that concern the end of a program; returns how others are emitted. */
function interceptEvents(program) {
  const original = process.emit.bind(process);
  const emit = function (name, ...args) {
    if (name === "beforeExit") {
      program.onLoopEnd(original);
      return true;
    }
    if (args[0] === CLEANUP) return true;
    if (name !== "uncaughtException") return original(name, ...args);
    try {
      if (!original(name, ...args)) program.onUncaught(...args);
    } catch (problem) {
      program.onHandlerFailure(problem);
    }
    return true;
  };
  interceptCapture(program);
  let chosen = emit; // what a program puts in its place, if that can be called at all
  const set = (value) => {
    chosen = typeof value === "function" ? value : emit;
  };
  Object.defineProperty(process, "emit", { get: () => chosen, set, configurable: false });
  return original;
}

/** Keeps what the kernel throws from a program that takes all errors by one function. */
function interceptCapture(program) {
  const { setUncaughtExceptionCaptureCallback: original } = process;
  process.setUncaughtExceptionCaptureCallback = (capture) => {
    if (typeof capture !== "function") return original(capture);
    return original((error) => {
      try {
        if (error !== CLEANUP) capture(error);
      } catch (problem) {
        program.onHandlerFailure(problem);
      }
    });
  };
}

/** Calls a function at SIGINT, which would end the process; it is no listener that programs see. */
function handleSignal(onSignal) {
  const { Signal } = binding("signal_wrap");
  const handle = new Signal();
  handle.onsignal = onSignal;
  handle.start(2);
  handle.unref();
}

module.exports = { start };
