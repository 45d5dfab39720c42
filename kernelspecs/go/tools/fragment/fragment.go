// Package fragment makes whole programs of pieces of Go.
package fragment

import (
	"go/parser"
	"go/token"

	"era/tools/build"
)

// IsWhole reports whether source is a program of its own: whether it has a package clause.
func IsWhole(source []byte) bool {
	_, err := parser.ParseFile(token.NewFileSet(), "", source, parser.PackageClauseOnly)
	return err == nil
}

type Prepared struct{}

func (p *Prepared) Write() error { return nil }

func Prepare(program *build.Program, state string) (*Prepared, error) {
	return nil, &build.Error{Text: "fragments are not built yet\n"}
}
