package handover

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTakeover(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	takeover := begin(t, r.path)
	if takeover.PID != os.Getpid() || takeover.State.Version != "1" || terms.Agree(takeover.State.Terms) != nil || len(takeover.State.Files) != 2 {
		t.Fatalf("from process %d: %+v", takeover.PID, takeover.State)
	}
	r.expect(t)
	do(t, takeover.Pause)
	r.expect(t, "pause")
	do(t, takeover.Retire)
	r.expect(t, "pause", "retire")

	// The listener lives on in the successor alone.
	inherited, err := net.FileListener(takeover.State.Files["listen"])
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	do(t, takeover.State.Files["listen"].Close, r.listener.Close)
	delete(takeover.State.Files, "listen")
	dialled := make(chan error)
	go func() {
		conn, err := net.Dial("tcp", inherited.Addr().String())
		if err == nil {
			conn.Close()
		}
		dialled <- err
	}()
	conn, err := inherited.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-dialled; err != nil {
		t.Error(err)
	}
}

func TestRetiredBridgeCannotBeTakenOverFromAgain(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	first := begin(t, r.path)
	do(t, first.Pause, first.Retire)
	expectRefusal(t, r.path, "under way, or done")

	// The successor puts its own socket in the place of that of its predecessor, which leaves it alone.
	next, err := Listen(r.path, first.PID)
	if err != nil {
		t.Fatal(err)
	}
	do(t, r.Close)
	if _, err := os.Stat(r.path); err != nil {
		t.Error(err)
	}
	do(t, next.Close)
	if _, err := os.Stat(r.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

func TestListenReplacesTheSocketOfADeadBridgeAndNotOfAnotherOne(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	if _, err := Listen(r.path, os.Getpid()+1); !errors.Is(err, ErrInUse) {
		t.Errorf("beside a running bridge: %v", err)
	}
	info, err := os.Stat(r.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	r.Control.mu.Lock() // as killed: the file stays
	r.Control.retired = true
	r.Control.mu.Unlock()
	do(t, r.Close)
	if _, err := Begin(r.path, ""); !errors.Is(err, ErrNobody) {
		t.Errorf("of a dead bridge: %v", err)
	}
	startAt(t, r.path, "")
	begin(t, r.path)
}

func TestNobodyToTakeOverFrom(t *testing.T) {
	t.Parallel()
	if _, err := Begin(socketPath(t), ""); !errors.Is(err, ErrNobody) {
		t.Errorf("without a socket: %v", err)
	}
	r := start(t, "")
	do(t, r.Close)
	if _, err := Begin(r.path, ""); !errors.Is(err, ErrNobody) {
		t.Errorf("of a bridge that has ended: %v", err)
	}
}

func TestOneOfTwoSuccessorsWins(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	first := begin(t, r.path)
	expectRefusal(t, r.path, "another takeover is under way")
	first.Close()
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		second, err := Begin(r.path, "")
		if err == nil {
			do(t, second.Pause, second.Retire, second.Close, second.State.Close)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the first has given up: %v", err)
		}
	}
	r.expect(t, "pause", "retire")
}

func TestBridgeThatCannotBeTakenOverFromSaysWhatToDo(t *testing.T) {
	t.Parallel()
	r := start(t, "systemctl restart imds-bridge")
	expectRefusal(t, r.path, "systemctl restart imds-bridge")
	r.expect(t)
}

func expectRefusal(t *testing.T, path, why string) {
	t.Helper()
	var refusal *RefusedError
	if _, err := Begin(path, ""); !errors.As(err, &refusal) || !strings.Contains(refusal.Why, why) {
		t.Errorf("%v, want a refusal for %q", err, why)
	}
}

// The successor may end at any moment: the running bridge goes on, and can be taken over from again.
func TestSuccessorThatEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		until func(*Takeover) error
		want  []string
	}{
		"at once":     {func(*Takeover) error { return nil }, nil},
		"when paused": {(*Takeover).Pause, []string{"pause", "resume"}},
		"before it hears that it is paused": {func(t *Takeover) error {
			return t.wire.send(message{Kind: pause}, nil, wordPatience)
		}, []string{"pause", "resume"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, "")
			takeover := begin(t, r.path)
			do(t, func() error { return c.until(takeover) }, takeover.Close)
			r.expect(t, c.want...)
			for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
				next, err := Begin(r.path, "")
				if err == nil {
					do(t, next.Close, next.State.Close)
					return
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestSuccessorThatHangsHoldsUpCallsForHalfASecond(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	takeover := begin(t, r.path)
	do(t, takeover.Pause)
	began := time.Now()
	r.expect(t, "pause", "resume")
	if held := time.Since(began); held < 300*time.Millisecond || held > time.Second {
		t.Errorf("paused for %s", held)
	}
	var refusal *RefusedError
	if err := takeover.Retire(); !errors.As(err, &refusal) {
		t.Errorf("too late: %v", err)
	}
	r.expect(t, "pause", "resume")
}

func TestBridgeThatIsStoppedAmidATakeover(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	takeover := begin(t, r.path)
	do(t, r.Close)
	var refusal *RefusedError
	if err := takeover.Pause(); !errors.As(err, &refusal) || !strings.Contains(refusal.Why, "stopped") {
		t.Errorf("%v", err)
	}
	r.expect(t)
}

func TestBridgeThatIsStoppedAfterTheLastWordHasRetired(t *testing.T) {
	t.Parallel()
	for range 20 {
		r := start(t, "")
		takeover := begin(t, r.path)
		do(t, takeover.Pause, takeover.Retire, r.Close)
		r.expect(t, "pause", "retire")
	}
}

func TestRunningBridgeThatDies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers int // before its end
		step    func(*Takeover) error
	}{
		"before it pauses": {0, (*Takeover).Pause},
		"before it retires": {1, func(t *Takeover) error {
			for t.wire.send(message{Kind: retire}, nil, wordPatience) == nil { // until its end is known
				time.Sleep(time.Millisecond)
			}
			return t.Retire()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := socketPath(t)
			fake(t, path, func(w wire) {
				for _, kind := range []string{state, paused}[:1+c.answers] {
					_, _, _ = w.receive(wordPatience)
					_ = w.send(message{Kind: kind}, nil, wordPatience)
				}
				w.Close()
			})
			takeover := begin(t, path)
			if c.answers > 0 {
				do(t, takeover.Pause)
			}
			if err := c.step(takeover); !errors.Is(err, ErrGone) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRunningBridgeThatHangs(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	fake(t, path, func(wire) {})
	began := time.Now()
	_, err := Begin(path, "")
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// The successor's last word comes when the running bridge gives up. Both must say the same.
func TestLastWordAtTheLastMoment(t *testing.T) {
	t.Parallel()
	for _, late := range []time.Duration{-100 * time.Millisecond, -time.Millisecond, 0, time.Millisecond, 100 * time.Millisecond} {
		t.Run(late.String(), func(t *testing.T) {
			t.Parallel()
			r := start(t, "")
			takeover := begin(t, r.path)
			do(t, takeover.Pause)
			time.Sleep(pausePatience + late)
			if err := takeover.Retire(); err == nil {
				r.expect(t, "pause", "retire")
			} else {
				r.expect(t, "pause", "resume")
			}
		})
	}
}

// A bridge that is stopped in the midst of it reads the last word when it comes back.
func TestLastWordIsReadHoweverLate(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	back, told := make(chan struct{}), make(chan error, 1)
	fake(t, path, func(w wire) {
		_, _, _ = w.receive(wordPatience)
		_ = w.send(message{Kind: state}, nil, wordPatience)
		_, _, _ = w.receive(wordPatience)
		_ = w.send(message{Kind: paused}, nil, wordPatience)
		<-back
		_ = w.CloseRead()
		_, _, err := w.expect(retire, wordPatience)
		told <- err
	})
	takeover := begin(t, path)
	do(t, takeover.Pause, takeover.Retire)
	close(back)
	if err := <-told; err != nil {
		t.Error(err)
	}
}

func TestProcessOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: "@" + t.TempDir(), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w, err := dial(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if pid, err := w.checkPeer(os.Geteuid()); err != nil || pid != os.Getpid() {
		t.Errorf("of the same user: %d, %v", pid, err)
	}
	if _, err := w.checkPeer(os.Geteuid() + 1); (err == nil) != (os.Geteuid() == 0) {
		t.Errorf("of user %d to user %d: %v", os.Geteuid(), os.Geteuid()+1, err)
	}
}

func TestTermsAgree(t *testing.T) {
	t.Parallel()
	if err := terms.Agree(Terms{"redirect.mark": "0x2069", "redirector": "ebpf"}); err != nil {
		t.Error(err)
	}
	err := terms.Agree(Terms{"redirect.mark": "0x7", "records": "2", "redirector": "ebpf"})
	want := "terms differ: records is none here and 2 there; redirect.mark is 0x2069 here and 0x7 there"
	if !errors.Is(err, ErrTerms) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
