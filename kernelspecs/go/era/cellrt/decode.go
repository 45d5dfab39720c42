package cellrt

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"reflect"
)

var (
	errDamaged = errors.New("the saved variables are damaged")
	errUnknown = errors.New("the type of a value in it has changed")
)

type decoder struct {
	*bytes.Reader
	objects map[uint64]reflect.Value
	pending []reflect.Value // what pointers refer to, to be read in this order
}

// load sets the variables that a file holds under their names and types; others stay zero. It calls
// note with the names of those that cannot have their values, and why.
func load(file string, variables []V, note func(name, reason string)) {
	defer func() {
		if problem := recover(); problem != nil {
			for _, variable := range variables {
				if reflect.ValueOf(variable.P).Elem().IsZero() {
					note(variable.Name, errDamaged.Error())
				}
			}
		}
	}()
	data, err := os.ReadFile(file)
	if err != nil {
		panic(errDamaged)
	}
	byName := map[string]reflect.Value{}
	for _, variable := range variables {
		byName[variable.Name] = reflect.ValueOf(variable.P)
	}
	d := &decoder{Reader: bytes.NewReader(data), objects: map[uint64]reflect.Value{}}
	names := make([]string, d.length())
	for number := range names {
		name, saved := d.string(), d.string()
		names[number] = name
		pointer, ok := byName[name]
		if ok && shape(pointer.Type(), nil) != saved {
			pointer = reflect.Value{}
			if _, wasLost := earlier[name]; !wasLost {
				note(name, "its type has changed")
			}
		}
		d.objects[uint64(number+1)] = pointer
	}
	for number, name := range names {
		size := d.uint()
		if size == 0 {
			continue
		}
		end := d.Size() - int64(d.Len()) + int64(size-1)
		if pointer := d.objects[uint64(number+1)]; pointer.IsValid() {
			if err := d.variable(pointer.Elem()); err != nil {
				note(name, err.Error())
			}
		}
		d.Seek(end, io.SeekStart)
	}
}

// variable reads one variable; a value that does not fit its type stays zero.
func (d *decoder) variable(v reflect.Value) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			v.SetZero()
			err = errDamaged
			if problem == errUnknown {
				err = errUnknown
			}
		}
	}()
	d.pending = nil
	d.value(v)
	for i := 0; i < len(d.pending); i++ {
		d.value(d.pending[i])
	}
	return nil
}

func (d *decoder) uint() uint64 {
	x, err := binary.ReadUvarint(d)
	if err != nil {
		panic(errDamaged)
	}
	return x
}

// length reads how many things follow, each of which takes a byte at least.
func (d *decoder) length() int {
	x := d.uint()
	if x > uint64(d.Len()) {
		panic(errDamaged)
	}
	return int(x)
}

func (d *decoder) string() string {
	data := make([]byte, d.length())
	io.ReadFull(d, data)
	return string(data)
}

// isNew reads the number of an object. One that was read before is put into v.
func (d *decoder) isNew(v reflect.Value) (number uint64, isNew bool) {
	number = d.uint()
	isNew, number = number&1 == 1, number>>1
	if known := d.objects[number]; !isNew && known.IsValid() && known.Type() == v.Type() {
		v.Set(known)
	}
	return number, isNew
}

func (d *decoder) value(v reflect.Value) {
	switch formOf(v.Type()) {
	case asBinary:
		check(v.Addr().Interface().(encoding.BinaryUnmarshaler).UnmarshalBinary([]byte(d.string())))
	case asText:
		check(v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(d.string())))
	default:
		d.parts(v)
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func (d *decoder) parts(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(d.uint() == 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(d.uint()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(d.uint())
	case reflect.Float32, reflect.Float64:
		v.SetFloat(math.Float64frombits(d.uint()))
	case reflect.Complex64, reflect.Complex128:
		re := math.Float64frombits(d.uint())
		v.SetComplex(complex(re, math.Float64frombits(d.uint())))
	case reflect.String:
		v.SetString(d.string())
	case reflect.Array:
		for i := range v.Len() {
			d.value(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			d.value(writable(v.Field(i)))
		}
	default:
		d.reference(v)
	}
}

// reference reads what refers to something else.
func (d *decoder) reference(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if number, isNew := d.isNew(v); isNew {
			pointer := reflect.New(v.Type().Elem())
			if v.Type().Name() != "" {
				pointer = pointer.Convert(v.Type())
			}
			d.objects[number] = pointer
			v.Set(pointer)
			d.pending = append(d.pending, pointer.Elem())
		}
	case reflect.Slice:
		if number, isNew := d.isNew(v); isNew {
			d.slice(v, number)
		}
	case reflect.Map:
		if number, isNew := d.isNew(v); isNew {
			made := reflect.MakeMap(v.Type())
			d.objects[number] = made
			v.Set(made)
			for range d.length() {
				key := reflect.New(v.Type().Key()).Elem()
				item := reflect.New(v.Type().Elem()).Elem()
				d.value(key)
				d.value(item)
				made.SetMapIndex(key, item)
			}
		}
	case reflect.Chan:
		if number, isNew := d.isNew(v); isNew {
			d.channel(v, number)
		}
	case reflect.Interface:
		d.dynamic(v)
	}
}

func (d *decoder) slice(v reflect.Value, number uint64) {
	length := int(d.uint())
	if v.Type().Elem().Size() > 0 && length > d.Len() {
		panic(errDamaged)
	}
	made := reflect.MakeSlice(v.Type(), length, length)
	d.objects[number] = made
	v.Set(made)
	if v.Type().Elem().Kind() == reflect.Uint8 {
		io.ReadFull(d, made.Bytes())
		return
	}
	for i := range length {
		d.value(made.Index(i))
	}
}

func (d *decoder) channel(v reflect.Value, number uint64) {
	made := reflect.MakeChan(v.Type(), int(d.uint()))
	d.objects[number] = made
	v.Set(made)
	isClosed := d.uint() == 1
	for range d.length() {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(item)
		made.Send(item)
	}
	if isClosed {
		made.Close()
	}
}

func (d *decoder) dynamic(v reflect.Value) {
	switch d.uint() {
	case knownType:
		value := reflect.New(d.typeName()).Elem()
		d.value(value)
		v.Set(value)
	case errorText:
		d.err(v)
	case sentinel:
		err := sentinels[d.string()]
		if err == nil {
			panic(errUnknown)
		}
		v.Set(reflect.ValueOf(err))
	}
}

func (d *decoder) err(v reflect.Value) {
	number := d.uint()
	if number&1 == 0 {
		v.Set(d.objects[number>>1])
		return
	}
	text := d.string()
	wrapped := make([]error, d.length())
	var err error = &keptError{text, wrapped}
	if len(wrapped) == 0 {
		err = errors.New(text)
	}
	if number > 1 {
		d.objects[number>>1] = reflect.ValueOf(err)
	}
	v.Set(reflect.ValueOf(err))
	for i := range wrapped {
		d.dynamic(reflect.ValueOf(&wrapped[i]).Elem())
	}
}

func (d *decoder) typeName() reflect.Type {
	switch kind := reflect.Kind(d.uint()); kind {
	case reflect.Invalid:
		t := types[d.string()]
		if sum := d.uint(); t == nil || sum != shapeSum(t) {
			panic(errUnknown)
		}
		return t
	case reflect.Pointer:
		return reflect.PointerTo(d.typeName())
	case reflect.Slice:
		return reflect.SliceOf(d.typeName())
	case reflect.Array:
		length := int(d.uint())
		return reflect.ArrayOf(length, d.typeName())
	case reflect.Chan:
		direction := reflect.ChanDir(d.uint())
		return reflect.ChanOf(direction, d.typeName())
	case reflect.Map:
		key := d.typeName()
		return reflect.MapOf(key, d.typeName())
	default:
		panic(errDamaged)
	}
}
