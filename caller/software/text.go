package software

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxName = 128 // bytes of a name or version; no registry allows longer ones that matter here
	maxPath = 512
)

// word is s if it can be the name or the version of something, and "" if not. What is no word was
// made to look like one, and is not shown in another shape.
func word(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return strings.Clone(s)
}

// title is s as a line of text: a jar's title can have blanks, and letters of any script.
func title(s string) string { return shown(strings.TrimSpace(s), maxName) }

// shown is s with what does not print replaced, in at most limit bytes.
func shown(s string, limit int) string {
	if len(s) > limit {
		end := limit - len("…")
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + "…"
	}
	return strings.Clone(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?' // shorter than U+FFFD, so that the limit holds
		}
		return r
	}, s))
}
