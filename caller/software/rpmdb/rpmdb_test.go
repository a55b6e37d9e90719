package rpmdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	parts = 40   // packages of one file: more than a page of a database has room for
	files = 1500 // of the largest package: more than a page
)

// real is made once: the headers of real packages, and the database that rpm made of them.
var real = sync.OnceValues(func() (db realDatabase, err error) {
	dir, err := os.MkdirTemp("", "rpmdb")
	if err != nil {
		return db, err
	}
	defer os.RemoveAll(dir)
	if err := buildPackages(dir); err != nil {
		return db, err
	}
	packages, err := filepath.Glob(dir + "/RPMS/noarch/*.rpm")
	if err != nil {
		return db, err
	}
	install := []string{"--dbpath", dir + "/db", "--justdb", "--nodeps", "--install"}
	if err := command("rpm", append(install, packages...)...); err != nil {
		return db, err
	}
	if db.sqlite, err = os.ReadFile(dir + "/db/rpmdb.sqlite"); err != nil {
		return db, err
	}
	// SQLite's own reader, for the other forms of the same.
	const script = `import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute("SELECT hex(blob) FROM Packages"): print(row[0])`
	out, err := exec.Command("python3", "-c", script, dir+"/db/rpmdb.sqlite").Output()
	if err != nil {
		return db, err
	}
	for line := range strings.Lines(string(out)) {
		header, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			return db, err
		}
		db.headers = append(db.headers, header)
	}
	for i := range parts {
		name, err := exec.Command("rpm", "--dbpath", dir+"/db", "-qf", "--qf", "%{NAME}", partFile(i)).Output()
		if err != nil || string(name) != fmt.Sprintf("alpha-part%d", i) {
			return db, fmt.Errorf("rpm says that %s is of %s: %w", partFile(i), name, err)
		}
	}
	db.bdb, err = berkeley(dir, db.headers)
	return db, err
})

type realDatabase struct {
	headers     [][]byte
	sqlite, bdb []byte
}

func partFile(i int) string { return fmt.Sprintf("/usr/share/alpha/part%d", i) }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

func buildPackages(dir string) error {
	var spec strings.Builder
	fmt.Fprintf(&spec, `%%define __os_install_post %%{nil}
Name: alpha
Version: 1.2
Release: 3
Epoch: 4
Summary: x
License: none
BuildArch: noarch
%%description
x
%%install
mkdir -p %%{buildroot}/usr/bin %%{buildroot}/opt/alpha %%{buildroot}/usr/share/alpha
cd %%{buildroot}/usr/bin && touch alpha
cd %%{buildroot}/opt/alpha && touch $(seq -f a-file-with-a-long-name-%%%%g %d)
cd %%{buildroot}/usr/share/alpha && touch $(seq -f part%%%%g 0 %d)
%%files
/usr/bin/alpha
/opt/alpha
`, files, parts-1)
	for i := range parts {
		fmt.Fprintf(&spec, "%%package part%d\nVersion: 2.%d\nEpoch: 0\nSummary: x\n%%description part%d\nx\n%%files part%d\n%s\n", i, i, i, i, partFile(i))
	}
	if err := os.WriteFile(dir+"/alpha.spec", []byte(spec.String()), 0o600); err != nil {
		return err
	}
	return command("rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, dir+"/alpha.spec")
}

// berkeley makes a database as RPM did before SQLite, with Berkeley DB's own tool.
func berkeley(dir string, headers [][]byte) ([]byte, error) {
	var dump strings.Builder
	dump.WriteString("VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize=4096\nHEADER=END\n 00000000\n 00000029\n")
	for i, header := range headers {
		fmt.Fprintf(&dump, " %x\n %x\n", binary.LittleEndian.AppendUint32(nil, uint32(i+1)), header)
	}
	dump.WriteString("DATA=END\n")
	load := exec.Command("db_load", dir+"/Packages")
	load.Stdin = strings.NewReader(dump.String())
	if out, err := load.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("db_load: %w: %s", err, out)
	}
	return os.ReadFile(dir + "/Packages")
}

// ndb makes a database in the form of SUSE, for which no tool is at hand: one page of slots and the
// blobs behind it.
func ndb(headers [][]byte) []byte {
	le := binary.LittleEndian
	db := make([]byte, ndbSlotPage)
	copy(db, "RpmP")
	le.PutUint32(db[12:], 1)
	for s := ndbHeader; s < ndbSlotPage; s += ndbSlot {
		copy(db[s:], slotMagic)
	}
	for i, header := range headers {
		slot := db[ndbHeader+2*ndbSlot*i:] // every other one is free
		le.PutUint32(slot[4:], uint32(i+1))
		le.PutUint32(slot[8:], uint32(len(db)/ndbBlock))
		intro := make([]byte, ndbBlob)
		copy(intro, blobMagic)
		le.PutUint32(intro[4:], uint32(i+1))
		le.PutUint32(intro[12:], uint32(len(header)))
		db = append(append(db, intro...), header...)
		db = append(db, make([]byte, ndbBlock-len(db)%ndbBlock)...)
		le.PutUint32(db[ndbHeader+2*ndbSlot*i+12:], uint32(len(header)/ndbBlock+2))
	}
	return db
}

func TestOwner(t *testing.T) {
	t.Parallel()
	db, err := real()
	if err != nil {
		t.Fatal(err)
	}
	if len(db.headers) != parts+1 {
		t.Fatalf("%d packages, want %d", len(db.headers), parts+1)
	}
	for form, text := range map[string][]byte{"SQLite": db.sqlite, "Berkeley DB": db.bdb, "NDB": ndb(db.headers)} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			check := func(want Package, paths ...string) {
				t.Helper()
				got, found, err := Owner(context.Background(), bytes.NewReader(text), int64(len(text)), paths...)
				if got != want || found != (want != Package{}) || err != nil {
					t.Errorf("%v: %+v, %v, %v, want %+v", paths, got, found, err, want)
				}
			}
			alpha := Package{"alpha", "4:1.2-3"}
			check(alpha, "/usr/bin/alpha")
			check(alpha, "/bin/alpha", "/usr/bin/alpha")
			check(alpha, fmt.Sprintf("/opt/alpha/a-file-with-a-long-name-%d", files))
			for i := range parts {
				check(Package{fmt.Sprintf("alpha-part%d", i), fmt.Sprintf("2.%d-3", i)}, partFile(i))
			}
			check(Package{}, "/usr/bin/part0")
			check(Package{}, "/usr/share/alpha/part")
			check(Package{}, "/opt/alpha/alpha", "/absent")
			check(Package{}, "/")
		})
	}
}

// What is no database, or half of one, is an error or no answer, and never an endless one.
func TestMalformed(t *testing.T) {
	t.Parallel()
	db, err := real()
	if err != nil {
		t.Fatal(err)
	}
	for form, text := range map[string][]byte{"SQLite": db.sqlite, "Berkeley DB": db.bdb, "NDB": ndb(db.headers), "none": []byte(strings.Repeat("text ", 99)), "empty": nil} {
		for _, size := range []int{0, 1, 95, 96, 4096, 5000, len(text) / 2, len(text) - 1} {
			if size >= 0 && size < len(text) {
				p, found, err := Owner(context.Background(), bytes.NewReader(text[:size]), int64(size), "/absent")
				if found || err == nil && size < 4096 {
					t.Errorf("%s cut to %d bytes: %+v, %v", form, size, p, err)
				}
			}
		}
	}
	loop := bytes.Clone(db.sqlite)
	// Its pages are all the same: each an interior one that leads to itself.
	for page := 4096; page+4096 <= len(loop); page += 4096 {
		clear(loop[page : page+4096])
		loop[page] = pageInterior
		binary.BigEndian.PutUint16(loop[page+3:], 500)
	}
	if _, found, err := Owner(context.Background(), bytes.NewReader(loop), int64(len(loop)), "/usr/bin/alpha"); found || err == nil {
		t.Errorf("pages in a circle: %v, %v", found, err)
	}
}

// FuzzOwner changes bytes of real databases: whatever they say, there is an answer, and soon.
func FuzzOwner(f *testing.F) {
	db, err := real()
	if err != nil {
		f.Fatal(err)
	}
	forms := [][]byte{db.sqlite, db.bdb, ndb(db.headers[:8])}
	for form := range forms {
		f.Add(uint8(form), uint32(16), []byte{0})
		f.Add(uint8(form), uint32(4096), []byte{13, 0, 0, 0xff, 0xff})
	}
	f.Fuzz(func(t *testing.T, form uint8, at uint32, change []byte) {
		text := bytes.Clone(forms[int(form)%len(forms)])
		copy(text[int(at)%len(text):], change)
		p, found, _ := Owner(context.Background(), bytes.NewReader(text), int64(len(text)), "/usr/bin/alpha")
		if found && p.Name == "" && len(change) == 0 {
			t.Error("a package without a name")
		}
	})
}

// BenchmarkOwner looks for a file that no package has, so that the whole database is read.
func BenchmarkOwner(b *testing.B) {
	db, err := real()
	if err != nil {
		b.Fatal(err)
	}
	for form, text := range map[string][]byte{"SQLite": db.sqlite, "BerkeleyDB": db.bdb, "NDB": ndb(db.headers)} {
		b.Run(form, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, found, err := Owner(context.Background(), bytes.NewReader(text), int64(len(text)), "/absent"); found || err != nil {
					b.Fatal(found, err)
				}
			}
		})
	}
}
