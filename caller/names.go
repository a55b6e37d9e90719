package caller

import (
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// namesCheckedEvery is how often a file of names is looked at for changes.
	namesCheckedEvery = 10 * time.Second
	maxNamesFile      = 1 << 20
	maxName           = 64
)

// names is a file in the form of passwd(5) and group(5), which both begin with name:password:number.
// It is read again when it changed. One that cannot be read has no names.
type names struct {
	path string

	mu       sync.Mutex
	checked  time.Time
	modified time.Time
	byID     map[uint32]string
}

// of returns the first name of the number id, or "".
func (n *names) of(id uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.checked) > namesCheckedEvery {
		n.checked = time.Now()
		n.load()
	}
	return n.byID[id]
}

func (n *names) load() {
	file, err := os.Open(n.path)
	if err != nil {
		n.byID, n.modified = nil, time.Time{}
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.ModTime().Equal(n.modified) {
		return
	}
	text, err := io.ReadAll(io.LimitReader(file, maxNamesFile))
	if err != nil {
		return
	}
	n.byID, n.modified = parseNames(string(text)), info.ModTime()
}

func parseNames(text string) map[uint32]string {
	byID := make(map[uint32]string)
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 4)
		if len(fields) < 3 || fields[0] == "" {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if _, known := byID[uint32(id)]; err == nil && !known {
			byID[uint32(id)] = strings.Clone(printable(fields[0], maxName))
		}
	}
	return byID
}
