package fragment

import (
	"go/parser"
	"go/scanner"
	"go/token"
	"strings"
)

// IsComplete answers whether code can be run as it is.
func IsComplete(source []byte) map[string]any {
	depth, isOpen := openBrackets(source)
	if isOpen || depth > 0 {
		return map[string]any{"status": "incomplete", "indent": strings.Repeat("\t", max(depth, 0))}
	}
	text := string(source)
	if !IsWhole(source) {
		text = declHead
		statements := []byte(blank(string(source)))
		for _, one := range split(string(source)) {
			part := string(source)[one.start:one.end]
			if parsed, err := parseDecl(part, one.keyword); err != nil {
				return map[string]any{"status": "invalid"}
			} else if parsed == nil {
				copy(statements[one.start:], part)
				if one.end < len(statements) {
					statements[one.end] = '\n'
				}
			}
		}
		text += "func _() {\n" + string(statements) + "\n}"
	}
	if _, err := parser.ParseFile(token.NewFileSet(), "", text, parser.SkipObjectResolution); err != nil {
		return map[string]any{"status": "invalid"}
	}
	return map[string]any{"status": "complete"}
}

// openBrackets returns how many brackets are open at the end, and whether a text or comment is, or a
// line that goes on.
func openBrackets(source []byte) (depth int, isOpen bool) {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(source))
	var tokens scanner.Scanner
	tokens.Init(file, source, func(_ token.Position, message string) {
		isOpen = isOpen || message == "raw string literal not terminated" || message == "comment not terminated"
	}, 0)
	last := token.SEMICOLON
	for {
		_, tok, _ := tokens.Scan()
		switch tok {
		case token.EOF:
			return depth, isOpen || last.IsOperator() && last != token.SEMICOLON && last != token.INC && last != token.DEC &&
				last != token.RPAREN && last != token.RBRACE && last != token.RBRACK
		case token.LPAREN, token.LBRACE, token.LBRACK:
			depth++
		case token.RPAREN, token.RBRACE, token.RBRACK:
			depth--
		}
		last = tok
	}
}
