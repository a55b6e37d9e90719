package rpmdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// header makes one of a package that has each base name in the directory of the same place, by its
// number. padding is what else it has.
func header(name string, dirs, bases []string, indexes []int, padding int) []byte {
	be := binary.BigEndian
	var entries, data []byte
	add := func(tag, kind uint32, count int, value []byte) {
		data = append(data, make([]byte, -len(data)&3)...)
		for _, n := range []uint32{tag, kind, uint32(len(data)), uint32(count)} {
			entries = be.AppendUint32(entries, n)
		}
		data = append(data, value...)
	}
	list := func(texts []string) []byte { return []byte(strings.Join(texts, "\x00") + "\x00") }
	var numbers []byte
	for _, n := range indexes {
		numbers = be.AppendUint32(numbers, uint32(n))
	}
	add(tagName, typeString, 1, list([]string{name}))
	add(tagVersion, typeString, 1, list([]string{"1"}))
	add(tagRelease, typeString, 1, list([]string{"2"}))
	add(tagBaseNames, typeStringArray, len(bases), list(bases))
	add(tagDirIndexes, typeInt32, len(indexes), numbers)
	add(tagDirNames, typeStringArray, len(dirs), list(dirs))
	add(1, typeString, 1, append(bytes.Repeat([]byte{'p'}, padding), 0))
	h := be.AppendUint32(be.AppendUint32(nil, uint32(len(entries)/entrySize)), uint32(len(data)))
	return append(append(h, entries...), data...)
}

// alike has n files of one name, each said to be in the last of n directories, none of which is "/".
func alike(n int) []byte {
	bases, dirs, indexes := make([]string, n), make([]string, n), make([]int, n)
	for i := range n {
		bases[i], indexes[i] = "c", n-1
	}
	return header("alike", dirs, bases, indexes, 0)
}

// alikeIn is the same with the wanted directory in it, in which no file is.
func alikeIn(n int) []byte {
	bases, dirs, indexes := make([]string, n), make([]string, n), make([]int, n)
	for i := range n {
		bases[i], indexes[i] = "c", n-2
	}
	dirs[n-1] = "/"
	return header("alike", dirs, bases, indexes, 0)
}

// sized has a header of that many bytes, and the file /sized/<name>.
func sized(name string, size int) []byte {
	of := func(padding int) []byte { return header(name, []string{"/sized/"}, []string{name}, []int{0}, padding) }
	return of(size - len(of(0)))
}

// lite makes a database in SQLite's form.
func lite(t *testing.T, pageSize int, headers [][]byte) []byte {
	t.Helper()
	const script = `import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA page_size=" + sys.argv[2])
db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
for line in sys.stdin: db.execute("INSERT INTO Packages (blob) VALUES (?)", (bytes.fromhex(line),))
db.commit()`
	var in strings.Builder
	for _, header := range headers {
		in.WriteString(hex.EncodeToString(header) + "\n")
	}
	name := t.TempDir() + "/rpmdb.sqlite"
	cmd := exec.Command("python3", "-c", script, name, fmt.Sprint(pageSize))
	cmd.Stdin = strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// forms makes a database of each form.
func forms(t *testing.T, headers ...[]byte) map[string][]byte {
	t.Helper()
	bdb, err := berkeley(t.TempDir(), headers)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"SQLite": lite(t, 4096, headers), "Berkeley DB": bdb, "NDB": ndb(headers)}
}

func lookFor(text []byte, path string) (*work, Package, bool, error) {
	w := newWork(context.Background(), bytes.NewReader(text), int64(len(text)))
	p, found, err := w.owner(int64(len(text)), []string{path})
	return w, p, found, err
}

// A header each of whose files may be the wanted one is gone through once.
func TestNamesAlike(t *testing.T) {
	t.Parallel()
	const n = 80_000
	for form, text := range forms(t, alike(n), alikeIn(n)) {
		w, p, found, err := lookFor(text, "/c")
		if found || err != nil {
			t.Errorf("%s: %+v, %v", form, p, err)
		}
		// Directories of the one, directories and files of the other.
		if w.names != 3*n {
			t.Errorf("%s: %d steps for twice %d files", form, w.names, n)
		}
	}
}

// A name that many files of a package have, as has __init__.py, finds the one in the right directory.
func TestNamesAlikeFound(t *testing.T) {
	t.Parallel()
	const n = 5000
	var dirs, bases []string
	var indexes []int
	for i := range n {
		dirs, bases, indexes = append(dirs, fmt.Sprintf("/lib/%d/", i)), append(bases, "__init__.py"), append(indexes, i)
	}
	for form, text := range forms(t, header("many", dirs, bases, indexes, 0)) {
		for _, i := range []int{0, 17, n - 1} {
			path := fmt.Sprintf("/lib/%d/__init__.py", i)
			if _, p, found, err := lookFor(text, path); !found || err != nil || p != (Package{"many", "1-2"}) {
				t.Errorf("%s: %s: %+v, %v, %v", form, path, p, found, err)
			}
		}
		if _, p, found, err := lookFor(text, "/lib/x/__init__.py"); found || err != nil {
			t.Errorf("%s: %+v, %v", form, p, err)
		}
	}
}

// More names than are looked at, each header being as large as it may.
func TestTooManyNames(t *testing.T) {
	t.Parallel()
	headers := make([][]byte, 2)
	for i := range headers {
		headers[i] = alikeIn(1_100_000) // 7.3 MiB
	}
	for form, text := range forms(t, headers...) {
		if w, _, found, err := lookFor(text, "/c"); found || !errors.Is(err, errTooMuch) || w.names != maxNames+1 {
			t.Errorf("%s: %v after %d names", form, err, w.names)
		}
	}
}

// cancelling ends a context when so much was read.
type cancelling struct {
	*bytes.Reader
	reads, at int
	cancel    context.CancelFunc
}

func (c *cancelling) ReadAt(p []byte, offset int64) (int, error) {
	if c.reads++; c.reads == c.at {
		c.cancel()
	}
	return c.Reader.ReadAt(p, offset)
}

// Whichever read a look-up's context ends at, there is no further one, and names are not gone through.
func TestContext(t *testing.T) {
	t.Parallel()
	const n = 10 * checkEvery
	for form, text := range forms(t, alikeIn(n), sized("b", 10_000), sized("c", 1000)) {
		count := &cancelling{Reader: bytes.NewReader(text)}
		if _, found, err := Owner(context.Background(), count, int64(len(text)), "/c"); found || err != nil {
			t.Fatalf("%s: %v, %v", form, found, err)
		}
		for at := 1; at < count.reads; at++ {
			ctx, cancel := context.WithCancel(t.Context())
			c := &cancelling{Reader: bytes.NewReader(text), at: at, cancel: cancel}
			w := newWork(ctx, c, int64(len(text)))
			_, found, err := w.owner(int64(len(text)), []string{"/c"})
			if found || !errors.Is(err, context.Canceled) || c.reads != at {
				t.Errorf("%s: ended at read %d: %v, %v after %d", form, at, found, err, c.reads)
			}
		}
	}
	// All is read, and the names are left.
	text := ndb([][]byte{alikeIn(n)})
	ctx, cancel := context.WithCancel(t.Context())
	c := &cancelling{Reader: bytes.NewReader(text), at: 4, cancel: cancel} // start, slots, intro, header
	w := newWork(ctx, c, int64(len(text)))
	if _, found, err := w.owner(int64(len(text)), []string{"/c"}); found || !errors.Is(err, context.Canceled) || w.names > checkEvery {
		t.Errorf("ended before the names: %v, %v after %d", found, err, w.names)
	}
	if _, _, err := Owner(ctx, bytes.NewReader(text), int64(len(text)), "/c"); !errors.Is(err, context.Canceled) {
		t.Errorf("ended before the first read: %v", err)
	}
}

// Values that share their bytes would be many times what a database has.
func TestOverlapping(t *testing.T) {
	t.Parallel()
	const pageSize = 64 << 10
	le, be := binary.LittleEndian, binary.BigEndian

	slots := ndb([][]byte{sized("b", 1<<20)})
	for s := ndbHeader; s < ndbSlotPage; s += ndbSlot {
		copy(slots[s:s+ndbSlot], slots[ndbHeader:])
	}

	leaf := lite(t, pageSize, [][]byte{sized("b", pageSize/2)})
	for page := pageSize; page < len(leaf); page += pageSize {
		text := leaf[page : page+pageSize]
		if text[0] != pageLeaf {
			continue
		}
		for i := range 10_000 {
			be.PutUint16(text[3:], uint16(i+1))
			copy(text[8+2*i:], text[8:10])
		}
	}

	hash := make([]byte, 2*pageSize)
	le.PutUint32(hash[12:], hashMagic)
	le.PutUint32(hash[20:], pageSize)
	le.PutUint32(hash[32:], 1)
	page := hash[pageSize:]
	page[25] = pageHash
	le.PutUint16(page[20:], 10_000)
	for i := 0; i < 10_000; i += 2 {
		le.PutUint16(page[pageHeader+2*i:], pageSize-1)
		le.PutUint16(page[pageHeader+2*i+2:], pageSize/2)
	}

	for form, text := range map[string][]byte{"SQLite": leaf, "Berkeley DB": hash, "NDB": slots} {
		w, _, found, err := lookFor(text, "/c")
		if found || !errors.Is(err, errTooMuch) || w.headers > 10 {
			t.Errorf("%s: %v after %d packages", form, err, w.headers)
		}
	}
}

// More packages than are looked at, none of which has a byte.
func TestTooManyHeaders(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	db := make([]byte, ndbSlotPage*(maxHeaders/256+3))
	end := len(db) - ndbSlotPage // of slots
	copy(db, "RpmP")
	le.PutUint32(db[12:], maxHeaders/256+2)
	for s := ndbHeader; s < end; s += ndbSlot {
		copy(db[s:], slotMagic)
		le.PutUint32(db[s+8:], uint32(end/ndbBlock))
	}
	copy(db[end:], blobMagic)
	if w, _, found, err := lookFor(db, "/c"); found || !errors.Is(err, errTooMuch) || w.headers != maxHeaders+1 {
		t.Errorf("%v, %v after %d packages", found, err, w.headers)
	}
}

// endless is a database that goes on for as long as it is read, as a sparse file does.
type endless struct {
	start []byte
	read  int64
}

func (e *endless) ReadAt(p []byte, offset int64) (int, error) {
	e.read += int64(len(p))
	clear(p)
	for at := 0; offset == 0 && at < len(p); at += len(e.start) {
		copy(p[at:], e.start)
	}
	if len(p) == ndbSlotPage {
		for s := 0; s < len(p); s += ndbSlot {
			copy(p[s:], slotMagic)
		}
	}
	return len(p), nil
}

func TestTooManyBytes(t *testing.T) {
	t.Parallel()
	start := make([]byte, ndbSlotPage)
	copy(start, "RpmP")
	binary.LittleEndian.PutUint32(start[12:], 1<<31)
	e := &endless{start: start}
	if _, found, err := Owner(context.Background(), io.ReaderAt(e), 1<<50, "/c"); found || !errors.Is(err, errTooMuch) || e.read > maxBytes {
		t.Errorf("%v, %v after %d bytes", found, err, e.read)
	}
}

// A package with a larger header is passed over, which is said if no other has the file.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	for form, text := range forms(t, sized("most", maxHeader-64), sized("toolarge", maxHeader+1), sized("small", 1000)) {
		for _, name := range []string{"most", "small"} {
			if _, p, found, err := lookFor(text, "/sized/"+name); !found || err != nil || p.Name != name {
				t.Errorf("%s: %s: %+v, %v, %v", form, name, p, found, err)
			}
		}
		for _, name := range []string{"toolarge", "absent"} {
			if _, p, found, err := lookFor(text, "/sized/"+name); found || !errors.Is(err, errTooLarge) {
				t.Errorf("%s: %s: %+v, %v, %v", form, name, p, found, err)
			}
		}
	}
}

// However headers grow, all that is allocated for one look-up together is little more than twice the
// largest: what is in use at a time is less. It counts what all tests allocate, and runs alone.
func TestMemory(t *testing.T) {
	var headers [][]byte
	for i := range 6 {
		headers = append(headers, sized("s", (i+1)*maxHeader/6-64))
	}
	headers = append(headers, sized("l", maxHeader+1), alikeIn(1_000_000))
	made := forms(t, headers...)
	// Each has a page of its own, which are the largest that there are.
	many := [][]byte{sized("l", maxHeader+1), alikeIn(1_000_000)}
	for range 400 {
		many = append(many, sized("s", 70_000))
	}
	made["SQLite with large pages"] = lite(t, 64<<10, many)
	for form, text := range made {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w, _, found, err := lookFor(text, "/c")
		runtime.ReadMemStats(&after)
		if found || !errors.Is(err, errTooLarge) || w.headers < len(headers) {
			t.Errorf("%s: %v, %v after %d packages", form, found, err, w.headers)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 2*maxHeader+1<<20 {
			t.Errorf("%s: %d KiB allocated", form, got>>10)
		}
	}
}

// A record of very many columns is split into those that are of interest.
func TestManyColumns(t *testing.T) {
	t.Parallel()
	record := append([]byte{0x84, 0x80, 0x00}, make([]byte, 1<<16)...)
	if got := recordOf(record); len(got) != maxColumns || cap(got) > 2*maxColumns {
		t.Errorf("%d columns", len(got))
	}
}

// What a package is called is not as long as its header.
func TestLongName(t *testing.T) {
	t.Parallel()
	text := ndb([][]byte{header(strings.Repeat("n", maxText+1), []string{"/"}, []string{"c"}, []int{0}, 0)})
	if _, p, found, err := lookFor(text, "/c"); !found || err != nil || p != (Package{"", "1-2"}) {
		t.Errorf("%d bytes, %v, %v", len(p.Name), found, err)
	}
}
