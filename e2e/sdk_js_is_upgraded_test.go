package e2e

import "testing"

func TestSDKJSIsUpgraded(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, client{args: []string{"node", "credentials.js"}, dir: installed(t, "sdk-js"), agent: "aws-sdk-nodejs/2.400.0 "})
}
