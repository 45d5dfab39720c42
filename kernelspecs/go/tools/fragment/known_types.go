package fragment

import (
	"fmt"
	"go/types"
	"path/filepath"
	"slices"
	"strings"

	"era/tools/build"
)

// Lines of what interfaces may hold values of: `type NAME`, `error NAME`.
const (
	typeLine  = "type "
	errorLine = "error "
	knownFile = "_era_known.go" // as errors call the lines of the program that make them known
)

// writeKnown makes types and errors known, one a line, so that interfaces keep values of them.
func (c *cell) writeKnown(text *source) {
	fmt.Fprintf(text, "//line %s:1:1\n", knownFile)
	for _, line := range c.known {
		if name, ok := strings.CutPrefix(line, errorLine); ok {
			fmt.Fprintf(text, "%s.Error(%q, %s)\n", runtimeName, line, name)
		} else {
			name = strings.TrimPrefix(line, typeLine)
			fmt.Fprintf(text, "%s.Type[%s](%q)\n", runtimeName, c.typeText(name), line)
		}
	}
}

// refuseKnown takes out lines that do not hold any more; it reports whether there were any.
func (c *cell) refuseKnown(k *checker, found []types.Error) bool {
	count := len(c.refused)
	for _, e := range found {
		at := k.files.Position(e.Pos)
		if filepath.Base(at.Filename) == knownFile && at.Line <= len(c.known) {
			c.refused[c.known[at.Line-1]] = true
		}
	}
	c.known = slices.DeleteFunc(slices.Clone(c.known), func(line string) bool { return c.refused[line] })
	return len(c.refused) > count
}

// findKnown finds types and errors of which interfaces may hold values: the program's own, and those of
// its expressions. It reports whether it found new ones.
func (c *cell) findKnown(found *checked) bool {
	f := &knownFinder{cell: c, own: found.pkg, seen: map[types.Type]bool{}}
	scope := found.pkg.Scope()
	for _, name := range scope.Names() {
		if named, ok := scope.Lookup(name).(*types.TypeName); ok {
			f.add(named.Type())
		}
	}
	for _, one := range found.info.Types {
		if one.Type != nil && (one.IsValue() || one.IsType()) {
			f.add(one.Type)
		}
	}
	for _, pkg := range found.pkg.Imports() {
		f.addErrors(pkg)
	}
	slices.Sort(f.lines)
	c.known = append(c.known, f.lines...)
	return len(f.lines) > 0
}

type knownFinder struct {
	cell  *cell
	own   *types.Package
	seen  map[types.Type]bool
	lines []string
}

func (f *knownFinder) add(t types.Type) {
	t = types.Unalias(t)
	if f.seen[t] {
		return
	}
	f.seen[t] = true
	switch t := t.(type) {
	case *types.Named:
		isGeneric := t.TypeParams().Len() > 0 && t.TypeArgs().Len() == 0
		if pkg := t.Obj().Pkg(); pkg != nil && !isGeneric && f.isImportable(pkg) {
			f.line(t)
		}
	case *types.Map:
		f.add(t.Key())
		f.add(t.Elem())
	case *types.Tuple:
		for one := range t.Variables() {
			f.add(one.Type())
		}
	case *types.Struct:
		for field := range t.Fields() {
			f.add(field.Type())
		}
		f.line(t)
	case *types.Interface:
		f.line(t)
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		f.add(t.Elem())
	}
}

// isImportable reports whether programs may import a package.
func (f *knownFinder) isImportable(pkg *types.Package) bool {
	return pkg.Path() != "unsafe" && (f.cell.std.AnyArchive(pkg.Path()) == "" || !build.IsInternal(pkg.Path()))
}

func (f *knownFinder) line(t types.Type) {
	if set, ok := t.Underlying().(*types.Interface); ok && !set.IsMethodSet() || !isNameable(t, map[types.Type]bool{}) {
		return // a constraint is no type of values
	}
	name, _ := f.cell.nameOf(f.own, t)
	f.addLine(typeLine + name)
}

func (f *knownFinder) addLine(line string) {
	if !f.cell.refused[line] && !slices.Contains(f.cell.known, line) && !slices.Contains(f.lines, line) {
		f.lines = append(f.lines, line)
	}
}

// addErrors adds the errors that a package has as variables, as io.EOF.
func (f *knownFinder) addErrors(pkg *types.Package) {
	if !f.isImportable(pkg) {
		return
	}
	for _, name := range pkg.Scope().Names() {
		one, ok := pkg.Scope().Lookup(name).(*types.Var)
		if ok && one.Exported() && types.Identical(one.Type(), types.Universe.Lookup("error").Type()) {
			f.addLine(errorLine + f.cell.qualifier(f.own)(pkg) + "." + name)
		}
	}
}
