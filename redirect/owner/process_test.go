package owner

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const statLine = "4242 (a) S 1) S 17 1 1 0 -1 4194560 1 1 0 1 0 2 21 10 20 0 3 0 12345 5124096 904 1 94000 95000 140737445783264 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 96000 97000 98000 140737445784000 140737445784100 140737445784100 140737445785000 0\n"

func TestStatIsReadWhateverTheNameHolds(t *testing.T) {
	t.Parallel()
	var p process
	if err := p.parseStat([]byte(statLine), time.Second); err != nil {
		t.Fatal(err)
	}
	if p.comm != "a) S 1" || p.ppid != 17 || p.started != 12345*userTick-time.Second || p.execID == 0 {
		t.Errorf("read %+v", p)
	}
	escaped := strings.Replace(statLine, "a) S 1", `a\nb\\n`, 1)
	var e process
	if err := e.parseStat([]byte(escaped), 0); err != nil || e.comm != "a\nb\\n" {
		t.Errorf("a name with a line break and a backslash: %q, %v", e.comm, err)
	}
	moved := strings.Replace(statLine, "140737445783264", "140737445783265", 1)
	var q process
	if err := q.parseStat([]byte(moved), 0); err != nil || q.execID == p.execID {
		t.Errorf("a stack elsewhere: exec id %d, %v", q.execID, err)
	}
	hidden := strings.NewReplacer("94000 95000 140737445783264", "1 1 0", "96000 97000 98000 140737445784000 140737445784100 140737445784100 140737445785000", "0 0 0 0 0 0 0").Replace(statLine)
	var r process
	if err := r.parseStat([]byte(hidden), 0); err != nil || r.execID != 0 {
		t.Errorf("one that may not be known: exec id %d, %v", r.execID, err)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x) S 1", ") ("} {
		if err := p.parseStat([]byte(bad), 0); !errors.Is(err, errMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestStatusTellsTheIDs(t *testing.T) {
	t.Parallel()
	var p process
	err := p.parseStatus([]byte("Name:\tUid:\nUmask:\t0022\nTgid:\t5\nUid:\t1000\t0\t0\t0\nGid:\t1001\t1\t2\t3\nFDSize:\t64\n"))
	if err != nil || p.uids != [4]uint32{1000, 0, 0, 0} || p.gid != 1001 || !p.isUser(0) || p.isUser(1) {
		t.Errorf("read %+v, %v", p, err)
	}
	for _, bad := range []string{"", "\nUid:\t1\n", "\nUid:\t1 2 3 4\n", "\nUid:\t1 2 3 x\nGid:\t1 2 3 4\n"} {
		if err := p.parseStatus([]byte(bad)); !errors.Is(err, errMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A table as the kernel prints it on the little-endian machines that we build for.
const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0201E1AC:8235 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0000000000000000 100 0 0 10 0
   1: 0201E1AC:8235 FEA9FEA9:0050 06 00000000:00000000 03:000017A1 00000000     0        0 0 3 0000000000000000
   2: 0201E1AC:8235 FEA9FEA9:0050 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0000000000000000 20 4 30 10 -1
`

func TestTableIsSearchedWhereverItIsCut(t *testing.T) {
	t.Parallel()
	client, server := netip.MustParseAddrPort("172.225.1.2:33333"), imdsForTable
	long := strings.Repeat("   9: 0100007F:0001 0100007F:0002 01 00000000:00000000 00:00000000 00000000     0        0 7 1\n", 2000)
	for _, table := range []string{tcpTable, long + tcpTable, strings.Repeat("x", 70) + "\n" + long + tcpTable + long} {
		s, err := findInTable(strings.NewReader(table), false, client, server)
		if err != nil || s.inode != 4242 || s.uid != 1000 || s.mapped {
			t.Errorf("found %+v, %v", s, err)
		}
	}
	if _, err := findInTable(strings.NewReader(tcpTable), false, netip.AddrPortFrom(client.Addr(), 1), server); !errors.Is(err, ErrNoSocket) {
		t.Error(err)
	}
}

var imdsForTable = netip.MustParseAddrPort("169.254.169.254:80")

func TestAddressesOfATable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		addr string
		v6   bool
		want string
	}{
		{"169.254.169.254:80", false, "FEA9FEA9:0050"},
		{"169.254.169.254:80", true, "0000000000000000FFFF0000FEA9FEA9:0050"},
		{"[fd00:ec2::254]:80", true, "C20E00FD000000000000000054020000:0050"},
	} {
		if got := tableAddr(netip.MustParseAddrPort(tt.addr), tt.v6); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.addr, got, tt.want)
		}
	}
}

func TestLocalAddressesAreThoseOfTheNamespace(t *testing.T) {
	t.Parallel()
	got := localAddrs4(strings.NewReader(`Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 172.17.0.0
        /16 link UNICAST
     |-- 172.17.0.2
        /32 host LOCAL
     |-- 172.17.255.255
        /32 link BROADCAST
`))
	if len(got) != 1 || got[0] != netip.MustParseAddr("172.17.0.2") {
		t.Errorf("IPv4: %v", got)
	}
	got = localAddrs6(strings.NewReader("fd6c6162000100010000000000000002 02 40 00 80     eth0\nnonsense\n"))
	if len(got) != 1 || got[0] != netip.MustParseAddr("fd6c:6162:1:1::2") {
		t.Errorf("IPv6: %v", got)
	}
}

func TestClassIsThatOfNetClsAndNetPrio(t *testing.T) {
	t.Parallel()
	const class = "7:net_prio,net_cls:/shaped\n"
	for text, want := range map[string]string{
		"0::/a\n": "", "8:cpu:/a\n" + class + "1:name=systemd:/b\n0::/a\n": class, "4:net_cls:/a\n3:net_prio:/b\n": "4:net_cls:/a\n3:net_prio:/b\n",
	} {
		if got := classOf(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
