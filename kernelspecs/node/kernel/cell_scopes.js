"use strict";
/** What a parsed cell declares and assigns at its top level; see `cell_syntax`. */

const FUNCTIONS = new Set([
  "FunctionDeclaration",
  "FunctionExpression",
  "ArrowFunctionExpression",
  "StaticBlock",
  "PropertyDefinition",
]);

/** Calls `visit(child)` for all nodes directly below a node. */
function forEachChild(node, visit) {
  for (const key in node) {
    const value = node[key];
    if (Array.isArray(value)) {
      for (const item of value) if (item !== null && typeof item?.type === "string") visit(item);
    } else if (value !== null && typeof value?.type === "string") {
      visit(value);
    }
  }
}

/** Calls `visit(node, isInFunction)` for a node and all below it. */
function walk(node, visit, isInFunction = false) {
  visit(node, isInFunction);
  const below = isInFunction || FUNCTIONS.has(node.type);
  forEachChild(node, (child) => walk(child, visit, below));
}

/** Returns the identifiers that a pattern binds or assigns. */
function patternTargets(pattern, found = []) {
  if (pattern === null) return found;
  if (pattern.type === "Identifier") found.push(pattern);
  else if (pattern.type === "ArrayPattern") {
    for (const element of pattern.elements) patternTargets(element, found);
  } else if (pattern.type === "ObjectPattern") {
    for (const property of pattern.properties) {
      patternTargets(property.type === "RestElement" ? property : property.value, found);
    }
  } else if (pattern.type === "RestElement") patternTargets(pattern.argument, found);
  else if (pattern.type === "AssignmentPattern") patternTargets(pattern.left, found);
  return found;
}

/** Returns the names that a `var`, `let` or `const` statement declares. */
function declaredNames(declaration) {
  return declaration.declarations.flatMap((one) => patternTargets(one.id).map((id) => id.name));
}

/** Returns all `var` declarations below a node that are not in functions. */
function hoistedDeclarations(node, found = []) {
  if (node.type === "VariableDeclaration" && node.kind === "var") found.push(node);
  if (!FUNCTIONS.has(node.type)) forEachChild(node, (child) => hoistedDeclarations(child, found));
  return found;
}

/** Adds the names of `let`, `const`, `class` and functions among statements. */
function addLexicalNames(statements, names) {
  for (const statement of statements) {
    if (statement.type === "VariableDeclaration") {
      for (const name of declaredNames(statement)) names.add(name);
    } else if (/^(Function|Class)Declaration$/.test(statement.type) && statement.id) {
      names.add(statement.id.name);
    }
  }
}

/** Returns the names that a node binds for what is below it; null when it binds none. */
function namesOfScope(node) {
  const names = new Set();
  if (node.params) {
    for (const parameter of node.params) {
      for (const id of patternTargets(parameter)) names.add(id.name);
    }
    for (const declaration of hoistedDeclarations(node.body)) {
      for (const name of declaredNames(declaration)) names.add(name);
    }
  }
  if (node.id && /Expression$/.test(node.type)) names.add(node.id.name);
  if (node.type === "BlockStatement" || node.type === "StaticBlock") {
    addLexicalNames(node.body, names);
  } else if (node.type === "SwitchStatement") {
    for (const one of node.cases) addLexicalNames(one.consequent, names);
  } else if (/^For/.test(node.type)) {
    const head = node.init ?? node.left;
    if (head?.type === "VariableDeclaration" && head.kind !== "var") addLexicalNames([head], names);
  } else if (node.type === "CatchClause" && node.param) {
    for (const id of patternTargets(node.param)) names.add(id.name);
  }
  return names.size ? names : null;
}

/** Returns all `this` below a node that mean what `this` is around it. */
function outerThis(node, found = []) {
  if (node.type === "ThisExpression") found.push(node);
  if (/^(?:Function(?:Declaration|Expression)|StaticBlock)$/.test(node.type)) return found;
  if (node.type !== "PropertyDefinition") forEachChild(node, (child) => outerThis(child, found));
  else if (node.computed) outerThis(node.key, found);
  return found;
}

/** Returns the identifiers in which a node itself assigns. */
function assignedTargets(node) {
  if (node.type === "AssignmentExpression") return patternTargets(node.left);
  if (node.type === "UpdateExpression") return patternTargets(node.argument);
  if (/^For(In|Of)Statement$/.test(node.type) && node.left.type !== "VariableDeclaration") {
    return patternTargets(node.left);
  }
  return [];
}

/** Returns the identifiers of all assignments to top-level names for which `isConstant` holds. */
function constantAssignments(program, isConstant) {
  const found = [];
  const visit = (node, scopes) => {
    const names = node === program ? null : namesOfScope(node);
    const inner = names === null ? scopes : [...scopes, names];
    for (const id of assignedTargets(node)) {
      if (isConstant(id.name) && !inner.some((scope) => scope.has(id.name))) found.push(id);
    }
    forEachChild(node, (child) => visit(child, inner));
  };
  visit(program, []);
  return found;
}

module.exports = {
  constantAssignments,
  declaredNames,
  hoistedDeclarations,
  outerThis,
  patternTargets,
  walk,
};
