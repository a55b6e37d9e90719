package caller

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
	"unique"
)

// cutMark ends text that was cut short.
const cutMark = "…"

// printable makes text of a process harmless to logs and terminals, in at most limit bytes: what is
// not UTF-8 becomes U+FFFD, and what does not print (control characters, line breaks, marks that
// turn the direction of text) is spelt out.
func printable(s string, limit int) string {
	if plain(s) {
		return clip(s, limit)
	}
	var b strings.Builder
	for _, r := range s {
		if b.Len() > limit {
			break
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRune(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return clip(b.String(), limit)
}

// Printable does the same for text that others write into what is told of callers.
func Printable(s string, limit int) string { return printable(s, limit) }

// shared is s where all who have the same text share it: there are many processes of one program.
func shared(s string) string { return unique.Make(s).Value() }

func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// clip cuts s to limit bytes, the mark of the cut included, and never through a rune.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := max(limit-len(cutMark), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.Clone(s[:end]) + cutMark
}
