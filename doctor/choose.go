package doctor

import (
	"errors"
	"fmt"
	"strings"
)

// Redirector is what brings connections to the bridge.
type Redirector string

const (
	Auto     Redirector = "auto"     // the best that can be had
	EBPF     Redirector = "ebpf"     // the kernel hook
	IPTables Redirector = "iptables" // rules of the firewall
	None     Redirector = "none"     // calls are watched, not redirected
)

// Facts are what the choice of a redirector depends on. [Look] gathers them.
type Facts struct {
	Wanted Redirector
	// Install says that the bridge itself is to put iptables rules in place.
	Install bool

	Kernel   Kernel
	BTF      bool   // the kernel tells of its types
	Lockdown string // none, integrity or confidentiality; "" if the kernel knows no such thing
	Memlock  bool   // kernel memory for maps can be had
	Cgroup   error  // why there is no cgroup2 directory to attach to
	Part     bool   // only the processes of one cgroup are to be redirected
	Holder   string // the program that holds a hook alone, "" if none does
	Tools    error  // why iptables cannot be run

	// Missing are the capabilities that each redirector needs and this process lacks.
	Missing map[Redirector][]string
	// Tried is what came of trying a redirector: nil for success. What was not tried is not in it.
	Tried map[Redirector]error
}

// ErrNoRedirector is returned by [Choose] when the host has none that may be taken.
var ErrNoRedirector = errors.New("no redirector can be had")

// Choose takes the redirector that is wanted, or for [Auto] the best that can be had: ebpf, then
// iptables. It says why. Auto never takes [None]: a bridge that is to redirect does not merely watch; nor rules where
// they would redirect more than is asked for.
func Choose(f Facts) (taken Redirector, why string, err error) {
	if f.Wanted != Auto {
		if against := f.against(f.Wanted); len(against) > 0 {
			return "", "", fmt.Errorf("%w: %s was asked for, but %s", ErrNoRedirector, f.Wanted, strings.Join(against, "; "))
		}
		return f.Wanted, "asked for" + f.proof(f.Wanted), nil
	}
	noHook := f.against(EBPF)
	if len(noHook) == 0 {
		return EBPF, "the kernel has all that the hook needs" + f.proof(EBPF), nil
	}
	noRules := f.against(IPTables)
	if f.Part {
		noRules = append(noRules, "rules redirect the whole network namespace, and not redirect.cgroup alone: leave that empty, or ask for iptables, if that is wanted")
	}
	if len(noRules) == 0 {
		return IPTables, "ebpf cannot be had: " + strings.Join(noHook, "; ") + f.proof(IPTables), nil
	}
	return "", "", fmt.Errorf("%w: ebpf: %s; iptables: %s", ErrNoRedirector, strings.Join(noHook, "; "), strings.Join(noRules, "; "))
}

func (f Facts) proof(r Redirector) string {
	if _, tried := f.Tried[r]; tried {
		return ", and a trial call came through"
	}
	return ""
}

// against is what speaks against a redirector: facts, and a trial that failed. One that succeeded
// silences no fact: it attaches below the place that the bridge attaches to.
func (f Facts) against(r Redirector) []string {
	list := f.lacks(r)
	if err := f.Tried[r]; err != nil {
		list = append(list, "a trial call did not come through: "+err.Error())
	}
	return list
}

func (f Facts) lacks(r Redirector) (list []string) {
	switch r {
	case EBPF, None:
		list = f.lacksBPF()
	case IPTables:
		// Somebody else puts the rules in place: the bridge needs nothing but its listener.
		if !f.Install {
			return nil
		}
		if f.Tools != nil {
			list = append(list, f.Tools.Error())
		}
	default:
		return []string{fmt.Sprintf("there is no redirector %q", r)}
	}
	if missing := f.Missing[r]; len(missing) > 0 {
		list = append(list, "not enough privileges: "+strings.Join(missing, " ")+" missing")
	}
	return list
}

func (f Facts) lacksBPF() (list []string) {
	if f.Kernel.Before(hookKernel) {
		list = append(list, fmt.Sprintf("Linux %s is older than %s", f.Kernel, hookKernel))
	}
	if !f.BTF {
		list = append(list, "the kernel has no BTF")
	}
	if f.Lockdown == confidentiality {
		list = append(list, "lockdown=confidentiality forbids programs to read kernel memory")
	}
	if !f.Memlock {
		list = append(list, "the limit on locked memory is too small for the kernel's maps")
	}
	if f.Cgroup != nil {
		list = append(list, f.Cgroup.Error())
	}
	if f.Holder != "" {
		list = append(list, f.Holder)
	}
	return list
}
