package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
)

// ErrCannotClose is returned by [CloseConnected] where the kernel closes no connections of others.
var ErrCannotClose = errors.New("the kernel closes no connections of others (CONFIG_INET_DIAG_DESTROY)")

// Closed is a connection to IMDS that was closed.
type Closed struct {
	Client, IMDS netip.AddrPort
	UID          uint32 // who made the socket
	Inode        uint32 // of the socket, as /proc/<pid>/fd has it
}

// From include/net/tcp_states.h: connections that may still ask for something.
const closable = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT | 1<<unix.BPF_TCP_CLOSE_WAIT

// CloseConnected closes the connections to IMDS of the calling thread's network namespace, so that
// their owners connect anew. Sockets with mark in the low 16 bits of theirs are left alone. What
// their owners were about to read or write fails with ECONNABORTED.
//
// It needs CAP_NET_ADMIN. It returns what was closed also with an error, which is [ErrCannotClose]
// where nothing ever can be. Other network namespaces are not looked into: to enter them takes
// CAP_SYS_ADMIN.
func CloseConnected(mark uint32) ([]Closed, error) {
	var closed []Closed
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := connected(family)
		if err != nil {
			return closed, fmt.Errorf("list connections to IMDS: %w", err)
		}
		for _, s := range sockets {
			if uint16(s.mark) == uint16(mark) && mark != 0 {
				continue
			}
			switch err := s.destroy(); {
			case err == nil:
				closed = append(closed, s.Closed)
			case errors.Is(err, unix.ENOENT): // it is gone already
			case errors.Is(err, unix.EOPNOTSUPP):
				return closed, fmt.Errorf("close %s to %s: %w", s.Client, s.IMDS, ErrCannotClose)
			default:
				return closed, fmt.Errorf("close %s to %s (needs CAP_NET_ADMIN): %w", s.Client, s.IMDS, err)
			}
		}
	}
	return closed, nil
}

// diagSocket is a TCP socket as sock_diag tells of it.
type diagSocket struct {
	Closed
	mark   uint32
	cookie uint64
	diagRequest
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest [56]byte

const (
	diagMessage = 72 // struct inet_diag_msg
	diagID      = 4  // offset of struct inet_diag_sockid in it
	diagIDSize  = 48
	diagUID     = 64
	diagInode   = 68
	diagMark    = 15 // INET_DIAG_MARK, which is told to CAP_NET_ADMIN alone
)

func newDiagRequest(family uint8) (r diagRequest) {
	r[0], r[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], closable)
	return r
}

// Len and Serialize make a diagRequest the data of a netlink request.
func (r *diagRequest) Len() int          { return len(r) }
func (r *diagRequest) Serialize() []byte { return r[:] }

// connected lists the sockets that are connected to IMDS.
func connected(family uint8) ([]diagSocket, error) {
	ask := newDiagRequest(family)
	binary.BigEndian.PutUint16(ask[8+2:], imds.Port) // the other end's
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(&ask)
	answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, err
	}
	var all []diagSocket
	for _, answer := range answers {
		s, err := parseDiag(answer)
		if err != nil {
			return nil, err
		}
		if at := s.IMDS; at.Port() == imds.Port && (at.Addr() == imds.IPv4 || at.Addr() == imds.IPv6) {
			all = append(all, s)
		}
	}
	return all, nil
}

// parseDiag reads a struct inet_diag_msg and its attributes.
func parseDiag(b []byte) (s diagSocket, err error) {
	if len(b) < diagMessage {
		return s, fmt.Errorf("answer of %d bytes from sock_diag", len(b))
	}
	family := b[0]
	id := b[diagID : diagID+diagIDSize]
	s.Client = netip.AddrPortFrom(diagAddr(family, id[4:20]), binary.BigEndian.Uint16(id))
	s.IMDS = netip.AddrPortFrom(diagAddr(family, id[20:36]), binary.BigEndian.Uint16(id[2:]))
	s.UID = binary.NativeEndian.Uint32(b[diagUID:])
	s.Inode = binary.NativeEndian.Uint32(b[diagInode:])
	s.cookie = binary.NativeEndian.Uint64(id[40:])
	s.diagRequest = newDiagRequest(family)
	copy(s.diagRequest[8:], id)
	attributes, err := nl.ParseRouteAttr(b[diagMessage:])
	if err != nil {
		return s, err
	}
	for _, a := range attributes {
		if a.Attr.Type == diagMark && len(a.Value) == 4 {
			s.mark = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return s, nil
}

func diagAddr(family uint8, b []byte) netip.Addr {
	if family == unix.AF_INET {
		b = b[:4]
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}

// destroy closes exactly this socket: its cookie is in the request.
func (s *diagSocket) destroy() error {
	request := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	request.AddData(&s.diagRequest)
	_, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}
