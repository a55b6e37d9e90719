package e2e

import "testing"

var sdkGoV1 = built("sdk-go-v1", ".", "./clients/sdk-go-v1")

func TestSDKGoV1IsUpgraded(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, client{args: []string{sdkGoV1(t)}, agent: "aws-sdk-go/1.19.0 "})
}
