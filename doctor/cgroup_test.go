package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Mounts as Amazon Linux 2023 and Amazon Linux 2 have them.
const (
	unifiedMounts = "27 22 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	legacyMounts  = "24 17 0:20 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755\n" +
		"25 24 0:21 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:9 - cgroup cgroup rw,xattr,name=systemd\n" +
		"28 24 0:24 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,memory\n"
)

func TestLayout(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"hybrid": {capture(t, "hybrid.mountinfo"), "hybrid"},
		"v2":     {unifiedMounts, "v2"},
		"v1":     {legacyMounts, "v1"},
		"none":   {"22 1 8:1 / / rw - ext4 /dev/root rw\n", "none mounted"},
		"broken": {"- cgroup2\n\nx\n", "none mounted"},
	} {
		if got := layout(parseMounts(tt.text)); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if m := parseMounts(`1 2 0:1 / /a\040b rw - cgroup2 none rw`); len(m) != 1 || m[0].point != "/a b" || !m[0].v2 {
		t.Errorf("%+v", m)
	}
}

func TestCgroupFindings(t *testing.T) {
	t.Parallel()
	expect(t, judgeCgroup("v2", "/sys/fs/cgroup", nil, true), OK, "root is at /sys/fs/cgroup")
	expect(t, judgeCgroup("v1", "/proc/self/fd/7", nil, true), OK, "v1", "mounts one for itself")
	expect(t, judgeCgroup("v2", "/sys/fs/cgroup/x.slice", nil, false), OK, "not the root")
	expect(t, judgeCgroup("v2", "", errors.New("cgroup2 at /sys/fs/cgroup is not the host's root"), false), Fail, "--cgroupns=host")
	expect(t, judgeCgroup("v1", "", fmt.Errorf("/sys/fs/cgroup/memory: %w", redirect.ErrNotCgroup2), false), Fail, "redirect.cgroup")
}

func TestPartOfAHost(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		files []string
		part  bool
	}{
		"root of version 2":                       {[]string{"cgroup.procs", "cgroup.controllers"}, false},
		"a service of version 2":                  {[]string{"cgroup.procs", "cgroup.controllers", "cgroup.type"}, true},
		"root of version 1":                       {[]string{"cgroup.procs", "notify_on_release", "release_agent"}, false},
		"a service of version 1":                  {[]string{"cgroup.procs", "notify_on_release"}, true},
		"where version 1 has all its hierarchies": {nil, false},
	} {
		dir := t.TempDir()
		for _, file := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := isPart(dir); got != tt.part {
			t.Errorf("%s: %t", name, got)
		}
	}
	if isPart("") {
		t.Error("no directory is a part")
	}
}
