package proxy

import (
	"net/http"
	"testing"
)

// What the bridge reads for itself goes by IMDSv2, and is nobody's call.
func TestReadIsTheBridgesOwn(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	text, status, err := b.proxy.Read("/latest/meta-data/instance-id")
	if err != nil || status != http.StatusOK || text == "" {
		t.Errorf("%q, %d, %v", text, status, err)
	}
	if _, status, err := b.proxy.Read("/latest/meta-data/no-such-thing"); err != nil || status != http.StatusNotFound {
		t.Errorf("%d, %v", status, err)
	}
	b.stop(t)
	if n := b.imds.Counts().V1; n != 0 {
		t.Errorf("%d calls by IMDSv1", n)
	}
	if spans := b.spans.GetSpans(); len(spans) != 0 {
		t.Errorf("%d spans of calls that nobody made", len(spans))
	}
}
