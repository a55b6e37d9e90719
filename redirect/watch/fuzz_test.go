package watch

import (
	"strings"
	"testing"
)

// However a stream is cut, mixed up and repeated, its requests come out whole and once.
func FuzzCuts(f *testing.F) {
	f.Add([]byte{1}, uint8(0))
	f.Add([]byte{200, 3, 90, 255, 17}, uint8(3))
	f.Add([]byte{0, 0, 0, 128, 128, 250}, uint8(255))
	text := get("/1") + get("/2", "X-aws-ec2-metadata-token: "+secret) +
		"PUT /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\n" + get("/not-me")[:30] +
		"POST /4 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nGET\r\n0\r\n\r\n" + get("/5")
	f.Fuzz(func(t *testing.T, cuts []byte, order uint8) {
		if len(cuts) == 0 {
			return
		}
		tape := newTape()
		l := tape.dial(4)
		var parts []int // where each segment begins
		for at, i := 0, 0; at < len(text); i++ {
			parts = append(parts, at)
			at += 1 + int(cuts[i%len(cuts)])
		}
		part := func(i int) (int, string) {
			end := len(text)
			if i+1 < len(parts) {
				end = parts[i+1]
			}
			return parts[i], text[parts[i]:end]
		}
		put := func(i int) {
			at, data := part(i)
			l.put(l.next+uint32(at), flagACK, data)
		}
		for i := 0; i < len(parts); i++ {
			if order&1 != 0 && i+1 < len(parts) { // the other way round
				put(i + 1)
			}
			put(i)
			if order&2 != 0 { // again
				put(i / 2)
			}
		}
		for i := range 5 {
			l.answer(201 + i)
		}
		tape.expect(t, "GET /1 201", "GET /2 202", "PUT /3 203", "POST /4 204", "GET /5 205")
		if tape.held != 0 {
			t.Errorf("%d bytes kept", tape.held)
		}
	})
}

// Whatever is sent, nothing is told that was not, no secret is, and memory is bounded.
func FuzzPackets(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: s3cret\r\n\r\n"), []byte{0, 2, 1, 16, 9})
	f.Add([]byte("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"), []byte{0, 255, 17, 4})
	f.Fuzz(func(t *testing.T, text, how []byte) {
		tape := newTape()
		l := tape.join(4)
		sent := ""
		for i := 0; i+1 < len(how); i += 2 {
			n := min(len(text), int(how[i]))
			flags, direction := how[i+1]&31, watchDirection(how[i+1]>>7)
			p := l.packet(direction, l.next+uint32(how[i+1]>>5&1)*10, flags, string(text[:n]))
			p.Payload += uint32(how[i+1] >> 6 & 1)
			sent += string(text[:n])
			text = text[n:]
			l.next += uint32(n)
			tape.add(p)
			if tape.held > maxHeld || tape.held < 0 {
				t.Fatalf("%d bytes kept", tape.held)
			}
		}
		tape.pass(gapPatience)
		tape.close(tape.now)
		if tape.held != 0 || tape.waiting() {
			t.Fatalf("%d bytes kept after close", tape.held)
		}
		for _, x := range tape.told {
			if x.Malformed {
				continue
			}
			if !strings.Contains(sent, x.Method) || !strings.Contains(sent, x.Target) {
				t.Fatalf("told %s %s, sent %q", x.Method, x.Target, sent)
			}
			for name, values := range x.Header {
				for _, v := range values {
					if !harmless[strings.ToLower(name)] && v != Redacted && v != oracle {
						t.Fatalf("told %s: %s", name, v)
					}
				}
			}
		}
	})
}
