package doctor

import (
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// attached are the programs on one hook of one cgroup.
type attached struct {
	ids   []ebpf.ProgramID
	flags uint32
}

// How programs share a hook (include/uapi/linux/bpf.h): with others, giving way to those of a
// descendant, or, with neither flag, alone.
const (
	allowOverride = unix.BPF_F_ALLOW_OVERRIDE
	allowMulti    = unix.BPF_F_ALLOW_MULTI
)

// programQuery is union bpf_attr as BPF_PROG_QUERY takes it, as far as kernels since Linux 4.16 know it.
type programQuery struct {
	target      uint32
	attach      uint32
	queryFlags  uint32
	attachFlags uint32
	ids         uint64
	count       uint32
	_           uint32
}

// maxPrograms is how many programs a hook of one cgroup takes (BPF_CGROUP_MAX_PROGS in kernel/bpf/cgroup.c).
const maxPrograms = 64

// query returns what is attached to a cgroup itself, not to its ancestors. link.QueryPrograms of
// cilium/ebpf keeps the flags to itself, which are what tells how programs share.
func query(cgroup int, where ebpf.AttachType) (attached, error) {
	ids := make([]ebpf.ProgramID, maxPrograms)
	q := programQuery{target: uint32(cgroup), attach: uint32(where), count: maxPrograms}
	q.ids = uint64(uintptr(unsafe.Pointer(&ids[0])))
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&q)), unsafe.Sizeof(q))
	runtime.KeepAlive(ids)
	if errno != 0 {
		return attached{}, errno
	}
	return attached{ids: ids[:q.count], flags: q.attachFlags}, nil
}

// programName is the name that a program was loaded with, "" if it may not be asked for, which takes
// CAP_SYS_ADMIN.
func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
