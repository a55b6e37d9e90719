package admin

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCallers(t *testing.T) {
	t.Parallel()
	o := Options{
		Status: func() Status { return Status{} }, Metrics: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler),
		Callers: func(pid uint32) (any, bool) {
			return map[string]any{"v1": 3}, pid == 7
		},
	}
	ask := func(s *Server, query string) (int, string) {
		answer := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "http://localhost/callers"+query, nil))
		return answer.Code, answer.Body.String()
	}
	s := New(o)
	for query, want := range map[string]int{
		"?pid=7": http.StatusOK, "?pid=8": http.StatusNotFound, "": http.StatusBadRequest, "?pid=0": http.StatusBadRequest,
		"?pid=-7": http.StatusBadRequest, "?pid=4294967303": http.StatusBadRequest, "?pid=7x": http.StatusBadRequest,
	} {
		if code, body := ask(s, query); code != want || !strings.HasPrefix(body, "{") {
			t.Errorf("%q: %d %s", query, code, body)
		}
	}
	if _, body := ask(s, "?pid=7"); body != "{\"v1\":3}\n" {
		t.Errorf("got %s", body)
	}
	o.Callers = nil
	if code, body := ask(New(o), "?pid=7"); code != http.StatusNotFound || strings.HasPrefix(body, "{") {
		t.Errorf("without the page: %d %s", code, body)
	}
}
