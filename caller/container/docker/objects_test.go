package docker

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// read returns what objects makes of a text, "too long" for what it skips.
func read(text string, limit int) (got []string, err error) {
	o := newObjects(strings.NewReader(text), limit)
	for {
		object, err := o.next()
		switch {
		case errors.Is(err, io.EOF):
			return got, nil
		case errors.Is(err, errTooLong):
			got = append(got, "too long")
		case err != nil:
			return got, err
		default:
			got = append(got, string(object))
		}
	}
}

func TestObjects(t *testing.T) {
	t.Parallel()
	long := `{"a":"` + strings.Repeat("}", 100) + `"}`
	for _, test := range []struct {
		text  string
		want  []string
		fails bool
	}{
		{"", nil, false},
		{"[]\n", nil, false},
		{`[{"a":1}, {"b":[{}]}]`, []string{`{"a":1}`, `{"b":[{}]}`}, false},
		{"{}\n{}\r\n{}", []string{"{}", "{}", "{}"}, false},
		{`{"a":"}\"\\"}{"b":"\\\"{"}`, []string{`{"a":"}\"\\"}`, `{"b":"\\\"{"}`}, false},
		{`[` + long + `,{"a":1},` + long + `]`, []string{"too long", `{"a":1}`, "too long"}, false},
		{strings.Repeat("[", 3) + "{}", []string{"{}"}, false},
		{`{}{"a":"cut off`, []string{"{}"}, true},
		{`{} x`, []string{"{}"}, true},
		{"null", nil, true},
		{`{"a":` + strings.Repeat("[", 20*endless), nil, true},
	} {
		got, err := read(test.text, 20)
		if !slices.Equal(got, test.want) || test.fails != (err != nil) {
			t.Errorf("%.40s: %q, %v", test.text, got, err)
		}
	}
}

// endlessText is the beginning of an object that never ends.
type endlessText struct{ read int }

func (e *endlessText) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '{'
	}
	e.read += len(b)
	if e.read > 1<<20 {
		return 0, io.EOF
	}
	return len(b), nil
}

func TestObjectWithoutEndIsGivenUp(t *testing.T) {
	t.Parallel()
	var text endlessText
	o := newObjects(&text, 20)
	if _, err := o.next(); err == nil || errors.Is(err, errTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if cap(o.text) > 64 {
		t.Errorf("%d bytes were kept", cap(o.text))
	}
}

// What encoding/json reads as an array of objects is read the same way, and nothing makes it stray.
func FuzzObjects(f *testing.F) {
	for _, seed := range []string{`[{"a":"\"}"},{}]`, `[{"a":[{"b":"\\"}]}]`, "[{\"\xff\":1}]", `{"a":1}` + "\n", "[}{]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := read(text, 1<<20)
		var want []json.RawMessage
		if json.Unmarshal([]byte(text), &want) != nil {
			return
		}
		for _, value := range want {
			if !strings.HasPrefix(string(value), "{") {
				return
			}
		}
		if err != nil || !slices.EqualFunc(got, want, func(a string, b json.RawMessage) bool { return a == string(b) }) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	})
}
