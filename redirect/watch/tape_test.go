package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// tape feeds packets to streams, and keeps what they tell.
type tape struct {
	*streams
	counted counts
	told    []Exchange
	asked   int // how often the owner of a socket was asked for
	now     time.Duration
}

func newTape() *tape {
	t := &tape{streams: newStreams(1), now: time.Hour}
	t.counts = &t.counted
	t.tell = func(x *Exchange, _ *identity) { t.told = append(t.told, *x) }
	t.identify = func(_, _ netip.AddrPort, c redirect.Connection) *identity {
		t.asked++
		return &identity{connection: c}
	}
	return t
}

// line is a TCP connection on a tape.
type line struct {
	*tape
	cookie uint64
	port   uint16
	raw    uint8
	next   uint32 // sequence number of the next byte to IMDS
	heard  uint32 // of the next byte from IMDS
}

// dial begins a connection with a SYN.
func (t *tape) dial(cookie uint64) *line {
	l := t.join(cookie)
	l.next--
	l.put(l.next, flagSYN, "")
	l.next++
	return l
}

// join is a connection that was there before.
func (t *tape) join(cookie uint64) *line {
	return &line{tape: t, cookie: cookie, port: uint16(40000 + cookie), next: uint32(cookie) * 1e9}
}

func (l *line) packet(direction watchDirection, sequence uint32, flags uint8, data string) *packet {
	l.now += time.Microsecond
	return &packet{
		watchPacket: watchPacket{
			Time: uint64(l.now), SocketCookie: l.cookie, Netns: 1, Direction: uint8(direction), Raw: l.raw,
			ClientIp: [4]uint32{2: 0xffff0000, 3: 0x0100000a}, ClientPort: l.port,
			ImdsIp:   [4]uint32{2: 0xffff0000, 3: 0xfea9fea9},
			Sequence: sequence, Flags: flags, Payload: uint32(len(data)), Length: uint32(len(data)),
		},
		data: []byte(data),
	}
}

// put sends a segment with any sequence number.
func (l *line) put(sequence uint32, flags uint8, data string) {
	l.add(l.packet(watchDirectionDIRECTION_SENT, sequence, flags, data))
}

// send sends the next segment.
func (l *line) send(data string) {
	l.put(l.next, flagACK, data)
	l.next += uint32(len(data))
}

// sendLarge sends one segment of which the kernel program hands over chunks.
func (l *line) sendLarge(data string) {
	whole := l.packet(watchDirectionDIRECTION_SENT, l.next, flagACK, data)
	for ; whole.Offset < whole.Payload; whole.Offset += 4096 {
		p := *whole
		p.data = whole.data[p.Offset:min(p.Offset+4096, p.Payload)]
		p.Length = uint32(len(p.data))
		l.add(&p)
	}
	l.next += uint32(len(data))
}

// receive receives the next segment, of which the kernel program hands over the beginning.
func (l *line) receive(flags uint8, data string) {
	l.add(l.packet(watchDirectionDIRECTION_RECEIVED, l.heard, flags, data[:min(len(data), 16)]))
	l.heard += uint32(len(data))
}

func (l *line) answer(status int) { l.receive(flagACK, fmt.Sprintf("HTTP/1.1 %d Whatever", status)) }

// pass lets time pass.
func (t *tape) pass(d time.Duration) {
	t.now += d
	t.tick(t.now)
}

// expect compares what was told, as "GET /path 200", and forgets it.
func (t *tape) expect(tt *testing.T, want ...string) {
	tt.Helper()
	var got []string
	for _, x := range t.told {
		if x.Malformed {
			x.Method, x.Target = "malformed", "-"
		}
		got = append(got, fmt.Sprintf("%s %s %d", x.Method, x.Target, x.Status))
	}
	if !slices.Equal(got, want) {
		tt.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	t.told = nil
}

// expectCounts compares what was counted; what is not given is zero.
func (t *tape) expectCounts(tt *testing.T, want map[Count]uint64) {
	tt.Helper()
	for i, name := range countNames {
		if got := t.counted[i].Load(); got != want[name] {
			tt.Errorf("%s is %d, want %d", name, got, want[name])
		}
	}
}

func get(path string, header ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + strings.Join(header, "\r\n") +
		strings.Repeat("\r\n", min(len(header), 1)) + "\r\n"
}
