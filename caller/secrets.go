package caller

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// secretParts make a name secret wherever they stand in it, case and separators aside.
var secretParts = []string{
	"password", "passwd", "passphrase", "passcode", "secret", "token", "credential", "authorization",
	"bearer", "cookie", "signature", "sessionid", "sessionkey",
	"apikey", "accesskey", "privatekey", "signingkey", "encryptionkey", "accountkey", "masterkey",
	"authkey", "licensekey", "sharedkey", "storagekey",
}

// secretEnds make a name secret at its end, secretWords as a word of their own.
var (
	secretEnds  = []string{"pass", "pwd", "passin", "passout"}
	secretWords = []string{"pw", "pat", "auth", "sid", "sig", "sas", "session", "jwt", "otp", "pin"}
)

// harmlessEnds are the last words of names that speak of a secret and do not hold it, as in
// --password-file and X-aws-ec2-metadata-token-ttl-seconds.
var harmlessEnds = []string{
	"file", "path", "dir", "directory", "stdin", "ttl", "seconds", "timeout", "expiry", "expires",
	"expiration", "name", "type", "url", "uri", "endpoint", "mode", "prompt", "length", "count", "limit",
}

// secretOptions are the one-letter options that take a secret, by program or subcommand.
var secretOptions = map[string]string{
	"curl": "b", "sshpass": "p", "login": "p", "redis-cli": "a", "http": "a", "https": "a",
	"mysql": "p", "mysqldump": "p", "mysqladmin": "p", "mariadb": "p", "mariadb-dump": "p",
	"ldapsearch": "w", "ldapmodify": "w", "zip": "P", "unzip": "P", "7z": "p", "7za": "p",
}

// authSchemes stand between an Authorization header's name and its secret.
var authSchemes = map[string]bool{
	"basic": true, "bearer": true, "digest": true, "negotiate": true, "token": true,
}

// maxNameRead is as much of a name as is looked at, from its end.
const maxNameRead = 128

// isSecretName tells whether an option, variable, header or parameter of that name holds a secret.
func isSecretName(name string) bool {
	name = strings.TrimLeft(name[max(0, len(name)-maxNameRead):], "-_.")
	words := nameWords(name)
	if len(words) == 0 || slices.Contains(harmlessEnds, words[len(words)-1]) {
		return false
	}
	joined := strings.Join(words, "")
	return slices.ContainsFunc(secretParts, func(part string) bool { return strings.Contains(joined, part) }) ||
		slices.ContainsFunc(secretEnds, func(end string) bool { return strings.HasSuffix(joined, end) }) ||
		slices.ContainsFunc(secretWords, func(word string) bool { return slices.Contains(words, word) })
}

// nameWords splits a name at separators and where its case changes: apiKey, X-Api-Key, API_KEY.
func nameWords(name string) []string {
	var words []string
	start, before := 0, rune(0)
	for i, r := range name {
		separator := !unicode.IsLetter(r) && !unicode.IsDigit(r)
		if separator || unicode.IsUpper(r) && unicode.IsLower(before) {
			words = appendWord(words, name[start:i])
			start = i
			if separator {
				start++
			}
		}
		before = r
	}
	return appendWord(words, name[min(start, len(name)):])
}

func appendWord(words []string, word string) []string {
	if word == "" {
		return words
	}
	return append(words, strings.ToLower(word))
}

// findSecret returns where the first telling name of an assignment (name=value, name: value) begins
// in s, and where its value does; 0, 0 if there is none.
func findSecret(s string) (name, value int) {
	for i := range len(s) {
		if s[i] != '=' && s[i] != ':' {
			continue
		}
		name, end := nameBefore(s, i)
		if s[i] == ':' && name > 0 && strings.IndexByte("/:@", s[name-1]) >= 0 {
			continue // of a URL or an ARN
		}
		if !isSecretName(s[name:end]) {
			continue
		}
		value := i + 1
		for value < len(s) && strings.IndexByte(" \t=:>\"'", s[value]) >= 0 {
			value++
		}
		return name, value
	}
	return 0, 0
}

// hideHeaders hides the values of name: value in a script up to the quote that ends them. It does not
// trust the quotes before, which are not a shell's in the script of another language.
func hideHeaders(s string) string {
	var b strings.Builder
	for {
		name, value := findSecret(s)
		if value == 0 {
			break
		}
		b.WriteString(s[:value])
		isHeader := strings.Contains(s[name:value], ":")
		s = s[value:]
		if isHeader {
			b.WriteString(hidden)
			s = s[quoteEnd(s):]
		}
	}
	b.WriteString(s)
	return b.String()
}

// quoteEnd is where the quoted text that s begins with ends, at the latest with its line.
func quoteEnd(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"', '\'', '\n':
			return i
		}
	}
	return len(s)
}

// nameBefore finds the name that comes before i, with no more than a quote and blanks between.
func nameBefore(s string, i int) (start, end int) {
	end = len(strings.TrimRight(strings.TrimRight(s[:i], " \t"), `"'\`))
	start = end
	for start > 0 && isNameByte(s[start-1]) {
		start--
	}
	return start, end
}

func isNameByte(c byte) bool {
	return c == '_' || c == '-' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isName(s string) bool {
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isLetters(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return (r|0x20) < 'a' || (r|0x20) > 'z' })
}

// isBlob tells whether a word has the length and the letters of a token.
func isBlob(w string) bool {
	const enough = 16
	digits := false
	for i := range len(w) {
		if !isNameByte(w[i]) && strings.IndexByte("+/=~%", w[i]) < 0 {
			return false
		}
		digits = digits || '0' <= w[i] && w[i] <= '9'
	}
	return len(w) >= enough && (digits || len(w) >= 2*enough)
}

// hasLoginOption tells whether an option up to its first colon is -u<user>, alone or behind other
// letters of curl's, or --user=<user>.
func hasLoginOption(before string) bool {
	if name, _, ok := strings.Cut(before, "="); ok {
		return name == "--user" || name == "--proxy-user"
	}
	u := strings.IndexAny(before, "uU")
	return u > 0 && u <= 5 && isLetters(before[1:u]) && !strings.ContainsAny(before, "./")
}

// hideLogins hides the passwords of user:password@host, with or without a scheme before it.
func hideLogins(w string) string {
	if !strings.Contains(w, "@") {
		return w
	}
	parts := strings.SplitAfter(w, "://")
	for i, part := range parts {
		parts[i] = hideLogin(part, i > 0)
	}
	return strings.Join(parts, "")
}

func hideLogin(s string, isURL bool) string {
	const likelyToken = 16
	end := len(s)
	if slash := strings.IndexAny(s, "/?#"); slash >= 0 {
		end = slash
	}
	first, last := strings.IndexByte(s, '@'), strings.LastIndexByte(s, '@')
	colon := strings.IndexByte(s[:end], ':')
	switch {
	case first < 0 || strings.HasPrefix(s[first:], "@sha256:"):
		return s
	case colon < 0 || first < colon: // no password
		if isURL && likelyToken <= first && first < end {
			return hidden + s[first:]
		}
		return s
	case first < end, isURL && strings.Trim(s[colon+1:end], "0123456789") != "":
		// A password may hold a slash; a port before a path with an @ in it is none.
		return s[:colon+1] + hidden + s[last:]
	}
	return s
}

// shapes are keys and tokens that can be told by their looks. None is looked for unless w holds the
// text that all of its kind hold.
var shapes = []struct {
	holds   string
	pattern *regexp.Regexp
}{
	{"AKIA", regexp.MustCompile(`AKIA[A-Z0-9]{12,}`)},
	{"ASIA", regexp.MustCompile(`ASIA[A-Z0-9]{12,}`)},
	{"eyJ", regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*`)},   // JWT
	{"AQA", regexp.MustCompile(`AQA[A-Za-z0-9_-]{37,}=*`)},                   // IMDSv2 session token
	{"IQoJb3JpZ2lu", regexp.MustCompile(`IQoJb3JpZ2lu[A-Za-z0-9+/=%]{20,}`)}, // STS session token
	{"FwoGZXIvYXdz", regexp.MustCompile(`FwoGZXIvYXdz[A-Za-z0-9+/=%]{20,}`)}, // the same, older
	{"gh", regexp.MustCompile(`(gh[pousr]|github_pat)_[A-Za-z0-9_]{20,}`)},   // GitHub
	{"glpat-", regexp.MustCompile(`glpat-[A-Za-z0-9_-]{16,}`)},               // GitLab
	{"xox", regexp.MustCompile(`xox[a-z]-[A-Za-z0-9-]{10,}`)},                // Slack
	{"hv", regexp.MustCompile(`hv[sbr]\.[A-Za-z0-9_-]{16,}`)},                // Vault
	{"AIza", regexp.MustCompile(`AIza[A-Za-z0-9_-]{30,}`)},                   // Google
	{"k_", regexp.MustCompile(`[sr]k_(live|test)_[A-Za-z0-9]{16,}`)},         // Stripe
	{"sk-", regexp.MustCompile(`sk-[A-Za-z0-9_-]{20,}`)},                     // OpenAI and kin
	{"npm_", regexp.MustCompile(`npm_[A-Za-z0-9]{30,}`)},                     // npm
	{"dckr_pat_", regexp.MustCompile(`dckr_pat_[A-Za-z0-9_-]{20,}`)},         // Docker Hub
}

func hideShapes(w string) string {
	for _, shape := range shapes {
		if strings.Contains(w, shape.holds) {
			w = shape.pattern.ReplaceAllString(w, hidden)
		}
	}
	return w
}
