package report

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/imds-bridge/imds-bridge/caller"
)

func TestFullQueueDropsAndCounts(t *testing.T) {
	t.Parallel()
	var dropped []string
	r := &Reporter{calls: make(chan *Call), dropped: func(signal string) { dropped = append(dropped, signal) }}
	r.Connection(&Call{})
	if !slices.Equal(dropped, []string{"logs", "traces"}) {
		t.Errorf("dropped %v", dropped)
	}
}

func TestHostileCallerIsHarmlessInSpans(t *testing.T) {
	t.Parallel()
	c := &Call{
		Method: "GET", Proto: "HTTP/1.1", UserAgent: strings.Repeat("\xff\x1b[31m", 4000),
		Client: netip.MustParseAddrPort("192.0.2.1:1"),
		Caller: &caller.Caller{},
	}
	for _, kv := range append(requestAttributes("GET", c, 0), callerAttributes(person{Caller: c.Caller})...) {
		if kv.Value.Type() == attribute.STRING && len(kv.Value.AsString()) > 4*maxText {
			t.Errorf("%s has %d bytes", kv.Key, len(kv.Value.AsString()))
		}
	}
}
