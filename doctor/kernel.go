package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel is a release of Linux: its first two numbers.
type Kernel struct{ Major, Minor int }

var (
	hookKernel    = Kernel{5, 10} // the hook's floor
	memlockKernel = Kernel{5, 11} // from here on, maps are counted by cgroup and not by RLIMIT_MEMLOCK
)

func (k Kernel) String() string { return fmt.Sprintf("%d.%d", k.Major, k.Minor) }

// Before tells whether k is older than other. A release that was not understood is not.
func (k Kernel) Before(other Kernel) bool {
	if k == (Kernel{}) {
		return false
	}
	return k.Major < other.Major || k.Major == other.Major && k.Minor < other.Minor
}

// ParseKernel reads a release as uname(2) gives it. It returns the zero Kernel for what it does not
// understand.
func ParseKernel(release string) (k Kernel) {
	if n, _ := fmt.Sscanf(release, "%d.%d", &k.Major, &k.Minor); n != 2 {
		return Kernel{}
	}
	return k
}

func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func checkKernel(context.Context, *host) []Finding { return judgeKernel(release()) }

func judgeKernel(release string) []Finding {
	k := ParseKernel(release)
	switch {
	case k == Kernel{}:
		return []Finding{{Status: Unknown, Found: fmt.Sprintf("release %q", release), Means: "not a version that is understood; the trial below tells"}}
	case k.Before(hookKernel):
		return []Finding{{
			Status: Fail, Concerns: EBPF, Found: "Linux " + release,
			Means:  fmt.Sprintf("the hook needs %s: there is no redirection by ebpf, and no watching of calls; iptables remains", hookKernel),
			Remedy: "redirector: iptables (or auto), or a newer kernel (Amazon Linux 2: amazon-linux-extras install kernel-5.10)",
		}}
	default:
		return []Finding{{Status: OK, Found: "Linux " + release}}
	}
}

// vmlinux is where a kernel with CONFIG_DEBUG_INFO_BTF tells of its types.
const vmlinux = "/sys/kernel/btf/vmlinux"

func hasBTF() bool {
	_, err := os.Stat(vmlinux)
	return err == nil
}

func checkBTF(context.Context, *host) []Finding {
	if hasBTF() {
		return []Finding{{Status: OK, Found: vmlinux}}
	}
	return []Finding{{
		Status: Fail, Concerns: EBPF, Found: "no " + vmlinux,
		Means:  "the hook finds its way in the kernel's data by it, and cannot be loaded",
		Remedy: "a kernel with CONFIG_DEBUG_INFO_BTF=y; in a container, mount /sys; or redirector: iptables",
	}}
}

// confidentiality is the level of lockdown that keeps BPF from reading kernel memory
// (LOCKDOWN_BPF_READ_KERNEL in security/security.c); integrity does not.
const confidentiality = "confidentiality"

const lockdownFile = "/sys/kernel/security/lockdown"

// ParseLockdown reads the level in force from the file of securityfs: "none [integrity] confidentiality".
func ParseLockdown(text string) string {
	for word := range strings.FieldsSeq(text) {
		if level, ok := strings.CutPrefix(word, "["); ok {
			return strings.TrimSuffix(level, "]")
		}
	}
	return ""
}

func lockdown() string {
	text, _ := os.ReadFile(lockdownFile)
	return ParseLockdown(string(text))
}

func checkLockdown(context.Context, *host) []Finding {
	text, err := os.ReadFile(lockdownFile)
	if os.IsPermission(err) {
		return []Finding{{Status: Unknown, Concerns: EBPF, Found: lockdownFile + " may not be read", Remedy: "run the doctor as root"}}
	}
	return judgeLockdown(ParseLockdown(string(text)))
}

func judgeLockdown(level string) []Finding {
	switch level {
	case confidentiality:
		return []Finding{{
			Status: Fail, Concerns: EBPF, Found: "lockdown=" + level,
			Means:  "no program may read kernel memory, so the hook cannot tell who calls, and is refused",
			Remedy: "boot with lockdown=integrity, which forbids nothing that the bridge needs; or redirector: iptables",
		}}
	case "":
		return []Finding{{Status: OK, Found: "none (the kernel has no lockdown, or does not show it)"}}
	default:
		return []Finding{{Status: OK, Found: "lockdown=" + level}}
	}
}
