package hook

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is returned by [Attach] when the running kernel lacks what the hook needs.
var ErrUnsupported = errors.New("the kernel lacks what the hook needs")

// vmlinux is where a kernel with CONFIG_DEBUG_INFO_BTF tells of its types.
const vmlinux = "/sys/kernel/btf/vmlinux"

// checkKernel says what is missing before the verifier would, in words that nobody can act on.
func checkKernel() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	_, err := os.Stat(vmlinux)
	return judgeKernel(unix.ByteSliceToString(name.Release[:]), err == nil)
}

func judgeKernel(release string, hasBTF bool) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 10) {
		return fmt.Errorf("%w: it is Linux %s, and must be 5.10 or newer", ErrUnsupported, release)
	}
	if !hasBTF {
		return fmt.Errorf("%w: Linux %s has no %s (CONFIG_DEBUG_INFO_BTF; is /sys mounted?)", ErrUnsupported, release, vmlinux)
	}
	return nil
}
