package cellrt

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
)

var (
	lines     = map[reflect.Type]string{} // by which fragments make types known
	usedNames = map[string]bool{}         // lines that what is saved needs
	sentinels = map[string]error{}        // errors that are variables of packages
	// names of sentinels, by identity
	names = map[error]string{}
)

func init() {
	for name, err := range map[string]error{
		"EOF": io.EOF, "ErrUnexpectedEOF": io.ErrUnexpectedEOF, "ErrShortWrite": io.ErrShortWrite,
		"ErrShortBuffer": io.ErrShortBuffer, "ErrNoProgress": io.ErrNoProgress, "ErrClosedPipe": io.ErrClosedPipe,
		"ErrInvalid": fs.ErrInvalid, "ErrPermission": fs.ErrPermission, "ErrExist": fs.ErrExist,
		"ErrNotExist": fs.ErrNotExist, "ErrClosed": fs.ErrClosed, "SkipDir": fs.SkipDir, "SkipAll": fs.SkipAll,
		"ErrNoDeadline": os.ErrNoDeadline, "ErrDeadlineExceeded": os.ErrDeadlineExceeded,
		"ErrProcessDone": os.ErrProcessDone, "ErrUnsupported": errors.ErrUnsupported,
	} {
		Error(name, err)
	}
}

// Type makes a type known, of which interfaces may hold values. Lines that are used are kept.
func Type[T any](line string) {
	t := reflect.TypeFor[T]()
	lines[t] = line
	register(t)
}

// Error makes an error known that is a variable of a package.
func Error(line string, err error) {
	if err == nil || !reflect.TypeOf(err).Comparable() {
		return
	}
	sentinels[line] = err
	if names[err] == "" {
		names[err] = line
	}
}

func sentinelName(err error) string {
	if !reflect.ValueOf(err).Comparable() {
		return ""
	}
	name := names[err]
	if name != "" {
		usedNames[name] = true
	}
	return name
}

func use(t reflect.Type) {
	if line := lines[t]; line != "" {
		usedNames[line] = true
	}
}

// usedLines returns what the next program must make known, too.
func usedLines() (used []string) {
	for line := range usedNames {
		if sentinels[line] == nil || len(line) > len("error ") && line[:len("error ")] == "error " {
			used = append(used, line)
		}
	}
	slices.Sort(used)
	return used
}

// keptError is an error of an earlier run, whose type is gone.
type keptError struct {
	text    string
	wrapped []error
}

var keptErrorType = reflect.TypeFor[*keptError]()

func (e *keptError) Error() string   { return e.text }
func (e *keptError) Unwrap() []error { return e.wrapped }

func unwrap(err error) (wrapped []error) {
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		wrapped = []error{err.Unwrap()}
	case interface{ Unwrap() []error }:
		wrapped = slices.Clone(err.Unwrap())
	}
	return slices.DeleteFunc(wrapped, func(one error) bool { return one == nil })
}
