//go:build root

package hook

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/io_uring.h.
const (
	uringConnect   = 16     // IORING_OP_CONNECT
	uringAsync     = 1 << 4 // IOSQE_ASYNC: do it on a worker thread at once
	uringGetEvents = 1 << 0 // IORING_ENTER_GETEVENTS

	uringOffSQ  = 0          // IORING_OFF_SQ_RING
	uringOffCQ  = 0x8000000  // IORING_OFF_CQ_RING
	uringOffSQE = 0x10000000 // IORING_OFF_SQES
)

type uringSQOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type uringCQOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sq                                                                     uringSQOffsets
	cq                                                                     uringCQOffsets
}

type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64 // length of the address
	addr          uint64 // the address
	_             [40]byte
}

type uringCQE struct {
	userData uint64
	res      int32
	flags    uint32
}

// connectUring connects by a ring with room for one request.
func connectUring(fd int, to unix.Sockaddr, flags uint8) error {
	var p uringParams
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer unix.Close(int(ring))
	sq, err := mapRing(ring, uringOffSQ, p.sq.array+4*p.sqEntries)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(sq) }()
	cq, err := mapRing(ring, uringOffCQ, p.cq.cqes+uint32(unsafe.Sizeof(uringCQE{}))*p.cqEntries)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(cq) }()
	sqes, err := mapRing(ring, uringOffSQE, 64*p.sqEntries)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(sqes) }()

	address, length := rawSockaddr(to)
	var pinned runtime.Pinner
	pinned.Pin(address)
	defer pinned.Unpin()
	*(*uringSQE)(unsafe.Pointer(&sqes[0])) = uringSQE{
		opcode: uringConnect, flags: flags, fd: int32(fd), off: length, addr: uint64(uintptr(address)),
	}
	*(*uint32)(unsafe.Pointer(&sq[p.sq.array])) = 0 // the first request is the first entry
	atomic.AddUint32((*uint32)(unsafe.Pointer(&sq[p.sq.tail])), 1)

	for atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.cq.tail]))) == 0 {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, uringGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
	if res := (*uringCQE)(unsafe.Pointer(&cq[p.cq.cqes])).res; res < 0 {
		return unix.Errno(-res)
	}
	return nil
}

func mapRing(ring uintptr, offset int64, size uint32) ([]byte, error) {
	m, err := unix.Mmap(int(ring), offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	return m, nil
}

// rawSockaddr is the address as the kernel takes it.
func rawSockaddr(to unix.Sockaddr) (p unsafe.Pointer, length uint64) {
	switch to := to.(type) {
	case *unix.SockaddrInet4:
		raw := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(uint16(to.Port)), Addr: to.Addr}
		return unsafe.Pointer(raw), unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		raw := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(uint16(to.Port)), Addr: to.Addr}
		return unsafe.Pointer(raw), unix.SizeofSockaddrInet6
	}
	return nil, 0
}
