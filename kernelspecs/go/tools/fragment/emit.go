package fragment

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

const runtimeName = "_era" // what generated code calls the package cellrt

// source is the text of a program, and where the fragment's statements begin in it.
type source struct {
	strings.Builder
	bodyStart int
}

// outline returns the program as the type checker first sees it: variables of the fragment are still
// its function's own, and new functions have no bodies, since they may use such variables.
func (c *cell) outline() *source {
	text := c.head(false)
	for _, d := range append(c.decls, c.once...) {
		d.Src = withoutBody(d.Src)
		text.decl(d)
	}
	text.variables(c, c.state.Vars)
	text.function("_", "", c.name, c.body)
	return text
}

// program returns the whole program, with the statements as they are in body.
func (c *cell) program(body []byte, old []variable, stateDir, next string) *source {
	text := c.head(true)
	for _, d := range c.decls {
		text.decl(d)
	}
	text.variables(c, c.state.Vars)
	text.variables(c, old)
	text.begin(c, old, filepath.Join(stateDir, "current"), next)
	for _, d := range c.once {
		if d.Names[0] == "main" {
			d.Src = strings.Replace(d.Src, "{", "{defer "+runtimeName+".Save();", 1)
		}
		text.decl(d)
	}
	name := "main"
	if c.hasMain {
		name = "init"
	}
	text.function(name, "defer "+runtimeName+".Save()", c.name, body)
	return text
}

func (c *cell) head(isWhole bool) *source {
	text := &source{}
	text.WriteString("package main\n")
	for _, spec := range c.state.Imports {
		fmt.Fprintf(text, "import %s %q\n", spec.Name, spec.Path)
	}
	if isWhole || c.hasHiddenTypes() {
		fmt.Fprintf(text, "import %s \"era/cellrt\"\n", runtimeName)
	}
	if isWhole {
		if c.state.usesImages() {
			text.WriteString("import _ \"era/display\"\n")
		}
	}
	for _, d := range c.state.Decls {
		text.decl(d)
	}
	return text
}

func (s *state) usesImages() bool {
	for _, spec := range s.Imports {
		if spec.Path == "image" || strings.HasPrefix(spec.Path, "image/") {
			return true
		}
	}
	return false
}

func (text *source) decl(d decl) {
	fmt.Fprintf(text, "//line %s:%d:1\n%s\n", d.File, d.Line, d.Src)
}

func (text *source) variables(c *cell, vars []variable) {
	text.WriteString("//line variables.go:1:1\n")
	for _, v := range vars {
		fmt.Fprintf(text, "var %s %s\n", v.Name, c.typeText(v.Type))
	}
}

// begin writes the function that loads the variables before anything of the user's runs.
func (text *source) begin(c *cell, old []variable, current, next string) {
	text.WriteString("func init() {\n")
	c.writeKnown(text)
	for _, name := range slices.Sorted(maps.Keys(c.rewritten.kept)) {
		fmt.Fprintf(text, "%s.Fresh(%q)\n", runtimeName, name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.state.lost)) {
		fmt.Fprintf(text, "%s.Lost(%q, %q)\n", runtimeName, name, c.state.lost[name])
	}
	fmt.Fprintf(text, "%s.Begin(%q, %q", runtimeName, current, next)
	for _, v := range c.state.Vars {
		if v.Literal == nil {
			fmt.Fprintf(text, ", %s.V{Name: %q, P: &%s}", runtimeName, v.Name, v.Name)
		}
	}
	text.WriteString(")\n")
	if len(old) > 0 {
		fmt.Fprintf(text, "%s.Load(%q", runtimeName, current)
		for _, v := range old {
			fmt.Fprintf(text, ", %s.V{Name: %q, P: &%s}", runtimeName, strings.TrimPrefix(v.Name, oldPrefix), v.Name)
		}
		text.WriteString(")\n")
	}
	for _, v := range c.state.Vars {
		if v.Literal != nil {
			fmt.Fprintf(text, "%s =\n//line %s:%d:1\n%s\n", v.Name, v.Literal.File, v.Literal.Line, v.Literal.Src)
		}
	}
	text.WriteString("}\n")
}

func (text *source) function(name, first, file string, body []byte) {
	fmt.Fprintf(text, "func %s() {\n%s\n//line %s:1:1\n", name, first, file)
	text.bodyStart = text.Len()
	text.Write(body)
	text.WriteString("\n}\n")
}

// withoutBody returns a function's declaration with a body that fits every signature.
func withoutBody(src string) string {
	file, err := parser.ParseFile(token.NewFileSet(), "", declHead+src, parser.SkipObjectResolution)
	if err != nil {
		return src
	}
	if function, ok := file.Decls[0].(*ast.FuncDecl); ok && function.Body != nil {
		return src[:offsetIn(function.Body.Pos())] + "{ for { } }"
	}
	return src
}
