package simulator

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/imds-bridge/imds-bridge/imds"
)

// BuiltInYAML is the tree served when no other is given, and the example to start an own one from.
//
//go:embed tree.yaml
var BuiltInYAML []byte

// topLevel is what may stand below /latest.
var topLevel = []string{"dynamic", "meta-data", "user-data"}

var builtIn = sync.OnceValues(func() (*Tree, error) { return ParseTree(BuiltInYAML) })

// BuiltInTree returns the tree of [BuiltInYAML].
func BuiltInTree() (*Tree, error) { return builtIn() }

// ReadTree returns the tree in a file; see [ParseTree].
func ReadTree(path string) (*Tree, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read tree: %w", err)
	}
	tree, err := ParseTree(data)
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", path, err)
	}
	return tree, nil
}

// ParseTree returns the tree that a YAML document describes, in the form that [BuiltInYAML] explains.
// It replaces the built-in tree whole. Errors name the line.
func ParseTree(data []byte) (*Tree, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, fmt.Errorf("parse YAML: %w", err)
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, fmt.Errorf("want one YAML document with some of %s", strings.Join(topLevel, ", "))
	}
	t := &Tree{}
	root, err := t.build(nil, file.Docs[0].Body)
	if err != nil {
		return nil, err
	}
	if !root.directory() {
		return nil, fmt.Errorf("want a mapping with some of %s", strings.Join(topLevel, ", "))
	}
	t.root = root
	return t, nil
}

func (t *Tree) build(path []string, value ast.Node) (*node, error) {
	if mapping, ok := value.(ast.MapNode); ok {
		return t.buildDirectory(path, mapping)
	}
	leaf := &node{}
	if len(path) > 0 {
		leaf.listed = path[len(path)-1]
	}
	if _, ok := value.(*ast.NullNode); ok {
		leaf.content = t.generated(path)
		if leaf.content == nil {
			return nil, at(value, "%s has no value, and none can be generated for it", strings.Join(path, "/"))
		}
		return leaf, nil
	}
	content, err := leafBytes(value)
	if err != nil {
		return nil, err
	}
	if len(path) == 1 && path[0] == "user-data" {
		leaf.userData = true
		if len(content) > imds.MaxUserData {
			return nil, at(value, "user-data has %d bytes, more than the %d that EC2 takes", len(content), imds.MaxUserData)
		}
	}
	leaf.content = func(time.Time) []byte { return content }
	return leaf, nil
}

func (t *Tree) buildDirectory(path []string, mapping ast.MapNode) (*node, error) {
	dir := &node{children: map[string]*node{}}
	for entries := mapping.MapRange(); entries.Next(); {
		key := entries.Key().GetToken().Value
		if err := checkKey(path, entries.Key(), key); err != nil {
			return nil, err
		}
		name, listed := key, key
		if strings.Join(path, "/") == "meta-data/public-keys" {
			// Public keys are listed as "0=name" and served below "0/".
			name, _, _ = strings.Cut(key, "=")
		}
		child, err := t.build(append(slices.Clone(path), name), entries.Value())
		if err != nil {
			return nil, err
		}
		if child.directory() && len(path) > 0 && name == key {
			listed += "/"
		}
		child.listed = listed
		child.tags = name == "tags" && strings.Join(path, "/") == "meta-data"
		dir.children[name] = child
	}
	return dir, nil
}

func checkKey(path []string, key ast.Node, name string) error {
	if len(path) == 0 && !slices.Contains(topLevel, name) {
		return at(key, "unknown top-level key %q: want one of %s", name, strings.Join(topLevel, ", "))
	}
	if name == "" || strings.Contains(name, "/") {
		return at(key, "%q cannot name a part of a path", name)
	}
	return nil
}

// leafBytes is a leaf's content as written: a number keeps its digits, a list has a line for each item.
func leafBytes(value ast.Node) ([]byte, error) {
	switch value := value.(type) {
	case *ast.StringNode:
		return []byte(value.Value), nil
	case *ast.LiteralNode:
		return []byte(value.Value.Value), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return []byte(value.GetToken().Value), nil
	case *ast.SequenceNode:
		return listBytes(value)
	case *ast.TagNode:
		return taggedBytes(value)
	default:
		return nil, at(value, "%s cannot be served: want text, a number, a list or !!binary", value.Type())
	}
}

func listBytes(list *ast.SequenceNode) ([]byte, error) {
	var lines []string
	for _, item := range list.Values {
		line, err := leafBytes(item)
		if err != nil {
			return nil, err
		}
		lines = append(lines, string(line))
	}
	return []byte(strings.Join(lines, "\n")), nil
}

func taggedBytes(tag *ast.TagNode) ([]byte, error) {
	text, err := leafBytes(tag.Value)
	if err != nil {
		return nil, err
	}
	switch name := tag.Start.Value; name {
	case "!!str":
		return text, nil
	case "!!binary":
		content, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			return nil, at(tag, "decode !!binary: %s", err)
		}
		return content, nil
	default:
		return nil, at(tag, "unknown tag %s: want !!binary or !!str", name)
	}
}

// at is an error that starts with the line of n.
func at(n ast.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", n.GetToken().Position.Line, fmt.Sprintf(format, args...))
}
