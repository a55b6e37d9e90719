package owner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Capabilities are what a [Finder] needs to find the sockets of other users' processes.
//
//   - CAP_SYS_PTRACE follows the links of their descriptors and of their network namespaces;
//   - CAP_DAC_READ_SEARCH lists their descriptors, which only their user and root may.
//
// CAP_SYS_ADMIN, to enter network namespaces, is not among them: /proc/<pid>/net shows the tables of a
// namespace to everybody.
var Capabilities = []string{"CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"}

var (
	// ErrNoSocket is returned where no network namespace in sight has the socket: it was closed, or its
	// addresses were translated on the way, or it is of a virtual machine.
	ErrNoSocket = errors.New("no such socket")
	// ErrNoProcess is returned where the socket is there, and no process in sight has it open: it is
	// of another pid namespace, or of a thread that left its process's network namespace.
	ErrNoProcess = errors.New("no process has the socket open")
)

const (
	// defaultTimeout is how long a search takes at most. The call matters more than the name.
	defaultTimeout = 100 * time.Millisecond
	// maxSearches bounds the threads that can hang in /proc at once.
	maxSearches = 16
)

// Options of a [Finder]. The zero value is ready to use.
type Options struct {
	// Proc is where the procfs of the initial pid namespace is mounted; "" means /proc.
	Proc string
	// Cgroup is where the cgroup2 hierarchy is mounted; "" looks for it. Without any, no process has a
	// cgroup id.
	Cgroup string
	// Timeout bounds a search; 0 means 100 ms.
	Timeout time.Duration
}

// Finder finds the owners of sockets. It is safe for concurrent use.
type Finder struct {
	proc     *os.File // the directory
	path     string   // its path
	cgroup   string
	timeout  time.Duration
	clock    time.Duration // what our time namespace adds to the times of /proc
	own      *tables
	netns    uint32
	cookie   uint64
	others   *namespaces
	hints    *lru.Cache[user, []holder]
	seen     *lru.Cache[string, holder]     // sockets among the descriptors of callers, by their links
	met      *lru.Cache[int, time.Duration] // when who was found last had started, by number
	kept     *lru.Cache[int, *kept]         // who was found more than once, by number
	known    *lru.Cache[identity, details]
	apart    *lru.Cache[lineage, struct{}]     // who had a socket that the parent had not
	stops    *lru.Cache[user, int]             // where scans ran out of time
	self     int                               // our own number in procfs
	dear     atomic.Bool                       // sockets cannot be borrowed
	spared   atomic.Pointer[time.Time]         // when descriptors were short
	doubts   *lru.Cache[netip.Addr, time.Time] // when somebody called from there who may be more than one
	searches chan struct{}
	class    string // of our own packets
	looks    looks  // that can hang
	scanning chan struct{}
	idle     chan func()   // leads to goroutines that have looked before
	quit     chan struct{} // closed by Close
	// background are the searches under way, those too that nobody waits for any longer.
	background sync.WaitGroup
}

// New returns a Finder. The network namespace of the calling thread is the one it calls its own.
func New(o Options) (_ *Finder, err error) {
	f := &Finder{
		path:     cmp.Or(o.Proc, "/proc"),
		timeout:  cmp.Or(o.Timeout, defaultTimeout),
		hints:    newCache[user, []holder](),
		seen:     newCache[string, holder](),
		met:      newCache[int, time.Duration](),
		kept:     newKept(),
		known:    newCache[identity, details](),
		apart:    newCache[lineage, struct{}](),
		stops:    newCache[user, int](),
		doubts:   newCache[netip.Addr, time.Time](),
		looks:    newLooks(),
		idle:     make(chan func()),
		quit:     make(chan struct{}),
		searches: make(chan struct{}, maxSearches),
		scanning: make(chan struct{}, 1),
	}
	if f.proc, err = os.OpenFile(f.path, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, fmt.Errorf("open procfs: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err = f.findSelf(); err != nil {
		return nil, err
	}
	if f.cgroup = o.Cgroup; f.cgroup == "" {
		f.cgroup = cgroup2Mount()
	}
	f.clock = bootOffset()
	if f.netns, err = redirect.OwnNetNS(); err != nil {
		return nil, err
	}
	if f.own, err = openTables(f); err != nil {
		return nil, err
	}
	f.cookie = f.own.netnsCookie()
	f.others = &namespaces{finder: f, maxAge: refreshAfter, ours: make(map[netip.Addr]time.Time)}
	return f, nil
}

// findSelf finds out what we are in procfs. Where that does not number processes as our pid namespace does, it has more than one
// number for us, and sockets cannot be borrowed.
func (f *Finder) findSelf() error {
	status, err := os.ReadFile(filepath.Join(f.path, "self", "status"))
	if err != nil {
		return fmt.Errorf("find ourselves in procfs: %w", err)
	}
	_, after, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(after, "\n")
	f.self = os.Getpid()
	if numbers := strings.Fields(line); len(numbers) > 1 {
		f.dear.Store(true)
		f.self, _ = strconv.Atoi(numbers[0])
	}
	groups, err := os.ReadFile(filepath.Join(f.path, "self", "cgroup"))
	if err != nil {
		return fmt.Errorf("find our own cgroup: %w", err)
	}
	f.class = classOf(string(groups))
	return nil
}

func newCache[K comparable, V any]() *lru.Cache[K, V] {
	c, _ := lru.New[K, V](maxHints) // its error is for sizes below one
	return c
}

// Close gives up what New opened when the searches under way have ended, for which it waits no longer than one may take.
// No other may begin.
func (f *Finder) Close() error {
	close(f.quit)
	closed := make(chan error, 1)
	go func() {
		f.background.Wait()
		f.kept.Purge()
		err := f.proc.Close()
		if f.own != nil {
			err = errors.Join(err, f.own.close())
		}
		closed <- err
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(f.timeout + lookPatience):
		return nil
	}
}

// Find says whose socket it is that connected from client to server, both as the socket's owner sees
// them. The answer has what /proc and the kernel tell; TID, Connected and, outside of the bridge's own
// network namespace, Socket and NetNSCookie are not to be had, and zero. Socket can be zero for who was found before.
//
// It takes no longer than the timeout. With [ErrNoSocket] and [ErrNoProcess] the answer holds what is
// known in spite of it: with the latter the socket's network namespace and destination and the user who made
// it, and no process. Where those are because of missing privileges, the error is a [*PermissionError] besides.
//
// Ambiguous is set when more than one network namespace has such a socket, and when more than one
// process has it open: then the process is the one that others have it from, their parent. A process that
// got it by another way than by fork, over a Unix socket, is not looked for once one is found.
func (f *Finder) Find(ctx context.Context, client, server netip.AddrPort) (redirect.Connection, error) {
	if c, ok := f.again(client, server); ok {
		return c, ctx.Err()
	}
	return f.longer(ctx, client, server)()
}

// longer begins a search that can take its time. found waits for it.
func (f *Finder) longer(ctx context.Context, client, server netip.AddrPort) (found func() (redirect.Connection, error)) {
	type result struct {
		c   redirect.Connection
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	results := make(chan result, 1)
	var begun atomic.Bool
	// Not on this goroutine: a file in /proc can hang, and takes no deadline.
	f.background.Go(func() {
		select {
		case f.searches <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-f.searches }()
		begun.Store(true)
		c, err := f.find(ctx, client, server)
		results <- result{c, err}
	})
	return func() (redirect.Connection, error) {
		defer cancel()
		select {
		case r := <-results:
			return r.c, r.err
		case <-ctx.Done():
		}
		select {
		case r := <-results: // it had ended when this was called
			return r.c, r.err
		default:
		}
		if !begun.Load() {
			return redirect.Connection{}, fmt.Errorf("find the owner of %s: too many searches are under way: %w", client, ctx.Err())
		}
		return redirect.Connection{}, fmt.Errorf("find the owner of %s: %w", client, ctx.Err())
	}
}

func (f *Finder) find(ctx context.Context, client, server netip.AddrPort) (redirect.Connection, error) {
	client, server = plain(client), plain(server)
	search := &search{Finder: f, ctx: ctx, client: client.Addr()}
	s, err := search.socket(client, server)
	if err != nil {
		return redirect.Connection{}, search.explain(fmt.Errorf("find the socket %s to %s: %w", client, server, err))
	}
	c := f.connection(s, server)
	if err := search.identify(&c, s); err != nil {
		return c, search.explain(fmt.Errorf("find the process of the socket %s to %s: %w", client, server, err))
	}
	return c, nil
}

// plain is an address as the tables of sockets have it.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// connection is what a socket alone tells.
func (f *Finder) connection(s socket, server netip.AddrPort) redirect.Connection {
	c := redirect.Connection{
		UID:       s.uid,
		NetNS:     s.netns,
		OwnNetNS:  s.netns == f.netns,
		Ambiguous: s.ambiguous,
		Original:  s.original(server),
	}
	if c.OwnNetNS {
		c.NetNSCookie, c.Socket = f.cookie, s.cookie
	}
	return c
}

// search is one Find under way.
type search struct {
	*Finder
	ctx    context.Context
	client netip.Addr
	prompt bool // somebody else waits, and not for long
	hung   bool // a process holds up who looks at it
	denied bool // something was not to be read
	stop   int  // the process at which time was out
}

// socket is what a table of sockets says of one.
type socket struct {
	inode     uint32
	uid       uint32 // who made it
	cookie    uint64 // 0 where it was read from /proc
	netns     uint32 // inode number
	nscookie  uint64 // of its network namespace; 0 where that is not told
	mapped    bool   // IPv4 on an IPv6 socket
	ambiguous bool   // there is another one like it
	lender    *kept  // of whom it was borrowed, nil where it was not
}

// original is the destination as the caller gave it to connect().
func (s socket) original(server netip.AddrPort) netip.AddrPort {
	if !s.mapped {
		return server
	}
	return netip.AddrPortFrom(netip.AddrFrom16(server.Addr().As16()), server.Port())
}

// socket finds the socket. One in our own namespace goes first: nobody else can send from its addresses.
func (s *search) socket(client, server netip.AddrPort) (socket, error) {
	found, err := s.own.find(s.Finder, client, server)
	if err == nil {
		found.netns = s.netns
		return found, nil
	}
	if !errors.Is(err, ErrNoSocket) {
		return socket{}, err
	}
	if s.others.isOwn(client.Addr()) {
		return socket{netns: s.netns}, err // nobody else has it: the caller has closed it
	}
	return s.others.find(s, client, server)
}

func (s *search) explain(err error) error {
	if cause := s.ctx.Err(); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	if s.denied {
		if lacking := newPermissionError(); lacking != nil {
			return fmt.Errorf("%w: %w", err, lacking)
		}
	}
	return err
}

// note remembers an error that means missing privileges.
func (s *search) note(err error) {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		s.denied = true
	}
}
