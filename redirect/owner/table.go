package owner

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"
)

var chunks = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// findInTable looks for a connected socket in a file in the form of /proc/net/tcp, or tcp6.
func findInTable(file io.ReaderAt, v6 bool, client, server netip.AddrPort) (socket, error) {
	if !v6 && client.Addr().Is6() {
		return socket{}, ErrNoSocket
	}
	needle := []byte(" " + tableAddr(client, v6) + " " + tableAddr(server, v6) + " ")
	chunk := chunks.Get().(*[64 << 10]byte)
	defer chunks.Put(chunk)
	kept, offset := 0, int64(0)
	for {
		n, err := file.ReadAt(chunk[kept:], offset)
		offset += int64(n)
		text := chunk[:kept+n]
		// Lines may be cut between two reads: what follows the last line's end is looked at again.
		whole := bytes.LastIndexByte(text, '\n') + 1
		for rest := text[:whole]; ; {
			at := bytes.Index(rest, needle)
			if at < 0 {
				break
			}
			rest = rest[at+len(needle):]
			if s, ok := parseTableLine(rest); ok {
				s.mapped = v6 && client.Addr().Is4()
				return s, nil
			}
		}
		kept = copy(chunk[:], text[whole:])
		if err == io.EOF || err == nil && n == 0 {
			return socket{}, ErrNoSocket
		}
		if err != nil {
			return socket{}, fmt.Errorf("read a table of sockets: %w", err)
		}
	}
}

// tableAddr writes an address as the table has it: words of four bytes, each as a number of the machine.
func tableAddr(a netip.AddrPort, v6 bool) string {
	b := a.Addr().AsSlice()
	if v6 {
		as16 := a.Addr().As16()
		b = as16[:]
	}
	var text []byte
	for ; len(b) > 0; b = b[4:] {
		text = fmt.Appendf(text, "%08X", binary.NativeEndian.Uint32(b))
	}
	return string(fmt.Appendf(text, ":%04X", a.Port()))
}

// parseTableLine reads what follows the addresses: st tx:rx tr:when retrnsmt uid timeout inode. A socket
// that listens, or that no process has any longer, is not meant.
func parseTableLine(line []byte) (socket, bool) {
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	fields := bytes.Fields(line)
	if len(fields) < 7 {
		return socket{}, false
	}
	state, err := strconv.ParseUint(string(fields[0]), 16, 8)
	if err != nil || state == tcpListen {
		return socket{}, false
	}
	uid, err := strconv.ParseUint(string(fields[4]), 10, 32)
	if err != nil {
		return socket{}, false
	}
	inode, err := strconv.ParseUint(string(fields[6]), 10, 32)
	return socket{uid: uint32(uid), inode: uint32(inode)}, err == nil && inode != 0
}
