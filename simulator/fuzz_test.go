package simulator

import (
	"bufio"
	"bytes"
	"testing"
	"time"
)

// Whatever bytes come, an answer is well formed and closes, and the head kept is a part of the input.
func FuzzReceiveAndAnswer(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
		"GET //latest/meta-data/ HTTP/1.0\r\nX-aws-ec2-metadata-token: a\r\n\r\n",
		"POST http://169.254.169.254/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\nContent-Length: 1\n\n",
		"\r\n\r\nGET /latest/user-data HTTP/1.1\r\nRange: bytes=-9\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	sim, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { sim.Close() })
	f.Fuzz(func(t *testing.T, input []byte) {
		r, err := receive(bufio.NewReader(bytes.NewReader(input)))
		if err != nil {
			return
		}
		if !bytes.Contains(input, r.head) {
			t.Errorf("head %q", r.head)
		}
		for _, older := range []bool{false, true} {
			wire := sim.decide(r.req, Behaviour{OlderBackend: older}).encode(r.method() == "HEAD", older, false, time.Now())
			if !bytes.HasPrefix(wire, []byte("HTTP/1.")) || bytes.Count(wire, []byte("\r\nConnection: close\r\n")) != 1 {
				t.Errorf("answer %q", wire)
			}
		}
	})
}
