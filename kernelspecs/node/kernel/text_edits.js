"use strict";
/** Edits of a text that keep its lines; columns of the result are traced back to the original. */

class TextEdits {
  constructor(text) {
    this.text = text;
    this.edits = []; // triples: start, end, replacement
    this.lineStarts = null;
  }

  /** Replaces a range; line breaks in it are kept behind the replacement. */
  replace(start, end, replacement) {
    const breaks = this.text.slice(start, end).replace(/[^\n]/g, "");
    this.edits.push([start, end, replacement + breaks]);
  }

  /** Replaces a keyword by a shorter or equally long text, so that columns stay. */
  overwrite(start, end, replacement) {
    this.edits.push([start, end, replacement.padEnd(end - start)]);
  }

  /** Leaves an empty statement in the place of others, and what follows where it is. */
  blank(start, end) {
    this.edits.push([start, end, ";" + this.text.slice(start + 1, end).replace(/[^\n]/g, " ")]);
  }

  insert(at, text) {
    this.edits.push([at, at, text]);
  }

  /** Inserts a text before all others that are inserted at the same place. */
  insertFirst(at, text) {
    this.edits.unshift([at, at, text]);
  }

  /** Returns the edited text. */
  apply() {
    this.edits.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    return this.join(this.edits, 0, this.text.length);
  }

  /** Returns a range of the text with the edits inside of it: none of the whole, none at its ends. */
  applyTo(first, last) {
    const isInside = ([start, end]) => start > first && end < last;
    const edits = this.edits.filter(isInside).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    return this.join(edits, first, last);
  }

  join(edits, first, last) {
    let result = "";
    let at = first;
    for (const [start, end, replacement] of edits) {
      if (start < at) continue; // inside of what was replaced as a whole
      result += this.text.slice(at, start) + replacement;
      at = end;
    }
    return result + this.text.slice(at, last);
  }

  /** Returns the column in the original of a column (from 1) in a line (from 1) of the result. */
  originalColumn(line, column) {
    this.lineStarts ??= lineStarts(this.text);
    const start = this.lineStarts[line - 1];
    if (start === undefined) return column;
    const end = this.lineStarts[line] ?? this.text.length + 1;
    let shift = 0;
    for (const [from, to, replacement] of this.edits) {
      if (from < start || from >= end) continue;
      const growth = replacement.length - (to - from);
      const position = from - start + shift; // of the edit in the result
      if (position + replacement.length <= column - 1) shift += growth;
      else if (position < column - 1) return from - start + 1;
    }
    return Math.max(1, column - shift);
  }
}

/** Returns the offsets at which the lines of a text begin. */
function lineStarts(text) {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return starts;
}

module.exports = { TextEdits };
