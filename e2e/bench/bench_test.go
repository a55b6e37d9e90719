package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestQuantilesOfKnownNumbers(t *testing.T) {
	t.Parallel()
	var numbers []time.Duration
	for i := range 100 {
		numbers = append(numbers, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0.5: 51, 0.9: 91, 0.99: 100} {
		if got := quantile(numbers, q); got != want {
			t.Errorf("quantile %g is %d, want %d", q, got, want)
		}
	}
	if got := median([]time.Duration{9, 1, 5, 3}); got != 4 {
		t.Errorf("median is %d, want 4", got)
	}
}

// Who skips the token, or loses some of the answer, must not look fast.
func TestOnlyAWholeAnswerToATokenCounts(t *testing.T) {
	t.Parallel()
	if got := reply(v2); !complete(got) {
		t.Errorf("with a token: %q", got)
	}
	if got := reply(v1); complete(got) {
		t.Errorf("without a token: %q", got)
	}
	if complete(success[:len(success)-1]) {
		t.Error("an answer without its last byte counts as whole")
	}
}

func TestCPUTimeOfThisProcessGrows(t *testing.T) {
	t.Parallel()
	self := []int{os.Getpid()}
	before, err := cpuTime(self)
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, err := cpuTime(self)
	if err != nil {
		t.Fatal(err)
	}
	if after <= before {
		t.Errorf("%s before, %s after", before, after)
	}
	if bytes, err := resident(self); err != nil || bytes < 1<<20 {
		t.Errorf("resident set %d, %v", bytes, err)
	}
}

func TestReachSaysByHowMuchItIsMissed(t *testing.T) {
	t.Parallel()
	if r := newReach("hook", 100, 100, "ns"); !r.Met || r.verdict() != "met" {
		t.Errorf("%+v", r)
	}
	if r := newReach("hook", 100, 150, "ns"); r.Met || r.verdict() != "missed by 50 %" {
		t.Errorf("%+v: %s", r, r.verdict())
	}
	if r := newReach("lost", 0, 3, "calls"); r.Met || r.verdict() != "missed" {
		t.Errorf("%+v: %s", r, r.verdict())
	}
}

// What a container's call takes without a bridge is not what the host's does.
func TestAddedIsMeasuredAgainstTheSamePlace(t *testing.T) {
	t.Parallel()
	r := result{Comparison: &comparison{Rows: []row{
		{Proxy: hostDirect, Connections: 1, P50: 10},
		{Proxy: containerDirect, Connections: 1, P50: 15},
		{Proxy: "bridge", Direct: hostDirect, Connections: 1, P50: 30},
		{Proxy: "bridge, container", Direct: containerDirect, Connections: 1, P50: 40},
	}}}
	if host, box := r.added("bridge", 1), r.added("bridge, container", 1); host != 20 || box != 25 {
		t.Errorf("added %d and %d, want 20 and 25", host, box)
	}
}

// What fails in one round is named, is not in the medians, and makes the run fail.
func TestFailureIsNamedAndNotMeasured(t *testing.T) {
	t.Parallel()
	if err := (load{Calls: 100, Wrong: maxWrong}).check(); err != nil {
		t.Error(err)
	}
	err := load{Calls: 100, Wrong: maxWrong + 1, Got: string(refused)}.check()
	if err == nil || !strings.Contains(err.Error(), "21 of 100") || !strings.Contains(err.Error(), "401 Unauthorized") {
		t.Fatalf("wrong answers: %v", err)
	}
	good := slice{load: load{P50: 20, Calls: 100, Wrong: 1}, cpu: 5}
	bad := slice{load: load{P50: 2, Calls: 100, Wrong: 90}, failed: true}
	direct := proxy{name: hostDirect}
	with := proxy{name: "bridge", direct: hostDirect}
	r := result{Identity: &identity{}, Comparison: &comparison{
		Rows: []row{
			summarize(direct, 1, []slice{good}), summarize(direct, 32, []slice{good}),
			summarize(with, 1, []slice{good, bad}), summarize(with, 32, []slice{bad}),
		},
		Failures: []failure{{"bridge", 32, 1, err.Error()}},
	}}
	if row := r.row("bridge", 1); row.P50 != 20 || row.Wrong != 91 {
		t.Errorf("row %+v", row)
	}
	if got := r.addedRatio("bridge", 32); got != notMeasured {
		t.Errorf("a row without a good round is measured: %g", got)
	}
	if x := newReach("bridge", 1.5, notMeasured, "×"); x.Met || x.verdict() != "not measured" {
		t.Errorf("%+v: %s", x, x.verdict())
	}
	text := r.markdown()
	for _, want := range []string{"| failed", "FAILED, and not in the medians: bridge, 32 at once, round 1: 21 of 100 calls"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if err := r.Comparison.failed(); err == nil || !strings.Contains(err.Error(), "bridge, 32 at once, round 1") {
		t.Errorf("the run ends with %v", err)
	}
}

func TestPacketThereAndBackIsTimed(t *testing.T) {
	t.Parallel()
	fd, err := loop()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	got, err := byTurns(fd, fd, 2, pass)
	if err != nil || got.Plain <= 0 || got.Seen != 2*batch {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTableIsReplacedAndNothingElse(t *testing.T) {
	t.Parallel()
	page := "before\n" + begin + "old\n" + end + "after\n"
	got, err := replace(page, table{{"a", "b"}, {"1", "µ"}}.text())
	if err != nil {
		t.Fatal(err)
	}
	if want := "before\n" + begin + "\n| a | b |\n|---|---|\n| 1 | µ |\n\n" + end + "after\n"; got != want {
		t.Errorf("got %q", got)
	}
	if _, err := replace("no table here", ""); err == nil {
		t.Error("a page without a table is no error")
	}
}

func TestPageHasAPlaceForTheTable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), begin) || !strings.Contains(string(page), end) {
		t.Error("docs/performance.md has no marks for the table")
	}
}
