package iptables

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var capabilityBits = map[string]uint{
	"CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
	"CAP_NET_RAW":   unix.CAP_NET_RAW,
}

// capabilities returns those of this thread.
func capabilities() (header unix.CapUserHeader, data [2]unix.CapUserData, err error) {
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err = unix.Capget(&header, &data[0]); err != nil {
		err = fmt.Errorf("read own capabilities: %w", err)
	}
	return header, data, err
}

// heldCapabilities are those of Capabilities that the process may hand to a child.
func heldCapabilities() (bits []uintptr, err error) {
	_, data, err := capabilities()
	for _, name := range Capabilities {
		if bit := capabilityBits[name]; data[bit/32].Permitted&(1<<(bit%32)) != 0 {
			bits = append(bits, uintptr(bit))
		}
	}
	return bits, err
}

// keepCapabilities gives up, in every thread and for good, all that are not of Capabilities, and the way
// to get new ones. The programs iptables, as children, get what is left: root's by being root's, a
// user's by the ambient set. In a build with cgo, where Go does not know all threads, they are kept.
func keepCapabilities() error {
	header, data, err := capabilities()
	if err != nil {
		return err
	}
	var keep [2]uint32
	for _, name := range Capabilities {
		bit := capabilityBits[name]
		keep[bit/32] |= 1 << (bit % 32)
	}
	for i := range data {
		data[i].Effective &= keep[i]
		data[i].Permitted &= keep[i]
		data[i].Inheritable &= keep[i]
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	if errors.Is(errno, unix.ENOTSUP) {
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
