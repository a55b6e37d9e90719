//go:build root

package hook

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

func setHopLimit(fd uintptr, network string, hops int) error {
	if strings.HasPrefix(network, "tcp6") {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
	}
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, hops)
}

// far listens in the place of IMDS. It opens connections with the hop limit opening, and answers with
// the others, a segment each; with none it closes without an answer.
func far(t *testing.T, l *lab.Lab, network, at string, opening int, answers ...int) {
	t.Helper()
	var listener net.Listener
	config := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = setHopLimit(fd, network, opening) })
		return err
	}}
	if err := l.IMDS().Do(func() (err error) {
		listener, err = config.Listen(context.Background(), network, at)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			if err := answer(c.(*net.TCPConn), network, answers); err != nil {
				t.Error(err)
			}
			c.Close()
		}
	}()
}

func answer(c *net.TCPConn, network string, hopLimits []int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for _, hops := range hopLimits {
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = setHopLimit(fd, network, hops) }); err != nil || inner != nil {
			return fmt.Errorf("%v, %v", err, inner)
		}
		if _, err := io.WriteString(c, "answer "); err != nil {
			return err
		}
		if err := awaitAcknowledged(raw); err != nil {
			return err
		}
	}
	return nil
}

// awaitAcknowledged waits until the other end has all that was written. A segment that is still to be
// sent, or to be sent again, would have the hop limit of the next.
func awaitAcknowledged(c syscall.RawConn) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		var waiting int
		var inner error
		if err := c.Control(func(fd uintptr) { waiting, inner = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }); err != nil || inner != nil {
			return fmt.Errorf("%v, %v", err, inner)
		}
		if waiting == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d bytes are not acknowledged", waiting)
		}
	}
}

func TestHopLimitIsThatOfTheAnswer(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	port := 8000
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, tt := range []struct {
			name    string
			opening int
			answers []int
			want    int
		}{
			{"one", 64, []int{1}, 1},
			{"two", 64, []int{2}, 2},
			{"64 after an opening with 3", 3, []int{64}, 64},
			{"255", 64, []int{255}, 255},
			{"the smallest of several", 64, []int{9, 7, 8}, 7},
			{"none without an answer", 64, nil, 0},
		} {
			port++
			t.Run(network+", "+tt.name, func(t *testing.T) {
				at := fmt.Sprintf("169.254.169.254:%d", port)
				if network == "tcp6" {
					at = fmt.Sprintf("[fd00:ec2::254]:%d", port)
				}
				far(t, b.Lab, network, at, tt.opening, tt.answers...)
				if err := b.Host().Do(func() error {
					heard, hops, err := callIMDS(b.hook, at)
					if want := strings.Repeat("answer ", len(tt.answers)); heard != want {
						t.Errorf("heard %q", heard)
					}
					if hops != tt.want {
						t.Errorf("hop limit %d, want %d", hops, tt.want)
					}
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if n := entries(t, b.hook.objects.HopLimits); n != 0 {
		t.Errorf("%d hop limits are left", n)
	}
}

func TestHopLimitsOfSocketsAreToldApart(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	far(t, b.Lab, "tcp4", "169.254.169.254:8001", 64, 5)
	far(t, b.Lab, "tcp4", "169.254.169.254:8002", 64, 6)
	type result struct {
		want, got int
		err       error
	}
	const each = 20
	results := make(chan result)
	for range each {
		for at, want := range map[string]int{"169.254.169.254:8001": 5, "169.254.169.254:8002": 6} {
			go func() {
				r := result{want: want}
				r.err = b.Host().Do(func() (err error) {
					_, r.got, err = callIMDS(b.hook, at)
					return err
				})
				results <- r
			}()
		}
	}
	for range 2 * each {
		if r := <-results; r.got != r.want || r.err != nil {
			t.Errorf("hop limit %d, want %d; %v", r.got, r.want, r.err)
		}
	}
}
