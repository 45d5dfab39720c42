// Goask answers questions about code that is not run, as JSON of Jupyter's replies:
//
//	goask -std DIR -state DIR -at POSITION complete|inspect|is_complete < CODE
//
// POSITION counts characters. Names are those that fragments have left, and of packages.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"era/tools/build"
	"era/tools/fragment"
)

func main() {
	std := flag.String("std", "", "directory that mkstd has made")
	state := flag.String("state", "", "directory of what fragments leave for the next")
	at := flag.Int("at", 0, "where the cursor is")
	flag.Parse()
	reply, err := answer(flag.Arg(0), *std, *state, *at)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(reply)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "goask:", err)
		os.Exit(1)
	}
}

func answer(question, stdDir, state string, at int) (map[string]any, error) {
	source, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	if question == "is_complete" {
		return fragment.IsComplete(source), nil
	}
	std, err := build.OpenStd(stdDir)
	if err != nil {
		return nil, err
	}
	looked, err := fragment.Look(&build.Program{Std: std, Name: "cell.go"}, state)
	if err != nil {
		return nil, err
	}
	if question == "complete" {
		return looked.Complete(string(source), at), nil
	}
	return looked.Inspect(string(source), at), nil
}
