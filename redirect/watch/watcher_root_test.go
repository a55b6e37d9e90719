//go:build root

package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func init() { roles["watcher"] = beWatcher }

// watcherTask is what a watch in a process of its own does.
type watcherTask struct {
	Bound  []string // drop all other capabilities first, for good
	Cgroup string
}

// watched is what it says first; exchanges follow.
type watched struct {
	Capabilities  uint64 // effective
	Attach, Close string // errors
}

func beWatcher() (err error) {
	var task watcherTask
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &task); err != nil {
		return err
	}
	if task.Bound != nil {
		return restart(task)
	}
	report := json.NewEncoder(os.Stdout)
	first := watched{Capabilities: effective()}
	w, err := Attach(Options{Cgroup: task.Cgroup, Seen: func(x Exchange) { _ = report.Encode(x) }})
	if err == nil {
		defer func() { err = errors.Join(err, w.Close()) }()
	}
	first.Attach = message(err)
	_, err = CloseConnected(mark)
	first.Close = message(err)
	if err := report.Encode(first); err != nil || first.Attach != "" {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// restart starts the task anew with no more than the capabilities in task.Bound: the bounding set is
// the limit of what exec gives to root.
func restart(task watcherTask) error {
	runtime.LockOSThread() // exec leaves this thread alone
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.ContainsFunc(task.Bound, func(name string) bool { return capability(name) == c }) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
			return err
		}
	}
	task.Bound = nil
	text, err := json.Marshal(task)
	if err != nil {
		return err
	}
	if err := os.Setenv(taskVariable, string(text)); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

func capability(name string) int {
	return map[string]int{
		"CAP_BPF":       unix.CAP_BPF,
		"CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
		"CAP_PERFMON":   unix.CAP_PERFMON,
	}[name]
}

// effective are the capabilities of this process, as a set of bits.
func effective() (set uint64) {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "CapEff:")
	_, _ = fmt.Sscanf(rest, "%x", &set)
	return set
}
