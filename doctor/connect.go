package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
)

// childPatience is for all that a child does.
const childPatience = 2 * time.Second

// goAhead is the line on which a child connects.
const goAhead = "connect\n"

// Connect is the part of a child in a trial. When told to, it connects to the metadata service and
// writes its socket's cookie and what came of it; it keeps the connection until its input ends.
//
// Nothing is sent. The socket is bound to 127.0.0.1: redirected to loopback it connects, and from
// there the kernel lets nothing out to the network.
func Connect(in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), childPatience)
	defer cancel()
	lines := bufio.NewReader(in)
	// Only then is the process where it is to be, which is what the kernel notes of a new socket.
	if line, err := lines.ReadString('\n'); line != goAhead {
		return errors.Join(errors.New("not told to connect"), err)
	}
	var cookie uint64
	dialer := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)},
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			inner := c.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) })
			return errors.Join(inner, err)
		},
	}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", imds.IPv4, imds.Port))
	if err != nil {
		fmt.Fprintln(out, cookie, strings.ReplaceAll(plain(err).Error(), "\n", " "))
		return nil
	}
	defer conn.Close()
	fmt.Fprintln(out, cookie, "connected")
	_, _ = lines.ReadString('\n')
	return nil
}
