package cellrt

// The predeclared types, for fragments that have declared something else by their names.
type (
	Predeclared_bool       = bool
	Predeclared_byte       = byte
	Predeclared_complex64  = complex64
	Predeclared_complex128 = complex128
	Predeclared_error      = error
	Predeclared_float32    = float32
	Predeclared_float64    = float64
	Predeclared_int        = int
	Predeclared_int8       = int8
	Predeclared_int16      = int16
	Predeclared_int32      = int32
	Predeclared_int64      = int64
	Predeclared_rune       = rune
	Predeclared_string     = string
	Predeclared_uint       = uint
	Predeclared_uint8      = uint8
	Predeclared_uint16     = uint16
	Predeclared_uint32     = uint32
	Predeclared_uint64     = uint64
	Predeclared_uintptr    = uintptr
	Predeclared_any        = any
)
