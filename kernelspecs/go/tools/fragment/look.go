package fragment

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	"era/tools/build"
)

var (
	nameAtEnd = regexp.MustCompile(`(?:[\pL_][\pL\pN_]*\.)*[\pL_]?[\pL\pN_]*$`)
	restOf    = regexp.MustCompile(`^[\pL\pN_]*`)
)

const maxMatches = 1000

// Looked is what can be said of names without running anything.
type Looked struct {
	state *state
	std   *build.Std
	k     *checker
	pkg   *types.Package
}

// Look type-checks what fragments have left.
func Look(program *build.Program, stateDir string) (*Looked, error) {
	s, err := readState(stateDir)
	if err != nil {
		return nil, err
	}
	c := &cell{state: s, std: program.Std, name: program.Name}
	k := newChecker(program)
	found, err := k.check(c.outline(), c)
	if err != nil {
		return nil, err
	}
	return &Looked{s, program.Std, k, found.pkg}, nil
}

// Complete returns what may stand at the cursor.
func (l *Looked) Complete(code string, at int) map[string]any {
	runes := []rune(code)
	before := nameAtEnd.FindString(string(runes[:min(at, len(runes))]))
	dot := strings.LastIndex(before, ".")
	prefix := before[dot+1:]
	var names []string
	if dot < 0 {
		names = l.topNames()
	} else {
		names = l.members(before[:dot])
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) })
	slices.Sort(names)
	names = slices.Compact(names)
	if names == nil {
		names = []string{}
	}
	return map[string]any{
		"status": "ok", "matches": names[:min(len(names), maxMatches)], "metadata": map[string]any{},
		"cursor_start": at - len([]rune(prefix)), "cursor_end": at,
	}
}

// Inspect returns what is known of the name at the cursor.
func (l *Looked) Inspect(code string, at int) map[string]any {
	runes := []rune(code)
	at = min(at, len(runes))
	name := nameAtEnd.FindString(string(runes[:at])) + restOf.FindString(string(runes[at:]))
	text := l.describe(strings.Trim(name, "."))
	data := map[string]any{}
	if text != "" {
		data["text/plain"] = text
	}
	return map[string]any{"status": "ok", "found": text != "", "data": data, "metadata": map[string]any{}}
}

func (l *Looked) topNames() []string {
	names := slices.Concat(types.Universe.Names(), l.pkg.Scope().Names())
	for _, spec := range l.state.Imports {
		names = append(names, spec.Name)
	}
	for _, one := range l.std.Paths() {
		names = append(names, path.Base(one))
	}
	for keyword := token.BREAK; keyword <= token.VAR; keyword++ {
		names = append(names, keyword.String())
	}
	return names
}

// packageNamed returns the package that code calls so, imported or of the standard library.
func (l *Looked) packageNamed(name string) *types.Package {
	if l.pkg.Scope().Lookup(name) != nil {
		return nil
	}
	importPath := l.state.importPath(name)
	if importPath == "" {
		importPath = packageOf(l.std, name)
	}
	if importPath == "" {
		return nil
	}
	pkg, err := l.k.importer.Import(importPath)
	if err != nil {
		return nil
	}
	return pkg
}

func (l *Looked) members(expression string) (names []string) {
	if pkg := l.packageNamed(expression); pkg != nil {
		for _, name := range pkg.Scope().Names() {
			if ast.IsExported(name) {
				names = append(names, name)
			}
		}
		return names
	}
	t := l.typeOf(expression)
	if t == nil {
		return nil
	}
	for _, one := range []types.Type{t, types.NewPointer(t)} {
		for method := range types.NewMethodSet(one).Methods() {
			names = append(names, method.Obj().Name())
		}
	}
	if pointer, ok := t.Underlying().(*types.Pointer); ok {
		t = pointer.Elem()
	}
	if structure, ok := t.Underlying().(*types.Struct); ok {
		for field := range structure.Fields() {
			names = append(names, field.Name())
		}
	}
	return names
}

func (l *Looked) typeOf(expression string) types.Type {
	parsed, err := parser.ParseExpr(expression)
	if err != nil {
		return nil
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	if types.CheckExpr(l.k.files, l.pkg, token.NoPos, parsed, info) != nil {
		return nil
	}
	return info.Types[parsed].Type
}

func (l *Looked) describe(name string) string {
	if name == "" {
		return ""
	}
	short := types.RelativeTo(l.pkg)
	first, rest, hasDot := strings.Cut(name, ".")
	if pkg := l.packageNamed(first); pkg != nil {
		if hasDot && pkg.Scope().Lookup(rest) == nil {
			return ""
		}
		question := strings.TrimSuffix(pkg.Path()+"."+rest, ".")
		if text, err := exec.Command("go", "doc", question).Output(); err == nil {
			return string(text)
		}
		if hasDot {
			return types.ObjectString(pkg.Scope().Lookup(rest), short)
		}
		return "package " + pkg.Path()
	}
	if _, object := l.pkg.Scope().LookupParent(name, token.NoPos); object != nil {
		for _, d := range l.state.Decls {
			if slices.Contains(d.Names, name) {
				return d.Src
			}
		}
		return types.ObjectString(object, short)
	}
	if t := l.typeOf(name); t != nil {
		return fmt.Sprintf("%s %s", name, types.TypeString(t, short))
	}
	return ""
}
