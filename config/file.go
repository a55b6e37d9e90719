package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// parse reads a file's content. It walks the syntax tree itself, since a decoder could give neither
// all problems at once nor the line of each.
func (l *loader) parse(name string, data []byte) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // as some editors write
	// The parser would stop at the first duplicate; the walk finds them all.
	file, err := parser.Parse(tokens(data), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		l.syntaxError(name, err)
		return
	}
	w := &walker{loader: l, file: name, seen: make(map[string]int), known: make(map[string]setting)}
	maps.Copy(w.known, l.settings)
	_, sections := settings(l.config)
	for _, s := range sections {
		w.sections = append(w.sections, s.path)
		w.known[s.path] = setting{}
	}
	documents := 0
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if documents++; documents > 1 {
			w.problem(d.Body, "begins a second document; only one is read")
			return
		}
		w.mapping(d.Body, "")
	}
}

// tokens leaves out empty documents: the parser takes one for the end of the file.
func tokens(data []byte) token.Tokens {
	all := slices.DeleteFunc(lexer.Tokenize(string(data)), func(t *token.Token) bool { return t.Type == token.CommentType })
	return slices.CompactFunc(all, func(a, b *token.Token) bool {
		return a.Type == token.DocumentHeaderType && b.Type == token.DocumentHeaderType
	})
}

func (l *loader) syntaxError(name string, err error) {
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) && syntax.GetToken() != nil && syntax.GetToken().Position != nil {
		l.problem(line(name, syntax.GetToken().Position.Line), "%s", syntax.GetMessage())
		return
	}
	l.problem(name, "%w", err)
}

func line(file string, n int) string { return fmt.Sprintf("%s line %d", file, n) }

type walker struct {
	*loader
	file     string
	sections []string
	known    map[string]setting // and sections
	seen     map[string]int     // line by path
}

func (w *walker) source(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return line(w.file, t.Position.Line)
	}
	return w.file
}

func (w *walker) problem(n ast.Node, format string, args ...any) {
	w.loader.problem(w.source(n), format, args...)
}

// mapping reads the keys of the section that prefix, empty or ending in a dot, stands for.
func (w *walker) mapping(n ast.Node, prefix string) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, entry := range n.Values {
			w.entry(entry, prefix)
		}
	case *ast.MappingValueNode:
		w.entry(n, prefix)
	case *ast.NullNode, *ast.CommentGroupNode: // everything in it is commented out
	default:
		w.problem(n, "must be a list of keys with values, like \"mode: upgrade\"")
	}
}

func (w *walker) entry(n *ast.MappingValueNode, prefix string) {
	// A key with dots is as good as nested ones, so the names in the documentation can be used as
	// they stand.
	path := prefix + keyText(n.Key)
	if first, ok := w.seen[path]; ok {
		w.problem(n.Key, "key %q stands on line %d already", path, first)
		return
	}
	if slices.Contains(w.sections, path) {
		// Sections may be spread over several places: "limits.callers: 1" and "limits:".
		w.mapping(n.Value, path+".")
		return
	}
	if t := n.Key.GetToken(); t != nil && t.Position != nil {
		w.seen[path] = t.Position.Line
	}
	s, ok := w.settings[path]
	if !ok {
		w.problem(n.Key, "unknown key %q%s", path, didYouMean(path, w.known))
		return
	}
	if text, ok := scalarText(n.Value); ok {
		w.set(s, text, w.source(n.Key))
		return
	}
	w.problem(n.Key, "%s takes one value (for none, write \"\")", path)
}

func keyText(key ast.MapKeyNode) string {
	if s, ok := key.(*ast.StringNode); ok {
		return s.Value
	}
	return strings.TrimSpace(key.String())
}

// scalarText returns a single value as it is written, less the quotes; "8254" and 8254 are the same.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	default:
		return "", false
	}
}
