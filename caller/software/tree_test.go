package software

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// Links lead where they would lead the process, and never out of its root.
func TestWalk(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/outside", "outside")
	root := dir + "/root"
	write(t, root+"/outside", "inside")
	write(t, root+"/app/lib/file", "file")
	link(t, "/app/lib", root+"/absolute")
	link(t, "../app/./lib/", root+"/app/relative")
	link(t, "../../../../../../../../outside", root+"/app/up")
	link(t, dir+"/outside", root+"/host")
	link(t, "/app/up", root+"/chain")
	link(t, "loop2", root+"/loop1")
	link(t, "loop1", root+"/loop2")
	link(t, "/", root+"/app/top")
	link(t, strings.Repeat("app/../", 200)+"outside", root+"/long")
	files := treeOf(t, root)
	for _, test := range []struct {
		name, path, text string
		err              error
	}{
		{"app/lib/file", "/app/lib/file", "file", nil},
		{"//app/.//lib/file", "/app/lib/file", "file", nil},
		{"/absolute/file", "/app/lib/file", "file", nil},
		{"/app/relative/file", "/app/lib/file", "file", nil},
		{"/app/relative/../file", "", "", unix.ENOENT},
		{"/app/relative/../../outside", "/outside", "inside", nil},
		{"/../../outside", "/outside", "inside", nil},
		{"/app/up", "/outside", "inside", nil},
		{"/chain", "/outside", "inside", nil},
		{"/app/top/app/top/outside", "/outside", "inside", nil},
		{"/host", "", "", unix.ENOENT},
		{"/loop1", "", "", unix.ELOOP},
		{"/long", "", "", unix.ENAMETOOLONG},
		{"/app/lib/file/more", "", "", unix.ENOTDIR},
		{"/app/lib", "", "", errNotRegular},
		{"/", "", "", errNotRegular},
	} {
		f, err := files.open(test.name)
		if err != nil || test.err != nil {
			if !errors.Is(err, test.err) || test.err == nil {
				t.Errorf("%s: %v, want %v", test.name, err, test.err)
			}
			continue
		}
		text, err := f.head(100)
		if string(text) != test.text || err != nil || f.path != test.path {
			t.Errorf("%s: %q at %s, %v, want %q at %s", test.name, text, f.path, err, test.text, test.path)
		}
		f.close()
	}
}

// What is no regular file is not opened: a FIFO would hold the reader, a device would do something.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: dir + "/socket"}); err != nil {
		t.Fatal(err)
	}
	link(t, "/dev/zero", dir+"/device")
	link(t, "/proc/self/status", dir+"/proc")
	link(t, "/sys/kernel/uevent_seqnum", dir+"/sys")
	root := treeOf(t, "/")
	for _, name := range []string{"fifo", "socket", "device", "proc", "sys"} {
		if f, err := root.open(dir + "/" + name); err != errNotRegular {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/large", strings.Repeat("x", 1000))
	write(t, dir+"/small", "x")
	files := treeOf(t, dir)
	read := func() error {
		_, err := files.head("large", 1<<20)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for what, left := range map[string]*int{"bytes": &files.budget.bytes, "opens": &files.budget.opens} {
		before := *left
		*left = 0
		if err := read(); err != errBudget {
			t.Errorf("no more %s: %v", what, err)
		}
		*left = before
	}
	files.budget.entries = 1
	if err := files.each("/", func(string) bool { return true }); err != errBudget {
		t.Errorf("no more entries: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	files.budget.ctx = ctx
	cancel()
	if err := read(); err != context.Canceled {
		t.Errorf("no more time: %v", err)
	}
}

func TestEach(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	for _, name := range []string{"a", "b", "c"} {
		write(t, dir+"/sub/"+name, "")
	}
	files := treeOf(t, dir)
	var names []string
	if err := files.each("sub", func(name string) bool { names = append(names, name); return true }); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(names); strings.Join(names, "") != "abc" {
		t.Errorf("got %v", names)
	}
	if err := files.each("sub", func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	if err := files.each("sub/a", func(string) bool { return true }); err != unix.ENOTDIR {
		t.Errorf("of a file: %v", err)
	}
	if err := files.each("absent", func(string) bool { return true }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestZip(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range 70000 { // more than the record at the end can count
		many[strings.Repeat("d/", 3)+string(rune('a'+i%26))+strings.Repeat("f", i%7)+"-"+strconv.Itoa(i)] = ""
	}
	many["wanted"] = "text"
	bomb := jar(t, map[string]string{"wanted": strings.Repeat("\x00", 8<<20)})
	if len(bomb) > 1<<16 {
		t.Fatalf("a bomb of %d bytes", len(bomb))
	}
	small := jar(t, map[string]string{"wanted": "text"})
	for name, test := range map[string]struct {
		archive, want string
	}{
		"small":            {small, "text"},
		"behind a script":  {"#!/bin/sh\nexec java -jar $0\n" + small, "text"},
		"with a comment":   {small[:len(small)-2] + "\x04\x00" + "more", "text"},
		"of many files":    {jar(t, many), "text"},
		"a bomb":           {bomb, strings.Repeat("\x00", 100)},
		"cut":              {small[:len(small)-30], ""},
		"without its head": {small[20:], ""},
		"empty":            {"", ""},
		"no archive":       {strings.Repeat("text", 50000), ""},
	} {
		z := &zipArchive{r: strings.NewReader(test.archive), size: int64(len(test.archive))}
		var got []byte
		_ = z.each(func(e zipEntry) bool {
			if e.name == "wanted" {
				got, _ = z.read(e, 100)
			}
			return true
		})
		if string(got) != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func FuzzZip(f *testing.F) {
	small := jar(f, map[string]string{"a": "text", "b/c.jar": "other", "wanted": strings.Repeat("x", 100)})
	f.Add([]byte(small))
	f.Add([]byte("#!\n" + small))
	f.Fuzz(func(t *testing.T, archive []byte) {
		z := &zipArchive{r: bytes.NewReader(archive), size: int64(len(archive))}
		_ = z.each(func(e zipEntry) bool {
			if text, err := z.read(e, 50); err == nil && len(text) > 50 {
				t.Errorf("%d bytes of %s", len(text), e.name)
			}
			return true
		})
	})
}

func TestShown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain":                  "plain",
		"li\nne\x1b[31m\u202e":   "li?ne?[31m?",
		"\xff\xfe":               "??",
		"häuser":                 "häuser",
		strings.Repeat("ä", 100): strings.Repeat("ä", 23) + "…",
	} {
		if got := shown(text, 50); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{" 1.2.3-r0~b+c:1\r\n": "1.2.3-r0~b+c:1", "1 2": "", "1\x002": "", strings.Repeat("1", 200): "", "": ""} {
		if got := word(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
