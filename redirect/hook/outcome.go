package hook

import "fmt"

// Outcome is what became of a connect() to IMDS, or of its record.
type Outcome string

// outcomes are in the order of enum outcome in bpf/contract.h.
var outcomes = [hookOutcomeOUTCOME_COUNT]Outcome{
	hookOutcomeOUTCOME_REDIRECTED:   "redirected",
	hookOutcomeOUTCOME_EXEMPT:       "exempt",
	hookOutcomeOUTCOME_STALE:        "stale",
	hookOutcomeOUTCOME_NOT_TCP:      "not_tcp",
	hookOutcomeOUTCOME_NO_LISTENER:  "no_listener",
	hookOutcomeOUTCOME_OTHER_NETNS:  "other_netns",
	hookOutcomeOUTCOME_BOUND_DEVICE: "bound_device",
	hookOutcomeOUTCOME_NOT_RECORDED: "not_recorded",
	hookOutcomeOUTCOME_WATCHED:      "watched",
	hookOutcomeOUTCOME_REFUSED:      "refused",
	hookOutcomeOUTCOME_JOINED:       "joined",
	hookOutcomeOUTCOME_NOT_JOINED:   "not_joined",
	hookOutcomeOUTCOME_AMBIGUOUS:    "ambiguous",
	hookOutcomeOUTCOME_CLOSED:       "closed",
}

// Bypass tells whether a connect() with this outcome went to IMDS and not to the bridge,
// although it was not the bridge's own.
func (o Outcome) Bypass() bool {
	switch o {
	case "stale", "not_tcp", "no_listener", "other_netns", "bound_device", "not_recorded":
		return true
	}
	return false
}

// Counters says how often each outcome came about since [Attach]; after Close, until then.
func (h *Hook) Counters() (map[Outcome]uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return h.final, nil
	}
	return h.counters()
}

func (h *Hook) counters() (map[Outcome]uint64, error) {
	counters := make(map[Outcome]uint64, len(outcomes))
	for i, outcome := range outcomes {
		var perCPU []uint64
		if err := h.objects.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", outcome, err)
		}
		for _, n := range perCPU {
			counters[outcome] += n
		}
	}
	return counters, nil
}
