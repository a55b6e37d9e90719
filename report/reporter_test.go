package report

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/imds-bridge/imds-bridge/attribution"
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

// Nobody is taken for root, or for process 0, because it is not known who it is.
func TestUnknownCallersAreNotGuessed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		origin     caller.Origin
		log        []string
		attributes []string
	}{
		"socket alone": {
			caller.Origin{UID: 1000, NetNS: 4026531840},
			[]string{"uid", "netns", "host_network", "complete"},
			[]string{"process.user.id", "imds.caller.network_namespace", "imds.caller.complete", "imds.caller.host_network"},
		},
		"nothing": {
			caller.Origin{},
			[]string{"host_network", "complete"},
			[]string{"imds.caller.complete", "imds.caller.host_network"},
		},
	} {
		who := person{Who: &attribution.Who{}, Caller: &caller.Caller{Origin: c.origin, Started: time.Unix(1e9, 0)}, hostNetwork: true}
		var log, attributes []string
		for _, a := range callerValue(who).Group() {
			log = append(log, a.Key)
		}
		for _, a := range callerAttributes(who) {
			attributes = append(attributes, string(a.Key))
		}
		if !slices.Equal(log, c.log) || !slices.Equal(attributes, c.attributes) {
			t.Errorf("%s: log %q, span %q", name, log, attributes)
		}
	}
}

func TestHostileCallerIsHarmlessInSpans(t *testing.T) {
	t.Parallel()
	c := &Call{
		Method: "GET", Proto: "HTTP/1.1", UserAgent: "\u009b2J\u202e" + strings.Repeat("\xff\x1b[31m", 4000),
		Path:   "/latest/\u009b2J",
		Client: netip.MustParseAddrPort("192.0.2.1:1"),
		Caller: &caller.Caller{},
	}
	for _, kv := range append(requestAttributes("GET", c, 0), callerAttributes(person{Caller: c.Caller, Who: &attribution.Who{}})...) {
		if kv.Value.Type() == attribute.STRING && len(kv.Value.AsString()) > 4*maxText {
			t.Errorf("%s has %d bytes", kv.Key, len(kv.Value.AsString()))
		}
		if kv.Value.Type() == attribute.STRING && strings.ContainsAny(kv.Value.AsString(), "\x1b\u009b\u202e") {
			t.Errorf("%s steers a terminal: %q", kv.Key, kv.Value.AsString()[:32])
		}
	}
}
