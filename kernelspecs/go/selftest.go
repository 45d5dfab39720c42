// Prints a known line by means of a type, a method, a loop and text beyond ASCII.

import "fmt"

type Answer struct {
	parts []int
}

func (answer Answer) total() int {
	sum := 0
	for _, part := range answer.parts {
		sum += part * part
	}
	return sum
}

fmt.Println("selftest", Answer{[]int{1, 4, 5}}.total(), "☃")
