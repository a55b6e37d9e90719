//go:build root

package iptables

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// onlyPrograms makes a directory with some programs of iptables the whole PATH.
func onlyPrograms(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestMissingIPTablesIsNamed(t *testing.T) {
	l := newLab(t)
	onlyPrograms(t)
	_, err := tryBridge(t, l, options(t, ""))
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "install the package iptables") {
		t.Error(err)
	}
	if err := l.Host().Do(func() error { _, err := Check(Tools{}); return err }); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}

func TestMissingBackendIsNamed(t *testing.T) {
	l := newLab(t)
	onlyPrograms(t, "iptables-nft", "ip6tables-nft")
	_, err := tryBridge(t, l, options(t, Legacy))
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "iptables-legacy") {
		t.Error(err)
	}
}

func TestMissingIP6TablesLeavesIPv4Alone(t *testing.T) {
	l := newLab(t)
	path := os.Getenv("PATH")
	onlyPrograms(t, "iptables-nft", "ip6tables-legacy")
	b := newBridge(t, l, options(t, ""))
	if r := b.rules.Report(); r.Backend != NFT || !strings.Contains(r.NoIPv6, "ip6tables") {
		t.Errorf("report %+v", r)
	}
	b.call(t, l.Host(), call{To: imds4})
	expectIMDS(t, l.Host(), call{To: imds6})
	if err := b.rules.Close(); err != nil {
		t.Error(err)
	}
	t.Setenv("PATH", path)
	expectNoRules(t, l.Host())
}

func TestWrongBackendIsNamed(t *testing.T) {
	t.Parallel()
	if !hasLegacy(t) {
		return
	}
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			other := map[string]string{NFT: Legacy, Legacy: NFT}[backend]
			addRules(t, l.Host(), "iptables-"+other+" -t nat -A PREROUTING -s 10.1.2.3 -j RETURN")
			_, err := tryBridge(t, l, options(t, backend))
			if !errors.Is(err, ErrBackend) || !strings.Contains(err.Error(), other) {
				t.Error(err)
			}
			if lines := tables(t, l.Host()); len(lines) != 1 {
				t.Errorf("rules are\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}

func TestBackendInUseIsTaken(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			addRules(t, l.Host(), "iptables-"+backend+" -t filter -A FORWARD -s 10.1.2.3 -j ACCEPT")
			b := newBridge(t, l, options(t, ""))
			if r := b.rules.Report(); r.Backend != backend {
				t.Errorf("report %+v", r)
			}
			b.call(t, l.Host(), call{To: imds4})
		})
	}
}
