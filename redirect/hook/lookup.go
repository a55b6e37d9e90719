package hook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Lookup says whose connection the listener accepted. It returns [redirect.ErrNoRecord] for one that
// was not redirected.
func (h *Hook) Lookup(accepted net.Conn) (redirect.Connection, error) {
	return h.find(endpoint(accepted.RemoteAddr()), endpoint(accepted.LocalAddr()))
}

func endpoint(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}

// find looks a connection up by both its ends, as the accepted socket gives them.
func (h *Hook) find(client, listener netip.AddrPort) (redirect.Connection, error) {
	key := newEndpoints(client, listener)
	var value hookConnection
	// A record of the bridge's own namespace cannot be made elsewhere, so it goes first.
	for _, own := range []uint8{1, 0} {
		key.OwnNetns = own
		err := h.objects.Connections.Lookup(&key, &value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return redirect.Connection{}, fmt.Errorf("look up connection from %s: %w", client, err)
		}
		return newConnection(&value, own == 1), nil
	}
	return redirect.Connection{}, fmt.Errorf("%s to %s: %w", client, listener, redirect.ErrNoRecord)
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

func newConnection(v *hookConnection, own bool) redirect.Connection {
	original := addr(v.OriginalIp)
	if v.OriginalFamily == unix.AF_INET {
		original = original.Unmap()
	}
	return redirect.Connection{
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
