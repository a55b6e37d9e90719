package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// layTunnel joins the host of an instance to a machine elsewhere, as a VPN does: what is sent into an
// interface at one end comes out of one at the other. The machine has a route to IMDS through it.
func (i *instance) layTunnel(t *testing.T, outside *lab.Namespace) {
	t.Helper()
	ends := []struct {
		in        *lab.Namespace
		addresses string
		file      *os.File
	}{
		{in: i.Host(), addresses: "172.30.250.1 peer 172.30.250.2"}, // to which IMDS has a route
		{in: outside, addresses: "172.30.250.2 peer 172.30.250.1"},
	}
	for n := range ends {
		e := &ends[n]
		var err error
		if err = e.in.Do(func() error { e.file, err = openTun("tun0"); return err }); err != nil {
			t.Fatal(err)
		}
		ip(t, e.in, "address add "+e.addresses+" dev tun0")
		ip(t, e.in, "link set tun0 up")
	}
	ip(t, outside, "route replace default dev tun0")
	var pumps sync.WaitGroup
	for n := range ends {
		pumps.Go(func() { pump(ends[n].file, ends[1-n].file) })
	}
	t.Cleanup(func() {
		for _, e := range ends {
			e.file.Close()
		}
		pumps.Wait()
	})
}

// openTun makes an interface whose packets are read from a file, and written to it.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make interface %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func pump(from io.Reader, to io.Writer) {
	packet := make([]byte, 1<<16)
	for {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		_, _ = to.Write(packet[:n]) // as a wire, it may lose one
	}
}

func ip(t *testing.T, in *lab.Namespace, words string) {
	t.Helper()
	if got := finish(t, in.StartOutside, exec.Command("ip", strings.Fields(words)...)); got.err != nil {
		t.Fatalf("ip %s: %v, %s", words, got.err, got.stderr)
	}
}
