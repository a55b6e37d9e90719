package caller

import (
	"bytes"

	"golang.org/x/sys/unix"
)

const (
	maxEnv   = 128 << 10 // bytes read of an environment
	maxValue = 128       // bytes kept of a variable
)

// environment returns those variables that are named, and keeps no others: there may be secrets in them.
func (p process) environment(names []string) map[string]string {
	if len(names) == 0 {
		return nil
	}
	fd, err := unix.Open(string(p)+"/environ", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	buffer := make([]byte, 0, 4096)
	for len(buffer) < maxEnv {
		if len(buffer) == cap(buffer) {
			larger := append(make([]byte, 0, 2*len(buffer)), buffer...)
			clear(buffer)
			buffer = larger
		}
		n, err := unix.Read(fd, buffer[len(buffer):cap(buffer)])
		if n <= 0 || err != nil {
			break
		}
		buffer = buffer[:len(buffer)+n]
	}
	defer clear(buffer)
	if len(buffer) >= maxEnv {
		last := bytes.LastIndexByte(buffer, 0) + 1
		if _, value, _ := bytes.Cut(buffer[last:], []byte{'='}); len(value) <= maxValue {
			buffer = buffer[:last] // half a value is another, where more than its beginning is kept
		}
	}
	return pick(buffer, names)
}

func pick(environment []byte, names []string) (picked map[string]string) {
	for variable := range bytes.SplitSeq(environment, []byte{0}) {
		name, value, ok := bytes.Cut(variable, []byte{'='})
		if !ok || len(value) == 0 {
			continue
		}
		for _, wanted := range names {
			if string(name) != wanted {
				continue
			}
			if picked == nil {
				picked = make(map[string]string, 1)
			}
			picked[wanted] = shared(printable(string(value), maxValue))
		}
	}
	return picked
}
