package owner

import "golang.org/x/sys/unix"

// What is read of /proc goes by plain system calls: os.File would have the poller try each.

// target is what a link in /proc leads to, or the beginning of it.
func (s *search) target(path string) (string, error) {
	var buf [64]byte
	n, err := unix.Readlinkat(int(s.proc.Fd()), path, buf[:])
	return string(buf[:max(n, 0)]), err
}

// list returns the names in a directory of /proc, no more than limit; 0 is no limit.
func (f *Finder) list(path string, limit int) (names []string, err error) {
	dir, err := unix.Openat(int(f.proc.Fd()), path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }()
	buf := chunks.Get().(*[64 << 10]byte)
	defer chunks.Put(buf)
	for {
		n, err := unix.ReadDirent(dir, buf[:8<<10])
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		if limit > 0 && len(names) >= limit {
			return names[:limit], nil
		}
	}
}

// maxRecord bounds, in bytes, a record of the files of more than one that are read: the number of a process.
const maxRecord = 16

// read fills buf from the beginning of a file in /proc.
func (f *Finder) read(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Openat(int(f.proc.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	for n := 0; ; {
		more, err := unix.Read(fd, buf[n:])
		if err != nil {
			return nil, err
		}
		n += more
		// A read ends before the file does only where the next record does not fit.
		if more == 0 || len(buf)-n >= maxRecord || n == len(buf) {
			return buf[:n], nil
		}
	}
}
