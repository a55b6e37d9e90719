package doctor

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds"
)

// Other network namespaces are looked at through /proc/<pid>/net, without entering them: those of
// processes that would be redirected, one for each, for as long as this and no more of them than this.
const (
	namespacesPatience = 500 * time.Millisecond
	maxNamespaces      = 256
)

// blocked is a network namespace in which a route keeps calls from the metadata service, as the CNI
// plugins of ECS make one for ECS_AWSVPC_BLOCK_IMDS=true.
type blocked struct {
	pid       int
	comm      string
	container string
}

func checkNamespaces(_ context.Context, h *host) []Finding {
	list, seen := blockedNamespaces(h.redirected(), time.Now().Add(namespacesPatience))
	return judgeNamespaces(list, seen, h.capabilities.has("CAP_SYS_PTRACE"), h.options.Containers)
}

// redirected are the processes of the cgroup that is set, or all.
func (h *host) redirected() (list []int) {
	if h.options.Cgroup == "" {
		return pids()
	}
	_ = filepath.WalkDir(h.options.Cgroup, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			text, _ := os.ReadFile(path)
			for field := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil {
					list = append(list, pid)
				}
			}
		}
		return nil
	})
	return list
}

func judgeNamespaces(list []blocked, seen int, allowed, containers bool) (findings []Finding) {
	for _, b := range list {
		where := fmt.Sprintf("the network namespace of %s (pid %d)", b.comm, b.pid)
		if b.container != "" {
			where = fmt.Sprintf("container %.12s (%s, pid %d)", b.container, b.comm, b.pid)
		}
		f := Finding{Status: OK, Found: "a route in " + where + " keeps it from the metadata service", Means: "containers are left alone: the bridge does not change that"}
		if containers {
			f.Status = Limit
			f.Means = "redirected calls do not take that route: it gets what policy gives to containers, or, with an interface of its own (awsvpc), no answer"
			f.Remedy = "redirect.containers: false, if it is to have no metadata (ECS_AWSVPC_BLOCK_IMDS)"
		}
		findings = append(findings, f)
	}
	if !allowed {
		findings = append(findings, Finding{Status: Unknown, Found: "namespaces of other users' processes may not be told apart", Means: "routes in them were not looked at", Remedy: "run the doctor as root (CAP_SYS_PTRACE)"})
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{Status: OK, Found: fmt.Sprintf("%s, none with a route that keeps it from the metadata service", count(seen, "other network namespace"))})
	}
	return findings
}

// blockedNamespaces looks at the routes of one process of each network namespace but our own.
func blockedNamespaces(pids []int, deadline time.Time) (list []blocked, seen int) {
	known := make(map[string]bool)
	if own, err := os.Readlink("/proc/thread-self/ns/net"); err == nil {
		known[own] = true
	}
	for _, pid := range pids {
		if seen == maxNamespaces || time.Now().After(deadline) {
			break
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil || known[ns] {
			continue
		}
		known[ns] = true
		seen++
		if isBlocked(pid) {
			list = append(list, describe(pid))
		}
	}
	return list, seen
}

func isBlocked(pid int) bool {
	v4, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/route", pid))
	v6, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/ipv6_route", pid))
	return blocks4(string(v4), imds.IPv4) || blocks6(string(v6), imds.IPv6)
}

func describe(pid int) blocked {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return blocked{pid, strings.TrimSpace(string(comm)), caller.ParseCgroup(string(cgroup)).ContainerID}
}

// blocks4 reads a file /proc/<pid>/net/route. A route that leads nowhere has no interface there, "*":
// blackhole ones too, which are not marked as rejecting (net/ipv4/fib_trie.c). It must be narrower than
// the default route, which says nothing of the metadata service.
func blocks4(table string, to netip.Addr) bool {
	best, nowhere := 0, false
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		dst, err1 := kernelIPv4(f[1])
		mask, err2 := kernelIPv4(f[7])
		if err1 != nil || err2 != nil {
			continue // the heading
		}
		bits := ones(mask)
		if prefix, err := dst.Prefix(bits); err == nil && prefix.Contains(to) && bits > best {
			best, nowhere = bits, f[0] == "*"
		}
	}
	return nowhere
}

func kernelIPv4(text string) (netip.Addr, error) {
	n, err := strconv.ParseUint(text, 16, 32)
	if err != nil {
		return netip.Addr{}, err
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(n)) // printed as a number of the machine's
	return netip.AddrFrom4(b), nil
}

func ones(mask netip.Addr) (n int) {
	for _, b := range mask.AsSlice() {
		for ; b != 0; b <<= 1 {
			n++
		}
	}
	return n
}

// blocks6 reads a file /proc/<pid>/net/ipv6_route.
func blocks6(table string, to netip.Addr) bool {
	best, nowhere := 0, false
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		raw, err1 := hex.DecodeString(f[0])
		bits, err2 := strconv.ParseUint(f[1], 16, 8)
		flags, err3 := strconv.ParseUint(f[8], 16, 32)
		dst, ok := netip.AddrFromSlice(raw)
		if err1 != nil || err2 != nil || err3 != nil || !ok {
			continue
		}
		if prefix := netip.PrefixFrom(dst, int(bits)); prefix.Contains(to) && int(bits) > best {
			best, nowhere = int(bits), flags&unix.RTF_REJECT != 0
		}
	}
	return nowhere
}
