//go:build root

package software

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// lookAs looks at a process as another user, with these capabilities and no other.
func lookAs(t *testing.T, pid uint32, capabilities ...uintptr) (*Software, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // the build's directory is not theirs to enter
	cmd.Env = []string{fmt.Sprintf("%s=%d", roleVariable, pid), "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 4321, Gid: 4321},
		AmbientCaps: capabilities,
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	s := new(Software)
	return s, json.Unmarshal(out, s)
}

// as runs a command as a user of its own.
func as(cmd *exec.Cmd, uid uint32) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// entered lets everybody enter a directory and those above it, up to the temporary one.
func entered(t *testing.T, dir string) string {
	t.Helper()
	for at := dir; at != os.TempDir() && at != "/"; at = at[:strings.LastIndexByte(at, '/')] {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// With CAP_SYS_PTRACE and no other capability the bridge sees the files of other users that everybody
// may read, the jars that a process has open among them; it says what it may not see.
func TestCapability(t *testing.T) {
	t.Parallel()
	dir := entered(t, tempDir(t))
	write(t, dir+"/libjvm.so", "library")
	write(t, dir+"/aws-java-sdk-core-1.11.600.jar", jar(t, map[string]string{"a": ""}))
	program := run(t, as(mapping(t, dir+"/app", dir+"/libjvm.so", dir+"/aws-java-sdk-core-1.11.600.jar"), 1234), "ready")
	s, err := lookAs(t, program.PID, unix.CAP_SYS_PTRACE)
	if err != nil {
		t.Fatal(err)
	}
	check(t, s, Library{Maven, "com.amazonaws:aws-java-sdk-core", "1.11.600", Loaded, dir + "/aws-java-sdk-core-1.11.600.jar"})
	if s.Missing != "" {
		t.Errorf("missing: %s", s.Missing)
	}
	if s, err := lookAs(t, program.PID); err == nil {
		t.Errorf("without a capability: %+v", s)
	}

	install(t, "/bin/cat", dir+"/ruby")
	write(t, dir+"/app.rb", "ready")
	const gem = "/specifications/aws-sdk-core-3.5.0.gemspec"
	write(t, dir+"/secret"+gem, "")
	if err := os.MkdirAll(dir+"/vendor/bundle/ruby", 0o755); err != nil {
		t.Fatal(err)
	}
	bundle := dir + "/vendor/bundle/ruby/3.1.0"
	link(t, dir+"/secret", bundle)
	for mode, test := range map[os.FileMode]struct {
		missing string
		want    []Library
	}{
		0o700: {bundle + "/specifications: permission denied", nil},
		0o755: {"", []Library{{RubyGems, "aws-sdk-core", "3.5.0", Installed, bundle + gem}}},
	} {
		if err := os.Chmod(dir+"/secret", mode); err != nil {
			t.Fatal(err)
		}
		cmd := as(exec.Command(dir+"/ruby", dir+"/app.rb", "-"), 1234)
		cmd.Dir = dir
		s, err := lookAs(t, run(t, cmd, "ready").PID, unix.CAP_SYS_PTRACE)
		if err != nil {
			t.Fatal(err)
		}
		check(t, s, test.want...)
		if s.Missing != test.missing {
			t.Errorf("mode %v: missing %q", mode, s.Missing)
		}
	}
}

// enter waits, after it has made the directory in its first argument its root as a container's runtime
// does, if there is one.
const enter = `
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **args) {
	if (getenv("OWN_ROOT")) {
		char *root = getenv("OWN_ROOT");
		unsetenv("OWN_ROOT");
		if (unshare(CLONE_NEWNS) || mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) || mount(root, root, 0, MS_BIND, 0) ||
		    chdir(root) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/app") ||
		    execv("/bin/python3", args)) {
			perror("enter");
			return 1;
		}
	}
	write(1, "ready", 5);
	char c;
	return read(0, &c, 1);
}`

// A process in a root of its own, in a chroot and as in a container: its paths and links are its own, and
// nothing of the host is shown through them.
func TestOwnRoot(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	root := dir + "/root"
	write(t, dir+"/wait.c", enter)
	output(t, dir, "gcc", "-static", "-o", "wait", "wait.c")
	install(t, dir+"/wait", root+"/usr/bin/python3.9")
	link(t, "usr/bin", root+"/bin")
	link(t, "/usr/bin/python3.9", root+"/usr/bin/python3")
	const site = "/usr/lib/python3.9/site-packages"
	write(t, root+site+"/botocore-1.2.3.dist-info/METADATA", "")
	// The host's own libraries, and one beside the root.
	link(t, "../../../../../../../../usr/lib/python3/dist-packages", root+"/usr/lib/python3.9/dist-packages")
	write(t, dir+"/lib/boto-2.0.dist-info/METADATA", "")
	link(t, dir+"/lib", root+"/usr/lib/python3")
	write(t, root+"/app/main.py", "")
	link(t, dir, root+"/app/up")
	// The database of packages lies behind a link that means another file outside.
	write(t, root+"/data/dpkg/info/python3.9.list", "/.\n/bin/python3.9\n")
	write(t, root+"/data/dpkg/info/app.list", "/.\n/app/main.py\n")
	write(t, root+"/data/dpkg/status", "Package: python3.9\nVersion: 3.9.2-1\n\nPackage: app\nVersion: 7\n")
	if err := os.MkdirAll(root+"/var/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, "/data/dpkg", root+"/var/lib/dpkg")

	chroot := exec.Command("/bin/python3", "/app/main.py")
	chroot.Dir = "/app"
	chroot.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	container := exec.Command(dir+"/wait", "/app/main.py")
	container.Env = []string{"OWN_ROOT=" + root}
	for name, cmd := range map[string]*exec.Cmd{"chroot": chroot, "container": container} {
		s := lookAt(t, run(t, cmd, "ready"))
		check(t, s, Library{PyPI, "botocore", "1.2.3", Installed, site + "/botocore-1.2.3.dist-info"})
		if s.Package != (Package{"dpkg", "python3.9", "3.9.2-1"}) || s.ScriptPackage != (Package{"dpkg", "app", "7"}) || s.Script != "/app/main.py" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
