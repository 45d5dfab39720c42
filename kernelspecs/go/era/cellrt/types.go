package cellrt

import "reflect"

var (
	types       = map[string]reflect.Type{}
	errorType   = reflect.TypeFor[error]()
	commonTypes = []any{
		new(int), new(string), new(float64), new(bool), new(byte), new(rune), new(int64), new([]byte),
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
