package software

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"slices"
)

// php finds the packages that Composer installed beside the script.
func (l *look) php() {
	for _, place := range l.places() {
		for _, dir := range above(place, maxLockDirs) {
			if l.installedJSON(dir + "/vendor/composer/installed.json") {
				return
			}
		}
	}
}

// maxInstalled bounds what is read of Composer's list; one of a large shop has 2 MB.
const maxInstalled = 8 << 20

// installedJSON reads Composer's list of packages, and tells whether there is one.
func (l *look) installedJSON(name string) bool {
	f, err := l.tree.open(name)
	if err != nil {
		l.miss(name, err)
		return false
	}
	defer f.close()
	s := newStream(io.NewSectionReader(f, 0, maxInstalled))
	entry := func() error {
		lib := Library{Ecosystem: Composer, Certainty: Installed, Path: name}
		err := s.values(func(key string) (err error) {
			switch key {
			case "name":
				lib.Name, err = s.text()
			case "version":
				lib.Version, err = s.text()
			default:
				err = s.skip()
			}
			return err
		})
		if err == nil && slices.Contains(l.wants(Composer), lib.Name) {
			l.add(lib)
		}
		return err
	}
	err = s.values(func(key string) error {
		switch key {
		case "": // of a list, as Composer 1 wrote it
			return entry()
		case "packages":
			return s.values(func(string) error { return entry() })
		}
		return s.skip()
	})
	var malformed *json.SyntaxError
	if !errors.As(err, &malformed) {
		l.miss(name, err)
	}
	return err == nil
}

// stream reads JSON value by value, and keeps none: decoded as a whole, a short text can take a hundred
// times its size.
type stream struct {
	from    io.Reader
	left    int // to read for the current token
	depth   int
	decoder *json.Decoder
}

const (
	maxToken = 64 << 10
	maxDepth = 64
)

func newStream(r io.Reader) *stream {
	s := &stream{from: bufio.NewReaderSize(r, 32<<10)}
	s.decoder = json.NewDecoder(s)
	return s
}

// Read is the decoder's.
func (s *stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, errBudget
	}
	n, err := s.from.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func (s *stream) token() (json.Token, error) {
	s.left = maxToken
	return s.decoder.Token()
}

// text reads a string; another scalar is "".
func (s *stream) text() (string, error) {
	t, err := s.token()
	if _, nested := t.(json.Delim); nested {
		return "", &json.SyntaxError{Offset: s.decoder.InputOffset()}
	}
	text, _ := t.(string)
	return text, err
}

func (s *stream) skip() error {
	return s.values(func(string) error { return s.skip() })
}

// values lets do read each value of an object, with its key, or of a list. A scalar has none.
func (s *stream) values(do func(key string) error) error {
	t, err := s.token()
	open, nested := t.(json.Delim)
	if err != nil || !nested {
		return err
	}
	if s.depth++; s.depth > maxDepth {
		return errBudget
	}
	for s.decoder.More() {
		key := ""
		if open == '{' {
			if key, err = s.text(); err != nil {
				return err
			}
		}
		if err := do(key); err != nil {
			return err
		}
	}
	s.depth--
	_, err = s.token() // its end
	return err
}
