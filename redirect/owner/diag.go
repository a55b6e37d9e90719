package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// tables are the sockets of the bridge's own network namespace. Its files stay in that namespace,
// whatever thread uses them.
type tables struct {
	turn chan struct{} // full while sock_diag is asked
	diag int           // a sock_diag socket, -1 where the kernel has none for TCP
	// files are /proc/net/tcp and tcp6, for where sock_diag is not there or does not answer.
	files []*os.File
	// any is a socket of the namespace.
	any int
}

const (
	sizeofHeader  = 16 // struct nlmsghdr
	sizeofRequest = 56 // struct inet_diag_req_v2
	sizeofAnswer  = 72 // struct inet_diag_msg

	sockDiagByFamily = 20

	tcpListen = 10
)

func openTables(f *Finder) (_ *tables, err error) {
	t := &tables{turn: make(chan struct{}, 1), diag: -1, any: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	for _, name := range []string{"tcp", "tcp6"} {
		file, err := os.Open("/proc/thread-self/net/" + name)
		if err == nil {
			t.files = append(t.files, file)
		} else if name == "tcp" {
			return nil, fmt.Errorf("read the sockets of this network namespace: %w", err)
		}
	}
	if t.any, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	if t.diag, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG); err != nil {
		t.diag = -1 // CONFIG_INET_DIAG is off
	} else if !t.proven(f) {
		_ = unix.Close(t.diag)
		t.diag = -1
	}
	return t, nil
}

// proven tells whether sock_diag knows TCP: without tcp_diag it answers ENOENT, as to a socket that is
// not there. A listener of our own is there.
func (t *tables) proven(f *Finder) bool {
	if unix.Bind(t.any, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) != nil || unix.Listen(t.any, 1) != nil {
		return false
	}
	at, err := unix.Getsockname(t.any)
	if err != nil {
		return false
	}
	local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at.(*unix.SockaddrInet4).Port))
	listens, answered := promptly(f, local.Addr(), f.timeout, func() bool {
		t.turn <- struct{}{}
		defer func() { <-t.turn }()
		_, state, err := t.ask(local, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		return err == nil && state == tcpListen
	})
	// It listened for this question alone.
	_ = unix.Shutdown(t.any, unix.SHUT_RDWR)
	return listens || !answered // somebody else's question is under way
}

func (t *tables) close() error {
	var errs []error
	for _, file := range t.files {
		errs = append(errs, file.Close())
	}
	for _, fd := range []int{t.diag, t.any} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// netnsCookie is that of the namespace; 0 before Linux 5.14, which does not tell.
func (t *tables) netnsCookie() uint64 {
	cookie, err := unix.GetsockoptUint64(t.any, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0
	}
	return cookie
}

// find returns the connected socket between two addresses, or ErrNoSocket.
func (t *tables) find(f *Finder, client, server netip.AddrPort) (socket, error) {
	if found, err := t.findPromptly(f, client, server); !errors.Is(err, errNoAnswer) {
		return found, err
	}
	for i, file := range t.files {
		found, err := findAnew(file, i == 1, client, server)
		if !errors.Is(err, ErrNoSocket) {
			return found, err
		}
	}
	return socket{}, ErrNoSocket
}

// findAnew looks in a table that is opened again: two who read one file miss lines.
func findAnew(table *os.File, v6 bool, client, server netip.AddrPort) (socket, error) {
	file, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(table.Fd())))
	if err != nil {
		return socket{}, fmt.Errorf("open %s again: %w", table.Name(), err)
	}
	defer file.Close()
	return findInTable(file, v6, client, server)
}

// errNoAnswer is returned where sock_diag is not there, or does not answer at once.
var errNoAnswer = errors.New("no answer of sock_diag")

func (t *tables) findPromptly(f *Finder, client, server netip.AddrPort) (socket, error) {
	if t.diag < 0 {
		return socket{}, errNoAnswer
	}
	type answer struct {
		found socket
		err   error
	}
	// Whose turn it is waits for longer than for his turn: only an answer has the socket's cookie.
	a, ok := promptly(f, client.Addr(), f.timeout/2, func() answer {
		select {
		case t.turn <- struct{}{}:
		case <-time.After(lookPatience):
			return answer{err: errNoAnswer}
		}
		defer func() { <-t.turn }()
		found, err := connected(t.ask(client, server))
		return answer{found, err}
	})
	if !ok {
		return socket{}, errNoAnswer
	}
	return a.found, a.err
}

// findNow is find by sock_diag, where that waits for nobody else's turn.
func (t *tables) findNow(client, server netip.AddrPort) (socket, error) {
	if t.diag < 0 {
		return socket{}, errNoAnswer
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
		return connected(t.ask(client, server))
	default:
		return socket{}, errNoAnswer
	}
}

func connected(found socket, state uint8, err error) (socket, error) {
	if err == nil && (state == tcpListen || found.inode == 0) {
		return socket{}, ErrNoSocket // the kernel offers a listener when nobody is connected
	}
	return found, err
}

// ask makes an exact request, which the kernel answers by its hash table, before sendto returns.
func (t *tables) ask(local, remote netip.AddrPort) (socket, uint8, error) {
	if err := unix.Sendto(t.diag, newRequest(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return socket{}, 0, fmt.Errorf("ask sock_diag: %w", err)
	}
	var answer [512]byte
	n, _, err := unix.Recvfrom(t.diag, answer[:], unix.MSG_DONTWAIT)
	if err != nil {
		return socket{}, 0, fmt.Errorf("hear sock_diag: %w", err)
	}
	return parseAnswer(answer[:n])
}

func newRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, sizeofHeader+sizeofRequest)
	native := binary.NativeEndian
	native.PutUint32(b[0:], uint32(len(b)))
	native.PutUint16(b[4:], sockDiagByFamily)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[sizeofHeader:]
	// AF_INET finds the IPv4 connections of IPv6 sockets too.
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	if local.Addr().Is6() {
		r[0] = unix.AF_INET6
	}
	native.PutUint32(r[4:], ^uint32(0)) // states
	id := r[8:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	native.PutUint64(id[40:], ^uint64(0)) // any cookie
	return b
}

func parseAnswer(b []byte) (socket, uint8, error) {
	native := binary.NativeEndian
	if len(b) < sizeofHeader {
		return socket{}, 0, errors.New("sock_diag gives a short answer")
	}
	body := b[sizeofHeader:]
	if native.Uint16(b[4:]) == unix.NLMSG_ERROR && len(body) >= 4 {
		errno := unix.Errno(-int32(native.Uint32(body)))
		if errno == unix.ENOENT {
			return socket{}, 0, ErrNoSocket
		}
		return socket{}, 0, fmt.Errorf("ask sock_diag: %w", errno)
	}
	if len(body) < sizeofAnswer {
		return socket{}, 0, errors.New("sock_diag gives a short answer")
	}
	remote := netip.AddrFrom16([16]byte(body[4+20 : 4+36]))
	return socket{
		cookie: uint64(native.Uint32(body[4+40:])) | uint64(native.Uint32(body[4+44:]))<<32,
		uid:    native.Uint32(body[64:]),
		inode:  native.Uint32(body[68:]),
		mapped: body[0] == unix.AF_INET6 && remote.Is4In6(),
	}, body[1], nil
}
