package cellrt

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strings"
	"unsafe"
)

// losses tells which variables could not be kept, and the type that stood in the way.
type losses struct {
	names   []string
	reasons map[string]string
}

func (l *losses) add(name, reason string) {
	if l.reasons == nil {
		l.reasons = map[string]string{}
	}
	if _, isKnown := l.reasons[name]; !isKnown {
		l.names = append(l.names, name)
	}
	l.reasons[name] = strings.Join(strings.Fields(reason), " ")
}

func (l *losses) lines() (lines []string) {
	for _, name := range l.names {
		lines = append(lines, name+" "+l.reasons[name])
	}
	return lines
}

// unkept is the panic of a value that cannot be kept.
type unkept struct{ typeName string }

// object identifies what a pointer, map, slice or channel refers to.
type object struct {
	address uintptr
	length  int
	of      reflect.Type
}

type encoder struct {
	bytes.Buffer
	numbers map[object]uint64
	fresh   []object        // those that got their numbers in the variable under way
	pending []reflect.Value // what pointers refer to, to be written in this order: lists may be long
}

// encode returns all variables: for each its name and the shape of its type, then the values. The
// variables are objects 1 to n, so that &x stays &x.
func encode(vars []V) ([]byte, *losses) {
	e := &encoder{numbers: map[object]uint64{}}
	lost := &losses{}
	e.uint(uint64(len(vars)))
	for _, variable := range vars {
		pointer := reflect.ValueOf(variable.P)
		e.string(variable.Name)
		e.string(shape(pointer.Type(), nil))
		e.numbers[object{pointer.Pointer(), 0, pointer.Type()}] = uint64(len(e.numbers) + 1)
	}
	data := append([]byte(nil), e.Bytes()...)
	for _, variable := range vars {
		encoded, err := e.variable(reflect.ValueOf(variable.P).Elem())
		if err != nil {
			lost.add(variable.Name, err.Error())
			data = append(data, 0)
			continue
		}
		data = binary.AppendUvarint(data, uint64(len(encoded))+1)
		data = append(data, encoded...)
	}
	return data, lost
}

// variable encodes one variable; where that fails, none of its objects counts as written.
func (e *encoder) variable(value reflect.Value) (data []byte, err error) {
	e.Reset()
	e.fresh, e.pending = nil, nil
	defer func() {
		if problem := recover(); problem != nil {
			for _, key := range e.fresh {
				delete(e.numbers, key)
			}
			if reason, ok := problem.(unkept); ok {
				err = fmt.Errorf("a %s cannot be kept between runs", reason.typeName)
			} else {
				err = fmt.Errorf("%v", problem)
			}
		}
	}()
	e.value(value)
	for i := 0; i < len(e.pending); i++ {
		e.value(e.pending[i])
	}
	return append([]byte(nil), e.Bytes()...), nil
}

func (e *encoder) uint(x uint64)   { e.Write(binary.AppendUvarint(nil, x)) }
func (e *encoder) string(x string) { e.uint(uint64(len(x))); e.WriteString(x) }
func (e *encoder) bool(x bool) {
	if x {
		e.uint(1)
	} else {
		e.uint(0)
	}
}

// isNew writes 0 for nil, else the object's number; it reports whether its content must follow.
func (e *encoder) isNew(address uintptr, length int, t reflect.Type) bool {
	if address == 0 {
		e.uint(0)
		return false
	}
	key := object{address, length, t}
	if number, ok := e.numbers[key]; ok {
		e.uint(number << 1)
		return false
	}
	number := uint64(len(e.numbers) + 1)
	e.numbers[key] = number
	e.fresh = append(e.fresh, key)
	e.uint(number<<1 | 1)
	return true
}

type form int

const (
	byParts form = iota
	asBinary
	asText
)

// formOf says how values of a type are written. Types of libraries must say it themselves.
func formOf(t reflect.Type) form {
	if isOwn(t) || t.Kind() == reflect.Interface {
		return byParts
	}
	pointer := reflect.PointerTo(t)
	switch {
	case pointer.Implements(reflect.TypeFor[encoding.BinaryMarshaler]()) &&
		pointer.Implements(reflect.TypeFor[encoding.BinaryUnmarshaler]()):
		return asBinary
	case t.Kind() == reflect.Struct && pointer.Implements(reflect.TypeFor[encoding.TextMarshaler]()) &&
		pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return asText
	}
	if t.Kind() == reflect.Struct && !plainStructs[t.PkgPath()+"."+t.Name()] {
		for i := range t.NumField() {
			if !t.Field(i).IsExported() {
				panic(unkept{t.String()})
			}
		}
	}
	return byParts
}

func (e *encoder) value(v reflect.Value) {
	if !v.CanAddr() {
		copied := reflect.New(v.Type()).Elem()
		copied.Set(v)
		v = copied
	}
	switch formOf(v.Type()) {
	case asBinary:
		e.marshalled(v, v.Addr().Interface().(encoding.BinaryMarshaler).MarshalBinary)
	case asText:
		e.marshalled(v, v.Addr().Interface().(encoding.TextMarshaler).MarshalText)
	default:
		e.parts(v)
	}
}

func (e *encoder) marshalled(v reflect.Value, marshal func() ([]byte, error)) {
	data, err := marshal()
	if err != nil {
		panic(unkept{v.Type().String()})
	}
	e.string(string(data))
}

func (e *encoder) parts(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		e.bool(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.uint(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		e.uint(v.Uint())
	case reflect.Float32, reflect.Float64:
		e.uint(math.Float64bits(v.Float()))
	case reflect.Complex64, reflect.Complex128:
		e.uint(math.Float64bits(real(v.Complex())))
		e.uint(math.Float64bits(imag(v.Complex())))
	case reflect.String:
		e.string(v.String())
	case reflect.Array:
		for i := range v.Len() {
			e.value(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			e.value(writable(v.Field(i)))
		}
	case reflect.Pointer:
		if e.isNew(v.Pointer(), 0, v.Type()) {
			e.pending = append(e.pending, v.Elem())
		}
	case reflect.Slice:
		e.slice(v)
	case reflect.Map:
		if e.isNew(v.Pointer(), 0, v.Type()) {
			e.entries(v)
		}
	case reflect.Chan:
		e.channel(v)
	case reflect.Interface:
		e.dynamic(v)
	default:
		if v.Kind() != reflect.Func || !v.IsNil() {
			panic(unkept{v.Type().String()})
		}
	}
}

// entries writes those of a map, which goroutines may still change.
func (e *encoder) entries(v reflect.Value) {
	var all []reflect.Value
	for entry := v.MapRange(); entry.Next(); {
		all = append(all, entry.Key(), entry.Value())
	}
	e.uint(uint64(len(all) / 2))
	for _, one := range all {
		e.value(one)
	}
}

func (e *encoder) slice(v reflect.Value) {
	if v.IsNil() {
		e.uint(0)
		return
	}
	length := v.Len()
	if !e.isNew(v.Pointer()+1, length, v.Type()) { // +1: an empty slice is not nil
		return
	}
	e.uint(uint64(length))
	if v.Type().Elem().Kind() == reflect.Uint8 {
		e.Write(v.Bytes())
		return
	}
	for i := range length {
		e.value(v.Index(i))
	}
}

// channel takes what is in a channel: the process ends afterwards.
func (e *encoder) channel(v reflect.Value) {
	if !e.isNew(v.Pointer(), 0, v.Type()) {
		return
	}
	if v.Type().ChanDir() != reflect.BothDir {
		panic(unkept{v.Type().String()})
	}
	var items []reflect.Value
	isClosed := false
	for {
		item, ok := v.TryRecv()
		if !ok {
			isClosed = item.IsValid()
			break
		}
		items = append(items, item)
	}
	e.uint(uint64(v.Cap()))
	e.bool(isClosed)
	e.uint(uint64(len(items)))
	for _, item := range items {
		e.value(item)
	}
}

// How the value of an interface is written.
const (
	noValue = iota
	knownType
	errorText // of an error whose type is not known: its text is kept
	sentinel  // an error that is a variable of a package
)

func (e *encoder) dynamic(v reflect.Value) {
	if v.IsNil() {
		e.uint(noValue)
		return
	}
	value := v.Elem()
	t := value.Type()
	if err, ok := value.Interface().(error); ok {
		if name := sentinelName(err); name != "" {
			e.uint(sentinel)
			e.string(name)
			return
		}
		isForeignPointer := t.PkgPath() == "" && t.Kind() == reflect.Pointer && t.Elem().PkgPath() != "main"
		if (isForeignPointer || !isKnown(t)) && keptErrorType.Implements(v.Type()) {
			e.uint(errorText)
			e.err(err)
			return
		}
	}
	e.uint(knownType)
	e.typeName(t)
	e.value(value)
}

// err writes an error whose type is not known: its text, and the errors that it wraps.
func (e *encoder) err(err error) {
	if v := reflect.ValueOf(err); v.Kind() != reflect.Pointer {
		e.uint(1) // of no object
	} else if !e.isNew(v.Pointer(), 0, v.Type()) {
		return
	}
	e.string(err.Error())
	wrapped := unwrap(err)
	e.uint(uint64(len(wrapped)))
	for i := range wrapped {
		e.dynamic(reflect.ValueOf(&wrapped[i]).Elem())
	}
}

// typeName writes a type: of what it is made, down to types that are known by name.
func (e *encoder) typeName(t reflect.Type) {
	if !isComposite(t) {
		if types[typeKey(t)] != t {
			panic(unkept{t.String()})
		}
		use(t)
		e.uint(uint64(reflect.Invalid))
		e.string(typeKey(t))
		e.uint(shapeSum(t))
		return
	}
	e.uint(uint64(t.Kind()))
	switch t.Kind() {
	case reflect.Array:
		e.uint(uint64(t.Len()))
	case reflect.Chan:
		e.uint(uint64(t.ChanDir()))
	case reflect.Map:
		e.typeName(t.Key())
	}
	e.typeName(t.Elem())
}

// writable returns a field of a struct as one that may be set, exported or not.
func writable(field reflect.Value) reflect.Value {
	return reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem()
}
