package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// hookPlaces are the hooks that the bridge attaches to. connect's come first: the others matter less.
var hookPlaces = []struct {
	name    string
	where   ebpf.AttachType
	rewrite bool // a program there may change where a connection goes
}{
	{"connect4", ebpf.AttachCGroupInet4Connect, true},
	{"connect6", ebpf.AttachCGroupInet6Connect, true},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername, false},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername, false},
	{"sock_ops", ebpf.AttachCGroupSockOps, false},
	{egress, ebpf.AttachCGroupInetEgress, false},
}

const egress = "skb egress"

// program is another one on a hook of ours.
type program struct {
	id      ebpf.ProgramID
	name    string
	hook    string
	rewrite bool
	cgroup  string
	place   place
	flags   uint32
}

// place says where a program's cgroup lies, as seen from the one that the bridge attaches to.
type place int

const (
	here place = iota
	above
	below
)

// hooks are the programs on the hooks of the bridge's cgroup and its ancestors; checkHooks adds those
// of descendants.
type hooks struct {
	programs []program
	err      error
	partial  bool // there were more descendants than were looked at
}

// Descendants are looked at for as long as this and no more of them than this: a host may have
// thousands.
const (
	descendantsPatience = 300 * time.Millisecond
	maxDescendants      = 2000
)

func (h *host) queryHooks() (found hooks) {
	cgroup, err := h.cgroup()
	if err != nil {
		return hooks{err: err}
	}
	if found.err = found.add(cgroup.Path, here, true); found.err != nil {
		return found
	}
	for dir := filepath.Dir(cgroup.Path); h.options.Cgroup != ""; dir = filepath.Dir(dir) {
		if found.add(dir, above, true) != nil { // above the root of the mount
			break
		}
	}
	return found
}

// descend looks at the connect hooks of the cgroups below dir, breadth first.
func (f *hooks) descend(dir string, deadline time.Time) {
	queue := []string{dir}
	for seen := 0; len(queue) > 0; queue = queue[1:] {
		entries, _ := os.ReadDir(queue[0])
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if seen++; seen > maxDescendants || time.Now().After(deadline) {
				f.partial = true
				return
			}
			child := filepath.Join(queue[0], e.Name())
			if f.add(child, below, false) == nil {
				queue = append(queue, child)
			}
		}
	}
}

func (f *hooks) add(dir string, p place, all bool) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	for _, hook := range hookPlaces {
		if !all && !hook.rewrite {
			continue
		}
		on, err := query(fd, hook.where)
		if errors.Is(err, unix.EINVAL) {
			continue // a hook that this kernel does not know
		}
		if err != nil {
			return err
		}
		for _, id := range on.ids {
			f.programs = append(f.programs, program{id, programName(id), hook.name, hook.rewrite, dir, p, on.flags})
		}
	}
	return nil
}

// holder names the program because of which the kernel refuses ours: one that holds its hook alone,
// or, in the same cgroup, one that gives way to descendants and shares with nobody. That on egress only
// keeps the bridge from watching.
func (f hooks) holder() string {
	for _, p := range f.programs {
		if p.hook != egress && p.holds() {
			return fmt.Sprintf("%s holds the hook alone", p)
		}
	}
	return ""
}

// holds tells whether the kernel refuses a program of ours on the same hook.
func (p program) holds() bool {
	switch p.place {
	case here:
		return p.flags&allowMulti == 0
	case above:
		return p.flags&(allowMulti|allowOverride) == 0
	default:
		return false
	}
}

func (p program) String() string {
	name := p.name
	if name == "" {
		name = "a program"
	}
	return fmt.Sprintf("%s (id %d) on %s of %s", name, p.id, p.hook, p.cgroup)
}

func (p program) sharing() string {
	switch {
	case p.flags&allowMulti != 0:
		return "multi"
	case p.flags&allowOverride != 0:
		return "override"
	default:
		return "exclusive"
	}
}

func (p program) isOwn() bool { return ownPrograms[p.name] }

// ownPrograms are the names of bpf/redirect.c and bpf/watch.c.
var ownPrograms = map[string]bool{
	"connect4": true, "connect6": true, "getpeername4": true, "getpeername6": true, "sock_ops": true,
	"egress": true, "ingress": true,
}

// maker says whose program a name is, as far as names tell.
func maker(name string) string {
	switch {
	case strings.HasPrefix(name, "cil_sock"), strings.HasPrefix(name, "sock4_"), strings.HasPrefix(name, "sock6_"):
		return "Cilium's socket load balancer" // pkg/socketlb; sock4_* before Cilium 1.13
	case strings.HasPrefix(name, "sd_fw_"), strings.HasPrefix(name, "sd_"):
		return "systemd" // IPAddressAllow=, SocketBindAllow=, RestrictNetworkInterfaces=
	case strings.HasPrefix(name, "calico_connect"), strings.HasPrefix(name, "cali_"), strings.HasPrefix(name, "calico_"):
		return "Calico's connect-time load balancer"
	default:
		return ""
	}
}

func checkHooks(_ context.Context, h *host) []Finding {
	found := h.hooks()
	if cgroup, err := h.cgroup(); err == nil && found.err == nil {
		found.descend(cgroup.Path, time.Now().Add(descendantsPatience))
	}
	return judgeHooks(found, len(h.bridges()) > 0)
}

func judgeHooks(f hooks, bridgeRuns bool) (findings []Finding) {
	switch {
	case errors.Is(f.err, unix.EPERM):
		return []Finding{{Status: Unknown, Concerns: EBPF, Found: "what is attached may not be asked for (CAP_BPF, CAP_NET_ADMIN)", Remedy: "run the doctor as root"}}
	case errors.Is(f.err, unix.EINVAL), errors.Is(f.err, unix.ENOSYS):
		return []Finding{{Status: Unknown, Concerns: EBPF, Found: "the kernel cannot be asked what is attached"}}
	case f.err != nil:
		return []Finding{{Status: Unknown, Concerns: EBPF, Found: f.err.Error()}}
	}
	own := 0
	for _, p := range f.programs {
		if p.isOwn() {
			own++
			continue
		}
		if finding, tell := judgeProgram(p); tell {
			findings = append(findings, finding)
		}
	}
	if f.partial {
		findings = append(findings, Finding{Status: OK, Found: fmt.Sprintf("of the cgroups below, the first %d or so were looked at", maxDescendants)})
	}
	switch {
	case own > 0:
		found := count(own, "program") + " of a bridge"
		findings = append(findings, Finding{Status: OK, Found: found, Means: "bridges stand beside each other: the first that sees a call takes it"})
	case bridgeRuns:
		findings = append(findings, Finding{Status: OK, Found: "a bridge runs, and has no program here that can be told by its name"})
	case len(findings) == 0:
		findings = append(findings, Finding{Status: OK, Found: "nobody else is on the hooks"})
	}
	return findings
}

// judgeProgram says what somebody else's program means. On sock_ops and skb egress, where programs
// change nothing for each other, one that shares is not worth a line.
func judgeProgram(p program) (f Finding, tell bool) {
	f = Finding{Status: OK, Concerns: EBPF, Found: fmt.Sprintf("%s, %s", p, p.sharing())}
	who := maker(p.name)
	switch {
	case p.holds() && p.hook == egress:
		f.Status = Limit
		f.Means = "it was attached without BPF_F_ALLOW_MULTI: calls that go past the bridge cannot be watched"
		f.Remedy = "let its maker attach it with BPF_F_ALLOW_MULTI or by a bpf_link"
	case p.holds():
		f.Status = Fail
		f.Means = "it was attached without BPF_F_ALLOW_MULTI: the kernel refuses a second program"
		f.Remedy = "let its maker attach it with BPF_F_ALLOW_MULTI or by a bpf_link; or redirector: iptables"
	case p.place == above && p.flags&allowMulti == 0:
		f.Status = Limit
		f.Means = "it gives way to programs below: once the bridge is attached, it no longer runs for the processes of the bridge's cgroup"
		f.Remedy = "let its maker attach it with BPF_F_ALLOW_MULTI or by a bpf_link; or set redirect.cgroup to where it is"
	case !p.rewrite:
		return f, false
	case p.place == below:
		f.Means = "it runs before the bridge's and may change where a call goes"
	case who != "":
		f.Means = "both work: services' addresses are its business, the metadata service's are the bridge's"
	default:
		f.Means = "they share the hook: whichever runs first may change where a call goes"
	}
	if who != "" {
		f.Means = who + ": " + f.Means
	}
	return f, true
}
