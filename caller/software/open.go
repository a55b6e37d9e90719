package software

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDescriptors bounds how many of a process's files are looked at.
const maxDescriptors = 4096

// eachOpen calls do with the regular files that the process has open for reading.
//
// Their directory in /proc can be listed by the process's user and by CAP_DAC_READ_SEARCH. With
// CAP_SYS_PTRACE alone each is borrowed by its number instead, for as long as it is looked at.
func (l *look) eachOpen(do func(*file)) error {
	list, err := unix.Openat(l.dir, "fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(list) }()
	var numbers []int
	err = l.tree.eachOf(list, func(name string) bool {
		if n, err := strconv.Atoi(name); err == nil {
			numbers = append(numbers, n)
		}
		return len(numbers) < maxDescriptors
	})
	if errors.Is(err, unix.EACCES) {
		return l.eachBorrowed(do)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		name := strconv.Itoa(n)
		link, err := readLink(list, name)
		if err != nil || !isJar(link) {
			continue
		}
		fd, err := unix.Openat(list, name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			l.lookInto(fd, link, do)
			_ = unix.Close(fd)
		}
	}
	return err
}

func (l *look) eachBorrowed(do func(*file)) error {
	if !l.finder.ownPIDs {
		return unix.EACCES
	}
	process, err := unix.PidfdOpen(int(l.caller.PID), 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(process) }()
	if l.ended() {
		return errOther
	}
	const farApart = 64 // numbers are given out from the lowest
	for n, free := 0, 0; n < maxDescriptors && free < farApart; n++ {
		fd, err := unix.PidfdGetfd(process, n, 0)
		switch err {
		case nil:
			if link, err := readLink(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd)); err == nil && isJar(link) {
				l.lookInto(fd, link, do)
			}
			_ = unix.Close(fd)
			free = 0
		case unix.EBADF:
			free++
		default:
			return err
		}
	}
	return nil
}

// lookInto opens the file behind a descriptor anew.
func (l *look) lookInto(fd int, link string, do func(*file)) {
	link = strings.TrimSuffix(link, " (deleted)")
	n := node{fd: fd, path: cmp.Or(l.inside(link), link)}
	if err := unix.Fstat(fd, &n.stat); err != nil {
		return
	}
	f, err := l.tree.read(n)
	if err != nil {
		l.miss(link, err)
		return
	}
	defer f.close()
	do(f)
}
