package fragment

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os"
	"strings"
)

// noteLost tells of variables that the fragment reads and that have lost their values. Those that it
// gives new ones count as lost no more.
func (c *cell) noteLost(found *checked) {
	reader := &variableReader{
		found: found, bodies: map[types.Object]ast.Node{}, lost: c.state.lost,
		fresh: map[string]bool{}, told: map[string]bool{},
	}
	for _, one := range found.file.Decls {
		if function, ok := one.(*ast.FuncDecl); ok && function.Body != nil {
			reader.bodies[found.info.Defs[function.Name]] = function.Body
		}
	}
	body := found.file.Decls[len(found.file.Decls)-1].(*ast.FuncDecl).Body
	for _, statement := range body.List {
		reader.read(statement)
		if s, ok := statement.(*ast.AssignStmt); ok {
			for _, left := range s.Lhs {
				if name, ok := left.(*ast.Ident); ok {
					reader.fresh[name.Name] = true
				}
			}
		}
	}
	for _, one := range found.file.Decls {
		function, ok := one.(*ast.FuncDecl)
		if ok && c.hasMain && function.Name.Name == "main" {
			reader.read(function.Body)
		}
	}
	for name := range reader.fresh {
		delete(c.state.lost, name)
	}
	for name := range c.rewritten.kept {
		delete(c.state.lost, name)
	}
}

// variableReader finds the variables that statements read, also by the functions that they name.
type variableReader struct {
	found  *checked
	bodies map[types.Object]ast.Node // of functions; those that were looked at are gone
	fresh  map[string]bool           // variables with new values
	lost   map[string]string
	told   map[string]bool
}

func (r *variableReader) read(node ast.Node) {
	ast.Inspect(node, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.AssignStmt:
			if n.Tok == token.ASSIGN {
				r.assignment(n)
				return false
			}
		case *ast.Ident:
			r.name(n)
		}
		return true
	})
}

// assignment reads all of an assignment but variables that it only sets.
func (r *variableReader) assignment(s *ast.AssignStmt) {
	for _, right := range s.Rhs {
		r.read(right)
	}
	for _, left := range s.Lhs {
		if _, isName := left.(*ast.Ident); !isName {
			r.read(left)
		}
	}
}

func (r *variableReader) name(name *ast.Ident) {
	switch object := r.found.info.Uses[name].(type) {
	case *types.Var:
		variable := strings.TrimPrefix(object.Name(), oldPrefix)
		reason, isLost := r.lost[variable]
		if isLost && object.Parent() == r.found.pkg.Scope() && !r.fresh[variable] && !r.told[variable] {
			r.told[variable] = true
			fmt.Fprintf(os.Stderr, "note: %s has lost its value: %s\n", variable, reason)
		}
	case *types.Func:
		if body := r.bodies[object.Origin()]; body != nil {
			delete(r.bodies, object.Origin())
			r.read(body)
		}
	}
}
