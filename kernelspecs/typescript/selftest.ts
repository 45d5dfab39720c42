// Prints a known line by means of an interface, a class, a generic function and text beyond ASCII.

interface Summable {
  total(): number;
}

class Answer implements Summable {
  constructor(private readonly parts: number[]) {}

  total(): number {
    return this.parts.map((part) => part * part).reduce((sum, square) => sum + square, 0);
  }
}

function totalOf<T extends Summable>(value: T): number {
  return value.total();
}

console.log("selftest", totalOf(new Answer([1, 4, 5])), "☃");
