package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/doctor"
)

// Rules redirect a whole network namespace: they are nothing for one service, and all right for a host whose
// cgroups are mounted somewhere, as in a DaemonSet.
func TestAutoRedirectsNoMoreThanIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		files []string
		fits  bool
	}{
		"root of version 2": {[]string{"cgroup.procs", "cgroup.controllers"}, true},
		"part of version 2": {[]string{"cgroup.procs", "cgroup.controllers", "cgroup.events"}, false},
		"root of version 1": {[]string{"cgroup.procs", "notify_on_release", "release_agent"}, true},
		"part of version 1": {[]string{"cgroup.procs", "notify_on_release"}, false},
		"all of version 1":  {nil, true}, // a tmpfs with a directory for each controller
	} {
		c := config.Default()
		c.Redirect.Cgroup = t.TempDir()
		for _, file := range tt.files {
			if err := os.WriteFile(filepath.Join(c.Redirect.Cgroup, file), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := fits(c, doctor.IPTables, "ebpf cannot be had"); (err == nil) != tt.fits {
			t.Errorf("%s: %v", name, err)
		}
		if err := fits(c, doctor.EBPF, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fits(config.Default(), doctor.IPTables, ""); err != nil {
		t.Error(err)
	}
}
