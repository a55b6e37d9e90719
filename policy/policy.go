// Package policy decides what becomes of one call. It is pure: no I/O, no state.
package policy

import "github.com/imds-bridge/imds-bridge/imds"

// Verdict is what is done with a call.
type Verdict string

const (
	Pass    Verdict = "pass"    // forward as it came
	Upgrade Verdict = "upgrade" // forward with the bridge's own session token
	Deny    Verdict = "deny"    // answer locally
)

// Reason says why a verdict was reached. It is one of a closed set.
type Reason string

const (
	ByMode       Reason = "mode"        // Policy.Mode
	ByContainers Reason = "containers"  // Policy.ContainersV1 or ContainersTokens
	Native       Reason = "native"      // speaks IMDSv2 itself
	OtherCloud   Reason = "other_cloud" // meant for another cloud's metadata service
	Relayed      Reason = "relayed"     // carries signs of a proxy or a browser
	Method       Reason = "method"      // no metadata client uses this verb
	Uncertain    Reason = "uncertain"   // who calls is not certain
)

// Mode is what is done with v1 calls from the bridge's own network namespace.
type Mode string

const (
	Observe      Mode = "observe" // pass them
	UpgradeCalls Mode = "upgrade" // upgrade them
	Enforce      Mode = "enforce" // deny them
)

// Tokens is what is done with token requests from other network namespaces.
type Tokens string

const (
	HopLimit      Tokens = "hop-limit" // answer as far as the instance's own hop limit would have let the answer
	ForwardTokens Tokens = "forward"   // answer in any case
	DenyTokens    Tokens = "deny"      // deny them
)

// Policy is what the operator chose.
type Policy struct {
	Mode             Mode
	ContainersV1     Verdict
	ContainersTokens Tokens
}

// Call is what a decision depends on.
type Call struct {
	Kind      imds.Kind
	OwnNetNS  bool // made in the bridge's own network namespace
	Ambiguous bool // another network namespace may have made it
	Relayed   bool // [imds.RelaySign] found one
}

// Decision is a verdict with its reason.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// HopLimit asks to let the answer go no further than IMDS would have let it.
	HopLimit bool
}

// Decide says what becomes of a call.
func (p Policy) Decide(c Call) Decision {
	switch c.Kind {
	case imds.V1:
		return p.decideV1(c)
	case imds.TokenRequest:
		return p.decideToken(c)
	case imds.V2:
		return Decision{Verdict: Pass, Reason: Native}
	case imds.NotAWS:
		return Decision{Verdict: Pass, Reason: OtherCloud}
	default:
		return Decision{Verdict: Deny, Reason: Method}
	}
}

func (p Policy) decideV1(c Call) Decision {
	d := p.choiceV1(c)
	if d.Verdict != Upgrade {
		return d
	}
	// An upgrade lends the bridge's token. Without it the call would get what IMDS gives to
	// anyone; with it, a forged request would get past the door that IMDSv2 shuts.
	switch {
	case c.Relayed:
		return Decision{Verdict: Deny, Reason: Relayed}
	case c.Ambiguous:
		return Decision{Verdict: Pass, Reason: Uncertain}
	}
	return d
}

func (p Policy) choiceV1(c Call) Decision {
	if !c.OwnNetNS {
		return Decision{Verdict: p.ContainersV1, Reason: ByContainers}
	}
	verdict := Upgrade
	switch p.Mode {
	case Observe:
		verdict = Pass
	case Enforce:
		verdict = Deny
	}
	return Decision{Verdict: verdict, Reason: ByMode}
}

func (p Policy) decideToken(c Call) Decision {
	switch {
	case c.OwnNetNS || p.ContainersTokens == ForwardTokens:
		return Decision{Verdict: Pass, Reason: Native}
	case p.ContainersTokens == DenyTokens:
		return Decision{Verdict: Deny, Reason: ByContainers}
	default:
		return Decision{Verdict: Pass, Reason: ByContainers, HopLimit: true}
	}
}
