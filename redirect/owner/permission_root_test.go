//go:build root

package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// seek is what a process with few privileges is to find.
type seek struct{ Client, Server netip.AddrPort }

// sought is what came of it.
type sought struct {
	PID, UID uint32
	Error    string
	Missing  []string
}

func init() {
	roles["seek"] = func() error {
		var task seek
		if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &task); err != nil {
			return err
		}
		f, err := New(Options{Timeout: time.Second})
		if err != nil {
			return err
		}
		defer f.Close()
		c, err := f.Find(context.Background(), task.Client, task.Server)
		s := sought{PID: c.PID, UID: c.UID}
		if err != nil {
			s.Error = err.Error()
		}
		if lacking := (*PermissionError)(nil); errors.As(err, &lacking) {
			s.Missing = lacking.Missing
		}
		return json.NewEncoder(os.Stdout).Encode(s)
	}
}

var capabilityBits = map[string]uintptr{
	"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
}

// seekWith looks for the owner of a client's socket as another user with some capabilities.
func seekWith(t *testing.T, l *lab.Lab, c *client, names []string) (s sought) {
	t.Helper()
	cmd := command(t, "seek", seek{c.local, imds4})
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	for _, name := range names {
		attr.AmbientCaps = append(attr.AmbientCaps, capabilityBits[name])
	}
	cmd.SysProcAttr = attr
	var out strings.Builder
	cmd.Stdout = &out
	if err := l.Host().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCapabilitiesSufficeAndOneLessIsNamed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	clients := map[string]*client{
		"host":      start(t, l.Host(), dial{To: imds4}, as(54321, 54321)),
		"container": start(t, container(t, l, "one"), dial{To: imds4}, as(54321, 54321)),
	}
	for where, c := range clients {
		t.Run(where, func(t *testing.T) {
			s := seekWith(t, l, c, Capabilities)
			if s.PID != c.pid() || s.UID != 54321 || s.Error != "" {
				t.Errorf("found %+v", s)
			}
			for _, lacking := range Capabilities {
				others := slices.DeleteFunc(slices.Clone(Capabilities), func(name string) bool { return name == lacking })
				s := seekWith(t, l, c, others)
				if s.PID != 0 || fmt.Sprint(s.Missing) != fmt.Sprint([]string{lacking}) || !strings.Contains(s.Error, lacking) {
					t.Errorf("without %s: %+v", lacking, s)
				}
			}
		})
	}
}

// A user's own processes are found without any.
func TestOwnProcessesAreFoundWithoutCapabilities(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := start(t, l.Host(), dial{To: imds4}, as(12345, 12345))
	if s := seekWith(t, l, c, nil); s.PID != c.pid() {
		t.Errorf("found %+v", s)
	}
}

// A sidecar with a pid namespace of its own does not see the other containers' processes.
func TestSocketOfAnotherPIDNamespaceHasNoProcess(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := start(t, l.Host(), dial{To: imds4})
	cmd := command(t, "seek apart", seek{c.local, imds4})
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	var out strings.Builder
	cmd.Stdout = &out
	if err := l.Host().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var s sought
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		t.Fatal(err)
	}
	if s.PID != 0 || !strings.Contains(s.Error, ErrNoProcess.Error()) || s.Missing != nil {
		t.Errorf("found %+v", s)
	}
}

func init() {
	roles["seek apart"] = func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return err
		}
		return roles["seek"]()
	}
}
