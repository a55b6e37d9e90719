package caller

import "strings"

// blanks part the words of a script.
const blanks = " \t\n\v\f\r"

// maxDepth is how many strings within strings are followed; quotes can nest as deep as they are long.
const maxDepth = 4

// shellWord is one word of a script.
type shellWord struct {
	before string // blanks before it
	raw    string // as it stands there
	text   string // without its quotes
	quote  string // the one it begins with, "" if none
}

// shellWords splits s as a shell would, near enough to find what belongs together. Quotes that are
// not closed go on to the end. Blanks at the end come as a word without text.
func shellWords(s string) []shellWord {
	var words []shellWord
	for s != "" {
		before := blankLength(s)
		text, length := unquote(s[before:])
		w := shellWord{before: s[:before], raw: s[before : before+length], text: text}
		if w.raw != "" && strings.ContainsRune(`"'`, rune(w.raw[0])) {
			w.quote = w.raw[:1]
		}
		words = append(words, w)
		s = s[before+length:]
	}
	return words
}

// blankLength is the length of the blanks that s begins with; a line that goes on in the next counts.
func blankLength(s string) int {
	rest := s
	for {
		trimmed := strings.TrimLeft(rest, blanks)
		trimmed = strings.TrimPrefix(trimmed, "\\\n")
		if len(trimmed) == len(rest) {
			return len(s) - len(rest)
		}
		rest = trimmed
	}
}

// unquote takes the word that s begins with, and tells how long it stands in s.
func unquote(s string) (text string, length int) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			if s[i] != '\n' {
				b.WriteByte(s[i])
			}
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && strings.IndexByte(blanks, c) >= 0:
			return b.String(), i
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), len(s)
}
