// Goask answers questions about code that is not run.
package main

func main() {}
