package telemetry

import (
	"slices"
	"strings"
)

const mask = "[redacted]"

// secretNames are those of headers and fields whose value is a secret whatever it looks like.
var secretNames = []struct {
	name string
	stop uint8 // class of the bytes that end the value
}{
	{"x-aws-ec2-metadata-token", valueEnd},
	{"x-amz-security-token", valueEnd},
	{"authorization", lineEnd}, // has a scheme before the secret, and spaces between
	{"secretaccesskey", valueEnd},
	{"secret_access_key", valueEnd},
	{"session_token", valueEnd},
}

// Redact masks what looks like a secret of AWS or HTTP: metadata session tokens, access key ids,
// session tokens, JSON web tokens, and the values of secretNames. It returns s itself, without
// allocating, if there is nothing to mask, and takes time linear in the length of s.
func Redact(s string) string {
	var b strings.Builder
	copied := 0
	for i := 0; i+1 < len(s); {
		from, to := 0, 0
		if first[s[i]]&second[s[i+1]] != 0 {
			from, to = secretAt(s, i)
		}
		if to == 0 {
			i++
			continue
		}
		b.WriteString(s[copied:from])
		b.WriteString(mask)
		copied, i = to, to
	}
	if copied == 0 {
		return s
	}
	b.WriteString(s[copied:])
	return b.String()
}

// secretAt returns the bounds of the secret whose mark, a prefix or a name, begins at i; to is 0 if
// none does.
func secretAt(s string, i int) (from, to int) {
	if n := max(awsSecret(s[i:]), webToken(s, i)); n > 0 {
		return i, i + n
	}
	return namedSecret(s, i)
}

// awsSecret returns the length of the secret that s begins with, or 0. A metadata token has 56
// bytes; one cut short by a length limit is masked as well.
func awsSecret(s string) int {
	switch {
	case strings.HasPrefix(s, "AQAEA"), strings.HasPrefix(s, "AQAAA"):
		if n := run(s, base64); n >= 20 {
			return n
		}
	case strings.HasPrefix(s, "AKIA"), strings.HasPrefix(s, "ASIA"):
		if n := run(s, upperDigit); n >= 20 {
			return n
		}
	case strings.HasPrefix(s, "IQoJb3JpZ2lu"), strings.HasPrefix(s, "FwoGZXIvYXdz"):
		return run(s, base64)
	}
	return 0
}

// webToken returns the length of the JSON web token that begins at i, or 0: base64url of an object,
// a dot, and more of that. It must not begin inside a longer run, or "eyJeyJeyJ…" would cost the
// square of its length.
func webToken(s string, i int) int {
	if !strings.HasPrefix(s[i:], "eyJ") || i > 0 && class[s[i-1]]&base64URL != 0 {
		return 0
	}
	n := run(s[i:], base64URL)
	if n < 10 || i+n == len(s) || s[i+n] != '.' {
		return 0
	}
	for i+n < len(s) && s[i+n] == '.' {
		n += 1 + run(s[i+n+1:], base64URL)
	}
	return n
}

// namedSecret finds "name: value", "name=value" and the like, quoted or not.
func namedSecret(s string, i int) (from, to int) {
	for _, n := range secretNames {
		end := i + len(n.name)
		if end >= len(s) || s[i]|0x20 != n.name[0] || !strings.EqualFold(s[i:end], n.name) {
			continue
		}
		gap := run(s[end:], separator)
		if !strings.ContainsAny(s[end:end+gap], ":=") {
			continue
		}
		from = end + gap
		for to = from; to < len(s) && class[s[to]]&n.stop == 0; to++ {
		}
		if to > from {
			return from, to
		}
	}
	return 0, 0
}

// secretName reports whether a key ends in one of secretNames, as in http.request.header.authorization.
func secretName(key string) bool {
	for _, n := range secretNames {
		at := len(key) - len(n.name)
		if at >= 0 && strings.EqualFold(key[at:], n.name) {
			return true
		}
	}
	return false
}

// redactStrings returns list itself if there is nothing to mask.
func redactStrings(list []string) ([]string, bool) {
	changed := false
	for i, s := range list {
		masked := Redact(s)
		if masked != s && !changed {
			list, changed = slices.Clone(list), true
		}
		if masked != s {
			list[i] = masked
		}
	}
	return list, changed
}

// first and second tell in one step whether two bytes may begin a mark: they share a bit then.
var first, second = func() (first, second [256]uint16) {
	bit := uint16(1)
	for _, pair := range []string{"AQ", "AK", "AS", "IQ", "Fw", "ey"} {
		first[pair[0]] |= bit
		second[pair[1]] |= bit
		bit <<= 1
	}
	for _, n := range secretNames {
		for _, name := range []string{n.name, strings.ToUpper(n.name)} {
			first[name[0]] |= bit
			second[name[1]] |= bit
		}
		bit <<= 1
	}
	return first, second
}()

// Classes of bytes.
const (
	base64     uint8 = 1 << iota // of the standard alphabet and of that for URLs, padding included
	base64URL                    // of the alphabet for URLs alone
	upperDigit                   // of access key ids
	separator                    // between a name and its value
	valueEnd                     // behind a value of one word
	lineEnd                      // behind a value with spaces
)

var class = func() (class [256]uint8) {
	const alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for c, bytes := range map[uint8]string{
		base64:     alphanumeric + "-_+/=",
		base64URL:  alphanumeric + "-_",
		upperDigit: "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
		separator:  " \t:=\"'\\",
		valueEnd:   " \t\r\n\"'\\,;&}",
		lineEnd:    "\r\n\"'\\",
	} {
		for _, b := range []byte(bytes) {
			class[b] |= c
		}
	}
	return class
}()

// run returns how many bytes at the start of s are of a class.
func run(s string, of uint8) int {
	for i := 0; i < len(s); i++ {
		if class[s[i]]&of == 0 {
			return i
		}
	}
	return len(s)
}
