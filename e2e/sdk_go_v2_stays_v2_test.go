package e2e

import "testing"

var sdkGoV2 = built("sdk-go-v2", ".", "./clients/sdk-go-v2")

func TestSDKGoV2StaysV2(t *testing.T) {
	t.Parallel()
	checkStaysV2(t, client{args: []string{sdkGoV2(t)}, agent: "aws-sdk-go-v2/1."})
}
