package client

import "strings"

// Bounds of what is read of a User-Agent, in bytes and products. Real ones have at most a few
// hundred bytes.
const (
	maxUserAgent = 1024
	maxProducts  = 32
	maxProduct   = 40 // of a product's name; longer ones are in no row
)

// named is what a User-Agent says of itself: the first row of each kind of product in it.
type named struct {
	program, sdk, http, under mention // under is the second SDK: the first is built on it
	strange                   *Row    // an SDK that does not go with the others
	product                   string  // the first product, in lower case, if it is one of Row.Also
}

// mention is a row with the version that a User-Agent gives for it.
type mention struct {
	row     *Row
	version string
}

// best is the one that a User-Agent names above all.
func (n *named) best() mention {
	for _, m := range [...]mention{n.program, n.sdk, n.http} {
		if m.row != nil {
			return m
		}
	}
	return mention{}
}

// readAgent finds the products of a User-Agent in the table. Comments, in brackets, are passed over.
func (x *index) readAgent(agent string) named {
	var n named
	if len(agent) > maxUserAgent {
		agent = agent[:maxUserAgent]
	}
	for products := 0; agent != "" && products < maxProducts; products++ {
		var token string
		token, agent = nextProduct(agent)
		name, version, _ := strings.Cut(token, "/")
		if name == "" || len(name) > maxProduct {
			continue
		}
		var buffer [maxProduct]byte
		lower := lowered(buffer[:0], name)
		if products == 0 && x.also[string(lower)] != nil {
			n.product = string(lower)
		}
		for _, p := range x.products[string(lower)] {
			if (p.Major == "" || p.Major == major(version)) && (!p.Bare || version == "") {
				if p.NoVersion {
					version = ""
				}
				n.note(mention{p.row, version})
				break
			}
		}
	}
	return n
}

// note keeps the first mention of each kind.
func (n *named) note(m mention) {
	switch m.row.Kind {
	case SDK:
		n.noteSDK(m)
	case HTTP:
		if n.http.row == nil {
			n.http = m
		}
	default:
		if n.program.row == nil {
			n.program = m
		}
	}
}

func (n *named) noteSDK(m mention) {
	switch {
	case n.sdk.row == nil:
		n.sdk = m
	case n.sdk.row == m.row:
	case n.sdk.row.isOn(m.row) && n.under.row == nil:
		n.under = m
	case m.row.isOn(n.sdk.row) && n.under.row == nil:
		n.sdk, n.under = m, n.sdk
	case n.strange == nil && n.under.row != m.row:
		n.strange = m.row
	}
}

// isOn tells whether r is built on the SDK of another row.
func (r *Row) isOn(sdk *Row) bool {
	for _, name := range r.On {
		if name == sdk.Name {
			return true
		}
	}
	return false
}

// nextProduct cuts the first product off a User-Agent, and what is in brackets before it.
func nextProduct(s string) (product, rest string) {
	s = strings.TrimLeft(s, " \t;,")
	for strings.HasPrefix(s, "(") {
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return "", ""
		}
		s = strings.TrimLeft(s[end+1:], " \t;,")
	}
	end := 0
	for end < len(s) && s[end] > ' ' && s[end] != ';' && s[end] != ',' && s[end] != '(' {
		end++
	}
	if end == 0 && s != "" {
		end = 1 // a control character
	}
	return s[:end], s[end:]
}

// lowered appends s to b in lower case, ASCII alone.
func lowered(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		b = append(b, c)
	}
	return b
}
