package handover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// How long systemd may take: to take a message, and to answer systemctl.
const (
	notifyPatience    = time.Second
	systemctlPatience = 2 * time.Second
)

// UnderSystemd tells whether systemd runs this process as a service that tells it of its state.
func UnderSystemd() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// isRestarting tells whether systemd ends a service to start it again at once.
func isRestarting(ctx context.Context, unit string) (bool, error) {
	jobs, err := systemctl(ctx, "list-jobs", "--no-legend", "--", unit)
	return isRestart(jobs, unit), err
}

// isRestart reads lines of a number, a unit, a kind of job and a state. To restart is one job for both
// halves.
func isRestart(jobs, unit string) bool {
	for line := range strings.Lines(jobs) {
		if fields := strings.Fields(line); len(fields) == 4 && fields[1] == unit {
			return fields[2] == "restart" || fields[2] == "try-restart" || fields[2] == "reload-or-restart"
		}
	}
	return false
}

// keptFiles is how many files systemd keeps for a service.
func keptFiles(ctx context.Context, unit string) (int, error) {
	out, err := systemctl(ctx, "show", "--property=NFileDescriptorStore", "--value", "--", unit)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

func systemctl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, systemctlPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", append([]string{"--no-pager", "--plain", "--full"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "SYSTEMD_COLORS=0"}
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return string(out), nil
}

// ownUnit is the service that this process is of, by its cgroup.
func ownUnit() (string, error) {
	lines, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return unitOf(string(lines))
}

// unitOf reads the cgroups of a process. systemd keeps its own in a hierarchy by the name of systemd,
// or in that of cgroup2, which has no name.
func unitOf(cgroups string) (string, error) {
	for line := range strings.Lines(cgroups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "name=systemd" {
			continue
		}
		for dir := fields[2]; dir != "/" && dir != "."; dir = path.Dir(dir) {
			if unit := path.Base(dir); strings.HasSuffix(unit, ".service") {
				return unit, nil
			}
		}
	}
	return "", errors.New("this process is in the cgroup of no service")
}

// notify tells systemd something, and gives it files.
func notify(state string, files ...*os.File) error {
	if len(files) == 0 {
		_, err := daemon.SdNotify(false, state)
		return err
	}
	var fds []int
	for _, f := range files {
		fd, err := descriptor(f)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	patience := unix.NsecToTimeval(notifyPatience.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return err
	}
	err = unix.Sendmsg(socket, []byte(state), rights(fds), &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, unix.MSG_NOSIGNAL)
	runtime.KeepAlive(files)
	return err
}

// barrier waits until systemd has read all that it was told before. It needs systemd 246.
func barrier() error {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	err = notify("BARRIER=1", theirs)
	theirs.Close()
	if err != nil {
		return err
	}
	if err := ours.SetReadDeadline(time.Now().Add(notifyPatience)); err != nil {
		return err
	}
	if _, err := ours.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("systemd does not answer: %w", err)
	}
	return nil // the end of the pipe: systemd has closed its end
}
