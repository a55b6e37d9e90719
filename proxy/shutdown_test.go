package proxy

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestShutdownWaitsForCallsUnderWay(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, behaviour: simulator.Behaviour{Delay: 300 * time.Millisecond, Only: "data"}}.start(t)
	answer := make(chan string, 1)
	go func() {
		a, _ := trySend(b.addr, get("/latest/meta-data/instance-id"), 5*time.Second)
		answer <- a
	}()
	waitFor(t, "the call to reach IMDS", func() bool { return b.imds.Counts().Connections == 2 })
	b.stop(t)
	if a := <-answer; statusOf(a) != "200" {
		t.Errorf("the call under way got %q", a)
	}
	if _, err := net.Dial("tcp", b.addr); err == nil {
		t.Error("a new connection is accepted after Shutdown")
	}
}

// TestShutdownLosesNoCall shuts down in the midst of connections that were accepted, that wait to
// be accepted, and whose requests are not sent yet.
func TestShutdownLosesNoCall(t *testing.T) {
	t.Parallel()
	for range 20 {
		b := setup{metadata: required}.start(t)
		send(t, b.addr, get("/")) // it serves
		const callers = 16
		failures := make(chan string, callers)
		connected := make(chan struct{}, callers)
		for range callers {
			go func() {
				c, err := net.Dial("tcp", b.addr)
				connected <- struct{}{}
				if err != nil {
					failures <- err.Error()
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * time.Second))
				io.WriteString(c, get("/latest/meta-data/instance-id"))
				answer, err := io.ReadAll(c)
				if statusOf(string(answer)) != "200" {
					failures <- fmt.Sprintf("%q, %v", answer, err)
					return
				}
				failures <- ""
			}()
		}
		for range callers {
			<-connected
		}
		b.stop(t)
		for range callers {
			if f := <-failures; f != "" {
				t.Errorf("a call made before the shutdown: %s", f)
			}
		}
	}
}
