package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
)

func checkIMDS(_ context.Context, h *host) []Finding {
	f := judgeIMDS(h.options.Upstream, h.probe4())
	if !h.probe4().marked && len(h.bridges()) > 0 {
		f.Means = "asked through the bridge that runs, for want of CAP_NET_ADMIN to go past it. " + f.Means
	}
	return []Finding{f}
}

func judgeIMDS(at netip.AddrPort, p probe) Finding {
	switch {
	case p.token == http.StatusOK && p.data == http.StatusOK:
		return Finding{Status: OK, Found: fmt.Sprintf("%s hands out tokens and answers to them", at)}
	case p.token == http.StatusOK && p.data != 0:
		return Finding{
			Status: Limit, Found: fmt.Sprintf("%s hands out a token and answers %d to it", at, p.data),
			Means: "it is not a metadata service as EC2's is", Remedy: "look at " + harmless,
		}
	case p.token == http.StatusForbidden:
		return Finding{
			Status: Limit, Found: fmt.Sprintf("%s refuses everybody with 403", at),
			Means:  "the instance's metadata is off (HttpEndpoint=disabled): callers get 403 with the bridge as without",
			Remedy: "aws ec2 modify-instance-metadata-options --http-endpoint enabled",
		}
	case p.token != 0 && p.err == nil:
		return Finding{
			Status: Limit, Found: fmt.Sprintf("%s answers %d to a token request", at, p.token),
			Means: "there are no tokens to upgrade calls with: v1 calls are passed as they came", Remedy: "is this EC2? an emulator in its place?",
		}
	case p.connected:
		return Finding{
			Status: Fail, Found: fmt.Sprintf("%s takes the connection, and: %s", at, p.err),
			Means:  "the bridge could answer calls with 503 alone",
			Remedy: "is the doctor in a container, a hop too far for the hop limit? else throttled: ethtool -S eth0 | grep linklocal_allowance_exceeded",
		}
	default:
		return Finding{
			Status: Fail, Found: fmt.Sprintf("%s cannot be reached: %s", at, p.err),
			Means:  "the bridge could answer calls with 503 alone",
			Remedy: "is this an EC2 instance? look at the findings on routes and firewall",
		}
	}
}

func checkHopLimit(_ context.Context, h *host) []Finding { return []Finding{judgeHopLimit(h.probe4())} }

func judgeHopLimit(p probe) Finding {
	switch {
	case p.token == 0:
		return Finding{Status: Unknown, Found: "no answer to read it from", left: true} // imds says so
	case p.hopErr != nil:
		return Finding{Status: Unknown, Found: p.hopErr.Error(), Means: "the TTL of an answer is read by a socket filter", Remedy: "run the doctor as root (CAP_BPF)"}
	case !p.marked:
		return Finding{Status: Unknown, Found: fmt.Sprintf("the answer came with %d, perhaps the bridge's own", p.hopLimit), Remedy: "run the doctor as root (CAP_NET_ADMIN)"}
	case p.hopLimit <= 1:
		return Finding{
			Status: OK, Found: "1: the token reaches the host and no further",
			Means: "bridged containers get no tokens; with containers.tokens: hop-limit it stays so",
		}
	default:
		return Finding{
			Status: OK, Found: fmt.Sprintf("%d: the token travels %s beyond the host", p.hopLimit, count(int(p.hopLimit)-1, "hop")),
			Means: "bridged containers get tokens; with containers.tokens: hop-limit it stays so",
		}
	}
}

func checkV1(_ context.Context, h *host) []Finding {
	if !h.options.AskV1 {
		return []Finding{{
			Status: Unknown, Found: "not asked", left: true,
			Means:  "to ask takes a call without a token, which CloudWatch counts (MetadataNoToken, or MetadataNoTokenRejected where v1 is off)",
			Remedy: "doctor --ask-v1; or aws ec2 describe-instances: MetadataOptions.HttpTokens",
		}}
	}
	return []Finding{judgeV1(h.probe4())}
}

func judgeV1(p probe) Finding {
	const counted = "this call counts in CloudWatch as one "
	switch p.v1 {
	case http.StatusOK:
		return Finding{Status: OK, Found: "v1 is allowed (HttpTokens=optional)", Means: counted + "in MetadataNoToken; once nobody calls by v1 any more, v1 can be switched off"}
	case http.StatusUnauthorized:
		return Finding{
			Status: OK, Found: "v1 is off (HttpTokens=required)",
			Means: counted + "in MetadataNoTokenRejected; calls that the bridge passes as they came (mode observe, containers.v1: pass) get 401",
		}
	case 0:
		return Finding{Status: Unknown, Found: "no answer to a call without a token"}
	default:
		return Finding{Status: Unknown, Found: fmt.Sprintf("a call without a token is answered with %d", p.v1)}
	}
}

func checkIMDS6(_ context.Context, h *host) []Finding {
	if !h.options.Listen6.IsValid() {
		return []Finding{{Status: OK, Found: "not redirected (redirect.listen6 is empty)"}}
	}
	p := h.probe6()
	switch {
	case p.token == 0:
		return []Finding{{Status: OK, Found: fmt.Sprintf("%s does not answer: %s", h.options.Upstream6, p.err), Means: "as on most instances (HttpProtocolIpv6=disabled); nothing is missing unless you switched it on"}}
	default:
		f := judgeIMDS(h.options.Upstream6, p)
		return []Finding{f}
	}
}
