package cellrt

import (
	"hash/fnv"
	"reflect"
	"syscall"
)

var (
	types       = map[string]reflect.Type{}
	commonTypes = []any{
		new(int), new(string), new(float64), new(bool), new(byte), new(rune), new(int64), new([]byte),
		new(int8), new(int16), new(uint), new(uint16), new(uint32), new(uint64), new(uintptr), new(float32),
		new(complex64), new(complex128), new(struct{}), new(error), new(syscall.Errno),
		new(any), new([]any), new(map[string]any), new([]string), new([]int), new([]float64),
		new(map[string]string), new(map[string]int),
	}
	// Structs of the standard library that may be copied field by field.
	plainStructs = map[string]bool{
		"strings.Builder": true, "bytes.Buffer": true, "sync.Mutex": true, "sync.RWMutex": true,
		"sync.WaitGroup": true, "sync.noCopy": true, "internal/sync.Mutex": true,
		"container/list.List": true, "container/list.Element": true, "sync.Once": true,
		"container/ring.Ring": true, "sync/atomic.Int64": true, "sync/atomic.Int32": true,
		"sync/atomic.Uint64": true, "sync/atomic.Uint32": true, "sync/atomic.Bool": true,
		"sync/atomic.noCopy": true, "sync/atomic.align64": true,
	}
)

func typeKey(t reflect.Type) string { return t.PkgPath() + "|" + t.String() }

func isOwn(t reflect.Type) bool { return t.PkgPath() == "main" || t.PkgPath() == "" }

// register makes a type and those that it is made of known by their names.
func register(t reflect.Type) {
	if types[typeKey(t)] != nil {
		return
	}
	types[typeKey(t)] = t
	if t.Name() != "" && t.Kind() != reflect.Pointer {
		register(reflect.PointerTo(t))
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Chan:
		register(t.Elem())
	case reflect.Map:
		register(t.Key())
		register(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if isOwn(t) {
				register(t.Field(i).Type)
			}
		}
	}
}

// isComposite reports whether a type is made of others and has no name.
func isComposite(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Chan, reflect.Map:
		return t.Name() == ""
	}
	return false
}

// isKnown reports whether interfaces may hold values of a type.
func isKnown(t reflect.Type) bool {
	if isComposite(t) {
		return isKnown(t.Elem()) && (t.Kind() != reflect.Map || isKnown(t.Key()))
	}
	return types[typeKey(t)] == t
}

var shapeSums = map[reflect.Type]uint64{}

// shapeSum returns a number that stands for the shape of a type.
func shapeSum(t reflect.Type) uint64 {
	sum, ok := shapeSums[t]
	if !ok {
		hash := fnv.New64a()
		hash.Write([]byte(shape(t, nil)))
		sum = hash.Sum64()
		shapeSums[t] = sum
	}
	return sum
}

// shape describes a type down to its fields, so that values of an older definition of a type are
// not read as those of a newer one.
func shape(t reflect.Type, outer []reflect.Type) string {
	for _, one := range outer {
		if one == t {
			return "^" + t.String()
		}
	}
	outer = append(outer, t)
	text := typeKey(t) + t.Kind().String()
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Chan:
		text += "(" + shape(t.Elem(), outer) + ")"
	case reflect.Map:
		text += "(" + shape(t.Key(), outer) + shape(t.Elem(), outer) + ")"
	case reflect.Struct:
		for i := range t.NumField() {
			if isOwn(t) {
				text += ";" + t.Field(i).Name + " " + shape(t.Field(i).Type, outer)
			}
		}
	}
	return text
}
