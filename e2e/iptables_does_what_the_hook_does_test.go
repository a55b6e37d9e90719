package e2e

import "testing"

// The same promises as with the hook, kept by rules of iptables.

const byRules = "--redirector=iptables"

func TestRulesUpgradeCurl(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, curlAt("http://169.254.169.254"+role), byRules)
}

func TestRulesUpgradeCurlAtTheIPv6Endpoint(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, curlAt("http://[fd00:ec2::254]"+role), byRules)
}

func TestRulesUpgradeBoto2(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, client{args: []string{debianPython, "clients/boto2/credentials.py"}, agent: "Python-urllib/3."}, byRules)
}

func TestRulesLeaveBoto3AtV2(t *testing.T) {
	t.Parallel()
	checkStaysV2(t, client{args: []string{debianPython, "clients/boto3/credentials.py"}, agent: "Boto3/1."}, byRules)
}
