package watch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// Flags of TCP (RFC 9293, section 3.1).
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// packet is a TCP segment between a socket and IMDS, or a part of one.
type packet struct {
	watchPacket
	data []byte // valid until the next packet is read
}

// headerSize is where the payload begins in an event. Its length is a multiple of what aligns it.
const headerSize = int(unsafe.Sizeof(watchPacket{}))

// read takes an event apart.
func (p *packet) read(event []byte) error {
	if len(event) < headerSize {
		return fmt.Errorf("event of %d bytes from the kernel program, want %d or more", len(event), headerSize)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&p.watchPacket)), headerSize), event)
	p.data = event[headerSize:]
	if uint64(p.Length) > uint64(len(p.data)) {
		return fmt.Errorf("event of %d bytes from the kernel program, with %d of payload", len(event), p.Length)
	}
	p.data = p.data[:p.Length]
	return nil
}

func (p *packet) sent() bool { return p.Direction == uint8(watchDirectionDIRECTION_SENT) }

// at is when the packet passed (CLOCK_MONOTONIC).
func (p *packet) at() time.Duration { return time.Duration(p.Time) }

// sequence is that of the first byte of data: a SYN counts as one.
func (p *packet) sequence() uint32 {
	if p.Flags&flagSYN != 0 {
		return p.Sequence + p.Offset + 1
	}
	return p.Sequence + p.Offset
}

func (p *packet) client() netip.AddrPort {
	return netip.AddrPortFrom(addr(p.ClientIp).Unmap(), p.ClientPort)
}

func (p *packet) imds() netip.AddrPort { return netip.AddrPortFrom(addr(p.ImdsIp).Unmap(), imds.Port) }

// connection is what the packet itself says of who sent it, and the kernel's record if there is one.
func (p *packet) connection(ownNetNS uint32) (c redirect.Connection, known bool) {
	c = redirect.Connection{
		NetNS:    p.Netns,
		OwnNetNS: p.Netns == ownNetNS,
		Socket:   p.SocketCookie,
		Original: p.imds(),
	}
	who := &p.Who
	if who.SocketCookie == 0 {
		return c, false
	}
	c.PID, c.TID, c.PPID = who.Tgid, who.Pid, who.Ppid
	c.UID, c.GID = who.Uid, who.Gid
	c.Comm = unix.ByteSliceToString(who.Comm[:])
	c.Started = time.Duration(who.Started)
	c.ExecID = who.ExecId
	c.CgroupID = who.CgroupId
	c.NetNSCookie = who.NetnsCookie
	c.Ambiguous = who.Ambiguous != 0
	c.Connected = time.Duration(who.Connected)
	if who.OriginalFamily == unix.AF_INET6 {
		c.Original = netip.AddrPortFrom(addr(who.OriginalIp), imds.Port)
	}
	return c, true
}

func addr(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b)
}
