package fragment

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"unicode"
)

const oldPrefix = "_era_old_" // of a variable whose type changes, with its value before

// edit replaces a part of the statements.
type edit struct {
	start, end int
	text       string
}

// findVariables finds what the fragment's statements declare, and with which types. Those variables
// become the package's; the statements are changed to assign to them.
func (c *cell) findVariables(k *checker) error {
	if err := c.nameImports(k); err != nil {
		return err
	}
	found, _, err := k.checkWithImports(c, c.outline)
	if err != nil {
		return err
	}
	hard := slices.DeleteFunc(slices.Clone(found.errors), func(e types.Error) bool {
		return e.Soft || isUnusedImport(e) || strings.HasSuffix(e.Msg, "is not used")
	})
	if len(hard) > 0 {
		return k.report(hard)
	}
	rewriter := &rewriter{cell: c, found: found, kept: map[string]bool{}, old: map[string]variable{}}
	rewriter.rewrite()
	c.rewritten = rewriter
	return nil
}

// nameImports finds the names of packages that are imported without one.
func (c *cell) nameImports(k *checker) error {
	var foreign []string
	for _, spec := range c.state.Imports {
		if spec.Path != "unsafe" && k.program.Std.Archive(spec.Path) == "" {
			foreign = append(foreign, spec.Path)
		}
	}
	if len(foreign) > 0 {
		var err error
		if k.archives, err = k.program.ListArchives(foreign); err != nil {
			return err
		}
	}
	for _, spec := range slices.Clone(c.state.Imports) {
		if spec.Name != "" {
			continue
		}
		pkg, err := k.importer.Import(spec.Path)
		if err != nil {
			return k.importError(c, spec.Path, err)
		}
		c.state.Imports = slices.DeleteFunc(c.state.Imports, func(i importSpec) bool { return i == spec })
		c.drop(map[string]bool{pkg.Name(): true})
		c.state.removeVariable(pkg.Name())
		c.state.addImport(pkg.Name(), spec.Path)
	}
	return nil
}

// rewriter changes statements at the top level of a fragment.
type rewriter struct {
	cell   *cell
	found  *checked
	kept   map[string]bool     // variables that the fragment declares and that are kept
	old    map[string]variable // those whose types change, as they were
	edits  []edit
	result []byte
}

func (r *rewriter) rewrite() {
	function := r.body()
	scope := r.found.info.Scopes[function.Type]
	redeclared := map[string]bool{}
	for identifier, object := range r.found.info.Defs {
		declared, ok := object.(*types.Var)
		if !ok || declared.Parent() != scope || !mayBePackages(identifier.Name) {
			continue
		}
		typeName, ok := r.cell.nameOf(r.found.pkg, declared.Type())
		if !ok {
			continue
		}
		if before := r.cell.state.variable(identifier.Name); before != nil && before.Type != typeName {
			r.old[identifier.Name] = *before
		}
		r.cell.state.setVariable(identifier.Name, typeName)
		r.kept[identifier.Name], redeclared[identifier.Name] = true, true
	}
	r.cell.drop(redeclared)
	r.cell.state.removeImports(redeclared)
	slices.SortFunc(r.cell.state.Vars, func(a, b variable) int { return cmp.Compare(a.Name, b.Name) })
	r.renameOld()
	for i, statement := range function.Body.List {
		switch s := statement.(type) {
		case *ast.AssignStmt:
			r.assignment(s)
		case *ast.DeclStmt:
			r.declaration(s)
		case *ast.ExprStmt:
			if i == len(function.Body.List)-1 {
				r.lastExpression(s)
			}
		}
	}
	r.forgetChangedLiterals(function.Body)
	r.apply()
}

// mayBePackages reports whether a variable of the package may have the name.
func mayBePackages(name string) bool { return name != "_" && name != "main" && name != "init" }

// body returns the function that holds the statements: the last one.
func (r *rewriter) body() *ast.FuncDecl {
	decls := r.found.file.Decls
	return decls[len(decls)-1].(*ast.FuncDecl)
}

// nameOf returns a type's name in source; false when it has none there. Packages have names there
// that no code uses.
func (c *cell) nameOf(own *types.Package, t types.Type) (string, bool) {
	ok := isNameable(t, map[types.Type]bool{})
	return plainOwn(types.TypeString(t, c.qualifier(own))), ok
}

// qualifier returns what generated code calls packages; they become imported by that name.
func (c *cell) qualifier(own *types.Package) types.Qualifier {
	return func(pkg *types.Package) string {
		if pkg == own {
			return ownName
		}
		base := runtimeName + "_" + strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) {
				return r
			}
			return '_'
		}, pkg.Path())
		name := base
		for number := 2; ; number++ {
			if path := c.state.importPath(name); path == "" || path == pkg.Path() {
				break
			}
			name = fmt.Sprintf("%s_%d", base, number)
		}
		c.state.addImport(name, pkg.Path())
		return name
	}
}

// isNameable reports whether a type can be written in a declaration of the package.
func isNameable(t types.Type, seen map[types.Type]bool) bool {
	if seen[t] {
		return true
	}
	seen[t] = true
	switch t := t.(type) {
	case *types.Basic:
		return t.Kind() != types.Invalid && t.Kind() != types.UntypedNil
	case *types.Named:
		for argument := range t.TypeArgs().Types() {
			if !isNameable(argument, seen) {
				return false
			}
		}
		return isNameableObject(t.Obj())
	case *types.Alias:
		return isNameableObject(t.Obj()) || isNameable(types.Unalias(t), seen)
	case *types.TypeParam, *types.Tuple:
		return false
	case *types.Map:
		return isNameable(t.Key(), seen) && isNameable(t.Elem(), seen)
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		return isNameable(t.Elem(), seen)
	case *types.Signature:
		for _, tuple := range []*types.Tuple{t.Params(), t.Results()} {
			for one := range tuple.Variables() {
				if !isNameable(one.Type(), seen) {
					return false
				}
			}
		}
	case *types.Struct:
		for field := range t.Fields() {
			if !isNameable(field.Type(), seen) {
				return false
			}
		}
	}
	return true
}

func isNameableObject(name *types.TypeName) bool {
	pkg := name.Pkg()
	if pkg == nil { // error, any, comparable
		return true
	}
	return name.Parent() == pkg.Scope() && (name.Exported() || pkg.Path() == "main")
}

// renameOld makes the fragment read the value that a variable had before its type changed.
func (r *rewriter) renameOld() {
	for identifier, object := range r.found.info.Uses {
		old, isChanged := r.old[identifier.Name]
		offset := r.found.offset(identifier.Pos())
		if isChanged && old.Literal == nil && object.Parent() == r.found.pkg.Scope() && offset >= 0 {
			r.replace(identifier.Pos(), identifier.End(), oldPrefix+identifier.Name)
		}
	}
}

func (r *rewriter) replace(start, end token.Pos, text string) {
	r.edits = append(r.edits, edit{r.found.offset(start), r.found.offset(end), text})
}

func (r *rewriter) assignment(s *ast.AssignStmt) {
	areKept := true
	for _, left := range s.Lhs {
		identifier, ok := left.(*ast.Ident)
		areKept = areKept && ok && (identifier.Name == "_" || r.cell.state.variable(identifier.Name) != nil)
	}
	if s.Tok == token.DEFINE && areKept {
		r.replace(s.TokPos, s.TokPos+2, " =")
	} else if s.Tok == token.DEFINE {
		r.useUnkept(s)
	}
	if len(s.Lhs) == len(s.Rhs) && (s.Tok == token.DEFINE || s.Tok == token.ASSIGN) {
		for i, left := range s.Lhs {
			if identifier, ok := left.(*ast.Ident); ok {
				r.literal(identifier, s.Rhs[i])
			}
		}
	}
}

// useUnkept uses the variables that stay the function's own: none counts as unused.
func (r *rewriter) useUnkept(s *ast.AssignStmt) {
	for _, left := range s.Lhs {
		if name, ok := left.(*ast.Ident); ok && name.Name != "_" && !r.kept[name.Name] {
			r.replace(s.End(), s.End(), "; _ = "+name.Name)
		}
	}
}

// literal remembers the source of a function that a variable holds.
func (r *rewriter) literal(name *ast.Ident, value ast.Expr) {
	known := r.cell.state.variable(name.Name)
	if known == nil {
		return
	}
	known.Literal = nil
	if _, isWritten := value.(*ast.FuncLit); isWritten || r.namesFunction(value) {
		start, end := r.found.offset(value.Pos()), r.found.offset(value.End())
		line := 1 + strings.Count(string(r.cell.body[:start]), "\n")
		known.Literal = &literal{string(r.cell.body[start:end]), r.cell.name, line}
	}
}

// namesFunction reports whether an expression is the name of a function, or of a type's method.
func (r *rewriter) namesFunction(value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.ParenExpr:
		return r.namesFunction(v.X)
	case *ast.IndexExpr:
		return r.namesFunction(v.X)
	case *ast.IndexListExpr:
		return r.namesFunction(v.X)
	case *ast.SelectorExpr:
		if selection := r.found.info.Selections[v]; selection != nil {
			return selection.Kind() == types.MethodExpr
		}
		return r.namesFunction(v.Sel)
	case *ast.Ident:
		_, isFunction := r.found.info.Uses[v].(*types.Func)
		return isFunction
	}
	return false
}

// declaration makes assignments of `var` at the top level.
func (r *rewriter) declaration(s *ast.DeclStmt) {
	group, ok := s.Decl.(*ast.GenDecl)
	if !ok || group.Tok != token.VAR {
		return
	}
	for i, spec := range group.Specs {
		spec := spec.(*ast.ValueSpec)
		start := spec.Pos()
		if i == 0 {
			start = group.Pos()
		}
		if !r.areKept(spec) {
			if group.Lparen.IsValid() {
				r.replace(start, spec.Pos(), "var ")
			}
			continue
		}
		if len(spec.Values) == 0 {
			r.replace(start, spec.End(), r.zeros(spec))
			continue
		}
		r.replace(start, spec.Pos(), strings.Repeat(" ", int(spec.Pos()-start)))
		last := spec.Names[len(spec.Names)-1]
		r.replace(last.End(), spec.Values[0].Pos(), " = ")
		for i, name := range spec.Names {
			if len(spec.Values) == len(spec.Names) {
				r.literal(name, spec.Values[i])
			}
		}
	}
	if group.Rparen.IsValid() && len(group.Specs) > 0 {
		r.replace(group.Rparen, group.Rparen+1, " ")
	}
}

func (r *rewriter) areKept(spec *ast.ValueSpec) bool {
	return !slices.ContainsFunc(spec.Names, func(name *ast.Ident) bool {
		return name.Name != "_" && !r.kept[name.Name]
	})
}

func (r *rewriter) zeros(spec *ast.ValueSpec) (text string) {
	for _, name := range spec.Names {
		if name.Name != "_" {
			text += fmt.Sprintf("%s = %s.Zero[%s]();", name.Name, runtimeName, r.cell.typeText(r.cell.state.variable(name.Name).Type))
		}
	}
	return text
}

// lastExpression makes a result of the value of a bare expression at the end.
func (r *rewriter) lastExpression(s *ast.ExprStmt) {
	c := r.cell
	if !c.isLast || c.chunks[len(c.chunks)-1].isQuiet {
		return
	}
	value := r.found.info.Types[s.X]
	if _, isTuple := value.Type.(*types.Tuple); value.IsVoid() || value.IsType() || isTuple || value.Type == nil {
		return
	}
	begin := r.found.offset(s.Pos())
	line := 1 + strings.Count(string(c.body[:begin]), "\n")
	column := begin - strings.LastIndex(string(c.body[:begin]), "\n")
	r.replace(s.Pos(), s.Pos(), fmt.Sprintf("%s.Result(/*line %s:%d:%d*/", runtimeName, c.name, line, column))
	r.replace(s.End(), s.End(), ")")
}

// forgetChangedLiterals forgets the sources of variables that get other functions inside blocks.
func (r *rewriter) forgetChangedLiterals(body *ast.BlockStmt) {
	top := map[ast.Stmt]bool{}
	for _, statement := range body.List {
		top[statement] = true
	}
	ast.Inspect(body, func(node ast.Node) bool {
		if s, ok := node.(*ast.AssignStmt); ok && !top[s] && s.Tok == token.ASSIGN {
			for _, left := range s.Lhs {
				if identifier, ok := left.(*ast.Ident); ok {
					if known := r.cell.state.variable(identifier.Name); known != nil {
						known.Literal = nil
					}
				}
			}
		}
		return true
	})
}

func (r *rewriter) apply() {
	slices.SortStableFunc(r.edits, func(a, b edit) int { // what stands last first, insertions behind
		return cmp.Or(b.start-a.start, b.end-a.end)
	})
	text := string(r.cell.body)
	for _, one := range r.edits {
		text = text[:one.start] + one.text + text[one.end:]
	}
	r.result = []byte(text)
}

func (r *rewriter) oldVariables() (vars []variable) {
	for name, before := range r.old {
		if before.Literal == nil {
			vars = append(vars, variable{Name: oldPrefix + name, Type: before.Type})
		}
	}
	return vars
}
