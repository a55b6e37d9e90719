package doctor

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

var (
	listen4 = netip.MustParseAddrPort("169.254.20.254:8254")
	listen6 = netip.MustParseAddrPort("[fd69:6d64:7362::254]:8254")
)

func settings() Options {
	return Options{Redirector: Auto, Install: true, Containers: true, Listen: listen4, Listen6: listen6, Mark: 0x2069}
}

func docker0() []containerLink {
	return []containerLink{{"docker0", []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00:d0c::/64")}}}
}

// saved puts rules before those of the table filter in a capture, as iptables -I, -N and -P do.
func saved(text string, lines ...string) firewall {
	head, tail, _ := strings.Cut(text, "*filter\n")
	for _, line := range lines {
		if strings.HasPrefix(line, ":") {
			name, _, _ := strings.Cut(line, " ")
			before, after, found := strings.Cut(tail, name+" ")
			if found {
				_, after, _ = strings.Cut(after, "\n")
				tail = before + line + "\n" + after
			} else {
				tail = line + "\n" + tail
			}
		}
	}
	chains, rules, _ := strings.Cut(tail, "-A ")
	for _, line := range lines {
		if strings.HasPrefix(line, "-A ") {
			chains += line + "\n"
		}
	}
	return firewall{sets: parseSave(head+"*filter\n"+chains+"-A "+rules, "iptables-nft", false)}
}

func TestRulesOfAHostWithDocker(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"docker-nft.save", "docker-legacy.save"} {
		text := capture(t, backend)
		for _, tt := range []struct {
			name   string
			rules  []string
			status Status // "" for no finding
			words  []string
		}{
			{"as it is", nil, "", nil},
			{"policy DROP", []string{":INPUT DROP [0:0]"}, Fail, []string{"policy DROP of INPUT", "containers on docker0", "iptables -I INPUT -i docker0"}},
			{"policy DROP, the host's own", []string{":INPUT DROP [0:0]"}, Fail, []string{"the host's own calls"}},
			{"policy DROP and lo", []string{":INPUT DROP [0:0]", "-A INPUT -i lo -j ACCEPT", "-A INPUT -i docker0 -j ACCEPT"}, "", nil},
			{"policy DROP and the listener", []string{":INPUT DROP [0:0]", "-A INPUT -i lo -j ACCEPT", "-A INPUT -d 169.254.20.254/32 -p tcp -m tcp --dport 8254 -j ACCEPT"}, "", nil},
			{"policy DROP and the listener's port on another interface", []string{":INPUT DROP [0:0]", "-A INPUT -i lo -j ACCEPT", "-A INPUT -i cni+ -p tcp -m multiport --dports 22,8254 -j ACCEPT"}, Fail, []string{"docker0"}},
			{"policy DROP and established", []string{":INPUT DROP [0:0]", "-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"}, Fail, []string{"docker0"}},
			{"reject at the end", []string{"-A INPUT -i lo -j ACCEPT", "-A INPUT -p icmp -j ACCEPT", "-A INPUT -j REJECT --reject-with icmp-host-prohibited"}, Fail, []string{"--reject-with", "docker0"}},
			{"udp alone", []string{"-A INPUT -i docker0 -p udp -j DROP"}, "", nil},
			{"another source", []string{"-A INPUT -s 10.0.0.0/8 -j DROP"}, "", nil},
			{"docker's source", []string{"-A INPUT -s 172.16.0.0/12 -j DROP"}, Fail, []string{"172.16.0.0/12"}},
			{"a part of docker's source", []string{"-A INPUT -s 172.17.0.9/32 -j DROP"}, Limit, []string{"perhaps"}},
			{"an unknown match", []string{"-A INPUT -i docker0 -m limit --limit 5/sec -j DROP"}, Limit, []string{"perhaps", "--limit"}},
			{"by a chain", []string{":guard - [0:0]", "-A guard ! -i lo -j DROP", "-A INPUT -j guard"}, Fail, []string{"-A guard"}},
			{"by a chain that returns", []string{":guard - [0:0]", "-A guard -i docker0 -j RETURN", "-A guard ! -i lo -j DROP", "-A INPUT -j guard"}, "", nil},
			{"the listener for containers", []string{"-A INPUT -i docker0 -d 169.254.20.254/32 -j DROP"}, Fail, []string{"169.254.20.254/32"}},
			{"IMDS for containers", []string{"-A DOCKER-USER -d 169.254.169.254/32 -j DROP"}, Limit, []string{"chain DOCKER-USER", "redirect.containers"}},
			{"the way of ECS' users", []string{"-A FORWARD -d 169.254.169.254/32 -i docker+ -j DROP"}, Limit, []string{"chain FORWARD"}},
			{"IMDS for users", []string{"-A OUTPUT -d 169.254.169.254/32 -m owner ! --uid-owner 0 -j REJECT --reject-with icmp-port-unreachable"}, Limit, []string{"perhaps the bridge itself"}},
			{"IMDS for users, for them", []string{"-A OUTPUT -d 169.254.169.254/32 -m owner ! --uid-owner 0 -j REJECT --reject-with icmp-port-unreachable"}, Limit, []string{"keeps some callers"}},
			{"IMDS for all", []string{"-A OUTPUT -d 169.254.169.254/32 -j DROP"}, Fail, []string{"the bridge itself does not reach", "--mark 0x2069"}},
			{"IMDS for all but the bridge", []string{"-A OUTPUT -m mark --mark 0x2069/0xffff -j ACCEPT", "-A OUTPUT -d 169.254.169.254/32 -j DROP"}, Limit, []string{"keeps some callers"}},
			{"a comment with quotes", []string{`-A INPUT -i docker0 -m comment --comment "no \"metadata\" -j ACCEPT" -j DROP`}, Fail, []string{"metadata"}},
			{"a chain of ours", []string{":IMDS-BRIDGE-OUTPUT - [0:0]", "-A OUTPUT -d 169.254.169.254/32 -j IMDS-BRIDGE-OUTPUT"}, OK, []string{"cleanup"}},
		} {
			t.Run(backend+", "+tt.name, func(t *testing.T) {
				t.Parallel()
				findings := saved(text, tt.rules...).judge(settings(), docker0())
				if tt.status == "" && len(findings) > 0 {
					t.Errorf("%+v", findings)
				} else if tt.status != "" {
					expect(t, findings, tt.status, tt.words...)
				}
			})
		}
	}
}

func TestRulesMatterToContainersOnlyWhereTheyAreRedirected(t *testing.T) {
	t.Parallel()
	f := saved(capture(t, "docker-nft.save"), ":INPUT DROP [0:0]", "-A INPUT -i lo -j ACCEPT")
	expect(t, f.judge(settings(), nil), Limit, "no bridged containers now")
	alone := settings()
	alone.Containers = false
	sidecar := settings()
	sidecar.Listen, sidecar.Listen6 = netip.MustParseAddrPort("127.0.0.1:8254"), netip.AddrPort{}
	for name, o := range map[string]Options{"left alone": alone, "sidecar": sidecar} {
		if findings := f.judge(o, docker0()); len(findings) > 0 {
			t.Errorf("%s: %+v", name, findings)
		}
	}
}

func TestKube2iamIsNamed(t *testing.T) {
	t.Parallel()
	text := strings.Replace(capture(t, "docker-legacy.save"), "-A PREROUTING ",
		"-A PREROUTING -d 169.254.169.254/32 -i cali+ -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5:8181\n-A PREROUTING ", 1)
	f := firewall{sets: parseSave(text, "iptables-legacy", false)}
	expect(t, f.judge(settings(), docker0()), Limit, "kube2iam", "10.0.0.5:8181")
}

func TestRulesForIPv6(t *testing.T) {
	t.Parallel()
	f := firewall{sets: parseSave("*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n", "ip6tables-nft", true)}
	findings := f.judge(settings(), docker0())
	expect(t, findings, Fail, "ip6tables -I INPUT", "fd69:6d64:7362::254")
	if len(findings) != 1 {
		t.Errorf("%+v", findings)
	}
}

// The rules are in testdata/server.nft.json: policy drop, and exceptions of every kind.
func TestNativeNft(t *testing.T) {
	t.Parallel()
	none := func(string, string) bool { return false }
	sets, err := parseNft(capture(t, "server.nft.json"), none)
	if err != nil {
		t.Fatal(err)
	}
	f := firewall{sets: sets}
	for name, tt := range map[string]struct {
		in   string
		to   netip.AddrPort
		want fate
	}{
		"br-x to the listener":    {"br-1234", listen4, fate{}},
		"br-x to another port":    {"br-1234", netip.AddrPortFrom(listen4.Addr(), 80), fate{dropped: true, certain: true}},
		"docker0 to the listener": {"docker0", listen4, fate{dropped: true, certain: true}},
		"cni0 to the listener":    {"cni0", listen4, fate{dropped: true, certain: true}},
		"cni0, IPv6":              {"cni0", listen6, fate{dropped: true, certain: true}},
		"lo":                      {"lo", listen4, fate{}},
		"ssh":                     {"eth0", netip.AddrPortFrom(listen4.Addr(), 22), fate{}},
		"a range of ports":        {"eth0", netip.AddrPortFrom(listen4.Addr(), 8050), fate{}},
		"a named set":             {"eth0", netip.AddrPortFrom(listen4.Addr(), 9100), fate{dropped: true}},
	} {
		got := f.fate(packet{in: tt.in, to: tt.to.Addr(), port: tt.to.Port(), local: true}, "prerouting", "input")
		if got.dropped != tt.want.dropped || got.certain != tt.want.certain {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	findings := f.judge(settings(), docker0())
	expect(t, findings, Fail, "containers on docker0", "169.254.20.254")
	expect(t, findings, Limit, "keeps some callers")
	expect(t, findings, Limit, "kube2iam")
	for _, finding := range findings {
		if strings.Contains(finding.Means, "bridge itself") {
			t.Errorf("the bridge's mark is let through, but: %+v", finding)
		}
	}
}

// iptables-nft shows its tables better than nft does: nft's view of them is left out.
func TestTablesOfIptablesAreNotReadTwice(t *testing.T) {
	t.Parallel()
	f := firewall{sets: parseSave(capture(t, "docker-nft.save"), "iptables-nft", false)}
	sets, err := parseNft(capture(t, "docker.nft.json"), f.keptByIPTables)
	if err != nil || len(sets) != 0 {
		t.Errorf("%d tables, %v", len(sets), err)
	}
	// Without iptables' tools, nft alone has to do.
	sets, err = parseNft(capture(t, "docker.nft.json"), firewall{}.keptByIPTables)
	if err != nil || len(sets) != 2 {
		t.Fatalf("%d tables, %v", len(sets), err)
	}
	if findings := (firewall{sets: sets}).judge(settings(), docker0()); len(findings) > 0 {
		t.Errorf("%+v", findings)
	}
}

func TestBackendInUse(t *testing.T) {
	t.Parallel()
	inNft := parseSave(capture(t, "docker-nft.save"), "iptables-nft", false)
	inLegacy := parseSave(capture(t, "docker-legacy.save"), "iptables-legacy", false)
	for want, sets := range map[backendsInUse][]*ruleset{neither: nil, nft: inNft, legacy: inLegacy, both: slices.Concat(inNft, inLegacy)} {
		if got := (firewall{sets: sets}).backends(); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	expect(t, []Finding{judgeNoTools(iptables.ErrMissing)}, Fail, "install the package")
	expect(t, []Finding{judgeNoTools(errors.New("nf_tables: cannot list"))}, Fail, "cannot list", "CAP_NET_ADMIN")
}

func FuzzRules(f *testing.F) {
	for _, name := range []string{"docker-nft.save", "server.nft.json"} {
		f.Add(capture(f, name))
	}
	f.Add("*filter\n:INPUT DROP [0:0]\n:a - [0:0]\n-A a -j a\n-A a -g a\n-A INPUT -j a\n-A INPUT ! -s x/y -p\n-A INPUT -j")
	f.Fuzz(func(_ *testing.T, text string) {
		sets := parseSave(text, "iptables", false)
		nft, _ := parseNft(text, func(string, string) bool { return false })
		firewall{sets: append(sets, nft...)}.judge(settings(), docker0())
		parseMounts(text)
		parseStatus(text)
		blocks4(text, listen4.Addr())
		blocks6(text, listen6.Addr())
	})
}
