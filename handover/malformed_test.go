package handover

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestSuccessorThatSendsWhatItShouldNot(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() }) // after the parallel tests
	send := func(packet string) func(wire) error {
		return func(w wire) error {
			_, err := w.Write([]byte(packet))
			return err
		}
	}
	for name, c := range map[string]struct {
		first bool // instead of hello
		send  func(wire) error
	}{
		"no hello":              {true, send("hello")},
		"nothing":               {true, func(w wire) error { return w.CloseWrite() }},
		"another message first": {true, send(`{"kind":"retire"}`)},
		"no JSON":               {false, send("pause")},
		"another kind":          {false, send(`{"kind":"paws"}`)},
		"retire before pause":   {false, send(`{"kind":"retire"}`)},
		"a packet too large":    {false, send(`{"kind":"pause"` + strings.Repeat(" ", maxBytes) + "}")},
		"a name without a file": {false, send(`{"kind":"pause","files":["listen"]}`)},
		"a file without a name": {false, func(w wire) error { return sendWithFile(w, `{"kind":"pause"}`, null) }},
		"a file with two names": {false, func(w wire) error { return sendWithFile(w, `{"kind":"pause","files":["a","b"]}`, null) }},
		"a file that is none's": {false, func(w wire) error { return sendWithFile(w, `{"kind":"pause","files":["a"]}`, null) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, "")
			w, err := dial(r.path)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if !c.first {
				do(t, func() error { return w.send(message{Kind: hello}, nil, wordPatience) })
				_, files, err := w.expect(state, wordPatience)
				if err != nil {
					t.Fatal(err)
				}
				do(t, State{Files: files}.Close)
			}
			do(t, func() error { return c.send(w) })
			var refusal *RefusedError
			if _, _, err := w.expect(paused, wordPatience); !errors.As(err, &refusal) && !errors.Is(err, io.EOF) {
				t.Errorf("answered by %v", err)
			}
			r.expect(t)
		})
	}
}

func sendWithFile(w wire, text string, f *os.File) error {
	fd, err := descriptor(f)
	if err != nil {
		return err
	}
	_, _, err = w.WriteMsgUnix([]byte(text), rights([]int{fd}), nil)
	return err
}

func TestAnswerThatNoBridgeGives(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"no JSON":               "state",
		"another kind":          `{"kind":"paused"}`,
		"a name without a file": `{"kind":"state","files":["listen"]}`,
		"nothing that is known": `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := socketPath(t)
			fake(t, path, func(w wire) { _, _ = w.Write([]byte(answer)) })
			if _, err := Begin(path, ""); !errors.Is(err, errMalformed) {
				t.Errorf("%v", err)
			}
		})
	}
}
