package owner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// refreshAfter bounds how long a second namespace with an address can go unnoticed while one that is known
// has the socket. Only searches refresh, so a host without calls from containers pays nothing.
const refreshAfter = 2 * time.Second

// restFactor is how many times as long as a refresh takes none follows it.
const restFactor = 9

// namespaces are the network namespaces beside our own that a process is in, by the addresses that they
// have. Their sockets are read from /proc/<pid>/net of one of their processes.
//
// Rejected: sock_diag after setns(2), which is faster for namespaces with thousands of sockets. It needs
// CAP_SYS_ADMIN for as long as the bridge runs, and a socket kept in a namespace keeps the namespace.
type namespaces struct {
	finder *Finder
	maxAge time.Duration // of what is known, before it is asked for again

	mu      sync.Mutex
	latest  *view
	ours    map[netip.Addr]time.Time // addresses that were of our own namespace when they were asked for
	refresh chan struct{}            // closed when the refresh under way ends; nil without one
}

// view is what a refresh saw. It is not changed afterwards, but for others.
type view struct {
	began  time.Time
	took   time.Duration
	denied bool
	byAddr map[netip.Addr][]*namespace
	byID   map[uint32]*namespace
	others map[netip.Addr]bool // addresses that were not of our own namespace when they were asked for
}

// namespace is one network namespace.
type namespace struct {
	id   uint32 // inode number
	pids []int  // of its processes, the youngest first
	// cookie is that of the last socket of a process in the namespace, which can have those of others too; 0
	// if there was none, or before Linux 5.14.
	cookie atomic.Uint64
}

// find looks in all namespaces that have the client's address.
func (n *namespaces) find(s *search, client, server netip.AddrPort) (socket, error) {
	// At first in what is known, then in what is true now.
	now := time.Now()
	for _, since := range []time.Time{now.Add(-n.maxAge), now} {
		v, err := n.since(s.ctx, since)
		if err != nil {
			return socket{}, err
		}
		if found, err := v.find(s, client, server); err == nil {
			return found, nil
		}
	}
	return socket{}, ErrNoSocket
}

func (v *view) find(s *search, client, server netip.AddrPort) (socket, error) {
	s.denied = s.denied || v.denied
	var found []socket
	at := v.byAddr[client.Addr()]
	for _, ns := range at {
		if len(at) == 1 { // else each has to say whether it has one
			if one, ok := ns.borrow(s, client, server); ok {
				one.netns = ns.id
				return one, nil
			}
		}
		one, err := ns.find(s, client, server)
		if err != nil {
			s.note(err)
			continue
		}
		one.netns = ns.id
		found = append(found, one)
	}
	if len(found) == 0 {
		return socket{}, ErrNoSocket
	}
	found[0].ambiguous = len(found) > 1
	return found[0], nil
}

// since returns a view that began no earlier than t.
func (n *namespaces) since(ctx context.Context, t time.Time) (*view, error) {
	for {
		n.mu.Lock()
		v := n.latest
		if v != nil && !v.began.Before(t) {
			n.mu.Unlock()
			return v, nil
		}
		if n.refresh == nil {
			n.refresh = make(chan struct{})
			n.finder.background.Go(func() { n.renew(v) })
		}
		refresh := n.refresh
		n.mu.Unlock()
		select {
		case <-refresh:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// renew rests, so that searches in vain do not cost more than a tenth of a CPU, and looks anew.
func (n *namespaces) renew(last *view) {
	if last != nil {
		time.Sleep(time.Until(last.began.Add((1 + restFactor) * last.took)))
	}
	v := n.finder.look()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latest = v
	close(n.refresh)
	n.refresh = nil
}

// only returns the one namespace that has an address, nil where there are more, where it can be our own, or where
// that was not asked of late.
func (n *namespaces) only(a netip.Addr) *namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.latest
	if v == nil || time.Since(v.began) > n.maxAge || !v.others[a] || len(v.byAddr[a]) != 1 {
		return nil
	}
	return v.byAddr[a][0]
}

// isOwn is [IsOwn]. What is another namespace's is asked once in a while: it takes longer than all else of
// a search.
func (n *namespaces) isOwn(a netip.Addr) bool {
	n.mu.Lock()
	v := n.latest
	known := v != nil && time.Since(v.began) <= n.maxAge && v.others[a]
	n.mu.Unlock()
	if known {
		return false
	}
	own := IsOwn(a)
	if v != nil && !own && len(v.byAddr[a]) > 0 {
		n.mu.Lock()
		v.others[a] = true
		n.mu.Unlock()
	}
	return own
}

// maxOurs bounds the addresses of our own namespace that are remembered.
const maxOurs = 64

// likely tells whether an address is likely to be of our own namespace, or of one other. It returns false where that is not known, and
// where nobody called from there of late, or somebody who may be more than one.
func (n *namespaces) likely(a netip.Addr) (own, ok bool) {
	if since, ok := n.finder.doubts.Get(a); ok && time.Since(since) < doubt {
		return false, false
	}
	at := n.finder.netns
	if own = n.isLikelyOwn(a); !own {
		other := n.only(a)
		if other == nil {
			return false, false
		}
		at = other.id
	}
	known, _ := n.finder.hints.Get(user{anyone, at})
	return own, len(known) > 0 && n.finder.kept.Contains(known[0].pid)
}

func (n *namespaces) isLikelyOwn(a netip.Addr) bool {
	n.mu.Lock()
	at, known := n.ours[a]
	n.mu.Unlock()
	if known && time.Since(at) <= n.maxAge {
		return true
	}
	if !n.isOwn(a) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.ours) >= maxOurs {
		clear(n.ours)
	}
	n.ours[a] = time.Now()
	return true
}

// pids are the processes of a namespace.
func (n *namespaces) pids(id uint32) []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.latest == nil || n.latest.byID[id] == nil {
		return nil
	}
	return n.latest.byID[id].pids
}

// look goes through all processes.
func (f *Finder) look() *view {
	v := &view{began: time.Now(), byAddr: make(map[netip.Addr][]*namespace), byID: make(map[uint32]*namespace), others: make(map[netip.Addr]bool)}
	pids, _ := f.pids()
	for _, pid := range pids {
		id, err := f.netNSOf(pid)
		if err != nil {
			v.denied = v.denied || isDenied(err)
			continue
		}
		if id == f.netns {
			continue
		}
		if v.byID[id] == nil {
			v.byID[id] = &namespace{id: id}
		}
		v.byID[id].pids = append(v.byID[id].pids, pid)
	}
	for _, ns := range v.byID {
		for _, addr := range ns.addresses(f) {
			v.byAddr[addr] = append(v.byAddr[addr], ns)
		}
	}
	v.took = time.Since(v.began)
	return v
}

func isDenied(err error) bool { return err == unix.EACCES || err == unix.EPERM } //nolint:errorlint // as system calls return it

// pids lists the processes, the youngest first as far as their numbers tell.
func (f *Finder) pids() ([]int, error) {
	dir, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return pids, nil
}

// netNSOf returns the inode number of a process's network namespace.
func (f *Finder) netNSOf(pid int) (uint32, error) {
	var buf [32]byte
	n, err := unix.Readlinkat(int(f.proc.Fd()), strconv.Itoa(pid)+"/ns/net", buf[:])
	if err == nil && n == 0 {
		err = unix.EACCES // Linux 5.10 says it so
	}
	if err != nil {
		return 0, err
	}
	number, ok := bytes.CutPrefix(buf[:n], []byte("net:["))
	if !ok {
		return 0, unix.EINVAL
	}
	id, err := strconv.ParseUint(string(bytes.TrimSuffix(number, []byte("]"))), 10, 32)
	return uint32(id), err
}

// maxTries is how many of a namespace's processes are asked before it counts as gone.
const maxTries = 8

// with calls f with a process of the namespace until one is still there, and in it.
func (ns *namespace) with(finder *Finder, f func(pid int) error) error {
	err := error(unix.ESRCH)
	for _, pid := range ns.pids[:min(len(ns.pids), maxTries)] {
		if err = f(pid); err != nil {
			continue
		}
		// The number may be another process's by now, in another namespace.
		if id, e := finder.netNSOf(pid); e == nil && id == ns.id {
			return nil
		}
		err = unix.ESRCH
	}
	return err
}

// find looks for a socket in the tables of the namespace.
func (ns *namespace) find(s *search, client, server netip.AddrPort) (found socket, err error) {
	err = ns.with(s.Finder, func(pid int) (err error) {
		for _, table := range []string{"tcp", "tcp6"} {
			if table == "tcp" && client.Addr().Is6() {
				continue
			}
			if found, err = s.readTable(pid, table, client, server); err == nil {
				return nil
			}
			s.note(err)
		}
		return err
	})
	return found, err
}

func (f *Finder) readTable(pid int, table string, client, server netip.AddrPort) (socket, error) {
	file, err := os.Open(fmt.Sprintf("%s/%d/net/%s", f.path, pid, table))
	if err != nil {
		return socket{}, err
	}
	defer file.Close()
	return findInTable(file, table == "tcp6", client, server)
}

// addresses are those of the namespace, but for loopback: nobody else can be called from there.
func (ns *namespace) addresses(f *Finder) (all []netip.Addr) {
	_ = ns.with(f, func(pid int) error {
		all = all[:0]
		trie, err := os.Open(fmt.Sprintf("%s/%d/net/fib_trie", f.path, pid))
		if err != nil {
			return err
		}
		defer trie.Close()
		all = localAddrs4(trie)
		if file, err := os.Open(fmt.Sprintf("%s/%d/net/if_inet6", f.path, pid)); err == nil {
			defer file.Close()
			all = append(all, localAddrs6(file)...)
		}
		return nil
	})
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.DeleteFunc(slices.Compact(all), netip.Addr.IsLoopback)
}

// localAddrs4 reads /proc/net/fib_trie, where a line "|-- <address>" comes before "/32 host LOCAL".
func localAddrs4(r io.Reader) (all []netip.Addr) {
	var last netip.Addr
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if text, ok := strings.CutPrefix(line, "|-- "); ok {
			last, _ = netip.ParseAddr(text)
		} else if last.IsValid() && strings.HasPrefix(line, "/32 host LOCAL") {
			all = append(all, last)
		}
	}
	return all
}

// localAddrs6 reads /proc/net/if_inet6, where each line begins with the 32 digits of an address.
func localAddrs6(r io.Reader) (all []netip.Addr) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		digits, _, _ := strings.Cut(lines.Text(), " ")
		if b, err := hex.DecodeString(digits); err == nil {
			if addr, ok := netip.AddrFromSlice(b); ok {
				all = append(all, addr)
			}
		}
	}
	return all
}
