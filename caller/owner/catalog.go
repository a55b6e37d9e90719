package owner

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/imds-bridge/imds-bridge/caller"
)

// entity is what is wanted of one in a Backstage catalog: see its "Descriptor Format of Catalog Entities".
type entity struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name        string            `yaml:"name"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Spec struct {
		Owner any `yaml:"owner"` // text, of a Component
	} `yaml:"spec"`
}

func parseCatalog(text []byte) (*Mapping, error) {
	file, err := parser.Parse(tokens(text), 0)
	if err != nil {
		return nil, located(err)
	}
	m := &Mapping{}
	for _, document := range file.Docs {
		if document.Body == nil {
			continue
		}
		var e entity
		if err := yaml.NodeToValue(document.Body, &e); err != nil {
			return nil, located(err)
		}
		if err := m.addEntity(e); err != nil {
			return nil, fmt.Errorf("the document from line %d: %w", document.Body.GetToken().Position.Line, err)
		}
	}
	if m.Entries == 0 {
		return nil, errors.New("no entry: want documents of kind Component with metadata.name and spec.owner")
	}
	return m, nil
}

func (m *Mapping) addEntity(e entity) error {
	if e.Kind != "Component" {
		return nil
	}
	reference, isText := e.Spec.Owner.(string)
	if e.Spec.Owner != nil && !isText {
		return fmt.Errorf("spec.owner of Component %q must be text", e.Metadata.Name)
	}
	// The reference of an owner is [kind:][namespace/]name.
	who := strings.TrimSpace(reference[strings.LastIndexAny(reference, ":/")+1:])
	if who == "" {
		m.Ownerless++
		return nil
	}
	known := len(m.lines)
	for _, name := range []string{e.Metadata.Annotations["backstage.io/kubernetes-id"], e.Metadata.Name} {
		if name != "" {
			m.lines = append(m.lines, mapped{"service", escape(name), caller.Printable(who, maxName)})
		}
	}
	if len(m.lines) > known {
		m.Entries++
	}
	return nil
}

// located says in one line what the parser would show with the text around it.
func located(err error) error {
	var problem yaml.Error
	if errors.As(err, &problem) && problem.GetToken() != nil && problem.GetToken().Position != nil {
		return fmt.Errorf("line %d: %s", problem.GetToken().Position.Line, problem.GetMessage())
	}
	return err
}

// tokens leaves out empty documents: the parser takes one for the end of the file.
func tokens(text []byte) token.Tokens {
	all := slices.DeleteFunc(lexer.Tokenize(string(text)), func(t *token.Token) bool { return t.Type == token.CommentType })
	return slices.CompactFunc(all, func(a, b *token.Token) bool {
		return a.Type == token.DocumentHeaderType && b.Type == token.DocumentHeaderType
	})
}

// escape makes a name the pattern of itself alone.
func escape(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}
