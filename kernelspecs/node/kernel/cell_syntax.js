"use strict";
/**
 * Turns a cell into scripts for V8's REPL mode, by edits that keep its lines.
 *
 * V8 itself takes a second `let x` or `class x`. What it refuses is done here: a name that changes
 * between `let` and `var`, constants that are declared again (they are `let`, and assignments to
 * them are made to fail), `import`, `export`, and `return` at the top level. A cell with `await` at
 * its top level becomes an async function, whose names are declared before it.
 */

const {
  constantAssignments,
  declaredNames,
  hoistedDeclarations,
  outerThis,
  walk,
} = require("./cell_scopes.js");
const { TextEdits } = require("./text_edits.js");
const { TopLevelNames } = require("./top_level_names.js");

const KERNEL = "__era"; // the global object that scripts call the kernel by
const END = `\n;var {} = ${KERNEL}.end();`; // a statement without a value
const WORDS = /\b(?:await|class|const|export|function|import|let|return|this|using|var)\b/;
const PARSE_OPTIONS = {
  ecmaVersion: "latest",
  sourceType: "script",
  allowAwaitOutsideFunction: true,
  allowHashBang: true,
  allowImportExportEverywhere: true,
  allowReturnOutsideFunction: true,
};

/** A cell as it is run: `imports` first, then the script `prelude`, then the script `body`. */
class CellPlan {
  constructor(code, parse) {
    this.code = code;
    this.parse = parse; // to the syntax tree, or to null for code that cannot be parsed
    this.imports = [];
    this.declarations = ""; // of a module's names, which its prelude assigns
    this.prelude = "";
    this.body = code + END;
    this.isAsync = false;
    this.declared = new Map();
    this.edits = null;
    this.moved = []; // ranges of functions that a module's prelude has in their own places
  }

  /** Returns the offset in the code of a line and a column, both from 1. */
  offset(line, column) {
    let at = 0;
    for (let count = 1; count < line; count++) at = this.code.indexOf("\n", at) + 1;
    return at + column - 1;
  }

  /** Returns where a value that is no error was thrown, if only one statement can have done it. */
  throwPlace() {
    const program = this.parse(); // anew: a tree is many times as large as its code
    if (program === null) return null;
    const all = [];
    walk(program, (node) => {
      if (node.type === "ThrowStatement") all.push(node);
    });
    const plain = all.filter(({ argument }) => argument.type !== "NewExpression");
    const [only, another] = plain.length === 1 ? plain : all;
    return only === undefined || another !== undefined ? null : position(this.code, only.start);
  }

  /** Returns the column in the user's code for a position in the body. */
  originalColumn(line, column) {
    if (this.edits === null) return column;
    if (this.moved.length) {
      const at = this.offset(line, column);
      // Of a function that was moved into the prelude, in the same place.
      if (this.moved.some(([start, end]) => at >= start && at < end)) return column;
    }
    return this.edits.originalColumn(line, column);
  }
}

class CellPlanner {
  /**
   * `parse` is acorn's function, got when it is first needed. With `isModule` each cell becomes a
   * function, in strict mode, as the code of a module is.
   */
  constructor(getParse, isModule = false) {
    this.getParse = getParse;
    this.isModule = isModule;
    this.names = new TopLevelNames();
  }

  /** Returns the plan of a cell. Code that cannot be parsed is left for V8, which says why. */
  plan(code) {
    const plan = new CellPlan(code, () => this.parse(code));
    if (!this.isModule && !WORDS.test(code) && !this.names.constantCount) return plan;
    const program = this.parse(code);
    if (program !== null) new CellEditor(plan, program, this.names, this.isModule).edit();
    return plan;
  }

  parse(code) {
    try {
      return this.getParse()(code, PARSE_OPTIONS);
    } catch {
      return null;
    }
  }

  /** Returns where the parser finds a mistake: a line from 1, a column from 0; or null. */
  problemPlace(code) {
    try {
      this.getParse()(code, PARSE_OPTIONS);
      return null;
    } catch (error) {
      return error.loc ?? null;
    }
  }
}

class CellEditor {
  constructor(plan, program, names, isModule) {
    this.plan = plan;
    this.names = names;
    this.isModule = isModule;
    this.program = program;
    this.edits = new TextEdits(plan.code);
    this.assigned = new Set(); // names that the prelude declares with `let`
    this.hoisted = new Set(); // names that the prelude declares with `var`
    this.hasAwait = false; // at its top level
    this.functions = []; // pairs of a node and whether it is assigned
  }

  edit() {
    const { plan, program } = this;
    plan.isAsync = this.isModule || this.needsFunction();
    if (plan.code.startsWith("#!")) this.edits.replace(0, 2, "//");
    if (plan.isAsync) this.wrap();
    for (const statement of program.body) this.editStatement(statement);
    this.editNestedVariables();
    this.editExpressions();
    const prelude = this.makePrelude();
    plan.prelude = prelude && prelude + END;
    plan.edits = this.edits;
    plan.body = this.edits.apply() + (plan.isAsync ? `\n})${END}` : END);
  }

  /** Returns whether the cell has `await`, `return` or `using` outside of functions. */
  needsFunction() {
    let isNeeded = false;
    walk(this.program, (node, isInFunction) => {
      if (isInFunction) return;
      this.hasAwait ||=
        node.type === "AwaitExpression" ||
        (node.type === "ForOfStatement" && node.await) ||
        node.kind === "await using";
      isNeeded ||= node.type === "ReturnStatement" || node.kind === "using";
    });
    return isNeeded || this.hasAwait;
  }

  editStatement(statement) {
    const { type } = statement;
    if (type === "ImportDeclaration") this.editImport(statement);
    else if (type === "VariableDeclaration") this.editVariables(statement);
    else if (type === "ClassDeclaration") this.editClass(statement);
    else if (type === "FunctionDeclaration") this.editFunction(statement);
    else if (type === "ExportNamedDeclaration" && statement.declaration) {
      this.edits.overwrite(statement.start, statement.declaration.start, "");
      this.editStatement(statement.declaration);
    } else if (type === "ExportDefaultDeclaration") this.editDefaultExport(statement);
    else if (type === "ExportNamedDeclaration" || type === "ExportAllDeclaration") {
      if (statement.source) this.addImport(statement, []);
      this.edits.replace(statement.start, statement.end, "");
    }
  }

  editDefaultExport({ start, declaration }) {
    if (/Declaration$/.test(declaration.type) && declaration.id) {
      this.edits.overwrite(start, declaration.start, "");
      this.editStatement(declaration);
    } else {
      this.edits.overwrite(start, declaration.start, "void ");
    }
  }

  editImport(statement) {
    const bindings = statement.specifiers.map((specifier) => {
      if (specifier.type === "ImportDefaultSpecifier") return [specifier.local.name, "default"];
      if (specifier.type === "ImportNamespaceSpecifier") return [specifier.local.name, "*"];
      const { imported } = specifier;
      return [specifier.local.name, imported.name ?? imported.value, this.position(imported.start)];
    });
    this.addImport(statement, bindings);
    for (const [name] of bindings) {
      if (!this.names.isProperty(name)) this.assigned.add(name);
      this.declare(name, !this.names.isProperty(name), true);
    }
    this.edits.replace(statement.start, statement.end, ";");
  }

  addImport(statement, bindings) {
    const attributes = {};
    for (const { key, value } of statement.attributes ?? []) {
      attributes[key.name ?? key.value] = value.value;
    }
    const place = this.position(statement.source.start);
    const specifier = statement.source.value;
    this.plan.imports.push({ specifier, attributes, bindings, place });
  }

  editVariables(statement) {
    if (/using/.test(statement.kind)) return; // lives in the function only
    const names = declaredNames(statement);
    const isVar = statement.kind === "var";
    const hasLexical = names.some((name) => this.names.isLexical(name));
    const hasProperty = names.some((name) => this.names.isProperty(name));
    const keywordEnd = statement.start + statement.kind.length;
    if (this.plan.isAsync || (isVar && hasLexical) || (hasLexical && hasProperty)) {
      this.assignVariables(statement, !isVar);
    } else if (isVar || hasProperty) {
      this.edits.overwrite(statement.start, keywordEnd, "var");
      this.declareAll(names, false, statement.kind === "const");
    } else {
      this.edits.overwrite(statement.start, keywordEnd, "let");
      this.declareAll(names, true, statement.kind === "const");
    }
  }

  /** Makes assignments of a declaration, whose names the prelude declares. */
  assignVariables(statement, resets) {
    const isVar = statement.kind === "var";
    for (const one of statement.declarations) {
      for (const name of declaredNames({ declarations: [one] })) {
        const isLexical = this.names.isLexical(name) || (!isVar && !this.names.isProperty(name));
        if (!isLexical) this.hoisted.add(name);
        else if (resets || one.init) this.assigned.add(name);
        this.declare(name, isLexical, statement.kind === "const");
      }
    }
    this.makeAssignment(statement, resets);
  }

  makeAssignment(statement, resets) {
    const { text } = this.edits;
    this.edits.replace(statement.start, statement.start + statement.kind.length, "void (");
    for (const one of statement.declarations) {
      if (!one.init) this.edits.insert(one.end, resets ? " = undefined" : ", 0");
    }
    const end = text[statement.end - 1] === ";" ? statement.end - 1 : statement.end;
    this.edits.insert(end, end === statement.end ? ");" : ")");
  }

  editClass(statement) {
    const { name } = statement.id;
    const isProperty = this.names.isProperty(name);
    this.declare(name, !isProperty, false);
    if (!isProperty && !this.plan.isAsync) return;
    if (this.plan.isAsync) (isProperty ? this.hoisted : this.assigned).add(name);
    this.edits.insert(statement.start, this.plan.isAsync ? `${name} = ` : `var ${name} = `);
    this.edits.insert(statement.end, ";");
  }

  editFunction(statement) {
    const { name } = statement.id;
    const isLexical = this.names.isLexical(name);
    this.declare(name, isLexical, false);
    if (!isLexical && !this.plan.isAsync) return;
    if (isLexical) this.assigned.add(name);
    this.functions.push([statement, isLexical]);
    if (this.isModule) this.edits.blank(statement.start, statement.end);
    else this.edits.replace(statement.start, statement.end, ";");
  }

  /** Edits `var` in blocks and loops, whose names belong to the top level, too. */
  editNestedVariables() {
    const top = new Set(this.program.body.map((one) => one.declaration ?? one));
    for (const declaration of hoistedDeclarations(this.program)) {
      if (top.has(declaration)) continue;
      const names = declaredNames(declaration);
      if (!this.plan.isAsync && !names.some((name) => this.names.isLexical(name))) {
        this.declareAll(names, false, false);
        continue;
      }
      for (const name of names) {
        if (!this.names.isLexical(name)) this.hoisted.add(name);
        this.declare(name, this.names.isLexical(name), false);
      }
      if (this.isLoopHead(declaration)) {
        this.edits.overwrite(declaration.start, declaration.start + 3, "");
      } else {
        this.makeAssignment(declaration, false);
      }
    }
  }

  isLoopHead(declaration) {
    let isHead = false;
    walk(this.program, (node) => {
      isHead ||= node.init === declaration || node.left === declaration;
    });
    return isHead;
  }

  editExpressions() {
    const { edits } = this;
    walk(this.program, (node, isInFunction) => {
      if (node.type === "AwaitExpression" && !isInFunction) {
        const { line, column } = this.position(node.start);
        edits.insert(node.argument.start, `${KERNEL}.at(${line},${column},`);
        edits.insertFirst(node.argument.end, ")");
      } else if (node.type === "ImportExpression") {
        edits.insert(node.start, `${KERNEL}.`);
      } else if (node.type === "MetaProperty" && node.meta.name === "import") {
        edits.replace(node.start, node.end, `${KERNEL}.meta`);
      }
    });
    // `this` is what `exports` is at first, and in a module of ECMAScript nothing.
    const isPart = (one) => /^(?:Import|Export)\w*Declaration$/.test(one.type);
    const isModule = this.isModule || this.program.body.some(isPart);
    const self = isModule || this.hasAwait ? "(void 0)" : `${KERNEL}.exports`;
    for (const { start, end } of outerThis(this.program)) edits.replace(start, end, self);
    const isConstant = (name) =>
      this.plan.declared.get(name)?.isConstant ?? this.names.isConstant(name);
    const hasConstants = [...this.plan.declared.values()].some((one) => one.isConstant);
    if (!hasConstants && !this.names.constantCount) return;
    for (const id of constantAssignments(this.program, isConstant)) {
      edits.insert(id.start, `${KERNEL}.constant.`);
    }
  }

  /** Makes an async function of the cell, which returns the value of its last expression. */
  wrap() {
    const last = this.program.body.at(-1);
    const head = this.isModule ? 'async () => {"use strict";' : "async () => {";
    this.edits.insert(0, `void ${KERNEL}.run(${head}`);
    if (last?.type !== "ExpressionStatement") return;
    this.edits.insert(last.start, `return ${KERNEL}.result(`);
    this.edits.insert(last.expression.end, ")");
    if (this.edits.text[last.end - 1] !== ";") this.edits.insert(last.end, ";");
  }

  makePrelude() {
    const assigned = [...this.assigned];
    // What a module declares again, V8 keeps with its former value, for ever.
    const isNew = (name) => !this.isModule || !this.names.has(name);
    const variables = declaration("var ", [...this.hoisted].filter(isNew));
    const declarations = declaration("let ", assigned.filter(isNew)) + variables;
    if (this.isModule) this.plan.declarations = declarations;
    let text = this.isModule ? '"use strict";' : declarations;
    for (const name of assigned) if (!isNew(name)) text += `${name} = undefined;`;
    if (this.isModule) text += "\n"; // those of the code are in the lines behind
    this.plan.imports.forEach(({ bindings }, index) => {
      for (const [name, exported] of bindings) {
        const key = exported === "*" ? "" : `[${JSON.stringify(exported)}]`;
        text += `${name} = ${KERNEL}.imported[${index}]${key};`;
      }
    });
    let line = 1;
    for (const [node, isAssigned] of this.functions) {
      const position = this.position(node.start);
      text += "\n".repeat(Math.max(0, position.line - line));
      const source = this.edits.applyTo(node.start, node.end);
      const begin = isAssigned ? `(${node.id.name} = ` : "";
      if (this.isModule) text += this.indent(text, position.column - begin.length);
      text += begin + source + (isAssigned ? ");" : ";");
      line = Math.max(line, position.line) + source.split("\n").length - 1;
    }
    if (this.isModule) this.plan.moved = this.functions.map(([node]) => [node.start, node.end]);
    return text;
  }

  /** Returns the blanks that put what follows a text into a column, if there is room. */
  indent(text, column) {
    return " ".repeat(Math.max(0, column - (text.length - text.lastIndexOf("\n"))));
  }

  declareAll(names, isLexical, isConstant) {
    for (const name of names) this.declare(name, isLexical, isConstant);
  }

  declare(name, isLexical, isConstant) {
    this.plan.declared.set(name, { isLexical, isConstant });
  }

  position(offset) {
    return position(this.plan.code, offset);
  }
}

/** Returns a statement that declares names; nothing for none. */
function declaration(keyword, names) {
  return names.length ? `${keyword}${names.join(", ")};` : "";
}

/** Returns line and column, both from 1, of an offset. */
function position(code, offset) {
  const before = code.slice(0, offset);
  return { line: before.split("\n").length, column: offset - before.lastIndexOf("\n") };
}

module.exports = { CellPlanner, PARSE_OPTIONS };
