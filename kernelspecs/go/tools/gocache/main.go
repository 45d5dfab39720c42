// Gocache serves the go command's build cache (GOCACHEPROG): it reads what was compiled at the
// installation, which all sessions share, and keeps what is new in a directory of the session.
//
//	gocache -shared DIR -own DIR
//
// Both have the layout of the go command's own cache; the shared one is never written.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

type request struct {
	ID       int64
	Command  string
	ActionID []byte
	OutputID []byte
	BodySize int64
}

type response struct {
	ID            int64
	Err           string     `json:",omitempty"`
	KnownCommands []string   `json:",omitempty"`
	Miss          bool       `json:",omitempty"`
	OutputID      []byte     `json:",omitempty"`
	Size          int64      `json:",omitempty"`
	Time          *time.Time `json:",omitempty"`
	DiskPath      string     `json:",omitempty"`
}

func main() {
	shared := flag.String("shared", "", "cache that is only read")
	own := flag.String("own", "", "cache that gets what is new")
	flag.Parse()
	if err := serve(*shared, *own); err != nil {
		fmt.Fprintln(os.Stderr, "gocache:", err)
		os.Exit(1)
	}
}

func serve(shared, own string) error {
	input := bufio.NewReaderSize(os.Stdin, 1<<20)
	decoder := json.NewDecoder(input)
	encoder := json.NewEncoder(os.Stdout)
	if err := encoder.Encode(response{KnownCommands: []string{"get", "put", "close"}}); err != nil {
		return err
	}
	for {
		var asked request
		if err := decoder.Decode(&asked); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		answer := response{ID: asked.ID}
		switch asked.Command {
		case "get":
			answer.find(asked, own, shared)
		case "put":
			var body []byte
			if asked.BodySize > 0 {
				var text string
				if err := decoder.Decode(&text); err != nil {
					return err
				}
				var err error
				if body, err = base64.StdEncoding.DecodeString(text); err != nil {
					return err
				}
			}
			answer.keep(asked, own, body)
		case "close":
			return encoder.Encode(answer)
		}
		if err := encoder.Encode(answer); err != nil {
			return err
		}
	}
}

// find looks for an action's output, in one directory after the other.
func (r *response) find(asked request, dirs ...string) {
	for _, dir := range dirs {
		text, err := os.ReadFile(entry(dir, asked.ActionID, "a"))
		fields := strings.Fields(string(text))
		if err != nil || len(fields) != 5 || fields[0] != "v1" {
			continue
		}
		output, err := hex.DecodeString(fields[2])
		size, sizeErr := strconv.ParseInt(fields[3], 10, 64)
		nanoseconds, timeErr := strconv.ParseInt(fields[4], 10, 64)
		if err != nil || sizeErr != nil || timeErr != nil {
			continue
		}
		file := entry(dir, output, "d")
		if info, err := os.Stat(file); err == nil && info.Size() == size {
			when := time.Unix(0, nanoseconds)
			r.OutputID, r.Size, r.Time, r.DiskPath = output, size, &when, file
			return
		}
	}
	r.Miss = true
}

func (r *response) keep(asked request, own string, body []byte) {
	file := entry(own, asked.OutputID, "d")
	err := write(file, body)
	if err == nil {
		text := fmt.Sprintf("v1 %x %x %20d %20d\n", asked.ActionID, asked.OutputID, len(body), time.Now().UnixNano())
		err = write(entry(own, asked.ActionID, "a"), []byte(text))
	}
	if err != nil {
		r.Err = err.Error()
		return
	}
	r.DiskPath = file
}

func entry(dir string, id []byte, kind string) string {
	name := hex.EncodeToString(id)
	if len(name) < 2 {
		return filepath.Join(dir, "none")
	}
	return filepath.Join(dir, name[:2], name+"-"+kind)
}

// write writes a file in one step, so that no other process reads a part of it.
func write(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), "new-")
	if err != nil {
		return err
	}
	_, err = temporary.Write(data)
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		os.Remove(temporary.Name())
	}
	return err
}
