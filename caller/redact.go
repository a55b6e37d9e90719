package caller

import (
	"slices"
	"strings"
)

const (
	maxArgs     = 32      // arguments shown
	maxArg      = 256     // bytes shown of one
	maxArgsText = 2 << 10 // bytes shown of all
	maxArgRead  = maxCmdline
	hidden      = "***"
)

// Redact returns a command line that can be logged: secrets are replaced by ***, text is printable
// UTF-8, and at most 32 arguments of 256 bytes, 2 KiB in all, are shown; … marks what was cut.
//
// Secrets are the values of options, variables, headers and query parameters with telling names,
// passwords in URLs and logins, keys and tokens of known shapes, on their own and in the scripts of
// sh -c. It would rather hide too much: a secret that looks like any other word after an
// option whose name says nothing is the one that it cannot know.
func Redact(args []string) []string { return redact(args, false) }

// redact is Redact for arguments of which the last may be there only in part.
func redact(args []string, partial bool) []string {
	var h hider
	shown := make([]string, 0, min(len(args), maxArgs))
	room := maxArgsText
	for i, arg := range args {
		last := i == len(args)-1
		if len(shown) == maxArgs-1 && !last {
			shown = append(shown, cutMark)
			break
		}
		text := printable(h.argument(arg, partial && last), maxArg)
		if need := len(text); need > room || !last && need > room-len(cutMark) {
			shown = append(shown, clip(text+cutMark, room))
			break
		}
		shown = append(shown, text)
		room -= len(text)
	}
	return sideBySide(shown)
}

// sideBySide copies words to where they take the least memory.
func sideBySide(words []string) []string {
	text := strings.Clone(strings.Join(words, "")) // of one word Join makes no copy
	for i, word := range words {
		words[i], text = text[:len(word)], text[len(word):]
	}
	return words
}

// expectation is what a word tells of the next one.
type expectation int

const (
	anything expectation = iota
	likelyBlob
	login  // user:password
	script // of a shell
	secret
)

// hider hides the secrets of words that follow each other.
type hider struct {
	next    expectation
	options string // letters of the program's options that take a secret
	depth   int    // of strings within strings
}

// argument hides the secrets of arg, or of its beginning when it is long or partial. What it holds
// last may then be half a secret that nothing gives away, so that is kept only where the cut to
// maxArg removes it anyway.
func (h *hider) argument(arg string, partial bool) string {
	if len(arg) > maxArgRead {
		arg, partial = arg[:maxArgRead], true
	}
	text := h.word(arg)
	if !partial || text == arg && len(arg) > 2*maxArg {
		return text
	}
	return text[:strings.LastIndexAny(text, blanks)+1] + cutMark
}

// word hides the secrets of w, an argument or a word of a script.
func (h *hider) word(w string) string {
	if key := strings.Index(w, "-----BEGIN "); key >= 0 && strings.Contains(w[key:], "PRIVATE KEY") {
		w = w[:key] + hidden
	}
	expected := h.next
	h.next = anything
	if expected == script {
		return h.script(w)
	}
	shown := h.text(w)
	switch {
	case expected == secret && (w == "=" || w == ":" || authSchemes[strings.ToLower(w)]):
		h.next = secret
		return w
	case expected == secret, expected == likelyBlob && isBlob(w):
		return hidden
	case expected == likelyBlob && (w == "=" || w == ":"):
		h.next = secret
	case expected == login:
		if user, _, ok := strings.Cut(w, ":"); ok {
			return user + ":" + hidden
		}
	}
	return shown
}

// text hides what w gives away on its own.
func (h *hider) text(w string) string {
	if !strings.ContainsAny(w, blanks) {
		return h.bare(w)
	}
	// One argument with blanks: the value of an assignment or header goes on to its end.
	if name, value := findSecret(w); value > 0 {
		shown := h.script(w[:name]) + w[name:value] + hidden
		h.next = anything
		if isEmptyValue(w[value:]) {
			h.next = secret
		}
		return shown
	}
	return h.script(w)
}

// script hides the secrets of the words of s, a shell's script or an argument that may hold one.
func (h *hider) script(s string) string {
	if h.depth >= maxDepth {
		return hidden
	}
	h.depth++
	defer func() { h.depth-- }()
	var b strings.Builder
	for _, w := range shellWords(hideHeaders(s)) {
		b.WriteString(w.before)
		if w.raw == "" {
			break // blanks at the end
		}
		if text := h.word(w.text); text != w.text {
			b.WriteString(w.quote + text + w.quote)
		} else {
			b.WriteString(w.raw)
		}
	}
	return b.String()
}

// bare hides what one word without blanks gives away, and notes what it tells of the next.
func (h *hider) bare(w string) string {
	if options, ok := secretOptions[w[strings.LastIndexByte(w, '/')+1:]]; ok {
		h.options = options
	}
	name := strings.TrimLeft(w, "$([{`") // of a command in a command
	opening := w[:len(w)-len(name)]
	switch {
	case strings.HasPrefix(name, "-"):
		if shown, ok := h.option(name); ok {
			return opening + shown
		}
	case isName(name) && isSecretName(name):
		h.next = likelyBlob
		if strings.Contains(name, "_") {
			h.next = secret // as in: aws configure set aws_secret_access_key ...
		}
	}
	return hideShapes(hideLogins(h.assignments(w)))
}

// option looks at a word that begins with a dash and holds no value after = or :, or is one of the
// letters that take a login or a secret.
func (h *hider) option(w string) (shown string, ok bool) {
	name := strings.TrimLeft(w, "-")
	short := len(w) > 1 && w[1] != '-' && name != ""
	switch {
	case short && strings.ContainsRune(h.options, rune(name[0])):
		if len(name) > 1 {
			return w[:2] + hidden, true
		}
		h.next = secret
		return w, true
	case slices.Contains([]string{"user", "proxy-user"}, name), short && isLetters(name) && strings.ContainsAny(name[len(name)-1:], "uU"):
		h.next = login
		return w, true
	case short && isLetters(name) && name[len(name)-1] == 'c':
		h.next = script
		return w, true
	}
	if before, _, joined := strings.Cut(w, ":"); joined && hasLoginOption(before) {
		return before + ":" + hidden, true
	}
	if isName(name) && isSecretName(name) {
		h.next = secret
		return w, true
	}
	return "", false
}

// assignments hides the values of w with telling names. In a URL a value ends at the next &.
func (h *hider) assignments(w string) string {
	var b strings.Builder
	isURL := strings.Contains(w, "://")
	for {
		_, value := findSecret(w)
		if value == 0 {
			break
		}
		if isEmptyValue(w[value:]) {
			h.next = secret
			break
		}
		b.WriteString(w[:value] + hidden)
		end := strings.IndexByte(w[value:], '&')
		if end < 0 || !isURL {
			return b.String()
		}
		w = w[value+end:]
	}
	b.WriteString(w)
	return b.String()
}

// isEmptyValue tells whether the secret itself is still to come, in the next word.
func isEmptyValue(s string) bool {
	s = strings.Trim(s, `"'`+blanks)
	return s == "" || authSchemes[strings.ToLower(s)]
}
