package e2e

import "testing"

func TestBoto3StaysV2(t *testing.T) {
	t.Parallel()
	checkStaysV2(t, client{args: []string{debianPython, "clients/boto3/credentials.py"}, agent: "Boto3/1."})
}
