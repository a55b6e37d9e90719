package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/handover"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

// What one bridge leaves to the next, by name.
const (
	fileListen      = "listen"
	fileListen6     = "listen6"
	fileSockets     = "sockets"
	fileConnections = "connections"
	fileLink        = "link-" // and the name of the program
)

// predecessor is the bridge whose place this one takes; nil if there is none.
type predecessor struct {
	handover.State
	live *handover.Takeover // nil where it has ended, and systemd kept what it had
}

// findPredecessor looks for what systemd kept of a bridge that it restarts and, if that is asked for,
// for one that runs.
func findPredecessor(c config.Config, chosen choice, takeover bool, log *slog.Logger) (*predecessor, error) {
	own, err := terms(c, chosen)
	if err != nil {
		return nil, err
	}
	kept, err := handover.Kept()
	if err != nil {
		log.Warn("what systemd kept is of no use", "error", err.Error())
	}
	if kept != nil {
		before := &predecessor{State: *kept}
		if err := own.Agree(kept.Terms); err != nil {
			log.Warn("calls that wait for the bridge are lost: it is started under other terms than it had", "error", err.Error())
			return nil, before.end()
		}
		log.Info("goes on with what systemd kept", "version_before", kept.Version)
		return before, nil
	}
	if !takeover {
		return nil, nil
	}
	return takeOver(own, log)
}

// dropKept takes away what systemd kept, if nobody has asked for it yet: calls go on without a bridge.
func dropKept() error {
	kept, err := handover.Kept()
	if kept == nil {
		return err
	}
	return (&predecessor{State: *kept}).end()
}

// takeOver begins a takeover from the bridge that runs, if one does.
func takeOver(own handover.Terms, log *slog.Logger) (*predecessor, error) {
	path, err := controlPath()
	if err != nil {
		return nil, err
	}
	live, err := handover.Begin(path, version)
	if errors.Is(err, handover.ErrNobody) || errors.Is(err, handover.ErrGone) {
		log.Info("there is no bridge to take over from", "control", path)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over from the running bridge: %w", err)
	}
	before := &predecessor{State: live.State, live: live}
	if err := own.Agree(live.State.Terms); err != nil {
		return nil, errors.Join(
			fmt.Errorf("take over from process %d, version %s: %w (to change that, stop it first)", live.PID, live.State.Version, err),
			before.end())
	}
	log.Info("takes over", "from", live.PID, "version_before", live.State.Version)
	return before, nil
}

// terms are what two bridges must agree about to share listeners and records.
func terms(c config.Config, chosen choice) (handover.Terms, error) {
	netns, err := redirect.OwnNetNS()
	if err != nil {
		return nil, err
	}
	t := handover.Terms{
		"redirector":             chosen.redirector,
		"fail":                   c.Fail,
		"redirect.listen":        c.Redirect.Listen.String(),
		"redirect.mark":          c.Redirect.Mark.String(),
		"redirect.containers":    strconv.FormatBool(c.Redirect.Containers),
		"network namespace":      strconv.FormatUint(uint64(netns), 10),
		"version of the records": strconv.Itoa(hook.ContractVersion),
	}
	if c.Redirect.Listen6.IsValid() && redirect.HasIPv6() {
		t["redirect.listen6"] = c.Redirect.Listen6.String()
	}
	if c.Fail == failClosed { // the old one's pinned hook would refuse what the new one does not serve
		t["redirect.cgroup"] = c.Redirect.Cgroup
	}
	return t, nil
}

func (p *predecessor) isLive() bool { return p != nil && p.live != nil }

// pid is the process of one that lives, and 0 without any.
func (p *predecessor) pid() int {
	if !p.isLive() {
		return 0
	}
	return p.live.PID
}

// listener is the one that p has on an address, nil if it has none.
func (p *predecessor) listener(at netip.AddrPort) (*redirect.Listener, error) {
	name := fileListen
	if at.Addr().Is6() {
		name = fileListen6
	}
	if p == nil || p.Files[name] == nil {
		return nil, nil
	}
	return redirect.Inherit(p.Files[name], at)
}

// records are those of p, for the caller to close; nil if it has none.
func (p *predecessor) records() (*hook.Records, error) {
	if p == nil {
		return nil, nil
	}
	sockets, err := openMap(p.Files[fileSockets])
	if err != nil {
		return nil, err
	}
	connections, err := openMap(p.Files[fileConnections])
	if err != nil {
		return nil, errors.Join(err, sockets.Close())
	}
	return &hook.Records{Sockets: sockets, Connections: connections}, nil
}

func openMap(f *os.File) (*ebpf.Map, error) {
	if f == nil {
		return nil, errors.New("take over the records: they were not handed over")
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("take over the records: %w", err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("take over the records: %s: %w", f.Name(), err)
	}
	return m, nil
}

// end leaves p serving if it lives and has not retired, and else takes away what is left of it. It is
// idempotent.
func (p *predecessor) end() error {
	if p == nil || p.Files == nil {
		return nil
	}
	var errs []error
	if p.live != nil {
		errs = append(errs, p.live.Close())
	} else {
		var links []*os.File
		for name, f := range p.Files {
			if strings.HasPrefix(name, fileLink) {
				links = append(links, f)
			}
		}
		errs = append(errs, hook.DetachLinks(links), handover.Forget(p.State))
	}
	errs = append(errs, p.State.Close())
	p.Files = nil
	return errors.Join(errs...)
}
