package main

import (
	"testing"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/doctor"
)

func TestAutoRedirectsNoMoreThanIsAskedFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cgroup string
		taken  doctor.Redirector
		fits   bool
	}{
		{"", doctor.IPTables, true},
		{"/sys/fs/cgroup/system.slice/one.service", doctor.EBPF, true},
		{"/sys/fs/cgroup/system.slice/one.service", doctor.IPTables, false},
	} {
		c := config.Default()
		c.Redirect.Cgroup = tt.cgroup
		if err := fits(c, tt.taken, "ebpf cannot be had"); (err == nil) != tt.fits {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
