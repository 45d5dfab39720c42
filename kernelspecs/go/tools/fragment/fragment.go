// Package fragment makes whole programs of pieces of Go: of statements and declarations that go on
// from what earlier pieces have left.
//
// Declarations are kept as source. A variable of the top level becomes one of the package, with the
// type that the type checker finds; its value is saved at the program's end and loaded by the next.
package fragment

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"

	"era/tools/build"
)

// IsWhole reports whether source is a program of its own: whether it has a package clause.
func IsWhole(source []byte) bool {
	_, err := parser.ParseFile(token.NewFileSet(), "", source, parser.PackageClauseOnly)
	return err == nil
}

// Prepared is a fragment that has become a whole program.
type Prepared struct {
	state *state
	next  string
}

// Write writes what the program leaves beside its values, when it was built. What lies there counts
// once the program has saved its values, too.
func (p *Prepared) Write() error { return p.state.write(p.next) }

// cell is a fragment on its way to a program.
type cell struct {
	state     *state
	std       *build.Std
	name      string // of its file in errors
	source    string
	chunks    []chunk // statements
	decls     []decl  // that are new in it and kept
	once      []decl  // that are of this run only: main and init
	hasMain   bool
	isLast    bool            // whether the last of all chunks is a statement
	body      []byte          // the statements in their places, and blanks
	known     []string        // lines of what interfaces may hold values of
	refused   map[string]bool // lines that do not hold any more
	rewritten *rewriter
}

// Prepare makes the source of a program a whole one. Errors of its code are build.Errors.
func Prepare(program *build.Program, stateDir string) (*Prepared, error) {
	s, err := startState(stateDir)
	if err != nil {
		return nil, err
	}
	s.Number++
	next, err := s.next(stateDir)
	if err != nil {
		return nil, err
	}
	c := &cell{state: s, std: program.Std, name: program.Name, source: string(program.Source),
		known: s.known, refused: map[string]bool{}}
	if err := c.read(); err != nil {
		return nil, err
	}
	c.dropRedeclared()
	checker := newChecker(program)
	if err := c.findVariables(checker); err != nil {
		return nil, err
	}
	text, err := c.complete(checker, stateDir, next)
	if err != nil {
		return nil, err
	}
	s.Decls = append(s.Decls, c.decls...)
	program.Source, program.MayImportAll = []byte(text), true
	program.Archives = checker.archives
	return &Prepared{s, next}, nil
}

// read cuts the fragment into declarations, imports and statements, which keep their places.
func (c *cell) read() error {
	if at, bracket := strayBracket(c.source); bracket != "" {
		text := fmt.Sprintf("./%s:%d:%d: syntax error: unexpected %s\n", c.name, at.Line, at.Column, bracket)
		return &build.Error{Text: text}
	}
	c.body = []byte(blank(c.source))
	for _, one := range split(c.source) {
		text := c.source[one.start:one.end]
		parsed, err := parseDecl(text, one.keyword)
		if err != nil {
			return c.syntaxError(text, one, err)
		}
		c.isLast = parsed == nil
		switch d := parsed.(type) {
		case nil:
			c.chunks = append(c.chunks, one)
			copy(c.body[one.start:], text)
			if one.end < len(c.body) && c.body[one.end] != '\n' {
				c.body[one.end] = ';'
			}
			continue
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				c.readImports(d)
				continue
			}
		}
		kept := decl{declaredNames(parsed), text, c.name, one.line}
		if len(kept.Names) == 0 { // an empty group
			continue
		}
		if kept.Names[0] == "main" || kept.Names[0] == "init" {
			c.hasMain = c.hasMain || kept.Names[0] == "main"
			c.once = append(c.once, kept)
			continue
		}
		c.decls = append(c.decls, kept)
	}
	return nil
}

func (c *cell) readImports(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		spec := spec.(*ast.ImportSpec)
		path, _ := strconv.Unquote(spec.Path.Value)
		name := ""
		if spec.Name != nil {
			name = spec.Name.Name
			c.drop(map[string]bool{name: true})
			c.state.removeVariable(name)
		}
		c.state.addImport(name, path) // a package's own name is found by the type checker
	}
}

// blank returns a text of the same length and lines, with nothing else in it.
func blank(text string) string {
	blanked := []byte(text)
	for i, char := range blanked {
		if char != '\n' {
			blanked[i] = ' '
		}
	}
	return string(blanked)
}

func (c *cell) syntaxError(text string, one chunk, err error) error {
	line := fmt.Sprintf("//line %s:%d:1\n", c.name, one.line)
	_, err = parser.ParseFile(token.NewFileSet(), c.name, declHead+line+text, parser.SkipObjectResolution)
	return syntaxErrors(err, c)
}

// dropRedeclared removes from the state what the fragment declares anew.
func (c *cell) dropRedeclared() {
	fresh := map[string]bool{}
	for _, d := range c.decls {
		for _, name := range d.Names {
			fresh[name] = true
		}
	}
	c.drop(fresh)
	c.state.removeImports(fresh)
	for name := range fresh {
		c.state.removeVariable(name)
	}
}

func (c *cell) drop(names map[string]bool) {
	for i := range c.state.Decls {
		if d := &c.state.Decls[i]; len(d.Names) > 1 {
			d.blankNames(names)
		}
	}
	c.state.removeDecls(names)
}
