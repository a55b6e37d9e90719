package redirect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrNoRecord is returned by [Redirect.Lookup] for a connection that the hook did not redirect:
// somebody dialled the listener.
var ErrNoRecord = errors.New("no kernel record of the connection")

// Connection is what the kernel recorded when a caller asked for IMDS.
type Connection struct {
	PID, TID, PPID uint32        // in the initial pid namespace; PID is the thread group's
	UID, GID       uint32        // in the initial user namespace
	Comm           string        // of the thread that connected
	Started        time.Duration // start of the process since boot (CLOCK_BOOTTIME)
	ExecID         uint64        // changes with every execve of the process
	CgroupID       uint64        // cgroup2; one for all on a host without cgroup2 of its own
	NetNSCookie    uint64
	NetNS          uint32 // inode number
	OwnNetNS       bool   // the bridge's own network namespace
	// Ambiguous is set when another network namespace holds the same addresses and ports:
	// who of the two is the caller is not certain.
	Ambiguous bool
	Socket    uint64         // the socket's cookie
	Original  netip.AddrPort // what the caller asked for; ::ffff:169.254.169.254 from a dual-stack socket
	Connected time.Duration  // when connect() was called (CLOCK_MONOTONIC)
}

// Lookup says whose connection from client to listener is, both as the accepted socket gives
// them. It returns [ErrNoRecord] for one that was not redirected.
func (r *Redirect) Lookup(client, listener netip.AddrPort) (Connection, error) {
	key := newEndpoints(client, listener)
	var value hookConnection
	// A record of the bridge's own namespace cannot be made elsewhere, so it goes first.
	for _, own := range []uint8{1, 0} {
		key.OwnNetns = own
		err := r.objects.Connections.Lookup(&key, &value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return Connection{}, fmt.Errorf("look up connection from %s: %w", client, err)
		}
		return newConnection(&value, own == 1), nil
	}
	return Connection{}, fmt.Errorf("%s to %s: %w", client, listener, ErrNoRecord)
}

func newEndpoints(client, listener netip.AddrPort) hookEndpoints {
	e := hookEndpoints{
		ClientIp:     words(client.Addr()),
		ListenerIp:   words(listener.Addr()),
		ClientPort:   client.Port(),
		ListenerPort: listener.Port(),
		Family:       unix.AF_INET6,
	}
	if listener.Addr().Unmap().Is4() {
		e.Family = unix.AF_INET
	}
	return e
}

func newConnection(v *hookConnection, own bool) Connection {
	original := addr(v.OriginalIp)
	if v.OriginalFamily == unix.AF_INET {
		original = original.Unmap()
	}
	return Connection{
		PID: v.Tgid, TID: v.Pid, PPID: v.Ppid,
		UID: v.Uid, GID: v.Gid,
		Comm:        unix.ByteSliceToString(v.Comm[:]),
		Started:     time.Duration(v.Started),
		ExecID:      v.ExecId,
		CgroupID:    v.CgroupId,
		NetNSCookie: v.NetnsCookie,
		NetNS:       v.Netns,
		OwnNetNS:    own,
		Ambiguous:   v.Ambiguous != 0,
		Socket:      v.SocketCookie,
		Original:    netip.AddrPortFrom(original, networkOrder(v.OriginalPort)),
		Connected:   time.Duration(v.Connected),
	}
}

// words gives an address as the kernel program keeps it: 16 bytes in network byte order, IPv4
// mapped into IPv6.
func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func addr(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b)
}

// networkOrder turns a port from host to network byte order, and back. The kernel program is
// built for little-endian machines alone.
func networkOrder(port uint16) uint16 { return bits.ReverseBytes16(port) }
