package doctor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

// findTools says which program of iptables the bridge would use, and why none. To look at the host's
// rules, which decide on the backend, takes privileges; without them any program will do.
func (h *host) findTools() (iptables.Report, error) {
	if h.capabilities.has("CAP_NET_ADMIN") {
		return iptables.Check(iptables.Tools{})
	}
	for _, name := range []string{"iptables", "iptables-nft", "iptables-legacy"} {
		if path, err := exec.LookPath(name); err == nil {
			return iptables.Report{Program: path}, nil
		}
	}
	return iptables.Report{}, iptables.ErrMissing
}

func checkIPTables(_ context.Context, h *host) []Finding {
	if !h.considers(IPTables) || !h.options.Install {
		return nil
	}
	tools, err := h.tools()
	if err != nil {
		return []Finding{judgeNoTools(err)}
	}
	f := Finding{Status: OK, Concerns: IPTables, Found: tools.Program}
	if tools.Backend != "" {
		f.Found += ", backend " + tools.Backend
	}
	if used := h.firewall().backends(); used == both {
		f.Status = Limit
		f.Means = "the host has rules in both backends, nft and legacy: they are applied one after the other, and one may drop what the other lets in"
		f.Remedy = "move the rules to one of them (iptables-legacy-save, iptables-nft-restore)"
	}
	if _, err := exec.LookPath("ip6tables"); err != nil && h.options.Listen6.IsValid() {
		f.Status, f.Means, f.Remedy = Limit, "without ip6tables the IPv6 endpoint is not redirected", "install ip6tables"
	}
	return []Finding{f}
}

func judgeNoTools(err error) Finding {
	f := Finding{Status: Fail, Concerns: IPTables, Found: err.Error(), Means: "there is no redirection by iptables"}
	if errors.Is(err, iptables.ErrMissing) {
		f.Remedy = "install the package iptables, where ebpf cannot be had"
	} else {
		f.Remedy = fmt.Sprintf("the program must be able to list the host's rules (%s)", iptables.Capabilities)
	}
	return f
}
