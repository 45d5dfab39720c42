package cellrt

import (
	"era/internal/connection"
	"fmt"
	"math"
	"os"
	"reflect"
	"strconv"
	"unicode/utf8"
)

const (
	maxDepth = 20      // of values that are described in full
	maxItems = 1000    // of one of them
	maxBytes = 1 << 16 // of one variable
)

// Publish shows a value as a result; package display puts a version here that knows more forms.
var Publish = publishText

// Result shows the value of a fragment's last expression, unless it says nothing.
func Result(value any) {
	if value != nil && reflect.TypeOf(value).Size() > 0 {
		Publish(value)
	}
}

func publishText(value any) {
	data := map[string]any{}
	if one, ok := value.(interface{ Display() map[string]any }); ok {
		data = one.Display()
	}
	if one, ok := value.(interface{ HTML() string }); ok {
		data["text/html"] = one.HTML()
	}
	if _, ok := data["text/plain"]; !ok {
		data["text/plain"] = fmt.Sprint(value)
	}
	content := map[string]any{"data": data, "metadata": map[string]any{}}
	message := map[string]any{"kind": "execute_result", "content": content}
	text, ok := appendJSON(nil, reflect.ValueOf(message), 0, math.MaxInt)
	if !ok || !connection.Send(text) {
		fmt.Println(data["text/plain"])
	}
}

// describe returns JSON that tells names, types and, where JSON can hold them, values.
func describe(vars []V, lost *losses) []byte {
	text := []byte{'['}
	for i, variable := range vars {
		value := reflect.ValueOf(variable.P).Elem()
		if i > 0 {
			text = append(text, ',')
		}
		text = appendString(append(text, `{"name":`...), variable.Name)
		text = appendString(append(text, `,"type":`...), value.Type().String())
		if size, ok := sizeOf(value); ok {
			text = strconv.AppendInt(append(text, `,"size":`...), int64(size), 10)
		}
		if _, isLost := lost.reasons[variable.Name]; !isLost {
			if shown, ok := appendJSON(nil, value, 0, maxBytes); ok {
				text = append(append(text, `,"value":`...), shown...)
			}
		}
		text = append(text, '}')
	}
	return append(text, ']')
}

func sizeOf(v reflect.Value) (int, bool) {
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
		return v.Len(), true
	}
	return 0, false
}

// appendJSON appends a value; it returns false for one that JSON has no form for, or a short one.
func appendJSON(text []byte, v reflect.Value, depth, limit int) ([]byte, bool) {
	if depth > maxDepth || len(text) > limit {
		return text, false
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(text, v.Bool()), true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(text, v.Int(), 10), true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(text, v.Uint(), 10), true
	case reflect.Float32, reflect.Float64:
		number := v.Float()
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return text, false
		}
		return strconv.AppendFloat(text, number, 'g', -1, 64), true
	case reflect.String:
		return appendString(text, v.String()), true
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(text, "null"...), true
		}
		return appendJSON(text, v.Elem(), depth+1, limit)
	case reflect.Slice, reflect.Array:
		return appendItems(text, v, depth, limit)
	case reflect.Map, reflect.Struct:
		return appendFields(text, v, depth, limit)
	}
	return text, false
}

func appendItems(text []byte, v reflect.Value, depth, limit int) ([]byte, bool) {
	if v.Kind() == reflect.Slice && v.IsNil() {
		return append(text, "null"...), true
	}
	if v.Len() > maxItems {
		return text, false
	}
	text = append(text, '[')
	for i := range v.Len() {
		if i > 0 {
			text = append(text, ',')
		}
		var ok bool
		if text, ok = appendJSON(text, v.Index(i), depth+1, limit); !ok {
			return text, false
		}
	}
	return append(text, ']'), true
}

// appendFields appends a map with keys that are text, or a struct.
func appendFields(text []byte, v reflect.Value, depth, limit int) ([]byte, bool) {
	var names []string
	var values []reflect.Value
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			names, values = append(names, v.Type().Field(i).Name), append(values, v.Field(i))
		}
	} else {
		if v.Type().Key().Kind() != reflect.String || v.Len() > maxItems {
			return text, false
		}
		for entry := v.MapRange(); entry.Next(); {
			names, values = append(names, entry.Key().String()), append(values, entry.Value())
		}
	}
	text = append(text, '{')
	for i, name := range names {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(appendString(text, name), ':')
		var ok bool
		if text, ok = appendJSON(text, values[i], depth+1, limit); !ok {
			return text, false
		}
	}
	return append(text, '}'), true
}

func appendString(text []byte, s string) []byte {
	text = append(text, '"')
	for _, char := range s { // what is no UTF-8 becomes U+FFFD
		switch {
		case char == '"' || char == '\\':
			text = append(text, '\\', byte(char))
		case char < ' ':
			text = fmt.Appendf(text, "\\u%04x", char)
		default:
			text = utf8.AppendRune(text, char)
		}
	}
	return append(text, '"')
}

// Note tells the user something that does not concern the program's output.
func Note(text string) { fmt.Fprintln(os.Stderr, "note:", text) }
