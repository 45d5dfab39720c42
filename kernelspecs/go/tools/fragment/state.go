package fragment

import (
	"encoding/json"
	"errors"
	"fmt"
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

// readState reads the directory `current`; without one nothing was left.
func readState(dir string) (*state, error) {
	s := &state{lost: map[string]string{}}
	text, err := os.ReadFile(filepath.Join(dir, "current", declsName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil {
		return nil, fmt.Errorf("what earlier code has left cannot be read: %w", err)
	}
	lost, _ := os.ReadFile(filepath.Join(dir, "current", "lost"))
	for line := range strings.Lines(string(lost)) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		s.lost[name] = reason
	}
	return s, nil
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

func (s *state) importPath(name string) string {
	for _, spec := range s.Imports {
		if spec.Name == name {
			return spec.Path
		}
	}
	return ""
}

func (s *state) addImport(name, path string) {
	if name != "." && name != "_" {
		s.Imports = slices.DeleteFunc(s.Imports, func(i importSpec) bool { return i.Name == name })
	}
	if spec := (importSpec{name, path}); !slices.Contains(s.Imports, spec) {
		s.Imports = append(s.Imports, spec)
	}
}
