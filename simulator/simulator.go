package simulator

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options of a [Simulator]. The zero value is a healthy instance that takes IMDSv1 and IMDSv2.
type Options struct {
	Metadata  MetadataOptions
	Behaviour Behaviour
	// Tree is what the instance serves; nil is the built-in tree.
	Tree *Tree
	// Logger gets one line for each request, at debug; nil is silence.
	Logger *slog.Logger
}

// A Simulator answers as the metadata service of one instance. Its methods are safe for concurrent use.
type Simulator struct {
	tree    *Tree
	tokens  *tokens
	log     *slog.Logger
	now     func() time.Time
	started time.Time
	seen    seen

	metadata  atomic.Pointer[MetadataOptions]
	behaviour atomic.Pointer[Behaviour]

	closing context.Context
	close   context.CancelFunc
	mu      sync.Mutex // guards open, and running against Close
	open    map[io.Closer]struct{}
	running sync.WaitGroup
}

// New returns a simulator that serves nothing yet; see [Simulator.Serve].
func New(options Options) (*Simulator, error) {
	s := &Simulator{
		tree:   options.Tree,
		tokens: newTokens(),
		log:    options.Logger,
		now:    steadyClock(),
		open:   map[io.Closer]struct{}{},
	}
	s.started = s.now()
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.tree == nil {
		tree, err := BuiltInTree()
		if err != nil {
			return nil, err
		}
		s.tree = tree
	}
	if err := s.SetMetadataOptions(options.Metadata); err != nil {
		return nil, err
	}
	if err := s.SetBehaviour(options.Behaviour); err != nil {
		return nil, err
	}
	s.closing, s.close = context.WithCancel(context.Background())
	return s, nil
}

// MetadataOptions returns the instance's settings, defaults filled in.
func (s *Simulator) MetadataOptions() MetadataOptions { return *s.metadata.Load() }

// SetMetadataOptions replaces the instance's settings; they hold from the next request on.
func (s *Simulator) SetMetadataOptions(options MetadataOptions) error {
	options, err := options.complete()
	if err != nil {
		return err
	}
	s.metadata.Store(&options)
	return nil
}

// Behaviour returns how the simulator misbehaves at present.
func (s *Simulator) Behaviour() Behaviour { return *s.behaviour.Load() }

// SetBehaviour replaces the misbehaviour; it holds from the next request on.
func (s *Simulator) SetBehaviour(behaviour Behaviour) error {
	if err := behaviour.check(); err != nil {
		return err
	}
	s.behaviour.Store(&behaviour)
	return nil
}

// ExpireTokens makes every session token handed out so far invalid.
func (s *Simulator) ExpireTokens() { s.tokens.expireAll() }

// Counts returns what has been seen since the start or the last [Simulator.Reset].
func (s *Simulator) Counts() Counts { return s.seen.counted() }

// Requests returns the latest requests, at most [RememberedRequests], oldest first. A request is in the
// list before its answer is written.
func (s *Simulator) Requests() []Request { return s.seen.recent() }

// Reset forgets counts and requests. Tokens, settings and behaviour stay.
func (s *Simulator) Reset() { s.seen.reset() }

// Serve answers the connections that a listener accepts until [Simulator.Close], which also closes the
// listener, and then returns nil. Several listeners may be served at once.
func (s *Simulator) Serve(listener net.Listener) error {
	if !s.track(listener) {
		return nil
	}
	defer s.untrack(listener)
	for {
		conn, err := listener.Accept()
		switch {
		case s.closing.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			s.pause(10 * time.Millisecond)
		case err != nil:
			return err
		case s.track(conn):
			s.seen.connection()
			go s.serveConnection(conn)
		}
	}
}

// Close ends all listeners and connections and waits for what serves them. It may be called again.
func (s *Simulator) Close() error {
	s.close()
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// track notes something to close at the end, and reports false, closing it, if that has come already.
func (s *Simulator) track(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		c.Close()
		return false
	}
	s.open[c] = struct{}{}
	s.running.Add(1)
	return true
}

// untrack closes what track noted.
func (s *Simulator) untrack(c io.Closer) {
	c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.running.Done()
}

// pause waits, or returns false early if the simulator is closed.
func (s *Simulator) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.closing.Done():
		return false
	}
}

// steadyClock returns a clock that begins with the time of day and then goes on by itself: IMDS is another
// machine, whose clock stays when somebody sets that of this one.
func steadyClock() func() time.Time {
	start := time.Now()
	return func() time.Time { return start.Add(time.Since(start)) }
}
