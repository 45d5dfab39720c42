package fragment

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// state is what fragments leave for the next, beside the values of their variables.
type state struct {
	Number  int
	Imports []importSpec
	Decls   []decl
	Vars    []variable
	lost    map[string]string // why a variable has no value, by name
	known   []string          // what interfaces hold values of, as lines of the file `known`
}

type importSpec struct{ Name, Path string } // Name is "." or "_", or what code calls the package

// decl is a declaration other than of variables, kept as source.
type decl struct {
	Names []string // of a method: Type.Method
	Src   string
	File  string
	Line  int
}

type variable struct {
	Name, Type string
	Literal    *literal // of a variable that holds a function: its source
}

type literal struct {
	Src  string
	File string
	Line int
}

const declsName = "declarations.json"

// damaged is the error of a state that cannot be read.
type damaged struct{ error }

// startState reads the state for a run. One that is damaged is told, and removed: code begins anew.
func startState(dir string) (*state, error) {
	s, err := readState(dir)
	if errors.As(err, &damaged{}) {
		fmt.Fprintf(os.Stderr, "note: what earlier code has left cannot be read, and is gone: %v\n", err)
		s, err = newState(), os.RemoveAll(filepath.Join(dir, "current"))
	}
	if err != nil {
		return nil, err
	}
	return s, os.MkdirAll(dir, 0o700)
}

func newState() *state { return &state{lost: map[string]string{}} }

// readState reads the directory `current`; without one nothing was left.
func readState(dir string) (*state, error) {
	s := newState()
	text, err := os.ReadFile(filepath.Join(dir, "current", declsName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err == nil {
		err = s.validate()
	}
	if err != nil {
		return nil, damaged{err}
	}
	known, _ := os.ReadFile(filepath.Join(dir, "current", "known"))
	for line := range strings.Lines(string(known)) {
		s.known = append(s.known, strings.TrimSpace(line))
	}
	lost, _ := os.ReadFile(filepath.Join(dir, "current", "lost"))
	for line := range strings.Lines(string(lost)) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		s.lost[name] = reason
	}
	return s, nil
}

// validate returns an error where parts are none of Go.
func (s *state) validate() error {
	for _, d := range s.Decls {
		_, err := parser.ParseFile(token.NewFileSet(), "", declHead+d.Src, parser.SkipObjectResolution)
		if err != nil || len(d.Names) == 0 {
			return fmt.Errorf("a declaration is damaged: %w", cmp.Or(err, errors.New("it has no name")))
		}
	}
	for _, v := range s.Vars {
		if _, err := parser.ParseExpr(v.Type); err != nil || !token.IsIdentifier(v.Name) {
			return fmt.Errorf("the variable %q is damaged", v.Name)
		}
	}
	for _, spec := range s.Imports {
		if spec.Path == "" || spec.Name != "" && spec.Name != "." && !token.IsIdentifier(spec.Name) {
			return fmt.Errorf("the import of %q is damaged", spec.Path)
		}
	}
	return nil
}

// next returns the directory that the next program writes; what others left there is removed.
func (s *state) next(dir string) (string, error) {
	current, _ := os.Readlink(filepath.Join(dir, "current"))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if entry.Name() != "current" && entry.Name() != current {
			os.RemoveAll(filepath.Join(dir, entry.Name()))
		}
	}
	return filepath.Join(dir, fmt.Sprint(s.Number)), nil
}

func (s *state) write(next string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(next, declsName), text, 0o600)
}

func (s *state) variable(name string) *variable {
	for i := range s.Vars {
		if s.Vars[i].Name == name {
			return &s.Vars[i]
		}
	}
	return nil
}

func (s *state) setVariable(name, typeName string) {
	if known := s.variable(name); known != nil {
		known.Type, known.Literal = typeName, nil
	} else {
		s.Vars = append(s.Vars, variable{Name: name, Type: typeName})
	}
}

func (s *state) removeVariable(name string) {
	s.Vars = slices.DeleteFunc(s.Vars, func(v variable) bool { return v.Name == name })
}

// removeDecls removes the declarations of these names, and the methods of types among them.
func (s *state) removeDecls(names map[string]bool) {
	s.Decls = slices.DeleteFunc(s.Decls, func(d decl) bool {
		for _, name := range d.Names {
			typeName, _, isMethod := strings.Cut(name, ".")
			if names[name] || isMethod && names[typeName] {
				return true
			}
		}
		return false
	})
}

func (s *state) removeImports(names map[string]bool) {
	s.Imports = slices.DeleteFunc(s.Imports, func(i importSpec) bool { return names[i.Name] })
}

func (s *state) importPath(name string) string {
	for _, spec := range s.Imports {
		if spec.Name == name {
			return spec.Path
		}
	}
	return ""
}

func (s *state) addImport(name, path string) {
	if name != "" && name != "." && name != "_" {
		s.Imports = slices.DeleteFunc(s.Imports, func(i importSpec) bool { return i.Name == name })
	}
	if spec := (importSpec{name, path}); !slices.Contains(s.Imports, spec) {
		s.Imports = append(s.Imports, spec)
	}
}
