//go:build root

package owner

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// stat is the process as another reader of /proc sees it.
func stat(t *testing.T, pid int) procfs.ProcStat {
	t.Helper()
	p, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var dials = map[string]dial{
	"IPv4":                     {To: imds4},
	"IPv6":                     {To: imds6},
	"IPv4 by an IPv6 socket":   {To: imds4, V6: true},
	"IPv4 from the link's":     {To: imds4, From: netip.MustParseAddrPort("172.31.0.2:0")},
	"IPv4, by another program": {To: imds4, Exec: true},
}

// withTables are the ways to find a socket of the own namespace.
var withTables = map[string]func(*Finder){
	"by sock_diag": func(*Finder) {},
	"by /proc": func(f *Finder) {
		_ = unix.Close(f.own.diag)
		f.own.diag = -1
	},
}

func TestProcessOfTheOwnNamespaceIsFoundWhole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for by, change := range withTables {
		f := newFinder(t, l.Host())
		change(f)
		for name, d := range dials {
			t.Run(by+", "+name, func(t *testing.T) {
				c := start(t, l.Host(), d, as(12345, 23456))
				got := find(t, f, c, d.To)
				s := stat(t, int(c.pid()))
				original := d.To
				if d.V6 {
					original = netip.AddrPortFrom(netip.AddrFrom16(d.To.Addr().As16()), d.To.Port())
				}
				want := redirect.Connection{
					PID: c.pid(), PPID: uint32(os.Getpid()),
					UID: 12345, GID: 23456,
					Comm:        s.Comm,
					Started:     time.Duration(s.Starttime) * userTick,
					ExecID:      got.ExecID,
					CgroupID:    inode(t, l.Cgroup()),
					NetNSCookie: got.NetNSCookie,
					NetNS:       uint32(inode(t, l.Host().Path())),
					OwnNetNS:    true,
					Socket:      got.Socket,
					Original:    original,
				}
				if got != want {
					t.Errorf("found\n%+v, want\n%+v", got, want)
				}
				if got.ExecID == 0 || (got.Socket == 0) != (by == "by /proc") {
					t.Errorf("exec id %d, socket %d", got.ExecID, got.Socket)
				}
			})
		}
	}
}

func TestProcessInAContainerIsFoundInItsNamespace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const name = "docker-0123.scope"
	container := container(t, l, name)
	f := newFinder(t, l.Host())
	for by, d := range map[string]dial{
		"IPv4":                   {To: imds4},
		"IPv6":                   {To: imds6},
		"IPv4 by an IPv6 socket": {To: imds4, V6: true},
	} {
		t.Run(by, func(t *testing.T) {
			c := start(t, container, d, as(34567, 45678))
			got := find(t, f, c, d.To)
			want := redirect.Connection{
				PID: c.pid(), PPID: uint32(os.Getpid()),
				UID: 34567, GID: 45678,
				Comm:     got.Comm,
				Started:  time.Duration(stat(t, int(c.pid())).Starttime) * userTick,
				ExecID:   got.ExecID,
				CgroupID: inode(t, filepath.Join(l.Cgroup(), name)),
				NetNS:    uint32(inode(t, container.Path())),
				Original: got.Original,
			}
			if got != want {
				t.Errorf("found\n%+v, want\n%+v", got, want)
			}
			if got.Original.Addr().Is4In6() != d.V6 || got.Original.Addr().Unmap() != d.To.Addr() {
				t.Errorf("original %s", got.Original)
			}
			again := find(t, f, c, d.To)
			if again != got {
				t.Errorf("found %+v at last, before %+v", again, got)
			}
		})
	}
}

// A namespace, and an address of one, that came after the last search.
func TestNewNamespaceAndAddressAreFound(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	if _, err := f.Find(context.Background(), netip.MustParseAddrPort("172.30.9.9:1"), imds4); !errors.Is(err, ErrNoSocket) {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three"} {
		container := container(t, l, name)
		c := start(t, container, dial{To: imds4})
		if got := find(t, f, c, imds4); got.PID != c.pid() {
			t.Errorf("pid %d, want %d", got.PID, c.pid())
		}
	}
}

func TestExecIsToldByExecIDAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	first := find(t, f, start(t, l.Host(), dial{To: imds4}), imds4)
	c := start(t, l.Host(), dial{To: imds4})
	before := find(t, f, c, imds4)
	if again := find(t, f, c, imds4); again.ExecID != before.ExecID {
		t.Errorf("exec id changed from %d to %d without exec", before.ExecID, again.ExecID)
	}
	if first.ExecID == before.ExecID {
		t.Errorf("two processes have exec id %d", before.ExecID)
	}
	// What the process is after exec has another one: the same program with the same arguments.
	p, err := (&search{Finder: f, ctx: context.Background()}).stat(int(c.pid()))
	if err != nil || p.execID != before.ExecID {
		t.Errorf("exec id %d, want %d: %v", p.execID, before.ExecID, err)
	}
	seen := map[uint64]bool{}
	for _, exec := range []bool{false, true} {
		e := startExec(t, l, exec)
		seen[find(t, f, e, imds4).ExecID] = true
	}
	if len(seen) != 2 {
		t.Errorf("exec ids %v", seen)
	}
}

func startExec(t *testing.T, l *lab.Lab, exec bool) *client {
	t.Helper()
	return start(t, l.Host(), dial{To: imds4, Exec: exec})
}
