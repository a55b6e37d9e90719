package imds

import (
	"errors"
	"net/url"
	"strings"
)

// ErrPath is returned for a request target that has no canonical path.
var ErrPath = errors.New("request target has no canonical path")

// Canonical gives the one path that stands for all spellings of a request target that the
// service takes for the same: percent escapes decoded once, slashes that repeat or trail taken
// out, the query left out. Policy is decided on it; what is forwarded is the target as it came.
//
// It refuses what the service might read in more than one way: dot segments, control
// characters, backslashes, broken escapes, bare "#" and ";", and targets that are not a path.
func Canonical(target string) (string, error) {
	path, _, _ := strings.Cut(target, "?")
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "#;") {
		return "", ErrPath
	}
	if strings.Contains(path, "%") {
		decoded, err := url.PathUnescape(path)
		if err != nil {
			return "", ErrPath
		}
		path = decoded
	}
	for _, c := range []byte(path) {
		if c < 0x20 || c == 0x7f || c == '\\' {
			return "", ErrPath
		}
	}
	if isCanonical(path) {
		return path, nil
	}
	return clean(path)
}

// isCanonical spares most paths the work of clean.
func isCanonical(path string) bool {
	return path == "/" ||
		!strings.HasSuffix(path, "/") && !strings.Contains(path, "//") && !strings.Contains(path, "/.")
}

func clean(path string) (string, error) {
	var b strings.Builder
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "":
			continue
		case ".", "..":
			return "", ErrPath
		}
		b.WriteByte('/')
		b.WriteString(segment)
	}
	if b.Len() == 0 {
		return "/", nil
	}
	return b.String(), nil
}
