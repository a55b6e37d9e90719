//go:build root

package watch

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// rawTask is what a process sends by a raw socket: a connection of its own making.
type rawTask struct {
	From     netip.Addr
	Text     string
	Headers  bool // IPv4: write the IP header too
	Fragment bool // as the second fragment of a packet
}

func init() { roles["raw"] = beRaw }

func beRaw() error {
	var task rawTask
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &task); err != nil {
		return err
	}
	family, to := unix.AF_INET, netip.MustParseAddrPort(imds4)
	if task.From.Is6() {
		family, to = unix.AF_INET6, netip.MustParseAddrPort(imds6)
	}
	protocol := unix.IPPROTO_TCP
	if task.Headers {
		protocol = unix.IPPROTO_RAW
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, segment := range [][]byte{
		tcp(to.Port(), 1000, flagSYN, ""),
		tcp(to.Port(), 1001, flagACK, task.Text[:10]),
		tcp(to.Port(), 1011, flagACK, task.Text[10:]),
	} {
		if task.Headers {
			segment = append(ip4(task.From, to.Addr(), len(segment), task.Fragment), segment...)
		}
		var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16()}
		if to.Addr().Is4() {
			sa = &unix.SockaddrInet4{Addr: to.Addr().As4()}
		}
		if err := unix.Sendto(fd, segment, 0, sa); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// tcp makes a segment. Its checksum is wrong: it is to be seen, not to be answered.
func tcp(to uint16, sequence uint32, flags byte, text string) []byte {
	b := make([]byte, 20, 20+len(text))
	binary.BigEndian.PutUint16(b, 5555)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[4:], sequence)
	b[12], b[13] = 5<<4, flags
	return append(b, text...)
}

func ip4(from, to netip.Addr, size int, fragment bool) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 4<<4|5, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(b[2:], uint16(20+size))
	if fragment {
		binary.BigEndian.PutUint16(b[6:], 3)
	}
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	return b
}

func TestRawSocketIsSeenAndItsSenderNamed(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, recorded(t, p))
	senders := make(map[uint32]bool)
	for _, task := range []rawTask{
		{From: p.Host().Addr(), Text: getID},
		{From: p.Host().Addr(), Text: getID, Headers: true},
		{From: p.Host().Addr6(), Text: getID},
	} {
		client := startRole(t, p.Host().Start, "raw", task)
		if err := client.end(); err != nil {
			t.Fatal(err)
		}
		senders[client.pid()] = true
	}
	if err := w.Close(); err != nil { // nothing answers: they end with the watch
		t.Fatal(err)
	}
	for range 3 {
		x := w.next(t)
		if !x.Raw || x.Target != "/latest/meta-data/instance-id" || x.Client.Port() != 5555 || x.Status != 0 {
			t.Errorf("told %+v", x)
		}
		c := x.Connection
		if !x.Known || !senders[c.PID] || c.TID == 0 || c.PPID != uint32(os.Getpid()) || c.Started == 0 || c.ExecID == 0 ||
			c.Comm == "" || c.CgroupID != inode(t, p.Cgroup()) || !c.OwnNetNS {
			t.Errorf("by %+v, want one of %v", c, senders)
		}
		delete(senders, c.PID)
	}
}

func TestFragmentIsCounted(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p)
	startRole(t, p.Host().Start, "raw", rawTask{From: p.Host().Addr(), Text: getID, Headers: true, Fragment: true})
	w.expectCounters(t, map[Count]uint64{"unreadable": 3, "requests": 0})
	w.expectNothing(t)
}
