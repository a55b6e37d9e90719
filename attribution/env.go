package attribution

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/imds-bridge/imds-bridge/caller"
)

const (
	maxEnv   = 128 << 10 // bytes read of an environment
	maxValue = 128       // bytes kept of a variable
)

// readEnv returns those variables of a process's environment that are named, and keeps no others. It is
// that of the start, as the kernel shows it.
func readEnv(proc string, pid uint32, names []string) map[string]string {
	if len(names) == 0 {
		return nil
	}
	f, err := os.Open(fmt.Sprintf("%s/%s/environ", proc, strconv.FormatUint(uint64(pid), 10)))
	if err != nil {
		return nil
	}
	defer f.Close()
	buffer := make([]byte, 0, 4096)
	for len(buffer) < maxEnv {
		if len(buffer) == cap(buffer) {
			larger := append(make([]byte, 0, 2*len(buffer)), buffer...)
			clear(buffer) // there may be secrets in it
			buffer = larger
		}
		n, err := f.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if err != nil {
			break
		}
	}
	env := pick(buffer, names)
	clear(buffer)
	return env
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
			picked[wanted] = caller.Printable(string(value), maxValue)
		}
	}
	return picked
}
