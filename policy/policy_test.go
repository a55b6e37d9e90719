package policy

import (
	"testing"

	"github.com/imds-bridge/imds-bridge/imds"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	standard := Policy{Mode: UpgradeCalls, ContainersV1: Pass, ContainersTokens: HopLimit}
	open := Policy{Mode: UpgradeCalls, ContainersV1: Upgrade, ContainersTokens: ForwardTokens}
	strict := Policy{Mode: Enforce, ContainersV1: Deny, ContainersTokens: DenyTokens}
	watch := Policy{Mode: Observe, ContainersV1: Pass, ContainersTokens: HopLimit}
	host := func(k imds.Kind) Call { return Call{Kind: k, OwnNetNS: true} }
	container := func(k imds.Kind) Call { return Call{Kind: k} }
	relayed := func(c Call) Call { c.Relayed = true; return c }
	ambiguous := func(c Call) Call { c.Ambiguous = true; return c }

	for _, c := range []struct {
		name   string
		policy Policy
		call   Call
		want   Decision
	}{
		{"v1 from the host", standard, host(imds.V1), Decision{Upgrade, ByMode, false}},
		{"v1 from a container", standard, container(imds.V1), Decision{Pass, ByContainers, false}},
		{"v1 from a container, written choice", open, container(imds.V1), Decision{Upgrade, ByContainers, false}},
		{"relayed v1 from the host", standard, relayed(host(imds.V1)), Decision{Deny, Relayed, false}},
		{"relayed v1 from a container", open, relayed(container(imds.V1)), Decision{Deny, Relayed, false}},
		{"relayed v1 that is passed anyway", standard, relayed(container(imds.V1)), Decision{Pass, ByContainers, false}},
		{"relayed v1 while watching", watch, relayed(host(imds.V1)), Decision{Pass, ByMode, false}},
		{"v1 of an uncertain caller", open, ambiguous(container(imds.V1)), Decision{Pass, Uncertain, false}},
		{"v1 of an uncertain caller, denied", strict, ambiguous(container(imds.V1)), Decision{Deny, ByContainers, false}},
		{"v1 enforced", strict, host(imds.V1), Decision{Deny, ByMode, false}},
		{"v1 watched", watch, host(imds.V1), Decision{Pass, ByMode, false}},
		{"v2", strict, container(imds.V2), Decision{Pass, Native, false}},
		{"relayed v2 is for IMDS to judge", strict, relayed(host(imds.V2)), Decision{Pass, Native, false}},
		{"token request from the host", strict, host(imds.TokenRequest), Decision{Pass, Native, false}},
		{"token request from a container", standard, container(imds.TokenRequest), Decision{Pass, ByContainers, true}},
		{"token request forwarded", open, container(imds.TokenRequest), Decision{Pass, Native, false}},
		{"token request denied", strict, container(imds.TokenRequest), Decision{Deny, ByContainers, false}},
		{"other cloud", strict, host(imds.NotAWS), Decision{Pass, OtherCloud, false}},
		{"other verb", watch, host(imds.Other), Decision{Deny, Method, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := c.policy.Decide(c.call); got != c.want {
				t.Errorf("Decide(%+v) = %+v, want %+v", c.call, got, c.want)
			}
		})
	}
}
