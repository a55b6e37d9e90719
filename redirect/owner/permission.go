package owner

import (
	"strings"

	"golang.org/x/sys/unix"
)

// PermissionError says that a search saw less than it would with more privileges.
type PermissionError struct {
	// Missing are those of [Capabilities] that the process lacks.
	Missing []string
}

// Error names what is missing.
func (e *PermissionError) Error() string {
	return "other processes may not be looked into: give the bridge " + strings.Join(e.Missing, " ")
}

// newPermissionError returns nil where nothing is missing: a process that ends is denied like one
// that is protected.
func newPermissionError() error {
	bits := map[string]uint{
		"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
		"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	var missing []string
	for _, name := range Capabilities {
		if bit := bits[name]; data[bit/32].Effective&(1<<(bit%32)) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &PermissionError{Missing: missing}
}
