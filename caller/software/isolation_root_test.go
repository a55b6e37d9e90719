//go:build root

package software

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
)

// Who has a mount namespace of his own puts another database of packages below the same root. That decides
// nothing for who runs the same program outside.
func TestOwnMounts(t *testing.T) {
	t.Parallel()
	dir, ready := tempDir(t), writeReady(t)
	write(t, dir+"/status", "Package: false\nStatus: install ok installed\nVersion: 1\n")
	write(t, dir+"/info/false.list", "/.\n/bin/cat\n/usr/bin/cat\n")
	inside := run(t, exec.Command("unshare", "--mount", "sh", "-c", "mount --bind "+dir+" /var/lib/dpkg && exec /bin/cat "+ready+" -"), "ready")
	outside := run(t, exec.Command("/bin/cat", ready, "-"), "ready")
	f := newFinder(t, Options{})
	if s := eventually(t, f, inside); s.Package != (Package{"dpkg", "false", "1"}) {
		t.Errorf("inside: %+v", s)
	}
	if s := eventually(t, f, outside); s.Package != dpkgSays(t, "/usr/bin/cat") {
		t.Errorf("outside: %+v", s)
	}

	// Packages go stale as all else does.
	write(t, dir+"/status", "Package: false\nStatus: install ok installed\nVersion: 2\n")
	age(f)
	if s, err := f.Look(t.Context(), inside); err != nil || s.Package.Version != "2" {
		t.Errorf("later: %+v, %v", s, err)
	}
}

// deaf mounts a file system that never answers. It returns how to end it.
func deaf(t *testing.T, dir string) (end func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("deaf", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			_ = unix.Close(fd) // who waits is told so
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
		ended = true
	}
	t.Cleanup(end)
	return end
}

// Programs whose files are of a file system that never answers: they hold up nobody else, and no more of
// them are looked at than a user may have.
func TestDeafFileSystem(t *testing.T) {
	t.Parallel()
	dir := entered(t, tempDir(t))
	end := deaf(t, dir+"/deaf")
	var log strings.Builder
	f, err := newIdle(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f.maxLook = 200 * time.Millisecond
	for range workers {
		f.working.Go(f.work)
	}
	var held []*caller.Caller
	for n := range maxOfUser + 2 {
		app := fmt.Sprintf("%s/%d", dir, n)
		install(t, "/bin/cat", app+"/bin/ruby")
		link(t, dir+"/deaf/file", app+"/Gemfile.lock")
		held = append(held, stub(t, app, "ruby", app+"/app.rb"))
	}
	underWay := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.underWay)
	}
	for deadline := time.Now().Add(30 * time.Second); underWay() < maxOfUser || f.Dropped() == 0; time.Sleep(5 * time.Millisecond) {
		for _, c := range held {
			if s, ok := f.Of(c); ok {
				t.Fatalf("known: %+v", s)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d looks under way, %d dropped", underWay(), f.Dropped())
		}
	}
	write(t, dir+"/other/Gemfile.lock", "    aws-sdk-core (3.1.0)\n")
	install(t, "/bin/cat", dir+"/bin/ruby")
	write(t, dir+"/other/app.rb", "ready")
	cmd := as(exec.Command(dir+"/bin/ruby", dir+"/other/app.rb", "-"), 4321)
	cmd.Dir = dir + "/other"
	check(t, eventually(t, f, run(t, cmd, "ready")), Library{RubyGems, "aws-sdk-core", "3.1.0", Installed, dir + "/other/Gemfile.lock"})
	if n := underWay(); n > maxOfUser {
		t.Errorf("%d looks of one user under way", n)
	}

	began := time.Now()
	f.Close()
	if took := time.Since(began); took > 5*patience {
		t.Errorf("Close took %v", took)
	}
	end()
	f.working.Wait()
	if n := underWay(); n != 0 || len(f.pending) != 0 {
		t.Errorf("%d looks under way, %d pending", n, len(f.pending))
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, log.String())
	}
}
