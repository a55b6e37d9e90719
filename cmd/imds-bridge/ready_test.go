package main

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/admin"
)

func TestReadyAsksTheRunningBridge(t *testing.T) {
	t.Parallel()
	for ready, want := range map[bool]int{true: exitOK, false: exitFailed} {
		socket := "unix:" + filepath.Join(t.TempDir(), "s")
		l, err := admin.Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		s := admin.New(admin.Options{
			Status:  func() admin.Status { return admin.Status{Ready: ready, Reason: "because", Redirector: "iptables"} },
			Metrics: http.NotFoundHandler(),
			Logger:  slog.New(slog.DiscardHandler),
		})
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { s.Close() })
		var out, errs strings.Builder
		if code := run(t.Context(), []string{"ready", "--admin.listen", socket}, &out, &errs); code != want {
			t.Errorf("ready %t: exit code %d, %s", ready, code, errs.String())
		}
		if said := out.String() + errs.String(); !strings.Contains(said, "because") {
			t.Errorf("ready %t: it says %q", ready, said)
		}
	}
}

func TestReadyFailsWithoutABridge(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]int{"unix:" + filepath.Join(t.TempDir(), "s"): exitFailed, "": exitUsage} {
		var out, errs strings.Builder
		if code := run(t.Context(), []string{"ready", "--admin.listen=" + listen}, &out, &errs); code != want || !strings.Contains(errs.String(), "admin.listen") {
			t.Errorf("%q: exit code %d, %q", listen, code, errs.String())
		}
	}
}
