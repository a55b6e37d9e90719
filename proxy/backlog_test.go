package proxy

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// lateListener accepts later than it is asked to the first time, as a thread does that had to wait for its turn.
type lateListener struct {
	*net.TCPListener
	wait func()
}

func (l *lateListener) Accept() (net.Conn, error) {
	l.wait()
	return l.TCPListener.Accept()
}

// What lies in the backlog at a shutdown is taken even if the time for that was over before the first look.
func TestShutdownTakesTheBacklogHoweverLate(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	front := listen(t)
	late := sync.OnceFunc(func() { time.Sleep(3 * backlogPatience) })
	served := make(chan error, 1)
	go func() { served <- b.proxy.Serve(&lateListener{front.(*net.TCPListener), late}) }()
	time.Sleep(backlogPatience) // it serves, and is late
	var calls []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := io.WriteString(c, get("/latest/meta-data/instance-id")); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	b.stop(t)
	if err := <-served; err != nil {
		t.Error(err)
	}
	for _, c := range calls {
		if answer, err := io.ReadAll(c); statusOf(string(answer)) != "200" {
			t.Errorf("a call in the backlog got %q, %v", answer, err)
		}
	}
}
