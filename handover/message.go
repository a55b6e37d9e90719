package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Two bridges speak over a SOCK_SEQPACKET socket, one JSON object a packet:
//
//	newcomer             running bridge
//	hello {version}  ->
//	                 <-  state {version, terms, files} with the files themselves
//	pause            ->
//	                 <-  paused
//	retire           ->
//
// Instead of an answer the running bridge may send refused {why}, and stays. It goes once "retire" has
// been sent to it, and stays if the connection ends before.
//
// Before systemd restarts it:
//
//	restart          ->
//	                 <-  given {count} of files to systemd
//	retire           ->
type message struct {
	Kind    string   `json:"kind"`
	Version string   `json:"version,omitempty"`
	Terms   Terms    `json:"terms,omitempty"`
	Files   []string `json:"files,omitempty"` // names, in the order of the descriptors
	Count   int      `json:"count,omitempty"`
	Why     string   `json:"why,omitempty"`
}

const (
	hello   = "hello"
	state   = "state"
	pause   = "pause"
	paused  = "paused"
	retire  = "retire"
	restart = "restart"
	given   = "given"
	refused = "refused"
)

// Bounds of one packet. A state has fewer than ten files and a few hundred bytes.
const (
	maxBytes = 16 << 10
	maxFiles = 32
)

// wire is one end of the socket between two bridges.
type wire struct{ *net.UnixConn }

// send sends a message with the files that it names.
func (w wire) send(m message, files map[string]*os.File, patience time.Duration) error {
	var fds []int
	for _, name := range m.Files {
		fd, err := descriptor(files[name])
		if err != nil {
			return fmt.Errorf("send %s: %w", name, err)
		}
		fds = append(fds, fd)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_ = w.SetWriteDeadline(time.Now().Add(patience)) // fails as the write will
	_, _, err = w.WriteMsgUnix(text, rights(fds), nil)
	runtime.KeepAlive(files)
	return err
}

func rights(fds []int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return unix.UnixRights(fds...)
}

// descriptor returns the number of an open file. Fd would make a socket of package net block, here and
// in every process that shares it.
func descriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	fd := -1
	err = raw.Control(func(number uintptr) { fd = int(number) })
	return fd, err
}

// errMalformed is returned for what no bridge sends.
var errMalformed = errors.New("malformed message")

// receive waits for a message and the files that come with it, which are the caller's to close. The
// error is io.EOF when the other end is gone.
func (w wire) receive(patience time.Duration) (message, map[string]*os.File, error) {
	_ = w.SetReadDeadline(time.Now().Add(patience)) // fails as the read will
	text, control := make([]byte, maxBytes), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, controlled, flags, _, err := w.ReadMsgUnix(text, control)
	if errors.Is(err, unix.ECONNRESET) {
		// The other end closed without reading all; what it said before comes after this error.
		n, controlled, flags, _, err = w.ReadMsgUnix(text, control)
	}
	if err != nil {
		return message{}, nil, err
	}
	files, err := received(control[:controlled])
	if err == nil {
		var m message
		if m, err = parse(text[:n], flags, len(files)); err == nil {
			return m, named(files, m.Files), nil
		}
	}
	for _, f := range files {
		f.Close()
	}
	return message{}, nil, err
}

// expect receives a message of one kind. Another is malformed, except for a refusal.
func (w wire) expect(kind string, patience time.Duration) (message, map[string]*os.File, error) {
	m, files, err := w.receive(patience)
	switch {
	case err != nil:
		return message{}, nil, err
	case m.Kind == kind:
		return m, files, nil
	}
	State{Files: files}.Close()
	if m.Kind == refused {
		return message{}, nil, &RefusedError{m.Why}
	}
	return message{}, nil, fmt.Errorf("%w: %q instead of %q", errMalformed, m.Kind, kind)
}

// received makes files of the descriptors in control data.
func received(control []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", errMalformed, err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // of another kind, which carries no files
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func parse(text []byte, flags, files int) (m message, err error) {
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return m, fmt.Errorf("%w: too long, or with more files than this process may open", errMalformed)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%w: %s", errMalformed, err)
	}
	if files > 0 && m.Kind != state {
		return m, fmt.Errorf("%w: %q with files", errMalformed, m.Kind)
	}
	sorted := slices.Clone(m.Files)
	slices.Sort(sorted)
	if len(m.Files) != files || len(slices.Compact(sorted)) != files {
		return m, fmt.Errorf("%w: %d files by the names %q", errMalformed, files, m.Files)
	}
	return m, nil
}

func named(files []*os.File, names []string) map[string]*os.File {
	if len(files) == 0 {
		return nil
	}
	byName := make(map[string]*os.File, len(files))
	for i, name := range names {
		byName[name] = files[i]
	}
	return byName
}

// checkPeer refuses a process of another user, root excepted: it returns the process otherwise.
func (w wire) checkPeer(own int) (pid int, err error) {
	peer, err := w.peer()
	if err != nil {
		return 0, err
	}
	if uid := int(peer.Uid); uid != 0 && uid != own {
		return 0, fmt.Errorf("process %d at the other end is of user %d, and neither root nor of user %d: %w", peer.Pid, uid, own, syscall.EPERM)
	}
	return int(peer.Pid), nil
}

// peer is the process at the other end. Of one that listened, it is that one.
func (w wire) peer() (*unix.Ucred, error) {
	raw, err := w.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		peer, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return peer, errors.Join(err, inner)
}
