package fragment

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"era/tools/build"
)

const (
	maxErrors = 10 // that are told at once, as by the compiler
)

// checker type-checks programs; packages are read once.
type checker struct {
	program  *build.Program
	files    *token.FileSet
	importer types.Importer
	archives map[string]string // of packages that are not in the standard library
}

func newChecker(program *build.Program) *checker {
	k := &checker{program: program, files: token.NewFileSet(), archives: map[string]string{}}
	k.importer = importer.ForCompiler(k.files, "gc", func(path string) (io.ReadCloser, error) {
		file := program.Std.AnyArchive(path)
		if found := k.archives[path]; found != "" {
			file = found
		}
		if file == "" {
			return nil, fmt.Errorf("package %s is not in std", path)
		}
		return os.Open(file)
	})
	return k
}

// checked is what the type checker knows of a program.
type checked struct {
	file   *ast.File
	info   *types.Info
	pkg    *types.Package
	errors []types.Error
	start  int // of the statements, in the token file
	base   int
}

func (k *checker) check(text *source, c *cell) (*checked, error) {
	file, err := parser.ParseFile(k.files, "program.go", text.String(), parser.SkipObjectResolution)
	if err != nil {
		return nil, syntaxErrors(err, c)
	}
	found := &checked{file: file, start: text.bodyStart, base: k.files.File(file.Pos()).Base()}
	found.info = &types.Info{
		Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Types: map[ast.Expr]types.TypeAndValue{}, Scopes: map[ast.Node]*types.Scope{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	config := types.Config{Importer: k.importer, Error: func(err error) {
		var one types.Error
		if errors.As(err, &one) {
			found.errors = append(found.errors, one)
		}
	}}
	found.pkg, _ = config.Check("main", k.files, []*ast.File{file}, found.info)
	return found, nil
}

// offset returns where a position is in the fragment's statements.
func (f *checked) offset(position token.Pos) int { return int(position) - f.base - f.start }

// checkWithImports checks a program, adds packages that names stand for and leaves out those that
// are imported and not used. It returns the errors that are left.
func (k *checker) checkWithImports(c *cell, text func() *source) (*checked, *source, error) {
	for {
		made := text()
		found, err := k.check(made, c)
		if err != nil {
			return nil, nil, err
		}
		isChanged := false
		found.errors = slices.DeleteFunc(found.errors, func(e types.Error) bool {
			if name, ok := strings.CutPrefix(e.Msg, "undefined: "); ok && c.state.importPath(name) == "" {
				if path := packageOf(k.program.Std, name); path != "" && found.selects(e.Pos) {
					c.state.addImport(name, path)
					isChanged = true
					return true
				}
			}
			return false
		})
		if !isChanged {
			return found, made, nil
		}
	}
}

// selects reports whether the name at a position has a selector behind it.
func (f *checked) selects(position token.Pos) (isSelector bool) {
	ast.Inspect(f.file, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok && selector.X.Pos() == position {
			_, isSelector = selector.X.(*ast.Ident)
		}
		return !isSelector
	})
	return isSelector
}

func isUnusedImport(e types.Error) bool {
	return strings.Contains(e.Msg, "imported and not used") ||
		strings.Contains(e.Msg, "imported as") && strings.Contains(e.Msg, "and not used")
}

// report makes an error of those of the type checker, in the compiler's form.
func (k *checker) report(found []types.Error) error {
	type told struct {
		line int
		text string
	}
	var lines []told
	for _, e := range found {
		at := k.files.Position(e.Pos)
		line := fmt.Sprintf("./%s:%d:%d: %s\n", filepath.Base(at.Filename), at.Line, at.Column, strings.Replace(e.Msg, " in argument to "+runtimeName+".Result", "", 1))
		lines = append(lines, told{at.Line, line})
	}
	slices.SortStableFunc(lines, func(a, b told) int { return a.line - b.line })
	text := ""
	for i, one := range lines {
		if i == maxErrors {
			text += "too many errors\n"
			break
		}
		text += one.text
	}
	return &build.Error{Text: text}
}

// syntaxErrors makes an error of those of the parser. What is wrong behind the fragment's end is told
// at its end.
func syntaxErrors(err error, c *cell) error {
	var list scanner.ErrorList
	if !errors.As(err, &list) {
		return err
	}
	lines := strings.Split(strings.TrimRight(c.source, "\n"), "\n")
	text := ""
	for i, e := range list {
		if i == maxErrors {
			text += "too many errors\n"
			break
		}
		at, message := e.Pos, e.Msg
		if filepath.Base(at.Filename) == c.name && at.Line > len(lines) {
			at.Line, at.Column = len(lines), len(lines[len(lines)-1])+1
			message = "unexpected end of the code"
		}
		text += fmt.Sprintf("./%s:%d:%d: syntax error: %s\n", filepath.Base(at.Filename), at.Line, at.Column, message)
	}
	return &build.Error{Text: text}
}
