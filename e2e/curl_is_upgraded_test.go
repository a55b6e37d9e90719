package e2e

import "testing"

func TestCurlIsUpgraded(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, curlAt("http://169.254.169.254"+role))
}

func TestCurlIsUpgradedAtTheIPv6Endpoint(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, curlAt("http://[fd00:ec2::254]"+role))
}
