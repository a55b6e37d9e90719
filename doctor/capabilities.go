package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilitySet is an effective set.
type capabilitySet uint64

var capabilityBits = map[string]uint{
	"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"CAP_NET_ADMIN":       unix.CAP_NET_ADMIN,
	"CAP_NET_RAW":         unix.CAP_NET_RAW,
	"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
	"CAP_SYS_ADMIN":       unix.CAP_SYS_ADMIN,
	"CAP_SYS_RESOURCE":    unix.CAP_SYS_RESOURCE,
	"CAP_PERFMON":         unix.CAP_PERFMON,
	"CAP_BPF":             unix.CAP_BPF,
}

// has is true too where CAP_SYS_ADMIN stands in for what was split off from it in Linux 5.8.
func (s capabilitySet) has(name string) bool {
	bit, known := capabilityBits[name]
	if known && s&(1<<bit) != 0 {
		return true
	}
	return (name == "CAP_BPF" || name == "CAP_PERFMON") && s.has("CAP_SYS_ADMIN")
}

func (s capabilitySet) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), s.has)
}

// procStatus is what /proc/self/status says of privileges.
type procStatus struct {
	effective  capabilitySet
	seccomp    bool // a filter is in place
	noNewPrivs bool
}

// parseStatus reads a file /proc/<pid>/status.
func parseStatus(text string) (s procStatus) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "CapEff":
			bits, _ := strconv.ParseUint(value, 16, 64)
			s.effective = capabilitySet(bits)
		case "Seccomp":
			s.seccomp = value != "0"
		case "NoNewPrivs":
			s.noNewPrivs = value == "1"
		}
	}
	return s
}

func ownStatus() procStatus {
	text, _ := os.ReadFile("/proc/thread-self/status")
	return parseStatus(string(text))
}

func (s capabilitySet) missingFor(needed map[Redirector][]string) map[Redirector][]string {
	missing := make(map[Redirector][]string)
	for r, names := range needed {
		missing[r] = s.missing(names)
	}
	return missing
}

func checkCapabilities(_ context.Context, h *host) (findings []Finding) {
	for _, r := range []Redirector{EBPF, IPTables, None} {
		if names := h.options.Needs[r]; h.considers(r) {
			findings = append(findings, judgeCapabilities(r, names, h.capabilities, os.Geteuid() == 0))
		}
	}
	return findings
}

func judgeCapabilities(r Redirector, names []string, have capabilitySet, root bool) Finding {
	missing := have.missing(names)
	switch {
	case len(names) == 0:
		return Finding{Status: OK, Concerns: r, Found: fmt.Sprintf("none is needed for %s", r)}
	case len(missing) == 0:
		return Finding{Status: OK, Concerns: r, Found: fmt.Sprintf("%s for %s", strings.Join(names, " "), r)}
	case root:
		return Finding{
			Status: Fail, Concerns: r, Found: fmt.Sprintf("root, but without %s", strings.Join(missing, " ")),
			Means:  fmt.Sprintf("%s needs %s", r, strings.Join(names, " ")),
			Remedy: "a container or unit takes it away: add it there (docker --cap-add, securityContext.capabilities.add, AmbientCapabilities=)",
		}
	default:
		return Finding{
			Status: Fail, Concerns: r, Found: fmt.Sprintf("this user lacks %s", strings.Join(missing, " ")),
			Means:  fmt.Sprintf("%s needs %s; what needs them could not be looked at", r, strings.Join(names, " ")),
			Remedy: "run the doctor as the bridge is to run: as root, or with these capabilities",
		}
	}
}

func checkSeccomp(_ context.Context, h *host) []Finding {
	switch {
	case h.status.seccomp:
		// What a filter lets through cannot be read; the trial tells.
		return []Finding{{Status: OK, Found: "a filter is in place", Means: "the trial below tells whether it lets bpf(2) through; Docker's does with CAP_BPF or CAP_SYS_ADMIN"}}
	default:
		return []Finding{{Status: OK, Found: "no filter"}}
	}
}
