package proxy

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// slots bounds the connections at once, so that no caller can starve another: each process has
// a share, all processes of one user in one cgroup have half, and when all slots are taken the
// connection that has waited longest without a request under way gives up its own.
type slots struct {
	total, share int

	mu     sync.Mutex
	order  *list.List // of *connection, oldest first
	shares map[any]int
}

// process and group are whom a slot counts for. A process forks, a group does not.
type (
	process struct {
		pid     uint32
		started time.Duration
		unknown netip.Addr // whose calls they are, where no process is known
	}
	group struct {
		cgroup, netns uint64
		uid           uint32
		unknown       netip.Addr
	}
)

func newSlots(total, share int) *slots {
	return &slots{total: total, share: share, order: list.New(), shares: map[any]int{}}
}

func (s *slots) take(c *connection) bool {
	o := c.peer.Origin
	p, g := process{pid: o.PID, started: o.Started}, group{cgroup: o.CgroupID, netns: o.NetNSCookie, uid: o.UID}
	if o.PID == 0 {
		p.unknown, g.unknown = c.client.Addr(), c.client.Addr()
	}
	s.mu.Lock()
	if s.shares[p] >= s.share || s.shares[g] >= max(s.share, s.total/2) {
		s.mu.Unlock()
		return false
	}
	var idle *connection
	if s.order.Len() >= s.total {
		if idle = s.oldestIdle(); idle == nil {
			s.mu.Unlock()
			return false
		}
	}
	s.shares[p]++
	s.shares[g]++
	e := s.order.PushBack(c)
	c.release = sync.OnceFunc(func() { s.give(e, p, g) })
	s.mu.Unlock()

	if idle != nil {
		idle.Close()
	}
	return true
}

// makeRoom ends the connection that has waited longest without a request under way.
func (s *slots) makeRoom() {
	s.mu.Lock()
	idle := s.oldestIdle()
	s.mu.Unlock()
	if idle != nil {
		idle.Close()
	}
}

func (s *slots) oldestIdle() *connection {
	for e := s.order.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*connection); !c.busy.Load() {
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

func (s *slots) give(e *list.Element, holders ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order.Remove(e)
	for _, h := range holders {
		if s.shares[h]--; s.shares[h] == 0 {
			delete(s.shares, h)
		}
	}
}
