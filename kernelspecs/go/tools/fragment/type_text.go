package fragment

import (
	"go/ast"
	"go/parser"
	"go/types"
	"slices"
	"strings"
)

// ownName stands before a type of the program that has the name of a predeclared one.
const ownName = runtimeName + "_own"

// plainOwn removes ownName where no predeclared type has the name.
func plainOwn(text string) string {
	return replaceNames(text, func(pkg, name string) string {
		if pkg == ownName && types.Universe.Lookup(name) == nil {
			return name
		}
		return ""
	})
}

// typeText returns a type as code may say it where code has declared predeclared names itself.
func (c *cell) typeText(text string) string {
	return replaceNames(text, func(pkg, name string) string {
		switch {
		case pkg == ownName:
			return name
		case pkg == "" && types.Universe.Lookup(name) != nil && c.declares(name):
			return runtimeName + ".Predeclared_" + name
		}
		return ""
	})
}

// hasHiddenTypes reports whether a variable has a predeclared type whose name code has declared.
func (c *cell) hasHiddenTypes() bool {
	return slices.ContainsFunc(c.state.Vars, func(v variable) bool {
		return strings.Contains(c.typeText(v.Type), runtimeName+".")
	})
}

// declares reports whether code has declared a name at its top level.
func (c *cell) declares(name string) bool {
	if c.state.variable(name) != nil {
		return true
	}
	for _, decls := range [][]decl{c.state.Decls, c.decls} {
		for _, d := range decls {
			for _, one := range d.Names {
				if one == name {
					return true
				}
			}
		}
	}
	return false
}

// replaceNames replaces names of types; where it gets "", they stay.
func replaceNames(text string, replacement func(pkg, name string) string) string {
	parsed, err := parser.ParseExpr(text)
	if err != nil {
		return text
	}
	type found struct {
		start, end int
		text       string
	}
	var all []found
	add := func(node ast.Node, pkg, name string) {
		if with := replacement(pkg, name); with != "" {
			all = append(all, found{int(node.Pos()) - 1, int(node.End()) - 1, with})
		}
	}
	var visit func(node ast.Node) bool
	visit = func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok {
				add(n, pkg.Name, n.Sel.Name)
			}
			return false
		case *ast.Field:
			ast.Inspect(n.Type, visit) // its name is none of a type
			return false
		case *ast.Ident:
			add(n, "", n.Name)
		}
		return true
	}
	ast.Inspect(parsed, visit)
	var changed strings.Builder
	end := 0
	for _, one := range all {
		changed.WriteString(text[end:one.start] + one.text)
		end = one.end
	}
	return changed.String() + text[end:]
}
