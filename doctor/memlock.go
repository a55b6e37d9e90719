package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// enoughMemlock holds the maps of 16384 connections with room to spare.
const enoughMemlock = 64 << 20

// hasMemlock tells whether the kernel gives memory for maps.
func hasMemlock(k Kernel, limit uint64, mayRaise bool) bool {
	return !k.Before(memlockKernel) || limit >= enoughMemlock || mayRaise
}

func memlock() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil {
		return 0
	}
	return limit.Cur
}

func checkMemlock(_ context.Context, h *host) []Finding {
	limit := memlock()
	if hasMemlock(h.kernel, limit, h.capabilities.has("CAP_SYS_RESOURCE")) {
		return []Finding{{Status: OK, Found: memlockText(h.kernel, limit)}}
	}
	return []Finding{{
		Status: Fail, Concerns: EBPF, Found: memlockText(h.kernel, limit),
		Means:  fmt.Sprintf("before Linux %s the kernel's maps are counted against it, and do not fit", memlockKernel),
		Remedy: "systemd: LimitMEMLOCK=infinity (the unit has it); shell: ulimit -l unlimited; containers: --ulimit memlock=-1",
	}}
}

func memlockText(k Kernel, limit uint64) string {
	if !k.Before(memlockKernel) {
		return "no limit on locked memory counts (Linux 5.11 and newer)"
	}
	if limit == unix.RLIM_INFINITY {
		return "locked memory is unlimited"
	}
	return fmt.Sprintf("locked memory is limited to %d KiB", limit>>10)
}
