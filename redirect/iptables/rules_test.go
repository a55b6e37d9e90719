package iptables

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRuleIsOursByItsComment(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		`-A OUTPUT -d 169.254.169.254/32 -p tcp -m comment --comment imds-bridge-jump -j IMDS-BRIDGE`:   true,
		`-A OUTPUT -d 169.254.169.254/32 -p tcp -m comment --comment "imds-bridge-jump" -j IMDS-BRIDGE`: true,
		`-A OUTPUT -m comment --comment "not imds-bridge-jump" -j IMDS-BRIDGE`:                          false,
		`-A IMDS-BRIDGE -j RETURN`:   false,
		`-A IMDS-BRIDGE --comment`:   false,
		`-N IMDS-BRIDGE`:             false,
		`-P OUTPUT ACCEPT`:           false,
		`# Warning: and so on -A --`: false,
		``:                           false,
	} {
		if got := parseRule(line).ours(); got != want {
			t.Errorf("%s: ours %t", line, got)
		}
	}
}

func TestChainIsOursByItsName(t *testing.T) {
	t.Parallel()
	for chain, want := range map[string]bool{
		"IMDS-BRIDGE": true, "IMDS-BRIDGE-1234abcd": true, "IMDS-BRIDGES": false, "OUTPUT": false, "imds-bridge": false,
	} {
		if got := isOurs(chain); got != want {
			t.Errorf("%s: ours %t", chain, got)
		}
	}
}

func TestBackendIsToldByTheVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"iptables v1.8.9 (nf_tables)\n":  NFT,
		"ip6tables v1.8.9 (legacy)\n":    Legacy,
		"iptables v1.4.21\n":             Legacy, // Amazon Linux 2, CentOS 7
		"iptables v1.6.1\n":              Legacy, // Ubuntu 18.04
		"iptables v1.8.11.1 (nf_tables)": NFT,
	} {
		if got := backendOf(version); got != want {
			t.Errorf("%s: %s", version, got)
		}
	}
}

func TestRulesThatWouldNotWorkAreNamed(t *testing.T) {
	t.Parallel()
	user := uint32(1)
	v4, v6 := netip.MustParseAddrPort("169.254.20.254:8254"), netip.MustParseAddrPort("[fd69::1]:8254")
	for name, tt := range map[string]struct {
		rules Rules
		want  string
	}{
		"good":                       {Rules{Listen: v4, Listen6: v6, Mark: 1, Containers: true}, ""},
		"no listener":                {Rules{Mark: 1}, "redirect.listen"},
		"IPv6 for IPv4":              {Rules{Listen: v6, Mark: 1}, "redirect.listen"},
		"IPv4 for IPv6":              {Rules{Listen: v4, Listen6: v4, Mark: 1}, "redirect.listen6"},
		"nothing exempt":             {Rules{Listen: v4}, "call itself"},
		"a mark of the check's bits": {Rules{Listen: v4, Mark: 0x10000}, "call itself"},
		"a user, and containers":     {Rules{Listen: v4, User: &user, Containers: true}, "redirect.containers"},
		"a user on loopback":         {Rules{Listen: netip.MustParseAddrPort("127.0.0.1:1"), User: &user, Containers: true}, ""},
	} {
		err := tt.rules.check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each rule has a comment, and none in a chain of ours comes after the one that redirects.
func TestEveryRuleHasAComment(t *testing.T) {
	t.Parallel()
	r := Rules{Listen: netip.MustParseAddrPort("169.254.20.254:8254"), Mark: 0x2069, CheckMark: 0x12069, Containers: true}
	f := family{"iptables", 2, imds4, r.Listen}
	for _, s := range []section{r.redirecting(f, "IMDS-BRIDGE", "set", []string{"eth0"}), r.refusing(f, "IMDS-BRIDGE")} {
		for _, spec := range append(s.rules, s.jumps[0].spec, s.jumps[1].spec) {
			if !(rule{"x", spec}).ours() {
				t.Errorf("%v is not ours", spec)
			}
		}
		if last := s.rules[len(s.rules)-1]; !slices.Contains(last, "DNAT") && !slices.Contains(last, "REJECT") {
			t.Errorf("the last rule is %v", last)
		}
	}
}
