package watch

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRequestsAreToldWithTheirStatus(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.send(get("/latest/meta-data/", "User-Agent: curl/8"))
	tape.expect(t)
	l.answer(200)
	if len(tape.told) != 1 {
		t.Fatalf("%d told", len(tape.told))
	}
	x := tape.told[0]
	if x.Proto != "HTTP/1.1" || x.Host != "169.254.169.254" || x.Header.Get("User-Agent") != "curl/8" ||
		x.Client.String() != "10.0.0.1:40001" || x.IMDS.String() != "169.254.169.254:80" || x.Raw {
		t.Errorf("%+v", x)
	}
	if d := x.End.Sub(x.Start); d != time.Microsecond {
		t.Errorf("took %s", d)
	}
	if age := time.Since(x.Start); age > monotonic() || age < monotonic()-2*time.Hour {
		t.Errorf("started at %s", x.Start)
	}
	tape.expect(t, "GET /latest/meta-data/ 200")
	l.send("HEAD / HTTP/1.0\r\n\r\n")
	l.answer(404)
	l.send("PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n")
	l.answer(200)
	tape.expect(t, "HEAD / 404", "PUT /latest/api/token 200")
	tape.expectCounts(t, map[Count]uint64{"requests": 3})
	if tape.asked != 1 {
		t.Errorf("asked %d times who it is", tape.asked)
	}
}

func TestRequestsAreFoundHoweverTheyAreCut(t *testing.T) {
	t.Parallel()
	large := get("/large", "X-Filler: "+strings.Repeat("x", 15<<10))
	body := "PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\n\r\n" + strings.Repeat(get("/not-me"), 2)[:40]
	chunked := "POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" +
		fmt.Sprintf("%x;x=y\r\n%s\r\n1\r\n\n\r\n0\r\nTrailer: x\r\n\r\n", len(get("/not-me")), get("/not-me"))
	all := get("/one") + large + body + "\r\n" + get("/two") + chunked + get("/three")
	want := []string{"GET /one 200", "GET /large 200", "PUT /body 200", "GET /two 200", "POST /chunked 200", "GET /three 200"}
	for _, size := range []int{1, 2, 3, 7, 100, 1460, 4096, len(all)} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			tape := newTape()
			l := tape.dial(4) // its sequence numbers go past 2^32
			l.next = 1<<32 - 2000
			l.put(l.next-1, flagSYN, "")
			for rest := all; rest != ""; rest = rest[min(size, len(rest)):] {
				l.sendLarge(rest[:min(size, len(rest))])
			}
			for range want {
				l.answer(200)
			}
			tape.expect(t, want...)
			tape.expectCounts(t, map[Count]uint64{"requests": 6, "silent": 1})
			if tape.held != 0 {
				t.Errorf("%d bytes kept", tape.held)
			}
		})
	}
}

func TestSegmentsSentAgainOrOutOfOrderAreTakenOnce(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	text := get("/one") + get("/two")
	start := l.next
	l.put(start+60, flagACK, text[60:])
	l.put(start+20, flagACK, text[20:40])
	l.put(start, flagACK, text[:30])
	l.put(start, flagACK, text[:20])
	l.put(start+30, flagACK, text[30:62]) // overlaps with what is there
	l.put(start, flagACK, text)
	l.answer(200)
	l.answer(201)
	tape.expect(t, "GET /one 200", "GET /two 201")
	tape.expectCounts(t, map[Count]uint64{"requests": 2})
	if tape.held != 0 {
		t.Errorf("%d bytes kept", tape.held)
	}
}

func TestFirstDataInSYN(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.join(1)
	text := get("/fast-open")
	l.put(l.next-1, flagSYN, text[:10])
	l.put(l.next-1, flagSYN, text[:10]) // again
	l.next += 10
	l.send(text[10:])
	l.answer(200)
	tape.expect(t, "GET /fast-open 200")
}

func TestConnectionFromBeforeIsReadFromItsNextRequest(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.join(1)
	l.send("c-metadata-token: abc\r\n\r\n")
	l.send("\x16\x03\x01 GET / HTTP/1.1\r\n\r\n")
	l.send("get /small HTTP/1.1\r\n\r\n")
	l.answer(200)
	tape.expect(t)
	l.send(get("/first")[:20])
	l.send(get("/first")[20:])
	l.answer(200)
	l.send(get("/second"))
	l.answer(200)
	tape.expect(t, "GET /first 200", "GET /second 200")
	tape.expectCounts(t, map[Count]uint64{"requests": 2, "unsynced": 3})
}

func TestWhatIsMissingIsNeverGuessed(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.send(get("/one"))
	l.send(get("/cut")[:25])
	l.next += 10                // lost
	l.send(get("/inner")[4:])   // no beginning
	l.send("X-More: y\r\n\r\n") // neither
	l.send(get("/after"))
	if len(tape.told) != 0 {
		t.Error("told too early")
	}
	tape.pass(gapPatience)
	l.answer(200)
	l.answer(201)
	tape.expect(t, "GET /one 200", "GET /after 201")
	tape.expectCounts(t, map[Count]uint64{"requests": 2, "gaps": 1, "unsynced": 2})
}

func TestMissingPartOfABodyIsNoLoss(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.send("PUT /body HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
	l.send(strings.Repeat("x", 1000))
	l.next += 90000
	l.send(strings.Repeat("x", 9000) + get("/after"))
	l.answer(200)
	l.answer(200)
	tape.expect(t, "PUT /body 200", "GET /after 200")
	tape.expectCounts(t, map[Count]uint64{"requests": 2})
}

func TestSocketThatConnectsAgainBeginsAnew(t *testing.T) {
	t.Parallel()
	tape := newTape()
	first := tape.dial(1)
	first.send(get("/one"))
	first.send(get("/begun")[:10])
	second := tape.dial(1)
	second.next += 77
	second.put(second.next-1, flagSYN, "")
	second.send(get("/two"))
	second.answer(200)
	tape.expect(t, "GET /one 0", "malformed - 0", "GET /two 200")
}

func TestRawSocketMakesManyConnections(t *testing.T) {
	t.Parallel()
	tape := newTape()
	var lines []*line
	for i := range 3 {
		l := tape.join(1)
		l.raw, l.port = 1, uint16(1000+i)
		l.put(l.next-1, flagSYN, "")
		lines = append(lines, l)
	}
	text := get("/raw")
	for i := range text {
		for _, l := range lines {
			l.send(text[i : i+1])
		}
	}
	lines[1].answer(200)
	if len(tape.told) != 1 || !tape.told[0].Raw || tape.told[0].Client.Port() != 1001 {
		t.Errorf("told %+v", tape.told)
	}
	tape.expect(t, "GET /raw 200")
}

func TestAnswersGoToRequestsInTheirOrder(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.answer(500) // to nothing
	l.send(get("/1") + get("/2"))
	l.answer(100)
	l.answer(201)
	l.receive(flagACK, "{\"Code\"")
	l.answer(202)
	l.send(get("/3"))
	l.receive(flagACK|flagFIN, "HTTP/1.1 203 x")
	tape.expect(t, "GET /1 201", "GET /2 202", "GET /3 203")
	l.send(get("/4"))
	tape.expect(t, "GET /4 0") // nothing comes after the end
}

func TestAnswerSentAgainIsNotTheNext(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.heard = 1<<32 - 20
	l.send(get("/1") + get("/2") + get("/3")[:10])
	l.answer(201)
	l.heard -= 21
	l.answer(201)
	l.answer(202)
	l.heard -= 21
	l.answer(202)
	l.send(get("/3")[10:])
	l.answer(203)
	tape.expect(t, "GET /1 201", "GET /2 202", "GET /3 203")
	tape.expectCounts(t, map[Count]uint64{"requests": 3})
}

// Two answers in one segment: whose the next one is cannot be told.
func TestAnswerIsNotGuessed(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.send(get("/1") + get("/2"))
	l.answer(201) // and that to /2, which does not show
	l.send(get("/3") + get("/4")[:10])
	l.answer(203)
	l.send(get("/4")[10:])
	tape.expect(t, "GET /1 201", "GET /2 0", "GET /3 0", "GET /4 0")
}

func TestRequestsWithoutAnswerEndInTime(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*line){
		"reset":          func(l *line) { l.receive(flagRST, "") },
		"ended by IMDS":  func(l *line) { l.receive(flagFIN|flagACK, "") },
		"given up":       func(l *line) { l.put(l.next, flagRST, "") },
		"after patience": func(l *line) { l.pass(answerPatience) },
		"at close":       func(l *line) { l.close(l.now) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tape := newTape()
			l := tape.dial(1)
			l.send(get("/"))
			tape.pass(answerPatience - time.Millisecond)
			l.put(l.next, flagFIN|flagACK, "") // a client may send no more and listen
			tape.expect(t)
			end(l)
			tape.expect(t, "GET / 0")
			tape.close(tape.now)
			tape.expect(t)
		})
	}
}

func TestWhatIsNoRequestIsToldOnceAndNotRepeated(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"TLS":            "\x16\x03\x01\x00\xa5\x01\n\r\n",
		"HTTP/0.9":       "GET /latest/\r\n\r\n",
		"no end of head": "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead),
		"bad chunk":      "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nGET /\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tape := newTape()
			l := tape.dial(1)
			l.sendLarge(text)
			if name == "bad chunk" {
				l.answer(200)
				tape.told = nil
			}
			l.answer(400)
			tape.expect(t, "malformed - 400")
			l.send("more of it")
			l.receive(flagFIN, "")
			l.put(l.next, flagFIN, "")
			tape.expect(t)
			if tape.counted[countMalformed].Load() != 1 || tape.counted[countSilent].Load() != 0 || tape.held != 0 {
				t.Errorf("malformed %d, silent %d, %d bytes kept", tape.counted[countMalformed].Load(), tape.counted[countSilent].Load(), tape.held)
			}
		})
	}
}

func TestHeadWithoutEndThatIsAnsweredIsTold(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.send("GET /latest/meta-data\r\n")
	l.answer(200)
	tape.expect(t, "malformed - 200")
}

func TestConnectionWithoutARequestIsCounted(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.receive(flagRST, "")
	l = tape.dial(2)
	l.put(l.next, flagFIN, "")
	l.put(l.next, flagFIN, "")
	tape.dial(3)
	tape.expectCounts(t, map[Count]uint64{"silent": 2})
	tape.pass(quietPatience)
	tape.expect(t)
	tape.expectCounts(t, map[Count]uint64{"silent": 3})
	if tape.recent.Len() != 0 || len(tape.all) != 0 {
		t.Errorf("%d connections are remembered", tape.recent.Len())
	}
}

func TestPacketsOfNoConnectionBeginNone(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.join(1)
	l.put(l.next, flagFIN|flagACK, "")
	l.put(l.next, flagRST, "")
	l.answer(200)
	if tape.waiting() {
		t.Error("a connection is remembered")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	tape := newTape()
	half := get("/", "X: "+strings.Repeat("x", 8000))[:8000]
	for i := range uint64(2 * maxStreams) {
		l := tape.dial(i)
		if i%2 == 0 {
			l.send(half[:4000])
			l.next += 10
			l.send(half[4000:])
		}
		if tape.held > maxHeld || tape.recent.Len() > maxStreams || len(tape.all) > maxStreams {
			t.Fatalf("%d bytes of %d connections are kept", tape.held, tape.recent.Len())
		}
	}
	if tape.counted[countEvicted].Load() == 0 {
		t.Error("none was given up")
	}
	tape.close(tape.now)
	if tape.held != 0 || len(tape.all) != 0 {
		t.Errorf("%d bytes of %d connections are kept after close", tape.held, len(tape.all))
	}
}

// One connection alone cannot make others forgotten.
func TestLaterSegmentsAreBounded(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	l.next += 10
	for range 1000 {
		l.send(strings.Repeat("x", 1460))
		if tape.held > maxLater+1460 {
			t.Fatalf("%d bytes kept", tape.held)
		}
	}
}
