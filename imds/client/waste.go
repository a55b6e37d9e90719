package client

import (
	"fmt"
	"strings"
	"time"
)

// Waste is a habit of calling more often than need be.
type Waste string

const (
	// PolledKey: one path is read over and over, at a steady short interval.
	PolledKey Waste = "polled-key"
	// TokenPerRequest: nearly every call fetches a token of its own, which would live for 6 hours.
	TokenPerRequest Waste = "token-per-request"
	// CredentialsPerCall: role credentials, which live for hours, are fetched every few seconds or minutes.
	CredentialsPerCall Waste = "credentials-per-call"
)

// Thresholds, with their reasons.
const (
	// PollCount and PollSpan are more than what an SDK's retries and a start-up make: cloud-init and
	// SDKs read a path up to ten times within seconds and then leave it.
	PollCount = 12
	PollSpan  = 10 * time.Second
	// PollInterval is the longest that counts as short. A slower poll makes less than one packet a
	// second, of the 1024 that an interface has for all link-local services together.
	PollInterval = 30 * time.Second
	// NoticeInterval is the same for notices, which are made to be polled: the EC2 User Guide
	// recommends every 5 seconds for Spot interruptions, and AWS's own handler does it every 2.
	NoticeInterval = time.Second
	// TokenCount, within about an hour, leaves programs alone that ask for something now and then.
	TokenCount = 8
	// CredentialsCount is of fetches that are less than 5 minutes apart. Credentials live for about 6
	// hours and are renewed at least 5 minutes before they end, so SDKs fetch them once an hour or
	// less, and in their last minutes a few times.
	CredentialsCount = 5
)

// Finding is waste that was seen.
type Finding struct {
	Code Waste
	// Route is what was read; "" for tokens.
	Route string
	// Count is how often within Window. Of is, for tokens, how many calls they were for.
	Count, Of uint32
	Window    time.Duration
}

// String is the finding in one line of at most 200 bytes.
func (f Finding) String() string {
	span := f.Window.Round(time.Second)
	switch f.Code {
	case TokenPerRequest:
		return fmt.Sprintf("%d tokens for %d calls in %s: a token lives for up to 6 hours, keep it", f.Count, f.Of, span)
	case CredentialsPerCall:
		return fmt.Sprintf("credentials fetched %d times in %s: keep them until 5 minutes before their Expiration", f.Count, span)
	}
	return fmt.Sprintf("%s read %d times in %s: keep what it says, or ask less often", f.Route, f.Count, span)
}

// Waste lists what could be fewer, by the calls of about the last hour.
func (h *History) Waste() []Finding {
	var found []Finding
	if f, is := h.tokenWaste(); is {
		found = append(found, f)
	}
	for i := range h.paths {
		if h.last-h.paths[i].last > int64(window) {
			continue
		}
		if f, is := h.paths[i].waste(); is {
			found = append(found, f)
		}
	}
	return found
}

func (h *History) tokenWaste() (Finding, bool) {
	span := time.Duration(h.last - h.since)
	if h.tokens < TokenCount || h.tokens < h.v2-h.v2/2 {
		return Finding{}, false
	}
	// Who is granted no token asks again and again for a reason.
	if h.tokensOK < h.tokens-h.tokens/2 {
		return Finding{}, false
	}
	return Finding{Code: TokenPerRequest, Count: h.tokens, Of: h.v2, Window: span}, true
}

func (p *pathCount) waste() (Finding, bool) {
	f := Finding{Code: PolledKey, Route: p.route, Count: p.count, Window: time.Duration(p.last - p.first)}
	switch {
	case p.isCredentials():
		f.Code = CredentialsPerCall
		return f, p.count >= CredentialsCount && f.Window >= PollSpan
	case p.count < PollCount || f.Window < PollSpan || !p.isSteady():
		return f, false
	case isNotice(p.route):
		return f, p.mean() < NoticeInterval
	}
	return f, p.mean() <= PollInterval
}

// isSteady tells a poll from work that comes and goes: the gaps differ by less than half of what they
// are on average.
func (p *pathCount) isSteady() bool { return p.spread <= p.gap/2 }

// isNotice tells what is made to be polled.
func isNotice(route string) bool {
	for _, notice := range [...]string{"/meta-data/spot/", "/meta-data/events/", "/meta-data/autoscaling/"} {
		if strings.Contains(route, notice) {
			return true
		}
	}
	return false
}
