package client

import (
	"cmp"
	"strings"
)

// Compare orders two versions as their first parts do that differ: -1, 0 or 1. It reads the numbers
// with dots between them: 1.13.25, 4.0.1.0, 1.8.0_202. An epoch before them (1:2.3), a "v", and what
// follows (22.1.9-0ubuntu1, 3.6-rc1) are left out. A part that is missing counts as 0.
//
// It is not semver's order and not dpkg's: the minimum of a client is a release, and a distribution's
// build of it, or a candidate, counts as that release.
func Compare(a, b string) int {
	a, b = numbers(a), numbers(b)
	for a != "" || b != "" {
		var x, y string
		x, a = number(a)
		y, b = number(b)
		if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
			return c
		}
	}
	return 0
}

// IsVersion tells whether Compare finds a number in s.
func IsVersion(s string) bool { return numbers(s) != "" }

// numbers is the part of a version that Compare reads.
func numbers(s string) string {
	if i := strings.IndexByte(s, ':'); i >= 0 && isDigits(s[:i]) {
		s = s[i+1:]
	}
	s = strings.TrimPrefix(s, "v")
	end := 0
	for end < len(s) && (isDigit(s[end]) || end > 0 && (s[end] == '.' || s[end] == '_')) {
		end++
	}
	return s[:end]
}

// number cuts the first number off, without leading zeros: its length then orders it.
func number(s string) (first, rest string) {
	end := strings.IndexAny(s, "._")
	if end < 0 {
		return strings.TrimLeft(s, "0"), ""
	}
	return strings.TrimLeft(s[:end], "0"), s[end+1:]
}

// series is the first two numbers of a version.
func series(s string) string {
	n := numbers(s)
	first, rest, _ := strings.Cut(n, ".")
	second, _, _ := strings.Cut(rest, ".")
	return first + "." + second
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// maxVersion is the longest version that is kept, in bytes.
const maxVersion = 32

// cleanVersion is s if it looks like a version, without a leading "v", else "". What is returned
// does not hold on to the text that s is a part of.
func cleanVersion(s string) string {
	s = strings.TrimPrefix(s, "v")
	if len(s) > maxVersion || !IsVersion(s) {
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if !isDigit(c) && !isLetter(c) && !strings.ContainsRune(".+~:_-", rune(c)) {
			return ""
		}
	}
	return strings.Clone(s)
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
