package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// workspaceModule is the module that the directory of a program is, where it says nothing else.
const workspaceModule = "workspace"

// Error is what the compiler, the linker or the go command said of a program.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

// Program is one file of source that is to be built.
type Program struct {
	Std    *Std
	Source []byte
	Name   string // as errors and traces call the file
	Dir    string // where the file seems to lie
	Work   string // an empty directory of its own
	Built  string // a directory of programs that were built before; "" for none
	// Archives of packages that are not in the standard library, by import path.
	Archives map[string]string
	// MayImportAll is set for generated code, which uses what programs must not.
	MayImportAll bool
	exe          string
}

// Exe returns where the built program lies.
func (p *Program) Exe() string { return p.exe }

// Build builds it: directly where archives suffice, else by the go command.
func (p *Program) Build() error {
	p.exe = filepath.Join(p.Work, "exe", "main")
	if err := os.MkdirAll(filepath.Dir(p.exe), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(p.sourceFile(), p.Source, 0o600); err != nil {
		return err
	}
	if p.needsGoCommand() {
		return p.goBuild()
	}
	if p.Built != "" && p.reuse() {
		return nil
	}
	err := p.compileAndLink()
	if err == nil && p.Built != "" {
		p.keep()
	}
	return err
}

func (p *Program) sourceFile() string { return filepath.Join(p.Work, p.Name) }

// needsGoCommand reports whether more than the file and archives have a say in the program.
func (p *Program) needsGoCommand() bool {
	if p.MayImportAll {
		return false
	}
	for _, word := range []string{"//go:embed", "//go:debug"} {
		if bytes.Contains(p.Source, []byte(word)) {
			return true
		}
	}
	if isInModule(p.Dir) {
		return true
	}
	file, err := parser.ParseFile(token.NewFileSet(), "", p.Source, parser.ImportsOnly)
	if err != nil {
		return false // the compiler words the error
	}
	if file.Name.Name != "main" {
		return true
	}
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if path != "unsafe" && p.Std.Archive(path) == "" {
			return true
		}
	}
	return false
}

// isInModule reports whether the go command would find a module or workspace for a directory.
func isInModule(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		for _, name := range []string{"go.mod", "go.work"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return true
			}
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

func (p *Program) compileAndLink() error {
	userConfig, linkConfig := p.Std.file("importcfg.user"), p.Std.file("importcfg")
	if p.MayImportAll {
		userConfig = linkConfig
	}
	if len(p.Archives) > 0 {
		var err error
		if userConfig, err = p.extend(userConfig, "user"); err != nil {
			return err
		}
		if linkConfig, err = p.extend(linkConfig, "link"); err != nil {
			return err
		}
	}
	object := filepath.Join(p.Work, "main.a")
	compile := exec.Command(p.Std.file("tool/compile"), "-o", object, "-p", "main", "-complete", "-pack",
		"-dwarf=false", "-trimpath", p.Work+"=>"+p.Dir, "-importcfg", userConfig, p.sourceFile())
	if _, err := p.run(compile); err != nil {
		return err
	}
	_, err := p.run(exec.Command(p.Std.file("tool/link"), "-o", p.Exe(), "-s", "-w", "-buildmode=exe",
		"-importcfg", linkConfig, object))
	return err
}

// extend writes a configuration with the further archives; returns its file.
func (p *Program) extend(config, name string) (string, error) {
	text, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	for path, file := range p.Archives {
		text = fmt.Appendf(text, "packagefile %s=%s\n", path, file)
	}
	extended := filepath.Join(p.Work, "importcfg."+name)
	return extended, os.WriteFile(extended, text, 0o600)
}

func (p *Program) goBuild() error {
	shown := filepath.Join(p.Dir, p.Name)
	command := exec.Command(p.Std.file("tool/go"), "build", "-ldflags=-s -w", "-o", p.Exe(), p.Name)
	files := map[string]string{shown: p.sourceFile()}
	overlay, err := p.overlay(files, bytes.Contains(p.Source, []byte(`"`+workspaceModule+`/`)))
	if err != nil {
		return err
	}
	command.Args = append(command.Args[:2], append([]string{"-overlay=" + overlay}, command.Args[2:]...)...)
	command.Dir = p.Dir
	if _, err := p.run(command); err != nil {
		return err
	}
	if info, err := os.Stat(p.Exe()); err != nil || info.Mode()&0o111 == 0 {
		return &Error{"package command-line-arguments is not a main package\n"}
	}
	return nil
}

// ListArchives builds packages that are not in the standard library, and those that they need; it
// returns their archives by import path.
func (p *Program) ListArchives(paths []string) (map[string]string, error) {
	isOwn := func(path string) bool { return strings.HasPrefix(path, workspaceModule+"/") }
	overlay, err := p.overlay(nil, slices.ContainsFunc(paths, isOwn))
	if err != nil {
		return nil, err
	}
	command := exec.Command(p.Std.file("tool/go"), "list", "-export", "-deps", "-overlay="+overlay,
		"-f", "{{if .Export}}{{.ImportPath}}={{.Export}}{{end}}")
	command.Args = append(command.Args, paths...)
	command.Dir = p.Dir
	listed, err := p.run(command)
	if err != nil {
		return nil, err
	}
	archives := map[string]string{}
	for line := range strings.Lines(listed) {
		path, file, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && p.Std.AnyArchive(path) == "" {
			archives[path] = file
		}
	}
	return archives, nil
}

// overlay writes a file for the go command's flag -overlay: what lies elsewhere than it seems,
// beside the packages that sessions have in the standard library. Where the workspace is no module,
// it becomes one for a program that imports packages of it.
func (p *Program) overlay(files map[string]string, importsWorkspace bool) (string, error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	if text, err := os.ReadFile(p.Std.file("overlay.json")); err == nil {
		if err := json.Unmarshal(text, &overlay); err != nil {
			return "", err
		}
	}
	for seen, real := range files {
		overlay.Replace[seen] = real
	}
	if importsWorkspace && !isInModule(p.Dir) {
		module := filepath.Join(p.Work, "go.mod")
		text := "module " + workspaceModule + "\n"
		if version, err := os.ReadFile(p.Std.file("version")); err == nil {
			text += "\ngo " + strings.TrimSpace(string(version)) + "\n"
		}
		if err := os.WriteFile(module, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(p.Dir, "go.mod")] = module
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	file := filepath.Join(p.Work, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

// run runs a tool and returns its output; what a tool that fails says becomes an Error.
func (p *Program) run(command *exec.Cmd) (string, error) {
	var output, said bytes.Buffer
	command.Stdout, command.Stderr = &output, &said
	command.Env = append(os.Environ(), "GOGC=400")
	isCompiler := filepath.Base(command.Path) != "go"
	if root, err := os.ReadFile(p.Std.file("goroot")); err == nil && isCompiler {
		command.Env = append(command.Env, "GOROOT="+string(root)) // of the library's files in traces
	}
	err := command.Run()
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return output.String(), err
	}
	text := said.String()
	if isCompiler { // it reports on stdout
		text = "# command-line-arguments\n" + output.String() + text
	}
	text = strings.ReplaceAll(text, p.Work+"/", "./")
	text = strings.ReplaceAll(text, filepath.Join(p.Dir, p.Name), "./"+p.Name)
	if !ended.Exited() {
		text += fmt.Sprintf("%s: %s\n", filepath.Base(command.Path), ended.ProcessState)
	}
	return "", &Error{text}
}
