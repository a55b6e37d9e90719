package simulator

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestControl(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{})
	control := sim.Control()
	ask := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		control.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		answer, _ := io.ReadAll(w.Result().Body)
		return w.Code, strings.TrimSpace(string(answer))
	}
	old := tokenHeader(fetchToken(t, address))
	call(t, address, "GET", idPath)

	const plain = `"status":0,"only":"","older_backend":false,"keep_alive":false}`
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/behaviour", "", 200, `{"delay":"0s","drop":"",` + plain},
		{"POST", "/behaviour", `{"delay":"2ms"}`, 200, `{"delay":"2ms","drop":"",` + plain},
		{"POST", "/behaviour", `{"drop":"close"}`, 200, `{"delay":"2ms","drop":"close",` + plain},
		{"POST", "/behaviour", `{"drop":""}`, 200, `{"delay":"2ms","drop":"",` + plain},
		{"POST", "/behaviour", `{"speed":1}`, 400, `json: unknown field "speed"`},
		{"POST", "/behaviour", `{"delay":"soon"}`, 400, `time: invalid duration "soon"`},
		{"POST", "/behaviour", `{"status":200}`, 400, `status 200: want 400 to 599`},
		{"POST", "/behaviour", `not JSON`, 400, `invalid character 'o' in literal null (expecting 'u')`},
		{"POST", "/metadata-options", `{"HttpTokens":"required"}`, 200, `{"HttpTokens":"required","HttpEndpoint":"enabled","HttpPutResponseHopLimit":1,"InstanceMetadataTags":"disabled"}`},
		{"POST", "/metadata-options", `{"HttpTokens":"never"}`, 400, `HttpTokens "never": want optional or required`},
		{"GET", "/metadata-options", "", 200, `{"HttpTokens":"required","HttpEndpoint":"enabled","HttpPutResponseHopLimit":1,"InstanceMetadataTags":"disabled"}`},
		{"POST", "/expire-tokens", "", 200, ""},
		{"POST", "/counts", "", 405, "Method Not Allowed"},
		{"GET", "/nothing", "", 404, "404 page not found"},
	} {
		if status, answer := ask(test.method, test.path, test.body); status != test.status || answer != test.want {
			t.Errorf("%s %s %s: %d %s\nwant %d %s", test.method, test.path, test.body, status, answer, test.status, test.want)
		}
	}
	if got := sim.Behaviour(); got != (Behaviour{Delay: 2 * time.Millisecond}) {
		t.Errorf("behaviour %+v", got)
	}
	if r := call(t, address, "GET", idPath, old); r.status != http.StatusUnauthorized {
		t.Errorf("old token after /expire-tokens: status %d", r.status)
	}

	var counts Counts
	if _, answer := ask("GET", "/counts", ""); json.Unmarshal([]byte(answer), &counts) != nil || counts.Requests != 3 || counts.ByStatus[200] != 2 {
		t.Errorf("counts %s", answer)
	}
	var requests []Request
	if _, answer := ask("GET", "/requests", ""); json.Unmarshal([]byte(answer), &requests) != nil || len(requests) != 3 || requests[1].Target != idPath {
		t.Errorf("requests %s", answer)
	}
	ask("POST", "/reset", "")
	if _, answer := ask("GET", "/requests", ""); answer != "[]" || sim.Counts().Requests != 0 {
		t.Errorf("requests after reset %s", answer)
	}
}
