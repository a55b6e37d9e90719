package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

// finds is a finder whose answer is known.
type finds struct {
	iptables.Finder
	c   redirect.Connection
	err error
}

func (f finds) Find(context.Context, netip.AddrPort, netip.AddrPort) (redirect.Connection, error) {
	return f.c, f.err
}

// A bridge that may not look into processes says so, and which capability it lacks, once.
func TestMissingPrivilegeIsSaidOnce(t *testing.T) {
	t.Parallel()
	client, server := netip.MustParseAddrPort("172.17.0.2:40000"), netip.MustParseAddrPort("169.254.169.254:80")
	lacking := fmt.Errorf("find the process: %w", &owner.PermissionError{Missing: []string{"CAP_SYS_PTRACE"}})
	for name, tt := range map[string]struct {
		found finds
		want  []string // in the one line
		not   string
	}{
		"the namespace is known": {finds{c: redirect.Connection{NetNS: 4026531840}, err: lacking}, []string{"CAP_SYS_PTRACE", "172.17.0.2:40000", "network_namespace=4026531840"}, "=0"},
		"it is not":              {finds{err: lacking}, []string{"CAP_SYS_PTRACE", "172.17.0.2:40000"}, "network_namespace"},
		"nobody is there":        {finds{err: owner.ErrNoSocket}, nil, ""},
		"somebody is found":      {finds{c: redirect.Connection{PID: 1}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var said bytes.Buffer
			o := &owners{Finder: tt.found, log: slog.New(slog.NewTextHandler(&said, nil))}
			for range 3 {
				if c, err := o.Find(context.Background(), client, server); c != tt.found.c || err != tt.found.err {
					t.Errorf("found %+v, %v", c, err)
				}
			}
			lines := strings.Count(said.String(), "level=WARN")
			if (lines == 1) != (tt.want != nil) || lines > 1 {
				t.Errorf("%d lines: %s", lines, &said)
			}
			for _, word := range tt.want {
				if !strings.Contains(said.String(), word) {
					t.Errorf("no %s in: %s", word, &said)
				}
			}
			if tt.not != "" && strings.Contains(said.String(), tt.not) {
				t.Errorf("%s in: %s", tt.not, &said)
			}
		})
	}
}
