package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Leftovers are what became of rules that no bridge uses any longer.
type Leftovers struct {
	Removed []string // chains, each with its table and program
	// Kept are chains of ours that hold rules which no bridge made, or that such rules lead to. Ours
	// are gone from them.
	Kept []string
}

func (l *Leftovers) add(more Leftovers) {
	l.Removed = append(l.Removed, more.Removed...)
	l.Kept = append(l.Kept, more.Kept...)
}

// remove takes away our rules and chains of a table, the jumps first. It asks which chains are meant, and
// leaves what others made.
func (t *tool) remove(table string, meant func(chain string) bool) (l Leftovers, err error) {
	if !t.hasTable(table) {
		return l, nil
	}
	lines, err := t.dump(table)
	if err != nil {
		return l, err
	}
	chains := chainsOf(lines, meant)
	if len(chains) == 0 {
		return l, nil
	}
	var errs []error
	for _, jumps := range []bool{true, false} {
		for _, line := range lines {
			r := parseRule(line)
			mine := slices.Contains(chains, r.chain)
			if jumps && (mine || !slices.Contains(chains, r.after("-j"))) || !jumps && !mine || !r.ours() {
				continue
			}
			errs = append(errs, t.Delete(table, r.chain, r.spec...))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return l, explain(fmt.Errorf("remove rules of table %s: %w", table, err))
	}
	return t.removeChains(table, chains, lines)
}

// removeChains removes those chains that nothing but our rules was in, or led to.
func (t *tool) removeChains(table string, chains, lines []string) (l Leftovers, err error) {
	var errs []error
	for _, chain := range chains {
		where := fmt.Sprintf("%s -t %s: chain %s", t.path, table, chain)
		if foreign := foreignTo(chain, lines); len(foreign) > 0 {
			l.Kept = append(l.Kept, where+" (no bridge made: "+strings.Join(foreign, "; ")+")")
			continue
		}
		if err := t.DeleteChain(table, chain); err != nil {
			errs = append(errs, explain(fmt.Errorf("remove chain %s of table %s: %w", chain, table, err)))
			continue
		}
		l.Removed = append(l.Removed, where)
	}
	return l, errors.Join(errs...)
}

func chainsOf(lines []string, meant func(chain string) bool) (chains []string) {
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, "-N "); ok && isOurs(name) && meant(name) {
			chains = append(chains, name)
		}
	}
	return chains
}

// foreignTo are the rules in a chain, or leading to it, that no bridge made.
func foreignTo(chain string, lines []string) (foreign []string) {
	for _, line := range lines {
		r := parseRule(line)
		leads := r.after("-j") == chain || r.after("-g") == chain
		if (r.chain == chain || leads) && !r.ours() {
			foreign = append(foreign, r.String())
		}
	}
	return foreign
}
