package proxy

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// slots bounds the connections at once, so that no caller can starve another: each process has
// a share, and when all slots are taken the connection that has waited longest without sending
// a request gives up its own.
type slots struct {
	total, share int

	mu     sync.Mutex
	order  *list.List // of *connection, oldest first
	shares map[holder]int
}

// holder is who a slot counts for: a process, or an address that no record names.
type holder struct {
	pid     uint32
	started time.Duration
	address netip.Addr
}

func newSlots(total, share int) *slots {
	return &slots{total: total, share: share, order: list.New(), shares: map[holder]int{}}
}

func (s *slots) take(c *connection) bool {
	who := holderOf(c)
	s.mu.Lock()
	if s.shares[who] >= s.share {
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
	s.shares[who]++
	e := s.order.PushBack(c)
	c.release = sync.OnceFunc(func() { s.give(e, who) })
	s.mu.Unlock()

	if idle != nil {
		idle.Close()
	}
	return true
}

func (s *slots) oldestIdle() *connection {
	for e := s.order.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*connection); !c.busy.Load() {
			return c
		}
	}
	return nil
}

// closeIdle ends the connections that wait for a request.
func (s *slots) closeIdle() { s.closeIf(func(c *connection) bool { return !c.busy.Load() }) }

// closeAll ends all connections.
func (s *slots) closeAll() { s.closeIf(func(*connection) bool { return true }) }

func (s *slots) closeIf(end func(*connection) bool) {
	s.mu.Lock()
	var ended []*connection
	for e := s.order.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*connection); end(c) {
			ended = append(ended, c)
		}
	}
	s.mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
}

func (s *slots) give(e *list.Element, who holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order.Remove(e)
	if s.shares[who]--; s.shares[who] == 0 {
		delete(s.shares, who)
	}
}

func holderOf(c *connection) holder {
	if !c.known {
		return holder{address: c.client.Addr()}
	}
	return holder{pid: c.peer.Origin.PID, started: c.peer.Origin.Started}
}
