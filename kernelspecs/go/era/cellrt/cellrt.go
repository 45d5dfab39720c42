// Package cellrt is linked into fragments of programs: it loads the variables that earlier fragments
// have left, and saves them when the program ends.
//
// Everything is written into a directory of its own, which takes the place of the one before when
// all of it was written: declarations (by gorun, before) and values belong together, and a program
// that is killed leaves what was there before it.
package cellrt

import (
	"fmt"
	"internal/runtime/exithook"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
)

// Names in the directory of what fragments have left.
const (
	valuesName      = "values"
	variablesName   = "variables.json"
	lostName        = "lost"
	currentName     = "current"
	nextCurrentName = "current.new"
)

// V names a variable; P points at it.
type V struct {
	Name string
	P    any
}

var (
	next string // the directory that this program writes
	vars []V
	once sync.Once
)

// Begin loads variables from the directory `current` and has them saved in the directory `next`.
func Begin(current, nextDir string, variables ...V) {
	next, vars = nextDir, variables
	for _, known := range commonTypes {
		register(reflect.TypeOf(known).Elem())
	}
	for _, variable := range variables {
		register(reflect.TypeOf(variable.P).Elem())
	}
	load(filepath.Join(current, valuesName), variables)
	exithook.Add(exithook.Hook{F: Save, RunOnFailure: true})
}

// Types makes types known, of which interfaces may hold values; each is told by a pointer.
func Types(pointers ...any) {
	for _, pointer := range pointers {
		register(reflect.TypeOf(pointer).Elem())
	}
}

// Save saves the variables. It is called at every end of the program that the program itself brings
// about, and by main's deferred call when that panics.
func Save() { once.Do(save) }

func save() {
	defer func() {
		if problem := recover(); problem != nil {
			fmt.Fprintln(os.Stderr, "note: the variables could not be kept:", problem)
		}
	}()
	values, lost := encode(vars)
	for name, data := range map[string][]byte{
		valuesName:    values,
		variablesName: describe(vars, lost),
		lostName:      []byte(strings.Join(lost.lines(), "\n")),
	} {
		if err := os.WriteFile(filepath.Join(next, name), data, 0o600); err != nil {
			panic(err)
		}
	}
	state := filepath.Dir(next)
	link := filepath.Join(state, nextCurrentName)
	os.Remove(link)
	if err := os.Symlink(filepath.Base(next), link); err != nil {
		panic(err)
	}
	if err := os.Rename(link, filepath.Join(state, currentName)); err != nil {
		panic(err)
	}
}

// Zero returns the zero value of a type.
func Zero[T any]() (zero T) { return }

// Load loads variables from the directory `current` without saving them later.
func Load(current string, variables ...V) {
	for _, variable := range variables {
		register(reflect.TypeOf(variable.P).Elem())
	}
	load(filepath.Join(current, valuesName), variables)
}
