package proxy

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/report"
)

// maxRead bounds what the bridge reads for itself.
const maxRead = 64 << 10

// Read gets a path of the metadata service for the bridge itself, by IMDSv2. It is no caller's, and not
// reported. The status is that of the answer.
func (p *Proxy) Read(path string) (text string, status int, err error) {
	deadline := time.Now().Add(p.upstream.Timeout)
	call := &report.Call{}
	token, err := p.tokens.get(deadline, call)
	if err != nil {
		return "", 0, err
	}
	answer, err := p.upstream.roundTrip(deadline, call, request{
		method: http.MethodGet, target: path, proto: "HTTP/1.1", host: imds.IPv4.String(),
		header: http.Header{}, token: token, own: true,
	})
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxRead))
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", path, err)
	}
	return string(body), answer.StatusCode, nil
}
