// Mkstd makes the standard library ready for sessions: `mkstd GO OUT ERA`.
//
// OUT gets the build cache with all of the library compiled, from which sessions read, and what
// names the archives in it; ERA holds the packages that sessions have beside it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"era/tools/build"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "mkstd:", err)
		os.Exit(1)
	}
}

func run(goCommand, out, era string) error {
	if err := os.MkdirAll(filepath.Join(out, "tool"), 0o755); err != nil {
		return err
	}
	env, err := output(goCommand, "env", "GOROOT", "GOTOOLDIR")
	if err != nil {
		return err
	}
	root, toolDir, _ := strings.Cut(strings.TrimSpace(env), "\n")
	overlay := filepath.Join(out, "overlay.json")
	if err := writeOverlay(overlay, era, filepath.Join(root, "src", "era")); err != nil {
		return err
	}
	list, err := output(goCommand, "list", "-export", "-overlay="+overlay,
		"-f", "{{if .Export}}packagefile {{.ImportPath}}={{.Export}}{{end}}",
		"std", "era/display", "era/cellrt", "era/storage")
	if err != nil {
		return err
	}
	if err := writeConfigs(out, list); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "goroot"), []byte(root), 0o644); err != nil {
		return err
	}
	version, err := output(goCommand, "env", "GOVERSION")
	if err != nil {
		return err
	}
	version = strings.TrimPrefix(version, "go")
	if err := os.WriteFile(filepath.Join(out, "version"), []byte(version), 0o644); err != nil {
		return err
	}
	tools := []string{filepath.Join(toolDir, "compile"), filepath.Join(toolDir, "link"), filepath.Join(root, "bin", "go")}
	for _, tool := range tools {
		link := filepath.Join(out, "tool", filepath.Base(tool))
		os.Remove(link)
		if err := os.Symlink(tool, link); err != nil {
			return err
		}
	}
	return nil
}

// writeOverlay makes the files below a folder seem to lie in the standard library.
func writeOverlay(file, folder, place string) error {
	replace := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" {
			replace[filepath.Join(place, strings.TrimPrefix(path, folder))] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// writeConfigs writes which archives the linker uses, and which of them programs may import.
func writeConfigs(out, list string) error {
	var user bytes.Buffer
	for line := range strings.Lines(list) {
		path, _, _ := strings.Cut(strings.TrimPrefix(line, "packagefile "), "=")
		if !build.IsInternal(path) {
			user.WriteString(line)
		}
	}
	if err := os.WriteFile(filepath.Join(out, "importcfg.user"), user.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "importcfg"), []byte(list), 0o644)
}

func output(name string, args ...string) (string, error) {
	command := exec.Command(name, args...)
	command.Stderr = os.Stderr
	command.Dir = "/"
	text, err := command.Output()
	return string(text), err
}
