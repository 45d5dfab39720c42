package fragment

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"strings"
)

// chunk is a piece of a fragment at its top level: a declaration or a statement.
type chunk struct {
	start, end int
	line       int
	keyword    token.Token // the first token
	isQuiet    bool        // a semicolon that somebody wrote ends it
}

// split cuts a fragment at the semicolons, written or not, that are in no brackets.
func split(source string) (chunks []chunk) {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(source))
	var tokens scanner.Scanner
	tokens.Init(file, []byte(source), func(token.Position, string) {}, 0)
	depth, isOpen := 0, false
	for {
		position, tok, text := tokens.Scan()
		offset := file.Offset(position)
		if tok == token.EOF || tok == token.SEMICOLON && depth <= 0 {
			if isOpen {
				last := &chunks[len(chunks)-1]
				last.end, last.isQuiet, isOpen = min(offset, len(source)), text == ";", false
			}
			if tok == token.EOF {
				return chunks
			}
			continue
		}
		if !isOpen {
			isOpen = true
			chunks = append(chunks, chunk{start: offset, line: file.Line(position), keyword: tok})
		}
		switch tok {
		case token.LPAREN, token.LBRACE, token.LBRACK:
			depth++
		case token.RPAREN, token.RBRACE, token.RBRACK:
			depth--
		}
	}
}

// strayBracket returns the first bracket that closes none, and where it stands; "" without one.
func strayBracket(source string) (token.Position, string) {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(source))
	var tokens scanner.Scanner
	tokens.Init(file, []byte(source), func(token.Position, string) {}, 0)
	var open []token.Token
	closing := map[token.Token]token.Token{
		token.RPAREN: token.LPAREN, token.RBRACE: token.LBRACE, token.RBRACK: token.LBRACK,
	}
	for {
		position, tok, _ := tokens.Scan()
		switch tok {
		case token.EOF:
			return token.Position{}, ""
		case token.LPAREN, token.LBRACE, token.LBRACK:
			open = append(open, tok)
		case token.RPAREN, token.RBRACE, token.RBRACK:
			if len(open) == 0 {
				return file.Position(position), tok.String()
			}
			if open[len(open)-1] != closing[tok] {
				return token.Position{}, "" // the parser words it
			}
			open = open[:len(open)-1]
		}
	}
}

// parseDecl parses a chunk that declares something other than variables; nil for statements.
func parseDecl(text string, keyword token.Token) (ast.Decl, error) {
	switch keyword {
	case token.IMPORT, token.FUNC, token.TYPE, token.CONST:
	default:
		return nil, nil
	}
	file, err := parser.ParseFile(token.NewFileSet(), "", declHead+text, parser.SkipObjectResolution)
	if err != nil {
		if keyword == token.FUNC { // a call of a literal, perhaps; else the statement tells what is wrong
			return nil, nil
		}
		return nil, err
	}
	if len(file.Decls) != 1 {
		return nil, nil
	}
	return file.Decls[0], nil
}

const declHead = "package p\n"

// offsetIn returns where a node of parseDecl's stands in the text of its chunk.
func offsetIn(position token.Pos) int { return int(position) - 1 - len(declHead) }

// declaredNames returns what a declaration names; a method's name has that of its type before it.
func declaredNames(d ast.Decl) (names []string) {
	if function, ok := d.(*ast.FuncDecl); ok {
		if function.Recv == nil || len(function.Recv.List) != 1 {
			return []string{function.Name.Name}
		}
		return []string{receiverName(function.Recv.List[0].Type) + "." + function.Name.Name}
	}
	for _, spec := range d.(*ast.GenDecl).Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			names = append(names, spec.Name.Name)
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

func receiverName(t ast.Expr) string {
	for {
		switch x := t.(type) {
		case *ast.ParenExpr:
			t = x.X
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// blankNames puts `_` in the places of names that a declaration of several must not declare any more.
func (d *decl) blankNames(names map[string]bool) {
	parsed, err := parser.ParseFile(token.NewFileSet(), "", declHead+d.Src, parser.SkipObjectResolution)
	if err != nil {
		return
	}
	src := d.Src
	var kept []string
	blank := func(name *ast.Ident) {
		if names[name.Name] {
			start := offsetIn(name.Pos())
			src = src[:start] + "_" + strings.Repeat(" ", len(name.Name)-1) + src[start+len(name.Name):]
		} else {
			kept = append(kept, name.Name)
		}
	}
	for _, spec := range parsed.Decls[0].(*ast.GenDecl).Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			blank(spec.Name)
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				blank(name)
			}
		}
	}
	d.Src, d.Names = src, kept
}
