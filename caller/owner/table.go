package owner

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/imds-bridge/imds-bridge/caller"
)

// columns are those of a table, as its header may name them.
var columns = []string{"fact", "pattern", "owner"}

// parseTable reads lines of fact,pattern,owner.
func parseTable(text []byte) (*Mapping, error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.FieldsPerRecord, r.Comment, r.TrimLeadingSpace = -1, '#', true
	m := &Mapping{}
	for {
		line, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		at, _ := r.FieldPos(0)
		for i, field := range line {
			line[i] = strings.TrimSpace(field)
		}
		if m.Entries == 0 && strings.EqualFold(line[0], columns[0]) {
			continue // the header
		}
		if err := checkLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", at, err)
		}
		m.lines = append(m.lines, mapped{line[0], line[1], caller.Printable(line[2], maxName)})
		m.Entries++
	}
	if m.Entries == 0 {
		return nil, fmt.Errorf("no entry: want lines of %s", strings.Join(columns, ","))
	}
	return m, nil
}

func checkLine(line []string) error {
	if len(line) != len(columns) {
		unit := "fields"
		if len(line) == 1 {
			unit = "field"
		}
		return fmt.Errorf("%d %s, want %d: %s", len(line), unit, len(columns), strings.Join(columns, ","))
	}
	if facts[line[0]] == nil {
		return fmt.Errorf("no fact %q: there are %s", line[0], strings.Join(slices.Sorted(maps.Keys(facts)), ", "))
	}
	if _, err := path.Match(line[1], ""); err != nil {
		return fmt.Errorf("pattern %q: %w", line[1], err)
	}
	if line[1] == "" || line[2] == "" {
		return errors.New("pattern or owner is empty")
	}
	return nil
}
