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
	"runtime"
	"strings"
	"sync"
)

// Names in the directory of what fragments have left.
const (
	valuesName      = "values"
	variablesName   = "variables.json"
	lostName        = "lost"
	knownName       = "known"
	currentName     = "current"
	nextCurrentName = "current.new"
)

// V names a variable; P points at it.
type V struct {
	Name string
	P    any
}

var (
	next    string // the directory that this program writes
	vars    []V
	once    sync.Once
	fresh   = map[string]bool{}   // variables that this fragment declares
	earlier = map[string]string{} // why variables lost their values in earlier runs, by name
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
	load(filepath.Join(current, valuesName), variables, noteLoss)
	exithook.Add(exithook.Hook{F: Save, RunOnFailure: true})
}

// Fresh says that this fragment declares a variable: it need not have its old value.
func Fresh(name string) { fresh[name] = true }

// Lost says that a variable lost its value in an earlier run, and why.
func Lost(name, reason string) { earlier[name] = reason }

func noteLoss(name, reason string) {
	if !fresh[name] {
		Note(name + " has lost its value: " + reason)
		earlier[name] = reason
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
	if runtime.NumGoroutine() > 1 {
		runtime.GOMAXPROCS(1) // so that no goroutine is just writing a map while it is read here
	}
	values, lost := encode(vars)
	for _, variable := range vars {
		if reason, wasLost := earlier[variable.Name]; wasLost && reflect.ValueOf(variable.P).Elem().IsZero() {
			lost.add(variable.Name, reason)
		}
	}
	for name, data := range map[string][]byte{
		valuesName:    values,
		variablesName: describe(vars, lost),
		lostName:      []byte(strings.Join(lost.lines(), "\n")),
		knownName:     []byte(strings.Join(usedLines(), "\n")),
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
	load(filepath.Join(current, valuesName), variables, func(string, string) {})
}
