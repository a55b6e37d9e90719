package proxy

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// slots bounds the connections at once, so that no caller can starve another: each process has
// a share, all processes of one user in one cgroup have half, and when those or all are taken the one
// of their connections that has waited longest without a request under way gives up its own.
type slots struct {
	total, share int
	spare        func() // gives up descriptors of others; nil for none

	mu     sync.Mutex
	order  *list.List // of *connection, oldest first
	shares map[any]int
}

// maxReserved is how many connections at once there may be for another to have a slot before it is known whose share it is of. With
// more, all of them wait for us, and not for IMDS: nothing is won.
const maxReserved = 4

// process and group are whom a slot counts for. A process forks, a group does not.
type (
	process struct {
		pid     uint32
		started time.Duration
		unknown netip.Addr // whose calls they are, where no process is known
		uid     uint32     // likewise
	}
	group struct {
		cgroup, netns uint64
		uid           uint32
		unknown       netip.Addr
	}
)

func newSlots(total, share int, spare func()) *slots {
	return &slots{total: total, share: share, spare: spare, order: list.New(), shares: map[any]int{}}
}

// reserve takes a slot for a connection of which it is not known yet whose it is, where there are few. It counts for nobody until take.
func (s *slots) reserve(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.order.Len() >= min(s.total, maxReserved) {
		return false
	}
	c.slot = s.order.PushBack(c)
	return true
}

func (s *slots) take(c *connection) bool {
	o := c.peer.Origin
	p, g := process{pid: o.PID, started: o.Started}, group{cgroup: o.CgroupID, netns: o.NetNSCookie, uid: o.UID}
	if o.PID == 0 {
		p.unknown, g.unknown = c.client.Addr(), c.client.Addr()
		p.uid = o.UID // all containers of a pod have one address
	}
	s.mu.Lock()
	s.give(c) // what was reserved
	idle, ok := s.place(p, g)
	if !ok {
		s.mu.Unlock()
		return false
	}
	if idle != nil {
		s.give(idle) // at once: nobody else is to count on it
	}
	s.shares[p]++
	s.shares[g]++
	c.process, c.group, c.slot = p, g, s.order.PushBack(c)
	s.mu.Unlock()

	if idle != nil {
		idle.Close()
	}
	return true
}

// place tells whether there is one for a process of a group, and whose connection has to end for that: one
// that waits without a request under way, of the same group where that has all it may have.
func (s *slots) place(p process, g group) (idle *connection, ok bool) {
	switch {
	case s.shares[p] >= s.share && p.pid != 0:
		return nil, false
	case s.shares[p] >= s.share: // who knows how many processes that is
		idle = s.oldestIdle(func(c *connection) bool { return c.process == p })
	case s.shares[g] >= max(s.share, s.total/2):
		idle = s.oldestIdle(func(c *connection) bool { return c.group == g })
	case s.order.Len() >= s.total:
		idle = s.oldestIdle(func(*connection) bool { return true })
	default:
		return nil, true
	}
	return idle, idle != nil
}

// makeRoom gives up what is not needed, ends the connection that has waited longest without a request under way, and waits until
// its descriptor can be had: right away, or as long as it may take for others to end.
func (s *slots) makeRoom() {
	if s.spare != nil {
		s.spare()
	}
	s.mu.Lock()
	idle := s.oldestIdle(func(*connection) bool { return true })
	s.mu.Unlock()
	if idle == nil {
		time.Sleep(10 * time.Millisecond)
		return
	}
	idle.Close()
	time.Sleep(time.Millisecond) // who reads from it lets go of it first
}

func (s *slots) oldestIdle(among func(*connection) bool) *connection {
	for e := s.order.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*connection); !c.busy.Load() && among(c) {
			return c
		}
	}
	return nil
}

// each calls f for every connection that holds a slot.
func (s *slots) each(f func(*connection)) {
	s.mu.Lock()
	all := make([]*connection, 0, s.order.Len())
	for e := s.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*connection))
	}
	s.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// release gives the slot of a connection back. It is idempotent.
func (s *slots) release(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.give(c)
}

func (s *slots) give(c *connection) {
	if c.slot == nil {
		return
	}
	s.order.Remove(c.slot)
	c.slot = nil
	if c.process == (process{}) {
		return // reserved
	}
	for _, holder := range []any{c.process, c.group} {
		if s.shares[holder]--; s.shares[holder] == 0 {
			delete(s.shares, holder)
		}
	}
}
