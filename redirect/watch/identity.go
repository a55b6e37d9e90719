package watch

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Owner says whose a connection is that was made before anybody recorded it, by both its
// ends. What it does not know is zero.
type Owner func(client, imds netip.AddrPort) (redirect.Connection, error)

// identity is who has a socket.
type identity struct {
	ready      chan struct{} // closed when the others are final; nil: they always were
	connection redirect.Connection
	known      bool
	recorded   bool
	outcome    uint32
}

// question is an identity that is to be found out.
type question struct {
	*identity
	client, imds netip.AddrPort
}

// maxQuestions bounds those that wait: one for each connection without a record. Who asks must not wait.
const maxQuestions = 1024

// askEarlier starts to find out who has the sockets that are connected already, as far as they are of
// this thread's network namespace: by the time that one is seen to call, its owner may be gone. Where the
// kernel does not list sockets, that is found out then all the same.
func (w *Watch) askEarlier(netns uint32) {
	if w.owner == nil {
		return
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := connected(family)
		if err != nil {
			return
		}
		for _, s := range sockets[:min(len(sockets), maxQuestions/2)] {
			c := redirect.Connection{NetNS: netns, OwnNetNS: true, Socket: s.cookie, Original: s.IMDS}
			w.earlier[s.cookie] = w.ask(s.Client, s.IMDS, c)
		}
	}
}

// identify is for a socket that is seen to call and that nobody recorded.
func (w *Watch) identify(client, imds netip.AddrPort, c redirect.Connection) *identity {
	if who := w.earlier[c.Socket]; who != nil {
		delete(w.earlier, c.Socket)
		return who
	}
	return w.ask(client, imds, c)
}

// ask starts to find out who has a socket. It does not wait.
func (w *Watch) ask(client, imds netip.AddrPort, c redirect.Connection) *identity {
	q := question{&identity{ready: make(chan struct{}), connection: c}, client, imds}
	if w.owner != nil {
		select {
		case w.questions <- q:
			return q.identity
		default:
		}
	}
	close(q.ready)
	return q.identity
}

// findOwners answers questions until there are no more. Those that are left at Close find nobody.
func (w *Watch) findOwners() {
	for q := range w.questions {
		select {
		case <-w.closing:
		default:
			q.find(w.owner)
		}
		close(q.ready)
	}
}

func (q *question) find(owner Owner) {
	c, err := owner(q.client, q.imds)
	if err != nil || c.PID == 0 {
		return
	}
	packet := q.connection
	if c.NetNS != 0 && c.NetNS != packet.NetNS {
		return // of somebody in another namespace with the same addresses
	}
	c.NetNS, c.OwnNetNS, c.Socket = packet.NetNS, packet.OwnNetNS, packet.Socket
	if !c.Original.IsValid() {
		c.Original = packet.Original
	}
	q.connection, q.known = c, true
}

// isFinal tells whether it is found out who it is, or given up.
func (i *identity) isFinal() bool {
	if i.ready == nil {
		return true
	}
	select {
	case <-i.ready:
		return true
	default:
		return false
	}
}
