package doctor

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// hopLimitFilter is a filter for one socket that notes the TTL or hop limit of what arrives with
// payload. It needs no more of the kernel than Linux 4.4 has, and no BTF: the hook's own is not to be
// had where the hook is not.
type hopLimitFilter struct {
	seen    *ebpf.Map
	program *ebpf.Program
}

// netOffset makes a load relative to the IP header (SKF_NET_OFF in include/uapi/linux/filter.h).
const netOffset = -0x100000

func newHopLimitFilter(v6 bool) (_ *hopLimitFilter, err error) {
	offset := int32(8) // of the TTL in an IPv4 header
	if v6 {
		offset = 7
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	f := &hopLimitFilter{}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.seen, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("make a map: %w", err)
	}
	f.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			// Payload is what is longer than the TCP header: its length in words is the high half of byte 12.
			asm.LoadMem(asm.R7, asm.R6, 0, asm.Word), // __sk_buff.len, from the TCP header on
			asm.LoadAbs(12, asm.Byte),
			asm.RSh.Imm(asm.R0, 4),
			asm.LSh.Imm(asm.R0, 2),
			asm.JLE.Reg(asm.R7, asm.R0, "pass"),
			asm.LoadAbs(netOffset+offset, asm.Byte),
			asm.Mov.Reg(asm.R8, asm.R0),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, f.seen.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.StoreMem(asm.R0, 0, asm.R8, asm.Word),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"), // the whole packet
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load a socket filter: %w", err)
	}
	return f, nil
}

func (f *hopLimitFilter) attach(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, f.program.FD())
}

// hopLimit is that of the last packet with payload, 0 before there was one.
func (f *hopLimitFilter) hopLimit() (limit uint32, err error) {
	err = f.seen.Lookup(uint32(0), &limit)
	return limit, err
}

func (f *hopLimitFilter) close() {
	if f.program != nil {
		f.program.Close()
	}
	if f.seen != nil {
		f.seen.Close()
	}
}
