package client

import (
	"strings"

	"github.com/imds-bridge/imds-bridge/imds"
)

const (
	endpoint = "http://169.254.169.254"
	// tokenSeconds is enough for the one call that follows.
	tokenSeconds = "60"
	// wgetWithPUT is the first GNU wget that has --method.
	wgetWithPUT = "1.15"
	// maxCommandPath bounds the path in a command, in bytes before escaping. Real ones have 120 at most.
	maxCommandPath = 200
)

// curlCommands are the two for a path, to be pasted into a script.
func curlCommands(path string) []string {
	return []string{
		`TOKEN=$(curl -sX PUT -H "` + imds.HeaderTokenTTL + `: ` + tokenSeconds + `" ` + endpoint + imds.TokenPath + `)`,
		`curl -s -H "` + imds.HeaderToken + `: $TOKEN" ` + endpoint + urlPath(path),
	}
}

// wgetCommands are the same for GNU wget from wgetWithPUT on.
func wgetCommands(path string) []string {
	return []string{
		`TOKEN=$(wget -qO- --method=PUT --header="` + imds.HeaderTokenTTL + `: ` + tokenSeconds + `" ` + endpoint + imds.TokenPath + `)`,
		`wget -qO- --header="` + imds.HeaderToken + `: $TOKEN" ` + endpoint + urlPath(path),
	}
}

// urlPath writes a canonical path so that it stands in a URL and in a shell without quotes: the
// caller chose it, and somebody will paste it. A path that is not plausible becomes the root of the
// metadata.
func urlPath(path string) string {
	if path == "" || path[0] != '/' || len(path) > maxCommandPath {
		return "/latest/meta-data/"
	}
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		if isLetter(c) || isDigit(c) || strings.IndexByte("/-._:@+=,", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
