package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// dockerAlone makes the sockets the only sources of containers.
func dockerAlone(sockets ...string) []string {
	return []string{"--attribution.docker=" + strings.Join(sockets, " "), "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off"}
}

// attributed is what a log line tells of a call besides its process.
type attributed struct {
	record
	Caller struct {
		PID       int
		Script    string
		Service   string
		Container struct{ Name, Image string }
		Package   struct{ Manager, Name, Version string }
		Owner     struct{ Name, From string }
	}
	By struct {
		Name, Version, Confidence, From string
		SpeaksV2                        string `json:"speaks_v2"`
	} `json:"imds_client"`
	Advice struct{ Code, Text, Link string }
}

// find looks for a log line of a call.
func (b *bridge) find(t *testing.T, wanted func(attributed) bool) (line attributed, ok bool) {
	t.Helper()
	return b.findAfter(t, 0, wanted)
}

// findAfter looks beyond the first n lines of the log.
func (b *bridge) findAfter(t *testing.T, n int, wanted func(attributed) bool) (line attributed, ok bool) {
	t.Helper()
	for _, raw := range b.log()[n:] {
		line = attributed{record: record{raw: raw}}
		if err := errors.Join(json.Unmarshal([]byte(raw), &line.record), json.Unmarshal([]byte(raw), &line)); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		if line.Msg == "imds call" && wanted(line) {
			return line, true
		}
	}
	return attributed{}, false
}

// named is for a line that says all of a container of the image "caller".
func named(name, owner string) func(attributed) bool {
	return func(a attributed) bool {
		who := a.Caller
		return who.Container.Name == name && who.Container.Image == "caller:latest" && who.Owner.Name == owner && who.Owner.From == "container.label:team"
	}
}

// awaitCall waits for a line of a call from a container.
func (b *bridge) awaitCall(t *testing.T, c contained, wanted func(attributed) bool) (line attributed) {
	t.Helper()
	seen := 0
	await(t, "a line of a call from "+c.id, 30*time.Second, func() (ok bool) {
		from := seen
		seen = len(b.log())
		line, ok = b.findAfter(t, from, func(a attributed) bool { return a.record.Caller.ContainerID == c.id && wanted(a) })
		return ok
	})
	return line
}

// awaitSpan waits for a span of the process in a line, with attributes.
func awaitSpan(t *testing.T, c *collector, line attributed, attributes map[string]any) {
	t.Helper()
	await(t, fmt.Sprintf("a span with %.500q", fmt.Sprint(attributes)), 10*time.Second, func() bool {
		return slices.ContainsFunc(c.spans(t), func(s span) bool {
			for key, value := range attributes {
				if s.attributes[key] != value {
					return false
				}
			}
			return s.attributes["process.pid"] == line.Caller.PID
		})
	})
}

// awaitWarning waits for a warning with all that is to be in it.
func (b *bridge) awaitWarning(t *testing.T, parts ...string) {
	t.Helper()
	await(t, "a warning of "+strings.Join(parts, ", "), 30*time.Second, func() bool { return b.warnings(t, parts...) > 0 })
}

func (b *bridge) warnings(t *testing.T, parts ...string) (n int) {
	t.Helper()
lines:
	for _, r := range b.records(t) {
		for _, part := range parts {
			if !strings.Contains(r.raw, part) {
				continue lines
			}
		}
		if r.Level == "WARN" {
			n++
		}
	}
	return n
}

// awaitWatched waits until sources that failed have come back so many times.
func (b *bridge) awaitWatched(t *testing.T, times int) {
	t.Helper()
	await(t, "sources are watched again", 30*time.Second, func() bool {
		n := 0
		for _, r := range b.records(t) {
			if r.Msg == "containers are watched again" {
				n++
			}
		}
		return n >= times
	})
}
